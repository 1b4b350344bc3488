// What the service takes and answers, made from its OpenAPI document; not to be edited:
// python -m kfashion.service.client_types
// First every schema, then `Operations`: what each address takes and answers. A mistake is an `ErrorResponse`.

/** The most central share of the garments; they begin at the threshold. */
export interface Anchors {
  count: number;
  mean: number;
  std: number | null;
  min: number;
  max: number;
  median: number;
  skewness: number | null;
  kurtosis: number | null;
  threshold: number;
  share: number;
}

/** What the service has measured of itself since its start; the norms are of the vectors asked with. */
export interface ApiMetrics {
  request_count: number;
  client_errors: number;
  server_errors: number;
  latency_ms: Latency;
  recommendation_count: number;
  cache_hit_rate: number | null;
  mean_top_1_similarity: number | null;
  empty_result_share: number | null;
  embedding_norm_range: [number, number] | null;
}

/** How much more frequent a token is among the results than in the catalogue. */
export interface AttributeLift {
  field: string;
  token: string;
  share_in_results: number;
  share_in_catalog: number;
  lift: number;
}

/** The records nearest to an image: image → attributes. */
export interface AttributesResponse {
  status: "success";
  request_id: string;
  input_info: InputInfo;
  records: Array<RecordMatch>;
  performance_metrics: Performance;
}

export interface Body_add_product {
  file: Blob;
  item_id?: string | null;
  category?: string | null;
  style?: Array<string>;
  silhouette?: string | null;
  material?: Array<string>;
  detail?: Array<string>;
  brand?: string | null;
  price?: string | null;
  color?: string | null;
  launch_date?: string | null;
}

export interface Body_attributes {
  file?: Array<Blob>;
  item_id?: string | null;
  top_k?: number;
}

export interface Body_customer_input {
  file?: Array<Blob>;
  item_id?: string | null;
  exclude_ids?: Array<string>;
  top_k?: number | null;
  similarity_threshold?: number | null;
  category_filter?: Array<string>;
}

export interface Body_top10_to_new {
  file?: Array<Blob>;
  item_id?: string | null;
  top_k?: number | null;
  similarity_threshold?: number | null;
  category_filter?: Array<string>;
}

export interface CategoryCentrality {
  count: number;
  mean: number;
  std: number | null;
  min: number;
  max: number;
  median: number;
  skewness: number | null;
  kurtosis: number | null;
  category: string;
  anchor_share: number;
}

/** `validation` is a sentence where there are no sales to hold it against. */
export interface Centrality {
  timestamp: string;
  split: "train" | "val" | "test";
  data_source: "real" | "synthetic";
  all: Distribution;
  anchors: Anchors;
  by_category: Array<CategoryCentrality>;
  validation: SalesCheck | string;
}

/** A figure of the anchors less that of the other queries. */
export interface Contrast {
  interval: Interval | null;
  p_value: number | null;
  verdict: "confirmed" | "refuted" | "inconclusive";
}

/** All that the page shows. Null or empty is what nobody has measured, or what `problems` tells of. */
export interface Dashboard {
  schema_version: number;
  timestamp: string;
  run: string;
  git_commit: string | null;
  seed: number | null;
  data_source: "real" | "synthetic" | null;
  fingerprint: string | null;
  kpi: Kpi;
  loss_curve: Array<Epoch>;
  top_k_images: Array<Search>;
  hyperparams: Hyperparams;
  augmented_samples: Array<Sample>;
  api_metrics: ApiMetrics | null;
  centrality: Centrality | null;
  query_aware: QueryAware | null;
  problems: Array<Problem>;
}

/** Of the cosines with the mean training image. */
export interface Distribution {
  count: number;
  mean: number;
  std: number | null;
  min: number;
  max: number;
  median: number;
  skewness: number | null;
  kurtosis: number | null;
}

/** One epoch of a stage; `lr` is the rate that it starts with. */
export interface Epoch {
  epoch: number;
  stage: string;
  train_loss: number | null;
  val_loss: number | null;
  lr: number | null;
  l2_norm_mean: number | null;
  l2_norm_std: number | null;
}

export interface ErrorDetails {
  errors: Array<Mistake>;
}

export interface ErrorResponse {
  status: "error";
  error_code: "BAD_REQUEST" | "UNAUTHORIZED" | "ITEM_NOT_FOUND" | "NOT_FOUND" | "METHOD_NOT_ALLOWED" | "ITEM_EXISTS" | "PAYLOAD_TOO_LARGE" | "UNSUPPORTED_MEDIA" | "VALIDATION_ERROR" | "RATE_LIMITED" | "NOT_READY" | "INTERNAL";
  error_message: string;
  details: ErrorDetails | null;
  request_id: string;
  timestamp: string;
}

/** A figure with its 95 % interval and what chance would give. */
export interface Estimate {
  value: number | null;
  low: number | null;
  high: number | null;
  chance: number | null;
}

/** A garment that was found; `image_url` is null where the service has no picture of it. */
export interface Found {
  rank: number;
  item_id: string;
  image_url: string | null;
  similarity_score: number;
  relevant: boolean;
}

/** The five fields; null or an empty list is unknown. */
export interface Garment {
  category: string | null;
  style: Array<string>;
  silhouette: string | null;
  material: Array<string>;
  detail: Array<string>;
}

export interface Health {
  status: "healthy" | "degraded";
  timestamp: string;
  models_loaded: ModelsLoaded;
  index: IndexInfo | null;
  version: string;
}

export interface Hyperparams {
  current: Record<string, boolean | number | string | Array<boolean | number | string | null> | null>;
  tuning: Tuning | null;
}

export interface ImageRecommendations {
  input_info: InputInfo;
  recommendations: Array<Recommendation>;
}

export interface IndexInfo {
  count: number;
  backend: string;
}

/** What was asked with; `image_size` is [width, height] as seen, null where no picture was sent. */
export interface InputInfo {
  input_type: "top10_product_image" | "customer_input_image" | "clicked_item" | "json";
  file_name: string | null;
  item_id: string | null;
  image_size: [number, number] | null;
  processed_at: string;
  business_purpose: "internal_trend_analysis" | "personalized_customer_recommendation";
}

export interface Interval {
  estimate: number;
  low: number;
  high: number;
}

/** Figures of the cards. */
export interface Kpi {
  total_items: number | null;
  categories: Record<string, number> | null;
  train_split: number | null;
  validation_split: number | null;
  current_epoch: number | null;
  total_epochs: number | null;
  progress_percentage: number | null;
  current_stage: string | null;
  status: string | null;
  accuracy_source: "evaluation" | "training" | null;
  accuracy_split: "train" | "val" | "test" | null;
  top_1_accuracy: number | null;
  top_5_accuracy: number | null;
  mrr: number | null;
  positive_similarity_avg: number | null;
  negative_similarity_avg: number | null;
  embedding_l2_norm: number | null;
  chance_top_5: number | null;
  ci95_top_5: [number, number] | null;
}

/** Milliseconds by stage of a recommendation. */
export interface Latency {
  embedding: Percentiles;
  search: Percentiles;
  total: Percentiles;
}

/** What the shop knows of a product; null is unknown. */
export interface Metadata {
  brand: string | null;
  price: number | null;
  color: string | null;
  launch_date: string | null;
}

/** Where in a request something is wrong, and what. */
export interface Mistake {
  where: string;
  what: string;
}

export interface ModelsLoaded {
  json_encoder: boolean;
  image_encoder: boolean;
  index: boolean;
}

/** How many to recommend, and which: scores at or above the threshold, of the categories named. */
export interface Options {
  top_k?: number;
  similarity_threshold?: number;
  category_filter?: Array<string>;
}

export interface Percentiles {
  p50: number | null;
  p95: number | null;
  p99: number | null;
}

export interface Performance {
  embedding_time_ms: number;
  similarity_search_time_ms: number;
  total_response_time_ms: number;
  cache_hit: boolean;
}

/** Why a section lacks what its file should tell. */
export interface Problem {
  section: "kpi" | "loss_curve" | "top_k_images" | "tuning" | "augmented_samples" | "centrality" | "query_aware";
  reason: string;
}

export interface ProductPage {
  status: "success";
  total: number;
  offset: number;
  limit: number;
  items: Array<ProductResponse>;
}

/** A product of the catalogue. */
export interface ProductResponse {
  category: string | null;
  style: Array<string>;
  silhouette: string | null;
  material: Array<string>;
  detail: Array<string>;
  item_id: string;
  image_url: string;
  is_new_product: boolean;
  metadata: Metadata;
  created_at: string;
}

export interface Query {
  item_id: string;
  image_url: string | null;
  fields: Garment;
}

/** Kinds of queries in one gallery. */
export interface QueryAware {
  timestamp: string;
  split: "train" | "val" | "test";
  data_source: "real" | "synthetic";
  sets: Record<string, number>;
  metrics: Record<string, Record<string, Record<string, Estimate>>>;
  anchor_less_others: Record<string, Record<string, Contrast>>;
  targets: Array<Target>;
}

export interface Ready {
  ready: true;
}

/** Recommendations, best first, equal scores by item id. */
export interface RecommendResponse {
  status: "success";
  request_id: string;
  input_info: InputInfo;
  recommendations: Array<Recommendation>;
  performance_metrics: Performance;
}

export interface Recommendation {
  category: string | null;
  style: Array<string>;
  silhouette: string | null;
  material: Array<string>;
  detail: Array<string>;
  item_id: string;
  similarity_score: number;
  image_url: string;
  metadata: ResultMetadata;
}

/** A record of the catalogue and the cosine of its vector with the image's. */
export interface RecordMatch {
  category: string | null;
  style: Array<string>;
  silhouette: string | null;
  material: Array<string>;
  detail: Array<string>;
  similarity_score: number;
}

export interface Removed {
  status: "success";
  item_id: string;
}

export interface ResultMetadata {
  brand: string | null;
  price: number | null;
  color: string | null;
  launch_date: string | null;
  is_new_product: boolean;
  business_context: "internal_trend_analysis" | "personalized_customer_recommendation";
}

/** How centrality ranks garments as their sales do; `precision` is the share of anchors that are best sellers. */
export interface SalesCheck {
  n: number;
  spearman: number | null;
  p_value: number | null;
  precision: number;
}

/** A record, or the address of a picture, beside what augmentation makes of it. */
export interface Sample {
  kind: "image" | "json";
  method: string;
  original: Garment | string;
  augmented: Garment | string;
}

/** What one record of the evaluation brought up. */
export interface Search {
  query: Query;
  category: string;
  results: Array<Found>;
}

/** The fields of a garment; at least one must be given. Tokens are those of the model's vocabulary. */
export interface StyleDescription {
  category?: string | null;
  style?: Array<string>;
  silhouette?: string | null;
  material?: Array<string>;
  detail?: Array<string>;
}

export interface StyleRequest {
  style_description: StyleDescription;
  options?: Options;
}

/** A target of the founding requirements; figures of generated data are not entered. */
export interface Target {
  target: string;
  wanted: number;
  value: number | null;
  achieved: boolean | null;
}

export interface Trend {
  category_counts: Record<string, number>;
  attribute_lift: Array<AttributeLift>;
  mean_similarity: number | null;
  anchor_source: "sales" | "centrality";
}

/** For several images: a list for each, and over all of them every product once with its best score. */
export interface TrendResponse {
  status: "success";
  request_id: string;
  input_info: InputInfo;
  recommendations: Array<Recommendation>;
  performance_metrics: Performance;
  images: Array<ImageRecommendations>;
  trend: Trend;
}

/** The newest report on a study of this experiment; `best_value` is of the first objective. */
export interface Tuning {
  study: string;
  objectives: Array<string>;
  n_trials: number;
  best_value: number | null;
  best_params: Record<string, boolean | number | string | null>;
  importances: Record<string, number>;
  trials: Array<Record<string, boolean | number | string | null>>;
}

/** The tokens of every field that a search by attributes may name. */
export interface Vocabulary {
  category: Array<string>;
  style: Array<string>;
  silhouette: Array<string>;
  material: Array<string>;
  detail: Array<string>;
}

export interface Operations {
  "POST /api/recommend/top10_to_new": {
    query: {
      item_id?: string | null;
      top_k?: number | null;
      similarity_threshold?: number | null;
      category_filter?: Array<string>;
    };
    body: Body_top10_to_new;
    answer: TrendResponse;
  };
  "POST /api/recommend/customer_input": {
    query: {
      item_id?: string | null;
      top_k?: number | null;
      similarity_threshold?: number | null;
      category_filter?: Array<string>;
    };
    body: Body_customer_input;
    answer: RecommendResponse;
  };
  "POST /api/recommend/style": {
    body: StyleRequest;
    answer: RecommendResponse;
  };
  "POST /api/recommend/attributes": {
    body: Body_attributes;
    answer: AttributesResponse;
  };
  "GET /api/catalog/new_products": {
    query: {
      offset?: number;
      limit?: number;
    };
    answer: ProductPage;
  };
  "POST /api/catalog/new_products": {
    header: {
      "x-api-key"?: string;
    };
    body: Body_add_product;
    answer: ProductResponse;
  };
  "GET /api/catalog/new_products/{item_id}": {
    path: {
      item_id: string;
    };
    answer: ProductResponse;
  };
  "DELETE /api/catalog/new_products/{item_id}": {
    path: {
      item_id: string;
    };
    header: {
      "x-api-key"?: string;
    };
    answer: Removed;
  };
  "GET /images/{item_id}": {
    path: {
      item_id: string;
    };
    answer: Blob;
  };
  "GET /health": {
    answer: Health;
  };
  "GET /ready": {
    answer: Ready;
  };
  "GET /metrics": {
    answer: string;
  };
  "GET /api/dashboard/kpi": {
    answer: Dashboard;
  };
  "GET /api/dashboard/samples/{name}": {
    path: {
      name: string;
    };
    answer: Blob;
  };
  "GET /api/dashboard/live": {
    answer: ApiMetrics;
  };
  "GET /api/dashboard/vocabulary": {
    answer: Vocabulary;
  };
}

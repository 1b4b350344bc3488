"""What requests and responses look like; the OpenAPI document is made of these.

Source: kfashion specification, section 7.
"""

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kfashion.garments import word, words

InputType = Literal["top10_product_image", "customer_input_image", "clicked_item", "json"]
Purpose = Literal["internal_trend_analysis", "personalized_customer_recommendation"]
AnchorSource = Literal["sales", "centrality"]
ErrorCode = Literal[
    "BAD_REQUEST", "UNAUTHORIZED", "ITEM_NOT_FOUND", "NOT_FOUND", "METHOD_NOT_ALLOWED", "ITEM_EXISTS",
    "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA", "VALIDATION_ERROR", "RATE_LIMITED", "NOT_READY", "INTERNAL",
]  # fmt: skip

NEVER = r"\s/\\?#%&\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # from \x7f on: invisible
ITEM_ID = rf"^[^.{NEVER}][^{NEVER}]*$"
ItemId = Annotated[str, Field(min_length=1, max_length=128, pattern=ITEM_ID)]
Token = Annotated[str, Field(min_length=1, max_length=50)]
TopK = Annotated[int, Field(ge=1, le=20)]
Threshold = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=100)]
DEFAULT_TOP_K, DEFAULT_THRESHOLD = 5, 0.1


class Strict(BaseModel):
    """A request; keys that nobody reads are refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """A part of a response: every key is there, unknown values are null."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class Garment(Answer):
    """The five fields; null or an empty list is unknown."""

    category: str | None
    style: list[str]
    silhouette: str | None
    material: list[str]
    detail: list[str]


class StyleDescription(Strict):
    """The fields of a garment; at least one must be given. Tokens are those of the model's vocabulary."""

    category: Token | None = None
    style: Annotated[list[Token], Field(max_length=10)] = []
    silhouette: Token | None = None
    material: Annotated[list[Token], Field(max_length=10)] = []
    detail: Annotated[list[Token], Field(max_length=15)] = []

    @field_validator("category", "silhouette")
    @classmethod
    def _one(cls, value: str | None) -> str | None:
        return word(value)

    @field_validator("style", "material", "detail")
    @classmethod
    def _several(cls, value: list[str]) -> list[str]:
        return words(value)


class Options(Strict):
    """How many to recommend, and which: scores at or above the threshold, of the categories named."""

    top_k: TopK = DEFAULT_TOP_K
    similarity_threshold: Threshold = DEFAULT_THRESHOLD
    category_filter: Annotated[list[Token], Field(max_length=50)] = []


class StyleRequest(Strict):
    style_description: StyleDescription
    options: Options = Options()


class Metadata(Strict):
    """What the shop knows of a product; null is unknown."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    brand: Text | None = None
    price: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None
    color: Text | None = None
    launch_date: date | None = None


class ResultMetadata(Answer):
    brand: str | None
    price: float | None
    color: str | None
    launch_date: date | None
    is_new_product: bool
    business_context: Purpose


class Recommendation(Garment):
    item_id: str
    similarity_score: Annotated[float, Field(ge=-1, le=1)]
    image_url: str
    metadata: ResultMetadata


class InputInfo(Answer):
    """What was asked with; `image_size` is [width, height] as seen, null where no picture was sent."""

    input_type: InputType
    file_name: str | None = None
    item_id: str | None = None
    image_size: tuple[int, int] | None = None
    processed_at: str
    business_purpose: Purpose


class Performance(Answer):
    embedding_time_ms: float
    similarity_search_time_ms: float
    total_response_time_ms: float
    cache_hit: bool


class RecommendResponse(Answer):
    """Recommendations, best first, equal scores by item id."""

    status: Literal["success"] = "success"
    request_id: str
    input_info: InputInfo
    recommendations: list[Recommendation]
    performance_metrics: Performance


class AttributeLift(Answer):
    """How much more frequent a token is among the results than in the catalogue."""

    field: str
    token: str
    share_in_results: float
    share_in_catalog: float
    lift: float


class Trend(Answer):
    category_counts: dict[str, int]
    attribute_lift: list[AttributeLift]
    mean_similarity: float | None
    anchor_source: AnchorSource


class ImageRecommendations(Answer):
    input_info: InputInfo
    recommendations: list[Recommendation]


class TrendResponse(RecommendResponse):
    """For several images: a list for each, and over all of them every product once with its best score."""

    images: list[ImageRecommendations]
    trend: Trend


class RecordMatch(Garment):
    """A record of the catalogue and the cosine of its vector with the image's."""

    similarity_score: Annotated[float, Field(ge=-1, le=1)]


class AttributesResponse(Answer):
    """The records nearest to an image: image → attributes."""

    status: Literal["success"] = "success"
    request_id: str
    input_info: InputInfo
    records: list[RecordMatch]
    performance_metrics: Performance


class ProductResponse(Garment):
    """A product of the catalogue."""

    item_id: str
    image_url: str
    is_new_product: bool
    metadata: Metadata
    created_at: str


class ProductPage(Answer):
    status: Literal["success"] = "success"
    total: int
    offset: int
    limit: int
    items: list[ProductResponse]


class Removed(Answer):
    status: Literal["success"] = "success"
    item_id: str


class ModelsLoaded(Answer):
    json_encoder: bool
    image_encoder: bool
    index: bool


class IndexInfo(Answer):
    count: int
    backend: str


class Health(Answer):
    status: Literal["healthy", "degraded"]
    timestamp: str
    models_loaded: ModelsLoaded
    index: IndexInfo | None
    version: str


class Ready(Answer):
    ready: Literal[True] = True


class Mistake(Answer):
    """Where in a request something is wrong, and what."""

    where: str
    what: str


class ErrorDetails(Answer):
    errors: list[Mistake]


class ErrorResponse(Answer):
    status: Literal["error"] = "error"
    error_code: ErrorCode
    error_message: str
    details: ErrorDetails | None = None
    request_id: str
    timestamp: str

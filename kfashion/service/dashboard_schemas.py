"""What the dashboard tells, and what of the files of evaluations and sweeps it reads.

Source: kfashion specification, section 8.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from kfashion.service.schemas import Answer, Garment

DataSource = Literal["real", "synthetic"]
SplitName = Literal["train", "val", "test"]
Verdict = Literal["confirmed", "refuted", "inconclusive"]
Section = Literal["kpi", "loss_curve", "top_k_images", "tuning", "augmented_samples", "centrality", "query_aware"]
Scalar = bool | int | float | str | None


class Estimate(Answer):
    """A figure with its 95 % interval and what chance would give."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None


class Kpi(Answer):
    """Figures of the cards.

    Attributes:
        accuracy_source: of accuracies, MRR and similarities: the newest retrieval evaluation, else the epoch that the
            run keeps; `accuracy_split` says of which split.
        chance_top_5: what a random order would find.
    """

    total_items: int | None = None
    categories: dict[str, int] | None = None
    train_split: int | None = None
    validation_split: int | None = None
    current_epoch: int | None = None
    total_epochs: int | None = None
    progress_percentage: float | None = None
    current_stage: str | None = None
    status: str | None = None
    accuracy_source: Literal["evaluation", "training"] | None = None
    accuracy_split: SplitName | None = None
    top_1_accuracy: float | None = None
    top_5_accuracy: float | None = None
    mrr: float | None = None
    positive_similarity_avg: float | None = None
    negative_similarity_avg: float | None = None
    embedding_l2_norm: float | None = None
    chance_top_5: float | None = None
    ci95_top_5: tuple[float, float] | None = None


class Epoch(Answer):
    """One epoch of a stage; `lr` is the rate that it starts with."""

    epoch: int
    stage: str
    train_loss: float | None
    val_loss: float | None
    lr: float | None
    l2_norm_mean: float | None
    l2_norm_std: float | None


class Found(Answer):
    """A garment that was found; `image_url` is null where the service has no picture of it."""

    rank: int
    item_id: str
    image_url: str | None
    similarity_score: float
    relevant: bool


class Query(Answer):
    item_id: str
    image_url: str | None
    fields: Garment


class Search(Answer):
    """What one record of the evaluation brought up."""

    query: Query
    category: str
    results: list[Found]


class Tuning(Answer):
    """The newest report on a study of this experiment; `best_value` is of the first objective."""

    study: str
    objectives: list[str]
    n_trials: int
    best_value: float | None
    best_params: dict[str, Scalar]
    importances: dict[str, float]
    trials: list[dict[str, Scalar]]


class Hyperparams(Answer):
    current: dict[str, Scalar | list[Scalar]]
    tuning: Tuning | None


class Sample(Answer):
    """A record, or the address of a picture, beside what augmentation makes of it."""

    kind: Literal["image", "json"]
    method: str
    original: Garment | str
    augmented: Garment | str


class Percentiles(Answer):
    p50: float | None
    p95: float | None
    p99: float | None


class Latency(Answer):
    """Milliseconds by stage of a recommendation."""

    embedding: Percentiles
    search: Percentiles
    total: Percentiles


class ApiMetrics(Answer):
    """What the service has measured of itself since its start; the norms are of the vectors asked with."""

    request_count: int
    client_errors: int
    server_errors: int
    latency_ms: Latency
    recommendation_count: int
    cache_hit_rate: float | None
    mean_top_1_similarity: float | None
    empty_result_share: float | None
    embedding_norm_range: tuple[float, float] | None


class Distribution(Answer):
    """Of the cosines with the mean training image."""

    count: int
    mean: float
    std: float | None
    min: float
    max: float
    median: float
    skewness: float | None
    kurtosis: float | None


class Anchors(Distribution):
    """The most central share of the garments; they begin at the threshold."""

    threshold: float
    share: float


class CategoryCentrality(Distribution):
    category: str
    anchor_share: float


class SalesCheck(Answer):
    """How centrality ranks garments as their sales do; `precision` is the share of anchors that are best sellers."""

    n: int
    spearman: float | None
    p_value: float | None
    precision: float


class Centrality(Answer):
    """`validation` is a sentence where there are no sales to hold it against."""

    timestamp: str
    split: SplitName
    data_source: DataSource
    all: Distribution
    anchors: Anchors
    by_category: list[CategoryCentrality]
    validation: SalesCheck | str


class Interval(Answer):
    estimate: float
    low: float
    high: float


class Contrast(Answer):
    """A figure of the anchors less that of the other queries."""

    interval: Interval | None
    p_value: float | None
    verdict: Verdict


class Target(Answer):
    """A target of the founding requirements; figures of generated data are not entered."""

    target: str
    wanted: float
    value: float | None
    achieved: bool | None


class QueryAware(Answer):
    """Kinds of queries in one gallery.

    Attributes:
        sets: number of queries by kind.
        metrics: by level of relevance, kind and metric.
        anchor_less_others: by level of relevance and metric.
    """

    timestamp: str
    split: SplitName
    data_source: DataSource
    sets: dict[str, int]
    metrics: dict[str, dict[str, dict[str, Estimate]]]
    anchor_less_others: dict[str, dict[str, Contrast]]
    targets: list[Target]


class Problem(Answer):
    """Why a section lacks what its file should tell."""

    section: Section
    reason: str


class Dashboard(Answer):
    """All that the page shows. Null or empty is what nobody has measured, or what `problems` tells of."""

    schema_version: int
    timestamp: str
    run: str
    git_commit: str | None
    seed: int | None
    data_source: DataSource | None
    fingerprint: str | None
    kpi: Kpi
    loss_curve: list[Epoch]
    top_k_images: list[Search]
    hyperparams: Hyperparams
    augmented_samples: list[Sample]
    api_metrics: ApiMetrics | None
    centrality: Centrality | None
    query_aware: QueryAware | None
    problems: list[Problem]


class Vocabulary(Answer):
    """The tokens of every field that a search by attributes may name."""

    category: list[str]
    style: list[str]
    silhouette: list[str]
    material: list[str]
    detail: list[str]


class RetrievalFile(BaseModel):
    """results/training_summary.json of `analysis=kfashion/retrieval`."""

    split: SplitName
    top_1_accuracy: Estimate
    top_5_accuracy: Estimate
    mrr: Estimate
    positive_similarity: float | None
    negative_similarity: float | None


class SearchFile(BaseModel):
    """results/similarity_search/results.json of the same."""

    class Row(BaseModel):
        class Result(BaseModel):
            rank: int
            item_id: str
            similarity_score: float
            relevant: bool

        item_id: str
        category: str
        record: Garment
        results: list[Result]

    queries: list[Row]


class AugmentationFile(BaseModel):
    """summary.json of `analysis=kfashion/augmentation`."""

    augmented_samples: list[Sample]


class SweepFile(BaseModel):
    """summary.json of `analysis=sweep`."""

    class Best(BaseModel):
        values: Annotated[list[float | None], Field(min_length=1)]
        params: dict[str, Scalar]

    study: str
    objectives: list[str]
    best: Annotated[list[Best], Field(min_length=1)]
    importances: dict[str, float]


class EnvironmentFile(BaseModel):
    """environment.json of a run, as far as it is read here."""

    class Parent(BaseModel):
        run: str | None = None

    git_commit: str | None = None
    parent: Parent | None = None


class StatusFile(BaseModel):
    status: str | None = None

"""How well queries find what is relevant in the whole gallery, beside what chance would find.

Items of equal score come in random order: every metric is its exact expectation over those orders. So an encoder that
gives the same vector to everything scores what chance does and no more. Source: kfashion specification, section 5; for
MRR it names the middle rank of a tie instead, by which such an encoder would not be at chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy.stats import skew

from common.stats import Interval, group_sums, percentile_interval, resample_sums

Level = Literal["instance", "attr", "category"]
LEVELS: tuple[Level, ...] = ("instance", "attr", "category")
KS = (1, 3, 5, 10, 20)
NDCG_AT = 10
SCORES_AT_ONCE = 4_000_000  # bounds the memory: a block of queries takes about 60 bytes for each score
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Items:
    """What decides which of N items are relevant to each other.

    Attributes:
        item: (N,) int64 number of the garment crop.
        attr_key: (N,) int64, equal where the records are.
        category: (N,) int64; −1 for none, which is no category that items can have in common.
        group: (N,) int64, equal where the image or the look is.
    """

    item: np.ndarray
    attr_key: np.ndarray
    category: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, index: Any) -> "Items":
        return Items(*(getattr(self, each.name)[index] for each in fields(self)))


@dataclass(frozen=True)
class Ranking:
    """What Q queries found, at one level of relevance.

    Attributes:
        metrics: (Q,) float64 by name, NaN for a query without anything relevant in the gallery.
        chance: the same of a random order.
        num_relevant: (Q,) relevant items in the gallery.
        gallery_size: (Q,) items that the query was scored against.
    """

    metrics: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    num_relevant: np.ndarray
    gallery_size: np.ndarray

    def __getitem__(self, index: Any) -> "Ranking":
        """Some of the queries, in the same gallery."""
        metrics, chance = ({name: each[index] for name, each in table.items()} for table in (self.metrics, self.chance))
        return Ranking(metrics, chance, self.num_relevant[index], self.gallery_size[index])


@dataclass(frozen=True)
class _Ties:
    """Runs of equal score that hold something relevant, by row and from the highest score down.

    Attributes:
        row: of the query.
        before, size: items ranked above the run, and in it.
        found, relevant: relevant items above the run, and in it.
    """

    row: np.ndarray
    before: np.ndarray
    size: np.ndarray
    found: np.ndarray
    relevant: np.ndarray


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    asked: Items,
    offered: Items,
    levels: Sequence[Level] = LEVELS,
    others_only: bool = False,
    distractors: np.ndarray | None = None,
) -> dict[Level, Ranking]:
    """Every query against the whole gallery by inner product, at each level of relevance.

    Relevant are at `instance` the query's own crop, at `attr` the items with its record, at `category` the items of its
    category, those of its own group left out of the gallery.

    Args:
        queries, gallery: (Q, D) and (G, D) float32.
        asked, offered: what the queries and the gallery are.
        others_only: leave the query's own group out of the gallery at every level.
        distractors: (G,) bool, items that are only in the way: one that would be relevant to a query, such as a garment
            of the training split with the same record, is left out of its gallery. None for none.
    """
    parts: dict[Level, list[Ranking]] = {level: [] for level in levels}
    for rows, order, starts in _sorted_blocks(queries, gallery):
        for level in levels:
            own_group_out = others_only or level == "category"
            parts[level].append(_judge(asked[rows], offered, level, order, starts, own_group_out, distractors))
    return {level: _joined(each) for level, each in parts.items()}


def chance_metrics(num_relevant: np.ndarray, gallery_size: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of a random order, by name: one tie of the whole gallery.

    Args:
        num_relevant, gallery_size: (Q,) int64.
    """
    pairs, place = np.unique(np.stack([num_relevant, gallery_size]), axis=1, return_inverse=True)
    relevant, size = pairs
    rows = np.flatnonzero(relevant)
    ties = _Ties(rows, np.zeros_like(rows), size[rows], np.zeros_like(rows), relevant[rows])
    return {name: each[place.ravel()] for name, each in _expected(ties, relevant, size).items()}


def summarise(
    ranking: Ranking, groups: np.ndarray, categories: np.ndarray, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Every metric as the mean over queries, with chance, the mean over categories, and a 95 % interval over groups.

    Args:
        groups, categories: (Q,) of the queries; whole groups are resampled (1,000 times), categories count alike, and
            queries without one (−1) only in the mean over queries.

    Returns:
        By name: value, chance, macro (None where no query has a category), low, high (None with fewer than two
        groups), n queries with something relevant.
    """
    judged = ranking.num_relevant > 0
    names, count = list(ranking.metrics), int(judged.sum())
    if not count:
        return {}
    table = np.stack([ranking.metrics[name][judged] for name in names], 1)
    intervals = mean_intervals(table, groups[judged], seed)
    macro = _macro(table, categories[judged])
    return {
        name: {
            "value": float(table[:, k].mean()),
            "chance": float(ranking.chance[name][judged].mean()),
            "macro": None if macro is None else float(macro[k]),
            "low": None if intervals is None else intervals[k].low,
            "high": None if intervals is None else intervals[k].high,
            "n": count,
        }
        for k, name in enumerate(names)
    }


def _macro(table: np.ndarray, categories: np.ndarray) -> np.ndarray | None:
    """(M,) means over the categories of the means of (n, M) rows in each."""
    named = categories >= 0
    if not named.any():
        return None
    sums = group_sums(np.column_stack([table, np.ones(len(table))])[named], categories[named])
    return (sums[:, :-1] / sums[:, -1:]).mean(0)


def mean_intervals(table: np.ndarray, groups: np.ndarray, seed: int = 0) -> list[Interval] | None:
    """Intervals of the means of the columns of (n, M) rows, whole groups resampled; None with fewer than two groups."""
    sums = group_sums(np.column_stack([table, np.ones(len(table))]), groups)
    if len(sums) < 2:
        return None
    draws = resample_sums(sums, NUM_RESAMPLES, seed)
    means = draws[:, :-1] / draws[:, -1:]
    return [percentile_interval(table[:, k].mean(), means[:, k], 0.95, len(sums)) for k in range(table.shape[1])]


def similarities(attribute: np.ndarray, image: np.ndarray, attr_key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the pairs (N,), and of up to 100 random others for each record, those with its key left out."""
    rng = np.random.default_rng(0)
    others = rng.integers(len(image), size=(min(100, len(image)), len(image)))
    rows = np.arange(len(image))
    negative = [np.einsum("nd,nd->n", attribute, image[other])[attr_key[other] != attr_key[rows]] for other in others]
    return np.einsum("nd,nd->n", attribute, image), np.concatenate(negative)


def embedding_quality(vectors: np.ndarray) -> dict[str, float]:
    """Length and spread of (N, D) vectors.

    norm_error is the largest | ‖v‖ − 1 |; variance the mean over dimensions, with its smallest and largest; effective
    rank the exponential of the entropy of the shares of the covariance's spectrum (Roy and Vetterli 2007).
    """
    variance = vectors.var(axis=0, dtype=np.float64)
    spectrum = np.linalg.eigvalsh(np.cov(vectors.T.astype(np.float64))).clip(min=0)
    shares = spectrum[spectrum > 0] / max(spectrum.sum(), np.finfo(float).tiny)
    return {
        "norm_error": float(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max()),
        "variance_mean": float(variance.mean()),
        "variance_min": float(variance.min()),
        "variance_max": float(variance.max()),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def hubness(queries: np.ndarray, gallery: np.ndarray, k: int = 10) -> float | None:
    """Skewness over the gallery of how often an item is among the first k; far above 0: few items answer everything.

    None where all are found equally often. Radovanović, Nanopoulos and Ivanović 2010, "Hubs in Space".
    """
    k, counts = min(k, len(gallery)), np.zeros(len(gallery), np.int64)
    for rows in _blocks(len(queries), len(gallery)):
        best = np.argpartition(-(queries[rows] @ gallery.T), k - 1, axis=1)[:, :k]
        counts += np.bincount(best.ravel(), minlength=len(gallery))
    return float(skew(counts)) if counts.any() and np.ptp(counts) else None


def _sorted_blocks(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows, (b, G) gallery numbers by falling score, and the places in the flattened order where a new score begins."""
    # equal vectors get one score, not one that depends on where they lie in the matrix
    distinct, place = np.unique(gallery, axis=0, return_inverse=True)
    place = place.ravel()
    for rows in _blocks(len(queries), len(gallery)):
        scores = queries[rows] @ (gallery.T if len(distinct) == len(gallery) else distinct.T)
        if len(distinct) < len(gallery):
            scores = scores[:, place]
        order = np.argsort(-scores, axis=1)
        scores = np.take_along_axis(scores, order, 1)
        new = np.ones(scores.shape, bool)
        np.not_equal(scores[:, 1:], scores[:, :-1], out=new[:, 1:])
        yield rows, order, np.flatnonzero(new)


def _blocks(num_queries: int, num_items: int) -> Iterator[slice]:
    step = max(1, SCORES_AT_ONCE // max(1, num_items))
    for start in range(0, num_queries, step):
        yield slice(start, min(start + step, num_queries))


def _judge(
    asked: Items, offered: Items, level: Level, order: np.ndarray, starts: np.ndarray, own_group_out: bool,
    distractors: np.ndarray | None,
) -> Ranking:  # fmt: skip
    name = {"instance": "item", "attr": "attr_key", "category": "category"}[level]
    relevant = getattr(offered, name)[order] == getattr(asked, name)[:, None]
    if level == "category":
        relevant &= asked.category[:, None] >= 0
    valid = None
    if own_group_out:
        valid = offered.group[order] != asked.group[:, None]
    if distractors is not None:
        right = ~(distractors[order] & relevant)
        valid = right if valid is None else valid & right
    if valid is not None:
        relevant &= valid
    size = np.full(len(asked), order.shape[1]) if valid is None else valid.sum(1)
    num_relevant = relevant.sum(1)
    metrics = _expected(_ties(relevant, valid, starts), num_relevant, size)
    return Ranking(metrics, chance_metrics(num_relevant, size), num_relevant, size)


def _ties(relevant: np.ndarray, valid: np.ndarray | None, starts: np.ndarray) -> _Ties:
    """The runs of equal score with something relevant.

    Args:
        relevant: (b, G) by falling score.
        valid: (b, G) what belongs to the gallery; None for all.
        starts: places in the flattened order where a new score begins.
    """
    width = relevant.shape[1]
    run, count = np.unique(np.searchsorted(starts, np.flatnonzero(relevant), side="right") - 1, return_counts=True)
    first, last = starts[run], np.append(starts, relevant.size)[run + 1]
    row = first // width
    if valid is None:
        before, size = first - row * width, last - first
    else:
        below = np.concatenate([[0], np.cumsum(valid)])
        before, size = below[first] - below[row * width], below[last] - below[first]
    found = np.cumsum(count) - count
    _, heads, inverse = np.unique(row, return_index=True, return_inverse=True)
    return _Ties(row, before, size, found - found[heads][inverse], count)


def _expected(ties: _Ties, num_relevant: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of every row, in expectation over the orders within ties."""
    rows, heads = np.unique(ties.row, return_index=True)
    first = _Ties(*(getattr(ties, each.name)[heads] for each in fields(_Ties)))
    found, total = {}, num_relevant[rows]

    def put(name: str, values: np.ndarray) -> None:
        found[name] = np.full(len(num_relevant), np.nan)
        found[name][rows] = values

    def by_row(values: np.ndarray) -> np.ndarray:
        return np.bincount(ties.row, values, len(num_relevant))[rows]

    for k in KS:
        inside = np.clip(np.minimum(k, size)[ties.row] - ties.before, 0, ties.size)
        caught = by_row(ties.relevant * inside / ties.size)
        put(f"hit_at_{k}", _hit(first, k))
        put(f"recall_at_{k}", caught / total)
        put(f"capped_recall_at_{k}", caught / np.minimum(k, total))
        put(f"precision_at_{k}", caught / np.minimum(k, size[rows]))
    put("mrr", _reciprocal_rank(first))
    put("map", by_row(_precision_sum(ties)) / total)
    gains = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, NDCG_AT + 2)))])
    ends = [gains[np.minimum(each, NDCG_AT)] for each in (ties.before, ties.before + ties.size)]
    put(f"ndcg_at_{NDCG_AT}", by_row(ties.relevant / ties.size * (ends[1] - ends[0]))
        / gains[np.minimum(total, NDCG_AT)])  # fmt: skip
    return found


def _hit(first: _Ties, k: int) -> np.ndarray:
    """Chance that one of the relevant items of the first run is among the first k."""
    missed = np.ones(len(first.row))
    drawn = np.clip(k - first.before, 0, first.size)
    for i in range(k):
        left = np.maximum(first.size - first.relevant - i, 0) / np.maximum(first.size - i, 1)
        missed = np.where(i < drawn, missed * left, missed)
    return 1 - missed


def _reciprocal_rank(first: _Ties) -> np.ndarray:
    """Expected 1/rank of the first relevant item."""
    triples, place = np.unique(np.stack([first.before, first.size, first.relevant]), axis=1, return_inverse=True)
    return np.array([_tied_reciprocal(*each) for each in triples.T.tolist()])[place.ravel()]


@lru_cache(maxsize=100_000)
def _tied_reciprocal(before: int, size: int, relevant: int) -> float:
    if size == relevant:
        return 1 / (before + 1)
    place = np.arange(1, size - relevant + 2)  # of the first relevant item within the run
    left = (size - relevant - place[:-1] + 1) / (size - place[:-1] + 1)
    none_before = np.concatenate([[1.0], np.cumprod(left)])
    return float((none_before * relevant / (size - place + 1) / (before + place)).sum())


def _precision_sum(ties: _Ties) -> np.ndarray:
    """Expected sum over the relevant items of each run of the precision at their rank."""
    last = ties.before + ties.size
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, last.max(initial=0) + 1))])
    inverse_ranks = harmonic[last] - harmonic[ties.before]  # the sum of 1/rank over the run
    among = (ties.relevant - 1) / np.maximum(ties.size - 1, 1)  # chance that another place in the run is relevant
    before_in_run = ties.size - (ties.before + 1) * inverse_ranks  # the sum of (place − 1)/rank
    return ties.relevant / ties.size * ((ties.found + 1) * inverse_ranks + among * before_in_run)


def _joined(parts: Sequence[Ranking]) -> Ranking:
    def join(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}

    return Ranking(
        join([each.metrics for each in parts]), join([each.chance for each in parts]),
        np.concatenate([each.num_relevant for each in parts]), np.concatenate([each.gallery_size for each in parts]),
    )  # fmt: skip

"""Kinds of queries: of central garments, of well described ones, of every category alike.

Source: kfashion specification, section 5.
"""

import numpy as np

from kfashion.data import NO_CATEGORY
from kfashion.judging import Judged
from kfashion.records import MISSING, Codes

QUALITY_FIELDS = ("style", "material", "detail", "silhouette")


def centrality_scores(judged: Judged) -> np.ndarray:
    """(n,) cosines with the centre of the training images."""
    centre = judged.data.vectors.numpy()[judged.data.datasets["train"].index].mean(0, dtype=np.float64)
    return judged.image @ (centre / np.linalg.norm(centre))


def most_central(scores: np.ndarray, item_id: np.ndarray, share: float) -> np.ndarray:
    """(n,) bool: the floor(share · n) highest, at least one; ties by item_id."""
    chosen = np.zeros(len(scores), bool)
    chosen[np.lexsort([item_id, -scores])[: max(1, int(share * len(scores)))]] = True
    return chosen


def query_sets(judged: Judged, anchor_share: float) -> dict[str, np.ndarray]:
    """(n,) bool by name: which queries belong to each set; category_balanced has none without a category."""
    scores, names = centrality_scores(judged), judged.item_id
    complete = completeness(judged.data.records.codes, judged.rows)
    named, counts = np.unique(judged.category[judged.category != NO_CATEGORY], return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    balanced = np.zeros(len(names), bool)
    for category in named:
        balanced[order[judged.category[order] == category][: counts.min()]] = True
    return {
        "all": np.ones(len(scores), bool),
        "anchor": most_central(scores, names, anchor_share),
        "tail": most_central(-scores, names, 0.5),
        "high_quality": most_central(complete.astype(float), names, 0.2),
        "category_balanced": balanced,
    }


def completeness(codes: Codes, rows: np.ndarray) -> np.ndarray:
    """(n,) 25 points for each of style, material, detail and silhouette that a record has."""
    first = [codes[field].numpy()[rows].reshape(len(rows), -1)[:, 0] for field in QUALITY_FIELDS]
    return 25 * sum((each != MISSING).astype(np.int64) for each in first)

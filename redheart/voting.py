"""The votes of the techniques in one score per epoch, and the epochs that rows cannot tell from the best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.stats import resample_sums

MIN_VOTERS, ALL_VOTERS = 3, 5


@dataclass(frozen=True)
class Vote:
    """An interval of epochs.

    Attributes:
        confidence: in [0, 1].
        weight: of the voter.
    """

    voter: str
    start: int
    end: int
    confidence: float
    weight: float = 1.0


def tally(epochs: ArrayLike, votes: Sequence[Vote], reach: float = 4.0) -> np.ndarray:
    """(E,) confidence in [0, 1] that the votes lend each epoch; zeros without a vote.

    Each vote counts weight × confidence × a triangle: 1 inside its interval, 0 from `reach` epochs away. The sum is
    divided by the weights of those who voted, and scaled by voters/5 where fewer than three did.
    """
    epochs = np.asarray(epochs, dtype=np.float64)
    score = np.zeros(len(epochs))
    for vote in votes:
        away = np.maximum(np.maximum(vote.start - epochs, epochs - vote.end), 0)
        score += vote.weight * vote.confidence * np.maximum(0, 1 - away / reach)
    few = len(votes) / ALL_VOTERS if len(votes) < MIN_VOTERS else 1.0
    return few * score / max(sum(vote.weight for vote in votes), 1e-300)


@dataclass(frozen=True)
class BestSet:
    """What rows can tell of the best epoch.

    Attributes:
        p_best: (E,) share of bootstrap resamples in which each epoch's loss is lowest.
        inside: (E,) whether an epoch's loss exceeds the lowest by at most one paired standard error.
        n: rows.
    """

    p_best: np.ndarray
    inside: np.ndarray
    n: int


def best_set(row_losses: ArrayLike, num_resamples: int = 1000, seed: int = 0) -> BestSet:
    """The one-standard-error set of epochs, by resampling rows; all epochs are judged on the same rows.

    Args:
        row_losses: (E, n) of the select split, n ≥ 2.
    """
    losses = np.asarray(row_losses, dtype=np.float64)
    means = losses.mean(1)
    resampled = resample_sums(losses.T, num_resamples, seed=seed) / losses.shape[1]
    best = int(np.argmin(means))
    error = (resampled - resampled[:, [best]]).std(0, ddof=1)
    p_best = np.bincount(np.argmin(resampled, axis=1), minlength=len(losses)) / num_resamples
    return BestSet(p_best, means - means[best] <= error, losses.shape[1])

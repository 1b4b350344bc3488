"""Several criteria in one score per epoch, and how much the choice hangs on their arbitrary weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.errors import UserError

WEIGHTS = {"loss": 0.30, "task": 0.40, "stability": 0.15, "gradient": 0.15}
MIN_SHARE = 0.5
NUM_DRAWS, CONCENTRATION = 2000, 50.0


@dataclass(frozen=True)
class Mcda:
    """Scores of all epochs.

    Attributes:
        score: (E,) weighted sum of criteria scaled to [0, 1]; NaN during warm-up.
        topsis: (E,) closeness to the ideal epoch, as a check; NaN during warm-up.
        weights: those used: a criterion that is constant or not recorded has none, the rest sum to 1.
        winner: epoch of the highest score, None if no criterion varies.
        wins: (E,) share of random weights (Dirichlet around `weights`) under which each epoch wins.
        method_conflict: whether TOPSIS prefers another epoch.
        epoch: the winner, or None if it abstains.
        confidence: the winner's share of wins.
        abstained: why nothing is recommended, or None.
    """

    score: np.ndarray
    topsis: np.ndarray
    weights: dict[str, float]
    winner: int | None
    wins: np.ndarray
    method_conflict: bool
    epoch: int | None
    confidence: float
    abstained: str | None


def mcda(
    epochs: ArrayLike,
    criteria: Mapping[str, ArrayLike],
    weights: Mapping[str, float] = WEIGHTS,
    minimise: tuple[str, ...] = ("loss",),
    warmup: int = 0,
    seed: int = 0,
) -> Mcda:
    """Weighted sum after min-max scaling over the epochs from `warmup` on (redheart specification, section 5).

    Args:
        epochs: (E,).
        criteria: (E,) each, by name; higher is better except in `minimise`. NaN anywhere leaves a criterion out.
        weights: by name; they must sum to 1.

    Raises:
        UserError: for weights that are negative, unknown, or do not sum to 1.
    """
    check_weights(weights, criteria)
    epochs = np.asarray(epochs)
    late = epochs >= warmup
    values = {name: np.asarray(each, dtype=np.float64)[late] for name, each in criteria.items()}
    used = [name for name, each in values.items() if weights.get(name, 0) > 0 and _varies(each)]
    if not used:
        empty = np.full(len(epochs), np.nan)
        return Mcda(empty, empty, {}, None, np.zeros(len(epochs)), False, None, 0.0, "no criterion varies")
    table = np.stack([values[name] for name in used], axis=1)
    lower = np.array([name in minimise for name in used])
    weight = np.array([weights[name] for name in used])
    weight /= weight.sum()
    scaled = (table - table.min(0)) / np.ptp(table, axis=0)
    scaled = np.where(lower, 1 - scaled, scaled)
    score, close = scaled @ weight, topsis(table, weight, lower)
    draws = np.random.default_rng(seed).dirichlet(CONCENTRATION * weight, NUM_DRAWS)
    wins = np.bincount(np.argmax(draws @ scaled.T, axis=1), minlength=len(scaled)) / NUM_DRAWS
    best = int(np.argmax(score))
    winner, share = int(epochs[late][best]), float(wins[best])
    unsure = None
    if share < MIN_SHARE:
        unsure = f"epoch {winner} wins under only {share:.0%} of random weights"
    elif best == 0 and not late.all():
        unsure = f"epoch {winner} wins at the end of warm-up, an earlier one might"
    return Mcda(
        _spread(score, late, math.nan), _spread(close, late, math.nan), dict(zip(used, weight.tolist())), winner,
        _spread(wins, late, 0.0), int(np.argmax(close)) != best, None if unsure else winner, share, unsure,
    )  # fmt: skip


def topsis(table: np.ndarray, weights: np.ndarray, minimise: np.ndarray) -> np.ndarray:
    """(E,) closeness in [0, 1] to the ideal row of an (E, C) table, by vector normalisation (Hwang and Yoon 1981)."""
    scaled = weights * table / np.maximum(np.linalg.norm(table, axis=0), 1e-300)
    best = np.where(minimise, scaled.min(0), scaled.max(0))
    worst = np.where(minimise, scaled.max(0), scaled.min(0))
    to_best, to_worst = (np.linalg.norm(scaled - ideal, axis=1) for ideal in (best, worst))
    return to_worst / np.maximum(to_best + to_worst, 1e-300)


def stability(loss: ArrayLike, noise: float, window: int = 5) -> np.ndarray:
    """(E,) 1 / (1 + sd of the loss in a centred window / noise), the window cut off at the ends."""
    loss, half = np.asarray(loss, dtype=np.float64), window // 2
    spread = np.array([loss[max(0, i - half) : i + half + 1].std(ddof=1) for i in range(len(loss))])
    return 1 / (1 + spread / max(noise, 1e-12))


def check_weights(weights: Mapping[str, float], known: Mapping) -> None:
    """Raises UserError for weights that are negative, unknown, or do not sum to 1."""
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise UserError(f"mcda_weights: unknown {', '.join(unknown)}; there are {', '.join(known)}.")
    if any(not weight >= 0 for weight in weights.values()) or abs(sum(weights.values()) - 1) > 1e-6:
        told = ", ".join(f"{name} {weight}" for name, weight in weights.items())
        raise UserError(f"mcda_weights: must not be negative and must sum to 1; got {told}.")


def _varies(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and np.ptp(values) > 0)


def _spread(values: np.ndarray, where: np.ndarray, empty: float) -> np.ndarray:
    whole = np.full(len(where), empty)
    whole[where] = values
    return whole

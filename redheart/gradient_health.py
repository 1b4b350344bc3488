"""How well gradients flow through a unit, epoch by epoch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from redheart.trend import prominence, running_median

NORMS = (1e-3, 10.0)  # in units of the run's median
UPDATES = (1e-4, 1e-2)
DECADES = 2.0
MIN_SPREAD = 0.05


@dataclass(frozen=True)
class GradientHealth:
    """Health in [0, 1] per epoch.

    Attributes:
        score: (E,) the worst of four scores; NaN without a signal.
        epoch: where its running median is highest, None if it abstains.
        confidence: in [0, 1], how far that stands out.
        abstained: why nothing is recommended, or None. `no_signal: …` for a zero or missing gradient.
    """

    score: np.ndarray
    epoch: int | None
    confidence: float
    abstained: str | None


def gradient_health(
    epochs: ArrayLike, grad_norm: ArrayLike, update_ratio: ArrayLike, dead_fraction: ArrayLike, nan_count: ArrayLike
) -> GradientHealth:
    """The worst of norm, update, dead-unit and finiteness scores (redheart specification, section 5).

    The norm counts relative to the run's median. A quantity that was not recorded (NaN throughout) sets no bound, a
    single NaN among numbers is a failed epoch.

    Args:
        epochs, grad_norm, update_ratio, dead_fraction, nan_count: (E,), the norm before clipping.
    """
    epochs = np.asarray(epochs)
    recorded = [np.asarray(each, np.float64) for each in (grad_norm, update_ratio, dead_fraction, nan_count)]
    norm, update, dead, nans = recorded
    finite = norm[np.isfinite(norm)]
    if not finite.size or np.median(finite) <= 0:
        why = "missing" if not finite.size else "zero"
        return GradientHealth(np.full(len(epochs), np.nan), None, 0.0, f"no_signal: the gradient is {why}")
    relative = norm / np.median(finite)
    scores = [
        np.minimum(np.minimum(relative / NORMS[0], NORMS[1] / np.maximum(relative, 1e-300)), 1),
        _update_score(update),
        1 - dead,
        np.where(nans > 0, 0.0, 1.0),
    ]
    kept = [score for score, values in zip(scores, recorded) if np.isfinite(values).any()]
    score = np.clip(np.nan_to_num(np.min(kept, axis=0), nan=0.0), 0, 1)
    if np.ptp(score) <= MIN_SPREAD:
        return GradientHealth(score, None, 0.0, f"health differs by {np.ptp(score):.3f}, not more than {MIN_SPREAD}")
    smooth = running_median(score, 3)
    best = int(np.argmax(smooth))
    return GradientHealth(score, int(epochs[best]), prominence(smooth, MIN_SPREAD), None)


def _update_score(ratio: np.ndarray) -> np.ndarray:
    """1 within the healthy range of ‖Δθ‖/‖θ‖, falling log-linearly to 0 two decades away."""
    with np.errstate(divide="ignore"):
        log = np.log10(np.maximum(ratio, 0))
    low, high = np.log10(UPDATES)
    return np.clip(1 - np.maximum(low - log, log - high) / DECADES, 0, 1)

"""Stretches of a curve that are shown to be flat, not merely not shown to be sloped."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from redheart.changepoints import ChangePoints, jumps
from redheart.trend import block_p, detectable_slope, lag1, mann_kendall, noise_sd, theil_sen

MIN_CHECKPOINTS = 8
AUTOCORRELATED = 0.3  # above it the plain test finds trends that are none


@dataclass(frozen=True)
class Plateau:
    """A maximal run of adjacent accepted windows.

    Attributes:
        start, end, center: epochs; the centre is the midpoint, rounded down to a saved epoch.
        mean, sd: of the curve over it.
        slope, slope_low, slope_high: Theil-Sen, per epoch, with its 90 % interval.
        p: of the Mann-Kendall test over it; of a block bootstrap where `lag1` exceeds 0.3.
        lag1: autocorrelation of the residuals.
        ended: whether the curve lies lower afterwards, by 3 noise standard deviations.
        confidence: in [0, 1], how far inside the tolerance the slope's interval lies; 0 outside.
    """

    start: int
    end: int
    center: int
    mean: float
    sd: float
    slope: float
    slope_low: float
    slope_high: float
    p: float
    lag1: float
    ended: bool
    confidence: float


@dataclass(frozen=True)
class Plateaus:
    """What was found.

    Attributes:
        detected: whether there is at least one.
        plateaus: in order of time.
        unproven: runs whose slope's interval does not fit into the tolerance: too short, or they drift.
        noise: robust standard deviation of the curve's noise.
        tolerance: the largest slope that counts as flat, per epoch.
        detectable_slope: what the test finds within one window in 80 % of cases, per epoch.
        abstained: why nothing was looked for, or None.
    """

    detected: bool
    plateaus: list[Plateau]
    unproven: list[Plateau]
    noise: float | None = None
    tolerance: float | None = None
    detectable_slope: float | None = None
    abstained: str | None = None

    @property
    def best(self) -> Plateau | None:
        """The one with the lowest mean."""
        return min(self.plateaus, key=lambda plateau: plateau.mean, default=None)


def plateaus(
    epochs: ArrayLike,
    x: ArrayLike,
    window: int = 10,
    alpha: float = 0.05,
    max_slope: float | None = None,
    max_sd: float | None = None,
    changes: ChangePoints | None = None,
) -> Plateaus:
    """The flat stretches of a curve (redheart specification, section 5).

    A window is accepted if the Mann-Kendall test finds no trend, its Theil-Sen slope over the window stays below twice
    the noise, and nothing jumps inside. A run of accepted windows is a plateau only if the 90 % interval of its slope
    lies inside the tolerance: to find no trend is no evidence that there is none.

    Args:
        epochs, x: (E,) saved epochs, ascending, and the curve.
        window: checkpoints; at least 8, fewer only where there are fewer checkpoints.
        max_slope: tolerance per epoch in place of twice the noise over a window.
        max_sd: a plateau's largest standard deviation; None sets no bound.
        changes: the curve's change points if they are known already.

    Raises:
        ValueError: for a window under 8.
    """
    epochs, x = np.asarray(epochs), np.asarray(x, dtype=np.float64)
    if window < MIN_CHECKPOINTS:
        raise ValueError(f"window must be at least {MIN_CHECKPOINTS} checkpoints; got {window}")
    if len(x) < MIN_CHECKPOINTS:
        return Plateaus(False, [], [], abstained=f"{len(x)} checkpoints; at least {MIN_CHECKPOINTS} are needed")
    window, noise = min(window, len(x)), noise_sd(x)
    spacing = float(np.median(np.diff(epochs)))
    tolerance = 2 * noise / window if max_slope is None else max_slope * spacing
    jumped = [jump.epoch for jump in (jumps(epochs, x) if changes is None else changes.jumps)]
    accepted = _flat(x, window, alpha, noise, tolerance) & ~_jumping(epochs, window, jumped)
    runs = [_describe(epochs, x, first, last + window, noise, tolerance) for first, last in _runs(accepted)]
    shown = [run.confidence > 0 and (max_sd is None or run.sd <= max_sd) for run in runs]
    return Plateaus(
        detected=any(shown),
        plateaus=[run for run, flat in zip(runs, shown) if flat],
        unproven=[run for run, flat in zip(runs, shown) if not flat],
        noise=noise,
        tolerance=tolerance / spacing,
        detectable_slope=detectable_slope(window, alpha) * noise / spacing,
    )


def _flat(x: np.ndarray, window: int, alpha: float, noise: float, tolerance: float) -> np.ndarray:
    """(E − window + 1,) whether each window shows no trend, no slope above the tolerance and no step at its middle."""
    windows = sliding_window_view(x, window)
    half = window // 2
    step = np.abs(windows[:, -half:].mean(1) - windows[:, :half].mean(1))
    trendless = mann_kendall(windows)[1] >= alpha
    return trendless & (np.abs(theil_sen(windows)[0]) <= tolerance) & (step <= max(3 * noise, tolerance * window))


def _jumping(epochs: np.ndarray, window: int, jumped: list[int]) -> np.ndarray:
    """(E − window + 1,) whether a jump lies inside each window; one at its first epoch lies before it."""
    inside = sliding_window_view(np.isin(epochs, jumped), window)
    return inside[:, 1:].any(1)


def _runs(accepted: np.ndarray) -> list[tuple[int, int]]:
    """First and last position of each maximal run of true values."""
    edges = np.flatnonzero(np.diff(np.r_[False, accepted, False].astype(int)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def _describe(epochs: np.ndarray, x: np.ndarray, first: int, end: int, noise: float, tolerance: float) -> Plateau:
    part, at = x[first:end], epochs[first:end]
    spacing = float(np.median(np.diff(epochs)))
    slope, low, high = (float(value) for value in theil_sen(part))
    correlation, later = lag1(part), x[end:]
    widest = max(abs(low), abs(high))
    margin = 1 - widest / tolerance if tolerance > 0 else float(widest == 0)
    return Plateau(
        start=int(at[0]),
        end=int(at[-1]),
        center=int(at[at <= (at[0] + at[-1]) / 2][-1]),
        mean=float(part.mean()),
        sd=float(part.std(ddof=1)),
        slope=slope / spacing,
        slope_low=low / spacing,
        slope_high=high / spacing,
        p=block_p(part) if correlation > AUTOCORRELATED else float(mann_kendall(part)[1]),
        lag1=correlation,
        ended=bool(len(later) and later.mean() < part.mean() - 3 * noise),
        confidence=max(0.0, margin),
    )

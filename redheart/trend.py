"""Trend, noise and autocorrelation of short series."""

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

# a sample's median absolute deviation over its standard deviation, for normal values
MAD = 0.6745


def mann_kendall(x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Z and two-sided p of the Mann-Kendall trend test along the last axis, corrected for ties.

    Constant series have Z = 0 and p = 1. With fewer than 5 points no trend can be significant at 5 %.
    """
    x = np.asarray(x, dtype=np.float64)
    n = x.shape[-1]
    i, j = np.triu_indices(n, 1)
    s = np.sign(x[..., j] - x[..., i]).sum(-1)
    z = (s - np.sign(s)) / np.sqrt(np.maximum(_variance(x), 1e-300))
    return z, 2 * ndtr(-np.abs(z))


def theil_sen(x: ArrayLike, level: float = 0.9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median slope per step along the last axis, and the ends of its interval (Sen 1968)."""
    x = np.asarray(x, dtype=np.float64)
    i, j = np.triu_indices(x.shape[-1], 1)
    slopes = np.sort((x[..., j] - x[..., i]) / (j - i), axis=-1)
    half = ndtri((1 + level) / 2) * np.sqrt(_variance(x))
    low = np.maximum(np.floor((len(i) - half) / 2).astype(int) - 1, 0)[..., None]
    ends = (np.take_along_axis(slopes, at, -1)[..., 0] for at in (low, len(i) - 1 - low))
    return np.median(slopes, -1), *ends


def _variance(x: np.ndarray) -> np.ndarray:
    """Variance of Kendall's S without a trend, for series along the last axis."""
    n = x.shape[-1]
    equal = (x[..., :, None] == x[..., None, :]).sum(-1)  # each member of a group of t ties counts t
    return (n * (n - 1) * (2 * n + 5) - ((equal - 1) * (2 * equal + 5)).sum(-1)) / 18


def noise_sd(x: ArrayLike) -> float:
    """Robust standard deviation of the noise on a smooth series, from its second differences; NaN for under 5 points.

    Autocorrelated noise is underestimated.
    """
    second = np.diff(x, 2)
    if len(second) < 3:
        return math.nan
    return float(np.median(np.abs(second - np.median(second))) / (MAD * math.sqrt(6)))


def detrended(x: ArrayLike) -> np.ndarray:
    """Residuals from the Theil-Sen line through the median."""
    x = np.asarray(x, dtype=np.float64)
    rest = x - theil_sen(x)[0] * np.arange(len(x))
    return rest - np.median(rest)


def lag1(x: ArrayLike) -> float:
    """Autocorrelation at lag 1 of the detrended series; 0 for a straight line."""
    rest = detrended(x)
    rest = rest - rest.mean()
    power = float(rest @ rest)
    return float(rest[1:] @ rest[:-1]) / power if power > 0 else 0.0


def block_p(x: ArrayLike, block: int = 3, num_resamples: int = 999, seed: int = 0) -> float:
    """Two-sided p of the trend against circular block resamples of the detrended series, for autocorrelated noise."""
    rest = detrended(x)
    n = len(rest)
    starts = np.random.default_rng(seed).integers(n, size=(num_resamples, -(-n // block)))
    rows = (starts[..., None] + np.arange(block)).reshape(num_resamples, -1)[:, :n] % n
    i, j = np.triu_indices(n, 1)
    resampled = np.abs(np.sign(rest[rows][:, j] - rest[rows][:, i]).sum(1))
    observed = abs(np.sign(np.asarray(x)[j] - np.asarray(x)[i]).sum())
    return float((1 + np.sum(resampled >= observed)) / (1 + num_resamples))


@cache
def detectable_slope(n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Slope per step, in units of the noise, that the Mann-Kendall test finds in a share `power` of series of n points.

    For white noise, by simulation: with 10 points the normal approximation is a third too hopeful.
    """
    noise, steps = np.random.default_rng(0).normal(size=(2000, n)), np.arange(n)
    low, high = 0.0, 4.0
    for _ in range(12):
        slope = (low + high) / 2
        found = np.mean(mann_kendall(noise + slope * steps)[1] < alpha)
        low, high = (slope, high) if found < power else (low, slope)
    return high


def running_median(x: ArrayLike, width: int) -> np.ndarray:
    """Median over a centred window, cut off at the ends of the series."""
    x, half = np.asarray(x, dtype=np.float64), width // 2
    return np.array([np.median(x[max(0, i - half) : i + half + 1]) for i in range(len(x))])


def prominence(x: ArrayLike, noise: float) -> float:
    """How far the maximum of a series stands above its median, in [0, 1): height / (height + noise)."""
    height = float(np.max(x) - np.median(x))
    return height / (height + noise) if height > 0 else 0.0

"""How sure a figure is: bootstrap and t intervals, paired differences, sign-flip tests, Holm's correction.

Rows that share a shock (one day's market, one image's crops) are not independent: resample what is, whole groups.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

EXACT_SIGN_FLIPS = 20  # 2^20 sums are 8 MiB
DRAWS_AT_ONCE = 4_000_000  # bounds the memory of a bootstrap over many groups: 32 MiB per array


@dataclass(frozen=True)
class Interval:
    """A figure and where its true value plausibly lies.

    Attributes:
        estimate: the figure itself.
        low, high: the interval's ends, both inside.
        level: nominal coverage, for example 0.95.
        n: independent units it rests on: rows, groups, seeds or pairs.
        method: how it was made, in words.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    method: str

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval."""
        return not self.low <= value <= self.high

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """For example `0.412 [0.392, 0.446]`: three decimals, more where the interval is too narrow for them."""
        width = self.high - self.low
        decimals = max(3, 1 - math.floor(math.log10(width))) if width > 0 else 3
        estimate, low, high = (f"{value:.{decimals}f}" for value in (self.estimate, self.low, self.high))
        return f"{estimate} [{low}, {high}]"


def mean_spread(values: ArrayLike) -> tuple[float, float, int]:
    """Mean, sample standard deviation (ddof 1; NaN for a single value) and number of the values."""
    values = _finite(values, "values")
    spread = values.std(ddof=1) if len(values) > 1 else math.nan
    return float(values.mean()), float(spread), len(values)


def seed_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """t interval (n − 1 degrees of freedom) of the mean of n ≥ 2 values, one per seed."""
    mean, spread, n = mean_spread(values)
    if n < 2:
        raise ValueError("a t interval needs at least 2 values, one per seed; got 1")
    half = stdtrit(n - 1, (1 + _fraction(level)) / 2) * spread / math.sqrt(n)
    return Interval(mean, float(mean - half), float(mean + half), level, n, "t interval")


def paired_difference(baseline: ArrayLike, candidate: ArrayLike, level: float = 0.95) -> Interval:
    """t interval of the mean of candidate − baseline over n ≥ 2 pairs, for example equal seeds.

    Always Student's t: with the handful of seeds one has, a percentile bootstrap is too narrow by √((n − 1)/n) and
    more. For many rows that depend on each other, `bootstrap` their differences by group.
    """
    baseline, candidate = _finite(baseline, "baseline"), _finite(candidate, "candidate")
    if len(baseline) != len(candidate):
        raise ValueError(f"pairs need equal lengths; got {len(baseline)} and {len(candidate)}")
    return seed_interval(candidate - baseline, level)


def sign_flip_test(differences: ArrayLike, num_resamples: int = 20_000, seed: int = 0) -> float:
    """Two-sided p: how often random signs move the mean difference at least as far from zero as it is.

    Exact over all 2^n sign assignments for n ≤ 20, so no p is below 2^(1−n): five pairs cannot reach 0.05.
    Above, `num_resamples` random assignments, the observed one counted among them.
    """
    differences = _finite(differences, "differences")
    # sums that are equal on paper must count as equal
    observed = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if len(differences) <= EXACT_SIGN_FLIPS:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(np.mean(np.abs(sums) >= observed))
    rng = np.random.default_rng(seed)
    signs = (rng.integers(0, 2, len(differences)) * 2 - 1 for _ in range(num_resamples))
    return (1 + sum(abs(sign @ differences) >= observed for sign in signs)) / (1 + num_resamples)


def holm(p_values: ArrayLike) -> np.ndarray:
    """(m,) adjusted p-values that bound the chance of any false finding in the family (Holm 1979).

    NaN (a test that could not be made) stays NaN and does not count in the family.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or ((p_values < 0) | (p_values > 1)).any():
        raise ValueError(f"p-values must be a list of numbers in [0, 1]; got {p_values}")
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN sorts last
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def date_blocks(dates: ArrayLike, block_sessions: int = 5) -> np.ndarray:
    """(n,) int64 group labels: block 0 holds the first `block_sessions` distinct dates, and so on.

    The date-block bootstrap is `bootstrap(..., groups=date_blocks(dates))`. The last block may be shorter.

    Args:
        dates: (n,) session dates, in any order, many rows per date.
        block_sessions: at least the span over which labels overlap (lasps specification, section 12: ≥ 5).
    """
    dates = np.asarray(dates, dtype="datetime64[D]")
    if block_sessions < 1:
        raise ValueError(f"block_sessions must be at least 1; got {block_sessions}")
    if dates.ndim != 1 or not dates.size or np.isnat(dates).any():
        raise ValueError("dates must be a non-empty list without missing dates")
    return np.unique(dates, return_inverse=True)[1] // block_sessions


def bootstrap(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic(*arrays)`.

    A statistic of sums (means, everything from a confusion matrix) is hundreds of times faster by `bootstrap_sums`,
    with the same draws. Resamples in which the statistic is not finite (no positive for an AUC) are left out.
    Few groups make it too sure: measured on means of normal values, the 95 % interval covers 84 % with 5 groups,
    90 % with 10, 93 % with 20, 94 % with 60.

    Args:
        statistic: called with the resampled arrays; returns one number.
        arrays: one or more with n rows each, resampled together.
        groups: (n,) labels; rows of a group stay together and groups are drawn whole. None draws rows.

    Raises:
        ValueError: for no rows, unequal lengths, fewer than two groups, or a statistic that is not finite on the
            arrays themselves or on more than a tenth of the resamples.
    """
    arrays = [np.asarray(array) for array in arrays]
    labels, num_groups = _group_labels(arrays[0], groups)
    if any(len(array) != len(labels) for array in arrays):
        raise ValueError(f"arrays need equal lengths; got {[len(array) for array in arrays]}")
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    resamples = []
    for draws in _draw(num_groups, num_resamples, seed):
        for drawn in draws:
            rows = drawn if groups is None else np.concatenate([members[group] for group in drawn])
            resamples.append(statistic(*(array[rows] for array in arrays)))
    return percentile_interval(statistic(*arrays), np.array(resamples), level, num_groups, groups is not None)


def bootstrap_sums(
    statistic: Callable[[np.ndarray], np.ndarray],
    sums: ArrayLike,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic that depends on the rows only through sums over them.

    Whole groups are drawn by weighting their sums, so the cost does not grow with the rows. Two classifiers are
    compared on the same draws by stacking their sums, (K, 2, …), under a statistic that returns the difference.

    Args:
        statistic: maps (R, …) totals to (R,) numbers.
        sums: (K, …) one entry per group, from `group_sums` or `confusion_matrix(..., groups=…)`.

    Raises:
        ValueError: as `bootstrap`.
    """
    totals = resample_sums(sums, num_resamples, seed)
    estimate = statistic(np.sum(sums, 0, dtype=np.float64)[None])[0]
    return percentile_interval(estimate, statistic(totals), level, len(sums))


def resample_sums(sums: ArrayLike, num_resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """(num_resamples, …) float64 totals of (K, …) sums, each over K groups drawn with replacement.

    For several statistics of the same draws: each of them on these totals makes a `percentile_interval`.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if not sums.ndim or not np.isfinite(sums).all():
        raise ValueError("sums must be finite, one entry per group")
    columns, totals = sums.reshape(len(sums), -1), []
    for draws in _draw(len(sums), num_resamples, seed):
        cells = draws + len(sums) * np.arange(len(draws))[:, None]
        weights = np.bincount(cells.ravel(), minlength=draws.size).reshape(draws.shape)
        totals.append(weights @ columns)
    return np.concatenate(totals).reshape(-1, *sums.shape[1:])


def percentile_interval(estimate: float, resamples: np.ndarray, level: float, n: int, groups: bool = True) -> Interval:
    """Interval between percentiles of bootstrap resamples over `n` units: groups, or rows where `groups` is false.

    Raises:
        ValueError: if the estimate or more than a tenth of the resamples is not finite; fewer are left out.
    """
    tail = (1 - _fraction(level)) / 2
    finite = resamples[np.isfinite(resamples)]
    if not np.isfinite(estimate) or len(finite) < 0.9 * len(resamples):
        raise ValueError(f"the statistic is {estimate} and finite on {len(finite)} of {len(resamples)} resamples")
    low, high = np.quantile(finite, [tail, 1 - tail])
    method = "percentile bootstrap of groups" if groups else "percentile bootstrap"
    return Interval(float(estimate), float(low), float(high), level, n, method)


def group_sums(values: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """(K, …) sums of the (n, …) values over the K groups, in the order of the sorted labels."""
    values = np.asarray(values)
    labels, _ = _group_labels(values, groups)
    order = np.argsort(labels, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(labels[order], prepend=-1)))


def _group_labels(rows: np.ndarray, groups: ArrayLike | None) -> tuple[np.ndarray, int]:
    """(n,) labels 0 … K − 1 and K; every row is its own group where `groups` is None."""
    if not rows.ndim or not len(rows):
        raise ValueError("nothing to resample: the arrays have no rows")
    if groups is None:
        return np.arange(len(rows)), len(rows)
    names, labels = np.unique(np.asarray(groups), return_inverse=True)
    if labels.shape != (len(rows),):
        raise ValueError(f"groups must hold one label for each of the {len(rows)} rows; got shape {labels.shape}")
    return labels, len(names)


def _draw(num_groups: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks of (·, num_groups) drawn group numbers, `num_resamples` rows in all, the same however they are cut."""
    if num_groups < 2:
        raise ValueError(f"a bootstrap needs at least 2 groups to resample; got {num_groups}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1; got {num_resamples}")
    rng = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // num_groups)
    for start in range(0, num_resamples, step):
        yield rng.integers(num_groups, size=(min(step, num_resamples - start), num_groups))


def _fraction(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, for example 0.95; got {level}")
    return level


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} must be a non-empty list of numbers; got shape {values.shape}")
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{name} must be finite; number {position} is {values[position]}")
    return values

"""Whether a score orders the issues of a day, and how much of a forecast is direction and how much volatility.

Source: lasps specification, section 12. All functions take one row per issue and session, in any order, and give the
same for every order. Intervals draw whole blocks of sessions, because labels overlap for five sessions and issues
move together.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.metrics import SMALLEST_PROBABILITY, auc_interval, classification_scores
from common.stats import Interval, bootstrap_sums, date_blocks, group_sums

MIN_BLOCKS = 10  # fewer blocks of dates give no usable interval


def daily_rank_ic(
    score: ArrayLike, forward_return: ArrayLike, date: ArrayLike, min_issues: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """(D,) sessions and the (D,) rank correlation (Spearman) of score and forward return over the issues of each.

    Sessions with fewer than `min_issues` issues, or where all scores or all returns are equal, are left out.

    Args:
        score, forward_return: (N,) finite numbers.
        date: (N,) sessions.

    Raises:
        ValueError: for unequal lengths or numbers that are not finite.
    """
    score, forward_return, date = _checked(score, forward_return, date)
    sessions, day, issues = np.unique(date, return_inverse=True, return_counts=True)
    a, b = _centred_ranks(score, day), _centred_ranks(forward_return, day)
    covariance, spread = np.bincount(day, a * b), np.sqrt(np.bincount(day, a * a)) * np.sqrt(np.bincount(day, b * b))
    kept = (issues >= min_issues) & (spread > 0)
    return sessions[kept], covariance[kept] / spread[kept]


def rank_ic_summary(
    score: ArrayLike, forward_return: ArrayLike, date: ArrayLike, min_issues: int = 5, block_sessions: int = 5,
    num_resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What the daily rank ICs come to.

    Args:
        score, forward_return, date, min_issues: as `daily_rank_ic`.
        block_sessions: kept sessions per resampled block.

    Returns:
        rank_ic (mean), interval (95 %; None for fewer than 10 blocks), icir (mean / sample standard deviation of the
        daily values, not annualised), positive_share (of days), num_days, num_days_left_out. NaN without any day.
    """
    dates, ic = daily_rank_ic(score, forward_return, date, min_issues)
    spread = ic.std(ddof=1) if len(ic) > 1 else np.nan
    mean = float(ic.mean()) if len(ic) else np.nan
    return {
        "rank_ic": mean,
        "interval": _mean_interval(ic, dates, block_sessions, num_resamples, seed),
        "icir": mean / float(spread) if spread > 0 else np.nan,
        "positive_share": float((ic > 0).mean()) if len(ic) else np.nan,
        "num_days": len(ic),
        "num_days_left_out": len(np.unique(date)) - len(ic),
    }


def paired_rank_ic(
    score_a: ArrayLike, score_b: ArrayLike, forward_return: ArrayLike, date: ArrayLike, min_issues: int = 5,
    block_sessions: int = 5, num_resamples: int = 2000, seed: int = 0,
) -> Interval | None:  # fmt: skip
    """95 % interval of the mean rank IC of b − a, over the days on which both have one; None for under 10 blocks.

    A score that is constant on a day has no IC there: such days say nothing of either.
    """
    first, second = (daily_rank_ic(score, forward_return, date, min_issues) for score in (score_a, score_b))
    dates, own, other = np.intersect1d(first[0], second[0], assume_unique=True, return_indices=True)
    return _mean_interval(second[1][other] - first[1][own], dates, block_sessions, num_resamples, seed)


def decile_returns(
    score: ArrayLike, forward_return: ArrayLike, date: ArrayLike, num: int = 10, block_sessions: int = 5,
    num_resamples: int = 2000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Mean forward return of each tenth of the issues by daily score, lowest scores first; every day weighs the same.

    Issues of equal score share their mean return, as if the tie were broken by lot very often: a constant score earns
    the mean of the universe in every tenth. Before all costs.

    Args:
        score, forward_return, date: as `daily_rank_ic`.
        num: quantile groups; days with fewer issues are left out. Groups of a day differ by at most one issue.

    Returns:
        mean_return, excess (over the mean of the day's issues): `num` numbers each; top_minus_bottom,
        top_minus_universe: means; top_minus_bottom_interval, top_minus_universe_interval (95 %; None for fewer than
        10 blocks); monotonicity (Spearman correlation of group number and mean return); num_days, num_days_left_out.
        NaN without any day.
    """
    dates, daily, universe = _daily_groups(*_checked(score, forward_return, date), num)
    spreads = {"top_minus_bottom": daily[:, -1] - daily[:, 0], "top_minus_universe": daily[:, -1] - universe}
    mean_return, excess, *means = (
        values.mean(0) if len(dates) else np.full(values.shape[1:], np.nan)
        for values in (daily, daily - universe[:, None], *spreads.values())
    )
    intervals = {
        f"{name}_interval": _mean_interval(values, dates, block_sessions, num_resamples, seed)
        for name, values in spreads.items()
    }
    return {
        "mean_return": mean_return.tolist(),
        "excess": excess.tolist(),
        **dict(zip(spreads, map(float, means))),
        **intervals,
        "monotonicity": _monotonicity(mean_return),
        "num_days": len(dates),
        "num_days_left_out": len(np.unique(date)) - len(dates),
    }


def direction_auc(
    score: ArrayLike, label: ArrayLike, date: ArrayLike, block_sessions: int = 5, num_resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:  # fmt: skip
    """95 % interval of the AUC of BUY against SELL among the rows labelled either: skill that volatility cannot give.

    None unless ten blocks of sessions or more hold each of the two.

    Args:
        score: (N,) higher for more likely up.
        label: (N,) 0 SELL, 1 HOLD, 2 BUY.
        date: (N,) sessions.
    """
    movers = np.asarray(label) != 1
    score, label, blocks = np.asarray(score)[movers], np.asarray(label)[movers], date_blocks(date, block_sessions)
    return _auc_interval(score, label == 2, blocks[movers], num_resamples, seed)


def movement_auc(
    score: ArrayLike, label: ArrayLike, date: ArrayLike, block_sessions: int = 5, num_resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:  # fmt: skip
    """95 % interval of the AUC of moves (BUY or SELL) against HOLD, which knowing the volatility gives already.

    None unless ten blocks of sessions or more hold each of the two.

    Args:
        score: (N,) higher for a more likely move, for example ATR / close.
        label, date: as `direction_auc`.
    """
    return _auc_interval(score, np.asarray(label) != 1, date_blocks(date, block_sessions), num_resamples, seed)


def direction_and_volatility(
    probabilities: ArrayLike, label: ArrayLike, date: ArrayLike, block_sessions: int = 5, num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval | None]:  # fmt: skip
    """The skill of a classifier in two parts: `direction_auc` by P(BUY) / P(SELL), `movement_auc` by 1 − P(HOLD).

    Args:
        probabilities: (N, 3).

    Returns:
        direction, movement.
    """
    odds = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY))
    options = (block_sessions, num_resamples, seed)
    return {
        "direction": direction_auc(odds[:, 2] - odds[:, 0], label, date, *options),
        "movement": movement_auc(-odds[:, 1], label, date, *options),
    }


def block_permutation(
    code: ArrayLike, date: ArrayLike, label: ArrayLike, predicted: ArrayLike, num_permutations: int = 1000,
    seed: int = 0, block_sessions: int = 5,
) -> dict[str, float]:  # fmt: skip
    """Balanced accuracy against what it is when each block of sessions is judged by another block's labels.

    A row gets the label of the same issue at the same place of the other block; without one it is left out of that
    permutation. Dependence among issues, and within a block, is kept. An issue keeps its own labels, so `permuted_mean`
    exceeds 1/3 by the skill of knowing which issues move; what the p-value judges is knowing when, and which way.

    Args:
        code, date, label, predicted: (N,) issue, session, class and predicted class; classes in 0 … 2.
        block_sessions: at least 5; labels overlap across the ends of blocks, longer blocks do so less.

    Returns:
        observed; permuted_mean; p_value (one-sided: the share of permutations that reach `observed`, which counts as
        one of them); mean_share_judged, of the rows, per permutation.

    Raises:
        ValueError: for fewer than two blocks, two rows of one issue and session, or no row with any counterpart.
    """
    label, predicted = np.asarray(label), np.asarray(predicted)
    series, first, block = _series_by_block(code, date, label, block_sessions)
    rng, num_blocks = np.random.default_rng(seed), block.max() + 1
    permuted = (series[first + rng.permutation(num_blocks)[block]] for _ in range(num_permutations))
    counts = np.stack([_counts(label, predicted)] + [_counts(each, predicted) for each in permuted])
    observed, *scores = classification_scores(counts)["balanced_accuracy"].tolist()
    return {
        "observed": observed,
        "permuted_mean": float(np.mean(scores)),
        "p_value": (1 + sum(score >= observed for score in scores)) / (1 + num_permutations),
        "mean_share_judged": float(counts[1:].sum() / (num_permutations * len(label))),
    }


def _series_by_block(
    code: ArrayLike, date: ArrayLike, label: np.ndarray, block_sessions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels by issue, place in the block and block, laid out flat; where each row's series starts; its (N,) block.

    −1 where an issue has no label.
    """
    sessions, session = np.unique(np.asarray(date), return_inverse=True)
    if len(sessions) <= block_sessions:
        raise ValueError(f"a permutation of blocks needs more than {block_sessions} sessions; got {len(sessions)}")
    issue = np.unique(np.asarray(code), return_inverse=True)[1]
    block, place = np.divmod(session, block_sessions)
    labels = np.full((issue.max() + 1, block_sessions, block.max() + 1), -1, np.int8)
    labels[issue, place, block] = label
    if np.count_nonzero(labels >= 0) < len(label):
        raise ValueError("two rows share their issue and session")
    if np.count_nonzero(labels >= 0, axis=-1).max() < 2:
        raise ValueError("no row has a counterpart: no issue occurs at the same place of two blocks")
    return labels.ravel(), np.ravel_multi_index((issue, place, 0 * block), labels.shape), block


def _counts(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(3, 3) confusion counts, rows actual; rows of label −1 are left out."""
    return np.bincount((label + 1) * 3 + predicted, minlength=12).reshape(4, 3)[1:]


def _centred_ranks(values: np.ndarray, day: np.ndarray) -> np.ndarray:
    """(N,) rank of each value within its day, the mean rank where values are equal, minus the mean of the day."""
    order, starts, run = _runs(values, day)
    ends = np.append(starts[1:], len(values))
    positions = np.empty(len(values))
    positions[order] = ((starts + ends - 1) / 2)[run]
    return positions - (np.bincount(day, positions) / np.bincount(day))[day]


def _runs(values: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order by day and value, where runs of equal day and value start in it, and the run of each of its places."""
    order = np.lexsort((values, day))
    new = np.ones(len(values), dtype=bool)
    new[1:] = (np.diff(values[order]) != 0) | (np.diff(day[order]) != 0)
    return order, np.flatnonzero(new), np.cumsum(new) - 1


def _daily_groups(
    score: np.ndarray, forward_return: np.ndarray, date: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sessions (D,), mean returns (D, num) of the groups by score, and (D,) of all issues."""
    sessions, day, issues = np.unique(date, return_inverse=True, return_counts=True)
    order, starts, run = _runs(score, day)
    shared = (np.add.reduceat(forward_return[order], starts) / np.bincount(run))[run]
    day = day[order]
    place = np.arange(len(day)) - (np.cumsum(issues) - issues)[day]
    cell = day * num + place * num // issues[day]
    sums, counts = (np.bincount(cell, weights, len(sessions) * num).reshape(-1, num) for weights in (shared, None))
    kept = issues >= num
    return sessions[kept], sums[kept] / counts[kept], (np.bincount(day, shared) / issues)[kept]


def _monotonicity(mean_return: np.ndarray) -> float:
    if np.isnan(mean_return).any():
        return np.nan
    # rounded: under a constant score the groups differ by the last bits only
    one_day = daily_rank_ic(np.arange(len(mean_return)), mean_return.round(12), np.zeros(len(mean_return)), 2)
    return float(one_day[1][0]) if len(one_day[1]) else np.nan


def _mean_interval(
    values: np.ndarray, dates: np.ndarray, block_sessions: int, num_resamples: int, seed: int
) -> Interval | None:
    """95 % interval of the mean of one value per session, by blocks of sessions; None for too few blocks."""
    if len(dates) <= (MIN_BLOCKS - 1) * block_sessions:
        return None
    sums = group_sums(np.stack([values, np.ones(len(values))], 1), date_blocks(dates, block_sessions))
    return bootstrap_sums(lambda totals: totals[:, 0] / totals[:, 1], sums, num_resamples, seed=seed)


def _auc_interval(
    score: ArrayLike, positive: np.ndarray, blocks: np.ndarray, num_resamples: int, seed: int
) -> Interval | None:
    if min(len(np.unique(blocks[positive])), len(np.unique(blocks[~positive]))) < MIN_BLOCKS:
        return None
    return auc_interval(score, positive, blocks, num_resamples, seed=seed)


def _checked(score: ArrayLike, forward_return: ArrayLike, date: ArrayLike) -> tuple[np.ndarray, ...]:
    score, forward_return = np.asarray(score, dtype=np.float64), np.asarray(forward_return, dtype=np.float64)
    date = np.asarray(date)
    if not score.shape == forward_return.shape == date.shape == (len(date),):
        raise ValueError(f"need N scores, returns and dates; got {score.shape}, {forward_return.shape}, {date.shape}")
    if not (np.isfinite(score).all() and np.isfinite(forward_return).all()):
        raise ValueError("scores and forward returns must be finite")
    return score, forward_return, date

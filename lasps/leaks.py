"""Checks that neither the future nor a label reaches a feature, a prediction or a score.

Lasps specification, sections 11 and 12. The checks look at what the pipeline computes, not at how: features and
predictions come in as functions. All are deterministic in their seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from common.metrics import one_vs_rest_auc
from common.stats import date_blocks, seed_interval
from lasps.data.bars import Bars
from lasps.data.features import FEATURES
from lasps.data.windows import WINDOW, complete_windows
from lasps.judged import Forecast, Rows
from lasps.ranking import block_permutation

Compute = Callable[[Bars], np.ndarray]  # (R, F) features
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]  # raw (n, 60, F) windows, (n,) sectors → (n, 3) probabilities
Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]  # (N, F), (N,) labels → model

CHANCE = 1 / 3
WARM_UP = 100  # sessions; a backward fill shows only in the gap that it fills
FEWEST_ISSUES = 3  # with two, a rank correlation is −1 or 1
BLOCK = 10  # sessions: twice the five over which labels overlap, so that block means are nearly independent
SURE = 0.999  # level of intervals that decide over fifty columns at a time


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        passed: None where the check does not apply or cannot tell; `detail` says why.
        detail: one sentence with the figures.
        figures: plain values, ready for JSON.
    """

    name: str
    passed: bool | None
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)


def truncation(bars: Bars, compute: Compute, samples: int = 8, seed: int = 0) -> Check:
    """Whether all features up to a session have the same bits when the bars end there.

    Args:
        compute: features of bars, (R, F); NaN equals NaN.
        samples: sessions to cut at, spread over the bars, besides one among the first hundred.
    """
    features, name = compute(bars), "truncation"
    moved, dates = np.zeros(features.shape[1], np.int64), _sample_dates(bars, samples, seed)
    for date in dates:
        past = bars.date <= date
        moved += _moved(features[past], compute(_rows(bars, past)))
    figures = {"cuts": len(dates), "moved_values": int(moved.sum()), "moved_columns": _moved_names(moved)}
    if not len(dates):
        return Check(name, None, "The bars hold a single session: there is no later one to cut off.", figures)
    if moved.any():
        return Check(name, False, f"Features change once later bars are cut off: {_listed(moved)}.", figures)
    return Check(name, True, f"Features up to a session keep every bit when cut there, at {len(dates)} cuts.", figures)


def future_perturbation(
    bars: Bars, compute: Compute, predict: Predict | None = None, samples: int = 8, seed: int = 0,
    num_predicted: int = 16,
) -> Check:  # fmt: skip
    """Whether features and predictions up to a session keep every bit when all later bars become quite different.

    Each predicted batch holds windows that end on the session and as many that end later, so that a prediction that
    depends on its batch shows too.

    Args:
        predict: probabilities (n, 3) from raw windows (n, 60, F) and sectors (n,); None to check features alone.
        samples: as in `truncation`.
        num_predicted: windows predicted per sampled session.
    """
    features, name = compute(bars), "future perturbation"
    ends = np.flatnonzero(complete_windows(features))
    rng = np.random.default_rng(seed)
    moved, dates = np.zeros(features.shape[1], np.int64), _sample_dates(bars, samples, seed)
    predictions = changed = 0
    for date in dates:
        past = bars.date <= date
        disturbed = compute(_disturbed(bars, ~past, rng))
        moved += _moved(features[past], disturbed[past])
        now, later = _drawn(ends[bars.date[ends] == date], num_predicted, rng), ends[bars.date[ends] > date]
        if predict is not None and len(now):
            batch = np.concatenate([now, _drawn(later, len(now), rng)])
            before, after = (_predicted(predict, each, batch, bars)[: len(now)] for each in (features, disturbed))
            predictions, changed = predictions + len(now), changed + int((before != after).any(axis=1).sum())
    figures = {
        "sessions": len(dates), "moved_values": int(moved.sum()), "moved_columns": _moved_names(moved),
        "predictions": predictions, "changed_predictions": changed,
    }  # fmt: skip
    if moved.any():
        return Check(name, False, f"Features change once later bars do: {_listed(moved)}.", figures)
    if changed:
        return Check(name, False, f"{changed} of {predictions} predictions change once later bars do.", figures)
    if not len(dates) or (predict is not None and not predictions):
        return Check(name, None, f"No prediction to compare on {len(dates)} sampled sessions.", figures)
    judged = f"Features and {predictions} predictions" if predict else "Features"
    return Check(name, True, f"{judged} keep every bit when later bars change, at {len(dates)} sessions.", figures)


def disjoint(splits: dict[str, Rows], sessions: np.ndarray, embargo: int) -> list[Check]:
    """Two checks: no (stock, date) occurs twice, and no label reaches into, or within the embargo of, a later split.

    Args:
        splits: in the order of time: train, val, test.
        sessions: (T,) datetime64[D], all market sessions, ascending.
        embargo: sessions required between the end of the last label of a split and the next split.
    """
    splits = {name: rows for name, rows in splits.items() if len(rows)}
    return [_unique_windows(splits), _label_intervals(splits, sessions, embargo)]


def _unique_windows(splits: dict[str, Rows]) -> Check:
    name = "each (stock, date) once"
    _, code = np.unique(np.concatenate([rows.code for rows in splits.values()]), return_inverse=True)
    day = np.concatenate([rows.date for rows in splits.values()]).astype("datetime64[D]").astype(np.int64)
    key = (code.astype(np.int64) << 32) + day
    repeated = len(key) - len(np.unique(key))
    figures = {"windows": {split: len(rows) for split, rows in splits.items()}, "repeated": repeated}
    if repeated:
        return Check(name, False, f"{repeated} of {len(key)} windows repeat a stock and date of another one.", figures)
    return Check(name, True, f"{len(key)} windows in {len(splits)} splits, no stock and date twice.", figures)


def _label_intervals(splits: dict[str, Rows], sessions: np.ndarray, embargo: int) -> Check:
    name, figures = "label intervals apart", {"embargo": embargo, "pairs": {}}
    for (first, earlier), (second, later) in combinations(splits.items(), 2):
        start = np.searchsorted(sessions, later.date.min())
        gap = start - np.searchsorted(sessions, earlier.label_end) - 1
        figures["pairs"][f"{first} → {second}"] = {
            "smallest_gap": int(gap.min()),
            "too_close": int((gap < embargo).sum()),
            "later_by_date": int((earlier.date >= later.date.min()).sum()),
        }
    pairs = figures["pairs"]
    if not pairs:
        return Check(name, None, "Fewer than two splits with windows.", figures)
    worst = min(pairs, key=lambda pair: pairs[pair]["smallest_gap"])
    if any(pair["later_by_date"] for pair in pairs.values()):
        mixed = {pair: values["later_by_date"] for pair, values in pairs.items() if values["later_by_date"]}
        text = ", ".join(f"{count} windows of {pair}" for pair, count in mixed.items())
        return Check(name, False, f"The splits overlap in time, as a random split's do: {text}: leaky.", figures)
    close = sum(pair["too_close"] for pair in pairs.values())
    smallest = pairs[worst]["smallest_gap"]
    if close:
        detail = f"{close} labels end within {embargo} sessions of a later split ({worst}: smallest gap {smallest})."
        return Check(name, False, detail, figures)
    detail = f"At least {smallest} sessions lie between a label's end and a later split; the embargo is {embargo}."
    return Check(name, True, detail, figures)


def shuffled_labels(
    train_x: np.ndarray, train_y: np.ndarray, held_x: np.ndarray, held_y: np.ndarray, fit: Fit | None = None,
    seed: int = 0, num_shuffles: int = 20,
) -> Check:  # fmt: skip
    """Whether a model trained on shuffled labels scores at chance on held-out rows.

    The score is the mean one-vs-rest AUC. One shuffle tells little, as its model points in some direction of the
    features by chance; over shuffles these cancel, and the 99.9 % t interval of their mean must hold 1/2. So one
    check in a thousand fails without a leak.

    Args:
        train_x, held_x: (N, F) and (M, F) finite values.
        train_y, held_y: (N,) and (M,) classes 0, 1, 2.
        fit: trains a model; `quick_model` by default.
    """
    name, fit, rng = "shuffled labels", fit or quick_model, np.random.default_rng(seed)
    if len(np.unique(held_y)) < 2 or len(np.unique(train_y)) < 2:
        return Check(name, None, "Fewer than two classes among the labels.")
    scores = [_mean_auc(fit(train_x, rng.permutation(train_y))(held_x), held_y) for _ in range(num_shuffles)]
    interval = seed_interval(scores, SURE)
    figures = {"shuffled_auc": interval.as_dict(), "auc": _mean_auc(fit(train_x, train_y)(held_x), held_y)}
    detail = f"AUC {interval} over {num_shuffles} shuffles of the training labels, {figures['auc']:.3f} without."
    if interval.excludes(0.5):
        return Check(name, False, f"Not at chance (0.5) after shuffling: {detail}", figures)
    return Check(name, True, f"At chance (0.5): {detail}", figures)


def quick_model(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from (n, F) values to (n, 3) probabilities: ridge regression of the classes, in closed form."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1)

    def standardised(values: np.ndarray) -> np.ndarray:
        return np.clip((values - mean) / spread, -5, 5).astype(np.float64)

    classes, z = np.eye(3)[y], standardised(x)
    share = classes.mean(axis=0)
    weights = np.linalg.solve(z.T @ z + 1e-3 * len(z) * np.eye(z.shape[1]), z.T @ (classes - share))

    def probabilities(values: np.ndarray) -> np.ndarray:
        odds = np.maximum(share + standardised(values) @ weights, 1e-6)
        return odds / odds.sum(axis=1, keepdims=True)

    return probabilities


def block_permutation_check(
    rows: Rows, forecast: Forecast, num_permutations: int = 1000, seed: int = 0, tolerance: float = 0.1,
    permute: Callable[..., dict[str, float]] = block_permutation,
) -> Check:  # fmt: skip
    """Whether balanced accuracy is near chance once labels are moved by whole blocks of dates.

    The p-value, evidence of skill, decides nothing here. Nor can chance be demanded exactly: an issue keeps its labels,
    so knowing which issues are volatile survives the permutation. Measured with calm issues called HOLD and the rest
    by their RSI: 0.362 on Korean and on US bars, 0.360 on simulated ones, each with standard deviation below 0.01.

    Args:
        tolerance: distance from 1/3 beyond which the evaluation must be using the labels.
        permute: the evaluation that is checked.
    """
    name = "date-block permutation"
    try:
        found = permute(rows.code, rows.date, rows.label, forecast.predicted, num_permutations, seed)
    except ValueError as error:  # too few sessions
        return Check(name, None, f"Cannot tell: {error}.")
    mean = found["permuted_mean"]
    detail = (
        f"Balanced accuracy {mean:.3f} with permuted labels (chance 0.333), {found['observed']:.3f} as observed; "
        f"p = {found['p_value']:.3g} against no skill."
    )
    passed = bool(abs(mean - CHANCE) <= tolerance)
    return Check(name, passed, detail if passed else f"The evaluation leaks. {detail}", dict(found))


def too_good_columns(
    last_two: np.ndarray, names: Sequence[str], outcome: np.ndarray, date: np.ndarray, horizon: int = 5,
    share: float = 0.7,
) -> Check:  # fmt: skip
    """Whether a column, or its last change, ranks the issues of a day by their return as only the future could.

    The return of the next session has a correlation of 1/√horizon with that of the next `horizon` sessions. A column
    is too good if its mean daily rank correlation surely (99.9 % t interval over blocks of ten sessions) exceeds
    `share` of what that gives among as many issues: 0.30 for five sessions and many issues, 0.25 for four issues.
    Measured over five sessions: real columns up to 0.04 (Korea, to 2018) and 0.07 (US), the strong simulated signal
    0.29, a planted next close or next return 0.40, 0.34 and 0.51. Over one session: 0.07, 0.03, 0.19, planted 1.

    Args:
        last_two: (N, 2, F), features of the sessions t − 1 and t.
        outcome: (N,) return after t over `horizon` sessions; rows where it is not finite are left out.
        date: (N,) datetime64[D], session t.
        share: of the correlation of the next session's return.
    """
    name = f"columns too good over {horizon} session" + "s" * (horizon > 1)
    known = np.isfinite(outcome)
    correlation, days, issues = _daily_correlations(last_two[known], outcome[known], date[known])
    blocks = date_blocks(days, BLOCK) if len(days) else np.zeros(0, np.int64)
    figures = {"days": len(days), "windows": int(known.sum())}
    if len(np.unique(blocks)) < 2:
        detail = f"Needs two blocks of {BLOCK} days with {FEWEST_ISSUES} or more issues; there are {len(days)} days."
        return Check(name, None, detail, figures)
    means = np.stack([correlation[blocks == block].mean(axis=0) for block in np.unique(blocks)])
    intervals = [seed_interval(column, SURE) for column in means.T]
    labels = [*names, *(f"change of {column}" for column in names)]
    planted = float(_rank_correlation(horizon**-0.5, issues).mean())
    limit = share * planted
    found = [label for label, each in zip(labels, intervals) if max(each.low, -each.high) > limit]
    top = max(range(len(labels)), key=lambda column: abs(intervals[column].estimate))
    figures |= {"limit": limit, "largest_column": labels[top], "largest": intervals[top].as_dict(), "too_good": found}
    detail = f"Largest mean daily rank correlation: {labels[top]}, {intervals[top].estimate:+.3f}; limit ±{limit:.3f}."
    if found:
        return Check(name, False, f"{', '.join(found)} must know the future. {detail}", figures)
    typical = float(np.median([each.high - each.low for each in intervals])) / 2
    if limit + typical > planted:
        detail = f"{len(days)} days of {issues.mean():.0f} issues are too few to tell: intervals of ±{typical:.2f}."
        return Check(name, None, detail, figures)
    return Check(name, True, detail, figures)


def future_columns(bars: Bars, features: np.ndarray, last: np.datetime64, horizon: int = 1) -> Check:
    """`too_good_columns` of every complete window in the bars up to `last`, the end of training.

    All issues of a day count, whatever the stride of training: with a stride few of them share a day.
    """
    past = bars.date <= last
    features, outcome = features[past], return_ahead(_rows(bars, past), horizon)
    ends = np.flatnonzero(complete_windows(features))
    last_two = features[np.stack([ends - 1, ends], axis=1)]
    return too_good_columns(last_two, column_names(features.shape[1]), outcome[ends], bars.date[past][ends], horizon)


def return_ahead(bars: Bars, horizon: int) -> np.ndarray:
    """(R,) return from each close to that `horizon` bars later in the same segment, NaN where there is none."""
    ahead = np.full(len(bars), np.nan)
    same = bars.segment[horizon:] == bars.segment[:-horizon]
    ahead[:-horizon][same] = (bars.close[horizon:] / bars.close[:-horizon] - 1)[same]
    return ahead


def plant_next_return(bars: Bars, features: np.ndarray, column: str = "gap_direction") -> np.ndarray:
    """The (R, 28) features with the next session's return in one column, 0 where there is none: a leak to be found."""
    planted = features.copy()
    planted[:, FEATURES.index(column)] = np.nan_to_num(return_ahead(bars, 1))
    return planted


def self_test(bars: Bars, compute: Compute, last: np.datetime64, seed: int = 0) -> Check:
    """Whether the checks find a planted column that holds the next session's return."""

    def planted(bars: Bars) -> np.ndarray:
        return plant_next_return(bars, compute(bars))

    checks = [
        truncation(bars, planted, 1, seed),
        future_perturbation(bars, planted, None, 1, seed),
        future_columns(bars, planted(bars), last),
    ]
    outcome = {check.name: {True: "missed", False: "caught", None: "cannot tell"}[check.passed] for check in checks}
    passed = "caught" in outcome.values() and "missed" not in outcome.values()
    detail = "The next session's return, planted as a feature: " + ", ".join(f"{k} {v}" for k, v in outcome.items())
    return Check("planted column is caught", passed, detail + ".", outcome)


def column_names(count: int) -> list[str]:
    """Names of feature columns: those of `FEATURES` where there are as many."""
    return list(FEATURES) if count == len(FEATURES) else [f"column {number}" for number in range(count)]


def _sample_dates(bars: Bars, samples: int, seed: int) -> np.ndarray:
    """Sessions that others follow: one among the first hundred, and one from each of `samples` equal stretches."""
    sessions, rng = np.unique(bars.date)[:-1], np.random.default_rng(seed)
    stretches = [sessions[:WARM_UP], *np.array_split(sessions, samples)]
    return np.unique([rng.choice(stretch) for stretch in stretches if len(stretch)])


def _rows(bars: Bars, chosen: np.ndarray) -> Bars:
    columns = {name: value[chosen] for name, value in vars(bars).items() if isinstance(value, np.ndarray)}
    return replace(bars, **columns)


def _disturbed(bars: Bars, future: np.ndarray, rng: np.random.Generator) -> Bars:
    """Bars whose rows in `future` hold other such rows' values, times a factor of their own; dates and issues stay.

    One factor for all prices of a row keeps its high and low around its open and close.
    """
    rows = np.flatnonzero(future)
    source, factor = rng.permutation(rows), np.exp(rng.standard_normal(len(rows)))
    columns = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close", "volume", "flow")}
    for values in columns.values():
        values[rows] = values[source] * factor
    return replace(bars, **columns)


def _moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(F,) how many values differ in each column; NaN equals NaN."""
    return np.count_nonzero((before != after) & ~(np.isnan(before) & np.isnan(after)), axis=0)


def _moved_names(moved: np.ndarray) -> list[str]:
    return [name for name, count in zip(column_names(len(moved)), moved) if count]


def _listed(moved: np.ndarray) -> str:
    names = _moved_names(moved)
    more = f" and {len(names) - 5} more columns" if len(names) > 5 else ""
    return f"{moved.sum()} values of {', '.join(names[:5])}{more}"


def _drawn(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(rows, min(count, len(rows)), replace=False)


def _predicted(predict: Predict, features: np.ndarray, ends: np.ndarray, bars: Bars) -> np.ndarray:
    windows = features[ends[:, None] + np.arange(1 - WINDOW, 1)]
    return np.asarray(predict(windows.astype(np.float32, copy=False), bars.sector[ends]))


def _mean_auc(probabilities: np.ndarray, y: np.ndarray) -> float:
    return float(np.nanmean(one_vs_rest_auc(probabilities, y)))


def _daily_correlations(
    last_two: np.ndarray, outcome: np.ndarray, date: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(D, 2F) rank correlations with the outcome, the (D,) days with enough issues, and their (D,) numbers of issues.

    The first F columns are the values at t, the others their change over the last session.
    """
    order = np.argsort(date, kind="stable")
    _, starts = np.unique(date[order], return_index=True)
    groups = [rows for rows in np.split(order, starts[1:]) if len(rows) >= FEWEST_ISSUES]
    correlations = np.empty((len(groups), 2 * last_two.shape[2]))
    for number, rows in enumerate(groups):
        before, now = last_two[rows, 0].astype(np.float64), last_two[rows, 1].astype(np.float64)
        size = np.abs(before) + np.abs(now)
        # relative, so that issues of any price compare; for positive values as a logarithm ranks them
        change = np.divide(now - before, size, out=np.zeros_like(size), where=size > 0)
        correlations[number] = _correlation(rankdata(np.hstack([now, change]), axis=0), rankdata(outcome[rows]))
    return correlations, date[[rows[0] for rows in groups]], np.array([len(rows) for rows in groups])


def _correlation(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(C,) correlation of each column of (n, C) with (n,), 0 for a constant one."""
    columns, target = columns - columns.mean(axis=0), target - target.mean()
    spread = np.sqrt((columns**2).sum(axis=0) * (target**2).sum())
    return np.divide(target @ columns, spread, out=np.zeros_like(spread), where=spread > 0)


def _rank_correlation(rho: float, n: np.ndarray) -> np.ndarray:
    """Expected rank correlation of n normal pairs of correlation rho (Moran 1948, Biometrika 35)."""
    return 6 / np.pi / (n + 1) * (np.arcsin(rho) + (n - 2) * np.arcsin(rho / 2))

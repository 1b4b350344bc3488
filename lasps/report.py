"""`analysis=lasps/report`: everything a sceptic asks of the forecasts, and a verdict in words."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from common.calibration import expected_calibration_error, reliability
from common.errors import UserError
from common.evaluation import LoadedRun, Split
from common.files import locate_data, plain, write_text
from common.metrics import classification_scores, confusion_matrix, precision_at_coverage
from common.plots import plot_confusion, plot_intervals
from common.report import verdict
from common.rundir import Run
from common.stats import Interval, date_blocks, holm
from lasps import backtest
from lasps.backtest import KrxRules, Portfolio
from lasps.baselines import Trees
from lasps.data.bars import Bars
from lasps.data.module import LaspsDataModule
from lasps.figures import plot_cumulative_ic, plot_deciles, plot_equity, plot_reliability
from lasps.forecasts import head_status
from lasps.judged import CLASSES, Forecast
from lasps.judging import (
    REGIMES,
    STAGES,
    Judged,
    bars_of,
    differences,
    judge,
    looks_and_trials,
    row_log_loss,
    scores,
)
from lasps.ranking import MIN_BLOCKS, block_permutation, daily_rank_ic, decile_returns
from lasps.report_text import markdown

TRADED = ("LightGBM, divided by prior", "momentum 20", "reversal 20", "volatility only, divided by prior")
STRONGEST = "LightGBM, divided by prior"
NUM_PERMUTATIONS = 1000


def report(
    runs: list[Run],
    split: Split,
    output: Path,
    data_dir: str | None,
    trees: Trees,
    rules: KrxRules,
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.1,
    tranches: Literal["daily", "weekly"] = "daily",
    index: str | None = None,
) -> dict[str, Any]:
    """Judge one run, or the seeds and folds of one configuration, beside every baseline (specification, section 12).

    Args:
        rules: of the exchange.
        quantile: share of the issues that a portfolio holds.
        tranches: a fifth of the money moved every session, or all of it once a horizon.
        index: a table with the closes of an index (date, close), as a benchmark; relative to the data directory.

    Raises:
        UserError: if the runs do not belong together, or the windows have no dates and returns.
    """
    judged, data, loaded = judge(runs, split, data_dir, trees)
    looks, trials = looks_and_trials(runs)
    rows, candidate = judged.rows, judged.candidate
    models = {each.name: scores(rows, each, judged.prior) for each in judged.forecasts()}
    summary = {
        "data_source": data[0].data_source,
        "leaky": any(each.leaky for each in data),
        "n": len(rows),
        "first_date": str(rows.date.min()),
        "last_date": str(rows.date.max()),
        "folds": len(data),
        "seeds": [each.config.seed for each in loaded],
        "entry": _entry(loaded),
        "test_looks": looks,
        "configurations_tried": trials,
        "universe": dict(data[0].facts["counts"]),
        "models": models,
        "differences": _differences(judged),
        "classes": _classes(judged),
        "calibration": _calibration(judged),
        "ranking": {each.name: decile_returns(each.score, rows.forward_return, rows.date) for each in _ranked(judged)},
        "permutation": block_permutation(rows.code, rows.date, rows.label, candidate.predicted, NUM_PERMUTATIONS),
        "sectors": _sectors(judged, data[0], loaded),
        "years": _parts(judged, rows.date.astype("datetime64[Y]").astype(str)),
        "regimes": _parts(judged, np.array(REGIMES)[judged.regime], REGIMES),
    }
    bars = bars_of(data)
    portfolios, curves = ({}, {}) if bars is None else _portfolios(
        judged, bars, rules, _portfolio_options(loaded, quantile, tranches), _index(index, data_dir), trials
    )  # fmt: skip
    summary["portfolios"] = portfolios
    summary["verdict"] = _verdict(summary, candidate.name)
    summary = plain(_plain(summary))
    figures = _figures(judged, curves, summary, output / "figures")
    write_text(output / "report.md", markdown(summary, candidate.name, runs, split, figures))
    return summary


def _entry(loaded: list[LoadedRun]) -> str:
    windowing = loaded[0].config.data.get("windowing")
    return "as stored" if windowing is None else windowing.entry


def _shared(judged: Judged) -> list[Forecast]:
    return [] if judged.shared is None else [judged.shared]


def _differences(judged: Judged) -> dict[str, dict[str, Any]]:
    """The candidate against every rival, and the common head against every baseline."""
    pairs = [(judged.candidate, [*_shared(judged), *judged.baselines])]
    pairs += [(shared, judged.baselines) for shared in _shared(judged)]
    return {one.name: {each.name: differences(judged.rows, one, each) for each in rivals} for one, rivals in pairs}


def _ranked(judged: Judged) -> list[Forecast]:
    """The candidate and what its ranking and its portfolios are shown beside."""
    return [judged.candidate, *_shared(judged), *(each for each in judged.baselines if each.name in TRADED)]


def _classes(judged: Judged) -> dict[str, Any]:
    rows, candidate = judged.rows, judged.candidate
    confusion = confusion_matrix(rows.label, candidate.predicted, 3)
    found = classification_scores(confusion)
    odds = candidate.probabilities
    return {
        "confusion": confusion,
        "by_class": [
            {"class": name, "n": int(confusion[number].sum()), "predicted": int(confusion[:, number].sum())}
            | {score: float(found[score][number]) for score in ("precision", "recall", "f1")}
            for number, name in enumerate(CLASSES)
        ],
        "buy_precision": precision_at_coverage(odds[:, 2], rows.label == 2),
        "buy_share": float((rows.label == 2).mean()),
    }


def _calibration(judged: Judged) -> dict[str, Any]:
    label = judged.rows.label
    return {
        stage: {
            "log_loss": float(row_log_loss(odds, label).mean()),
            "brier": float(((odds - np.eye(3)[label]) ** 2).sum(1).mean()),
            "ece": expected_calibration_error(table := reliability(odds, label)),
            "class_ece": float(np.mean([expected_calibration_error(reliability(odds, label, target_class=number))
                                        for number in range(3)])),
            "reliability": table,
        }
        for stage, odds in judged.stages.items()
    } | {"class prior": {"log_loss": float(row_log_loss(judged.prior, label).mean())}}  # fmt: skip


def _sectors(judged: Judged, data: LaspsDataModule, loaded: list[LoadedRun]) -> list[dict[str, Any]]:
    """Scores of every sector with rows; p-values by permuted blocks, corrected by Holm for the number of sectors."""
    status = head_status(loaded[0].run) if len({each.run.config.facts.fingerprint for each in loaded}) == 1 else {}
    found = []
    for number, name in enumerate(data.sectors.english):
        chosen = np.flatnonzero(judged.rows.sector == number)
        if not len(chosen):
            continue
        row = {"sector": number, "name": name, "head": status.get(number, loaded[0].module.head)}
        found.append(row | _part(judged, chosen))
    adjusted = holm([np.nan if row["p_value"] is None else row["p_value"] for row in found])
    return [row | {"p_holm": None if np.isnan(p) else float(p)} for row, p in zip(found, adjusted)]


def _parts(judged: Judged, names: np.ndarray, order: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Scores of each part of the rows, sorted by its name or in the order given."""
    present = set(names.tolist())
    return [
        {"name": name} | _part(judged, np.flatnonzero(names == name))
        for name in order or sorted(present)
        if name in present
    ]


def _part(judged: Judged, chosen: np.ndarray) -> dict[str, Any]:
    """Scores of the candidate on some rows, its difference to the common head, and whether chance explains them."""
    rows, candidate = judged.rows[chosen], judged.candidate[chosen]
    found = scores(rows, candidate, judged.prior[chosen])
    shares = np.bincount(rows.label, minlength=3) / len(rows)
    enough = date_blocks(rows.date).max() + 1 >= MIN_BLOCKS
    p_value = None
    if enough:
        p_value = block_permutation(rows.code, rows.date, rows.label, candidate.predicted, NUM_PERMUTATIONS)["p_value"]
    return found | {
        "class_shares": dict(zip(CLASSES, shares.tolist())),
        "p_value": p_value,
        "over_shared": None if judged.shared is None else differences(rows, candidate, judged.shared[chosen]),
    }


def _portfolio_options(loaded: list[LoadedRun], quantile: float, tranches: str) -> dict[str, Any]:
    windowing = loaded[0].config.data.windowing
    number = windowing.horizon if tranches == "daily" else 1
    return {"quantile": quantile, "entry": windowing.entry, "horizon": windowing.horizon, "tranches": number}


def _index(path: str | None, data_dir: str | None) -> tuple[np.ndarray, np.ndarray] | None:
    """(N,) dates and closes of an index."""
    if path is None:
        return None
    file = locate_data(path, data_dir)
    table = pd.read_csv(file)
    names = {str(name).strip().lower(): name for name in table}
    if not {"date", "close"} <= set(names):
        raise UserError(f"{file}: an index needs columns date and close; it has {', '.join(map(str, table))}.")
    dates = pd.to_datetime(table[names["date"]], errors="coerce")
    close = pd.to_numeric(table[names["close"]], errors="coerce")
    bad = dates.isna() | close.isna()
    if bad.any():
        raise UserError(f"{file}, data row {int(bad.to_numpy().argmax()) + 1}: no date or no close; mend the row.")
    return dates.to_numpy().astype("datetime64[D]"), close.to_numpy(np.float64)


def _portfolios(
    judged: Judged, bars: Bars, rules: KrxRules, options: dict[str, Any],
    index: tuple[np.ndarray, np.ndarray] | None, trials: int,
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:  # fmt: skip
    """Figures and equity curves of every ranked forecast, long only and market-neutral, under the same rules.

    The sessions run until the last label of the rows is decided.
    """
    rows = judged.rows
    panel = backtest.panel(bars, str(rows.date.min()), str(rows.label_end.max()))
    short_rules = copy(rules)
    short_rules.allow_short = True
    found, curves = {}, {}
    matrix = backtest.score_matrix(panel, rows.code, rows.date, judged.candidate.score)
    everything = backtest.equal_weight(panel, matrix, rules, Portfolio(**options))
    benchmarks = {"equal weight": everything.net.equity}
    if index is not None:
        benchmarks["index"] = backtest.index_equity(panel.dates, *index, rules.capital)
    for side, allowed in (("long_only", rules), ("market_neutral", short_rules)):
        equity = {}
        for forecast in _ranked(judged):
            matrix = backtest.score_matrix(panel, rows.code, rows.date, forecast.score)
            result = backtest.backtest(panel, matrix, allowed, Portfolio(side=side, **options))
            found.setdefault(side, {})[forecast.name] = backtest.summary(result, benchmarks, trials)
            equity[forecast.name] = result.net.equity / rules.capital
        curves[side] = equity | {name: curve / rules.capital for name, curve in benchmarks.items()}
    found["equal weight"] = backtest.summary(everything, {}, 1)
    curves["dates"] = panel.dates
    return found, curves


def _verdict(summary: dict[str, Any], name: str) -> list[str]:
    """What the figures are evidence for, in words; the first sentence is the answer."""
    own, versus = summary["models"][name], summary["differences"][name][STRONGEST]
    intervals = own["intervals"]
    claims = [
        (_minus(intervals.get("balanced_accuracy"), 1 / 3), "balanced accuracy is above chance (1/3)"),
        (intervals["rank_ic"], "the score ranks the issues of a day (rank IC above 0)"),
        (_minus(intervals.get("direction"), 0.5), "it tells BUY from SELL (AUC above 0.5)"),
        (_minus(intervals.get("movement"), 0.5), "it tells moves from HOLD (AUC above 0.5; volatility alone does)"),
        (intervals.get("log_loss_gain"), "calibrated probabilities beat the class shares in log loss"),
        (versus["balanced_accuracy"], f"it beats {STRONGEST} in balanced accuracy"),
        (versus["rank_ic"], f"it beats {STRONGEST} in rank IC"),
    ]
    traded = summary["portfolios"].get("long_only", {}).get(name)
    if traded is not None:
        excess = traded["benchmarks"]["equal weight"]["excess"]
        claims.append(
            (excess and Interval(**excess), "the long-only portfolio earns more than equal weight, net a year")
        )
    known = [(interval, claim) for interval, claim in claims if interval is not None]
    skilled = [claim for interval, claim in known[:3] if interval.low > 0]
    if not known:
        first = "Too few sessions for any interval: nothing can be said about skill."
    elif not skilled:
        first = "No evidence of skill: neither the classes, nor the ranking, nor the direction is beyond chance."
    else:
        first = (
            f"Evidence of skill: {'; '.join(skilled)}. Whether it is more than a baseline's, and worth money, follows."
        )
    if summary["leaky"]:
        first = "LEAKY: windows were dealt out at random, so none of these figures means anything. " + first
    return [first, *(verdict(interval, claim) for interval, claim in known)]


def _minus(interval: Interval | None, value: float) -> Interval | None:
    if interval is None:
        return None
    low, high = interval.low - value, interval.high - value
    return Interval(interval.estimate - value, low, high, interval.level, interval.n, interval.method)


def _plain(value: Any) -> Any:
    """The same with intervals as dictionaries, before JSON."""
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _figures(judged: Judged, curves: dict[str, Any], summary: dict[str, Any], folder: Path) -> list[str]:
    """Draw every figure that there is something to draw of; returns their names."""
    tables = {stage: summary["calibration"][stage]["reliability"] for stage in STAGES}
    plot_reliability(tables, folder / "reliability.png")
    plot_confusion(np.array(summary["classes"]["confusion"]), CLASSES, folder / "confusion.png", judged.candidate.name)
    if all(ranking["num_days"] for ranking in summary["ranking"].values()):
        plot_deciles({key: ranking["excess"] for key, ranking in summary["ranking"].items()}, folder / "deciles.png")
    plot_cumulative_ic(*_daily_ics(judged), folder / "rank_ic.png")
    _interval_figure(summary["models"], "Balanced accuracy", folder / "models.png")
    for part in ("sectors", "years", "regimes"):
        named = {row["name"]: row for row in summary[part]}
        _interval_figure(named, f"Balanced accuracy by {part[:-1]}", folder / f"{part}.png")
    for side in ("long_only", "market_neutral"):
        if side in curves:
            title = f"{side.replace('_', '-').capitalize()} portfolios after costs"
            plot_equity(curves["dates"], curves[side], folder / f"{side}.png", title)
    return sorted(path.stem for path in folder.glob("*.png"))


def _daily_ics(judged: Judged) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(D,) sessions, and for each ranked forecast its (D,) rank ICs, NaN where there is none."""
    rows, sessions = judged.rows, np.unique(judged.rows.date)
    found = {}
    for each in _ranked(judged):
        dates, ic = daily_rank_ic(each.score, rows.forward_return, rows.date)
        found[each.name] = np.full(len(sessions), np.nan)
        found[each.name][np.searchsorted(sessions, dates)] = ic
    return sessions, found


def _interval_figure(rows: Mapping[str, Any], title: str, path: Path) -> None:
    known = {name: row["intervals"].get("balanced_accuracy") for name, row in rows.items()}
    known = {name: Interval(**interval) for name, interval in known.items() if interval}
    if known:
        plot_intervals(list(known), list(known.values()), path, title, "balanced accuracy", 1 / 3)

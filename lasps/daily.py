"""What evaluate.py says of the newest session: ranked predictions, and any window explained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.utils import instantiate

from common.calibration import Calibration
from common.errors import UserError, nearest
from common.evaluation import Split, load_module
from common.files import write_atomic, write_text
from common.plots import save_image
from common.report import format_table
from common.rundir import Run
from lasps.data.bars import Bars
from lasps.data.dataset import StockDataset
from lasps.data.features import FEATURES, compute_features
from lasps.data.module import BarsDataModule
from lasps.data.view import View
from lasps.data.windows import WINDOW, Windowing, complete_windows, label_of, row_after
from lasps.forecasts import calibration_of, head_status, logits_of
from lasps.judged import CLASSES

PRICES = ("open", "high", "low", "close")


class WindowsAt(StockDataset):
    """Windows that end on given rows of bars; their labels are not known yet and stand as 0."""

    def __init__(self, features: np.ndarray, bars: Bars, end_row: np.ndarray):
        codes = np.asarray(bars.codes)[bars.stock[end_row]]
        super().__init__(np.zeros(len(end_row), np.int64), bars.sector[end_row], codes, bars.date[end_row])
        self.features, self.end_row = features, end_row

    def series(self, index: int | np.ndarray) -> np.ndarray:
        return self.features[self.end_row[index][..., None] + np.arange(1 - WINDOW, 1)]


def predict_today(
    runs: list[Run],
    split: Split,
    output: Path,
    data_dir: str | None,
    data: BarsDataModule | None = None,
    date: str | None = None,
    explain: Sequence[str] = (),
) -> dict[str, Any]:
    """Calibrated, ranked predictions for every issue that traded on one session; over several runs their mean.

    Writes predictions.csv, and for every window to explain a table of its 60 sessions and its chart. A prediction
    depends on the issue's own bars up to the session alone.

    Args:
        split: not looked at; no label is.
        data: where the bars come from; None for the data of the first run.
        date: a session as in 2024-01-31; None for the newest.
        explain: CODE for the session predicted, or CODE:DATE.

    Raises:
        UserError: if the bars do not fit the runs, the session is none, or an issue has no complete window on it.
    """
    view, bars = _view_and_bars(runs, data, data_dir)
    features = compute_features(bars)
    complete = complete_windows(features)
    day = _session(bars, date)
    traded = bars.date == day
    end_row = np.flatnonzero(traded & complete)
    if not len(end_row):
        raise UserError(f"{day}: none of the {traded.sum()} issues has 178 earlier sessions; give longer bars.")
    probabilities = _probabilities(runs, view, WindowsAt(features, bars, end_row), data_dir)
    table = _table(bars, end_row, probabilities, head_status(runs[0]))
    write_atomic(output / "predictions.csv", lambda path: table.to_csv(path, index=False))
    for name in explain:
        _explain(bars, features, complete, view, runs[0], name, day, output / "explain")
    left_out = int((traded & ~complete).sum())
    write_text(output / "report.md", _report(runs, bars, table, str(day), left_out))
    return {"date": str(day), "issues": len(table), "without_complete_window": left_out,
            "data_source": "synthetic" if bars.synthetic else "real"}  # fmt: skip


def _view_and_bars(runs: list[Run], data: BarsDataModule | None, data_dir: str | None) -> tuple[View, Bars]:
    """The runs' view, with the statistics they were trained with, and the bars to predict from."""
    first = runs[0].config
    for run in runs[1:]:
        if (run.config.facts.view, run.config.data.view) != (first.facts.view, first.data.view):
            raise UserError(f"{run}: sees its windows otherwise than {runs[0]}; predict with runs of one data set.")
    source = data or instantiate(first.data, _convert_="all")
    if not isinstance(source, BarsDataModule):
        raise UserError("analysis=lasps/predict needs bars; pass data=lasps/krx data.path=….")
    bars = source.source.load(data_dir or source.data_dir)
    if list(bars.sectors.english) != list(first.facts.sectors):
        raise UserError(f"the bars' sectors are {', '.join(bars.sectors.english)}, those of {runs[0]} "
                        f"{', '.join(first.facts.sectors)}; set data.num_sectors as in training.")  # fmt: skip
    return instantiate(first.data.view, _convert_="all").restore(first.facts.view), bars


def _session(bars: Bars, date: str | None) -> np.datetime64:
    sessions = np.unique(bars.date)
    if date is None:
        return sessions[-1]
    try:
        day = np.datetime64(date, "D")
    except ValueError:
        raise UserError(f"{date}: no date; write it as in 2024-01-31.") from None
    if day not in sessions:
        raise UserError(f"{date}: no session; the bars run from {sessions[0]} to {sessions[-1]}.")
    return day


def _probabilities(runs: list[Run], view: View, windows: WindowsAt, data_dir: str | None) -> np.ndarray:
    """(N, 3) calibrated probabilities, the mean over the runs."""
    each = []
    for run in runs:
        calibration: Calibration = calibration_of(run, data_dir)
        module = load_module(run)
        each.append(calibration(logits_of(module, view, windows)))
    return np.mean(each, axis=0)


def _table(bars: Bars, end_row: np.ndarray, probabilities: np.ndarray, heads: dict[int, str]) -> pd.DataFrame:
    sector = bars.sector[end_row]
    quoted = bars.close[end_row] / (1 if bars.factor is None else bars.factor[end_row])
    columns = {
        "code": np.asarray(bars.codes)[bars.stock[end_row]],
        "date": bars.date[end_row].astype(str),
        "sector": np.asarray(bars.sectors.english)[sector],
        "head": [heads.get(each, "") for each in sector.tolist()],
        "close": quoted,
        **{f"p_{name.lower()}": probabilities[:, number].round(6) for number, name in enumerate(CLASSES)},
        "score": (probabilities[:, 2] - probabilities[:, 0]).round(6),
    }
    table = pd.DataFrame(columns).sort_values(["score", "code"], ascending=[False, True], ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def _explain(
    bars: Bars, features: np.ndarray, complete: np.ndarray, view: View, run: Run, name: str, day: np.datetime64,
    folder: Path,
) -> None:  # fmt: skip
    """One window as a table (quoted and adjusted prices, features raw and as the model sees them), outcome, chart."""
    code, _, date = name.partition(":")
    if code not in bars.codes:
        raise UserError(f"explain={name}: no such issue.{nearest(code, bars.codes)}")
    day = _session(bars, date) if date else day
    end = np.flatnonzero((bars.stock == bars.codes.index(code)) & (bars.date == day) & complete)
    if not len(end):
        raise UserError(f"explain={name}: {code} has no complete window that ends on {day}.")
    rows = np.arange(end[0] + 1 - WINDOW, end[0] + 1)
    seen = view(WindowsAt(features, bars, end)[np.array([0])], draw=True)
    factor = np.ones(WINDOW) if bars.factor is None else bars.factor[rows]
    windowing: Windowing = instantiate(run.config.data.windowing, _convert_="all")
    table = pd.DataFrame(
        {"date": bars.date[rows].astype(str)}
        | {f"quoted_{price}": getattr(bars, price)[rows] / factor for price in PRICES}
        | {"factor": factor}
        | {f"adjusted_{price}": getattr(bars, price)[rows] for price in PRICES}
        | {"volume": bars.volume[rows], "flow": bars.flow[rows]}
        | {f"feature_{name}": features[rows, column] for column, name in enumerate(FEATURES)}
        | {f"seen_{name}": seen.series[0, :, column].numpy() for column, name in enumerate(FEATURES)}
    )
    stem = folder / f"{code}_{day}"
    write_atomic(stem.with_suffix(".csv"), lambda path: table.to_csv(path, index=False))
    save_image(seen.chart[0].permute(1, 2, 0).numpy(), stem.with_suffix(".png"))
    write_text(stem.with_suffix(".md"), f"# {code} on {day}\n\n{_outcome(bars, int(end[0]), windowing)}\n")


def _outcome(bars: Bars, row: int, windowing: Windowing) -> str:
    """In words: the entry and exit price and the label, as far as the bars know them."""
    leave = int(row_after(bars, windowing.horizon)[row])
    enter = int(row_after(bars, 1)[row]) if windowing.entry == "open_t1" else row
    if leave < 0 or enter < 0:
        return f"Label not known: the bars hold no close {windowing.horizon} sessions later."
    price = (bars.open if windowing.entry == "open_t1" else bars.close)[enter]
    move = bars.close[leave] / price - 1
    label = CLASSES[label_of(np.array([move]), windowing.threshold)[0]]
    return (f"Entry {windowing.entry} on {bars.date[enter]} at {price:,.2f}, close of {bars.date[leave]} at "
            f"{bars.close[leave]:,.2f} (both adjusted): {move:+.4%}, {label}.")  # fmt: skip


def _report(runs: list[Run], bars: Bars, table: pd.DataFrame, day: str, left_out: int) -> str:
    shown = ["rank", "code", "sector", "close", *(f"p_{name.lower()}" for name in CLASSES), "score"]
    source = "**simulated data**" if bars.synthetic else "real data"
    best, worst = table.head(10), table.tail(10)
    return "\n".join(
        [
            f"# Predictions for {day}\n",
            f"{len(table)} issues, {source}, {'mean over' if len(runs) > 1 else 'run'} "
            f"{', '.join(f'`{run}`' for run in runs)}. {left_out} issues that traded have too short a history. "
            "Probabilities are calibrated on the validation windows. What the ranking is worth, and whether it beats "
            "simple rules at all, stands in `analysis=lasps/report`.\n",
            "## Highest scores, P(BUY) − P(SELL)\n",
            format_table(best[shown].to_numpy(object).tolist(), shown),
            "\n## Lowest scores\n",
            format_table(worst[shown].to_numpy(object).tolist(), shown),
            "\nAll issues: `predictions.csv`.\n",
        ]
    )

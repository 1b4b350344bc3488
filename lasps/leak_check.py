"""`analysis=lasps/leak_check`: whether the future reaches a run's features, predictions, splits or scores."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.files import plain, write_text
from common.report import format_table
from common.rundir import Run
from lasps.baselines import tabulate_dataset
from lasps.data.bars import Bars
from lasps.data.dataset import StockDataset
from lasps.data.features import FEATURES, compute_features
from lasps.data.module import ArraysData, BarsDataModule
from lasps.forecasts import logits_of_windows, predict, rows_of
from lasps.judged import from_probabilities
from lasps.leaks import (
    Check,
    Compute,
    block_permutation_check,
    disjoint,
    future_columns,
    future_perturbation,
    plant_next_return,
    self_test,
    shuffled_labels,
    too_good_columns,
    truncation,
)


def leak_check(
    runs: list[Run], split: Split, output: Path, data_dir: str | None, plant: bool = False, samples: int = 8
) -> dict[str, Any]:
    """Every leak check on one run (specification, sections 11 and 12); `failed` names those that did not pass.

    Args:
        split: whose windows are held out in the checks that need some.
        plant: put the next session's return into a feature before checking, to see the checks fail.
        samples: sessions at which bars are cut or changed.

    Raises:
        UserError: for more than one run, or windows without dates and returns.
    """
    if len(runs) != 1:
        raise UserError(f"analysis=lasps/leak_check checks one run; {len(runs)} given.")
    loaded = load_run(runs[0], data_dir)
    if isinstance(loaded.data, BarsDataModule):
        checks = _bars_checks(loaded, plant, samples)
    elif plant:
        raise UserError("analysis.plant=true needs bars; this run's data holds windows only.")
    else:
        checks = [_columns(loaded.data.datasets["train"])]
    checks += _window_checks(loaded, split)
    failed = [check.name for check in checks if check.passed is False]
    write_text(output / "report.md", _report(loaded, split, checks, plant))
    return plain({"checks": [vars(check) for check in checks], "failed": failed, "planted": plant})


def _bars_checks(loaded: LoadedRun, plant: bool, samples: int) -> list[Check]:
    """Those that change or cut the bars and compute everything again."""
    data: BarsDataModule = loaded.data
    compute: Compute = _planted if plant else compute_features

    def predicted(series: np.ndarray, sector: np.ndarray) -> np.ndarray:
        return softmax(logits_of_windows(loaded.module, data.view, series, sector).astype(np.float64), axis=1)

    last = data.datasets["train"].date.max()
    return [
        truncation(data.bars, compute, samples),
        future_perturbation(data.bars, compute, predicted, samples),
        *(future_columns(data.bars, compute(data.bars), last, horizon) for horizon in (1, data.windowing.horizon)),
        self_test(data.bars, compute_features, last),
    ]


def _planted(bars: Bars) -> np.ndarray:
    return plant_next_return(bars, compute_features(bars))


def _window_checks(loaded: LoadedRun, split: Split) -> list[Check]:
    """Those that look at the windows, their labels and the run's forecasts."""
    data, name = loaded.data, str(loaded.run)
    rows = {each: rows_of(dataset, name) for each, dataset in data.datasets.items()}
    sessions, embargo = _calendar(loaded)
    train, held = (tabulate_dataset(data.datasets[each]) for each in ("train", split))
    forecast = from_probabilities(name, predict(loaded, split).probabilities)
    return [
        *disjoint(rows, sessions, embargo),
        shuffled_labels(train.features, train.label, held.features, held.label),
        block_permutation_check(rows[split], forecast),
    ]


def _columns(dataset: StockDataset) -> Check:
    """`too_good_columns` of training windows without bars, whose horizon is taken to be 5 sessions."""
    chunks = np.array_split(np.arange(len(dataset)), max(1, len(dataset) // 4096))
    last_two = np.concatenate([dataset.series(chunk)[:, -2:] for chunk in chunks])
    return too_good_columns(last_two, FEATURES, dataset.forward_return.astype(np.float64), dataset.date)


def _calendar(loaded: LoadedRun) -> tuple[np.ndarray, int]:
    """Market sessions, and how many of them must lie between a label's end and the next split."""
    data = loaded.data
    if isinstance(data, BarsDataModule):
        return np.unique(data.bars.date), data.split.embargo
    days = np.concatenate([dates for each in data.datasets.values() for dates in (each.date, each.label_end)])
    every = np.arange(days.min(), days.max() + 1)
    return every[np.is_busday(every)], data.embargo if isinstance(data, ArraysData) else 0


def _report(loaded: LoadedRun, split: Split, checks: list[Check], plant: bool) -> str:
    words = {True: "passed", False: "**FAILED**", None: "cannot tell"}
    failed = sum(check.passed is False for check in checks)
    verdict = "No leak found." if not failed else f"{failed} check(s) failed: figures of this run mean nothing."
    planted = "The next session's return was planted as a feature: the checks must fail.\n" if plant else ""
    return "\n".join(
        [
            f"# Leak checks of {loaded.run}\n",
            f"{verdict} Held-out windows are those of the {split} split. {planted}\n",
            format_table([[check.name, words[check.passed], check.detail] for check in checks],
                         ["check", "result", "what was found"]),
        ]
    )  # fmt: skip

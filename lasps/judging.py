"""Runs and baselines on the same windows: what the report of lasps judges.

Runs that differ in their seed are averaged; runs that are folds of a walk-forward are strung together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from common.calibration import fit_temperature
from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.metrics import SMALLEST_PROBABILITY, classification_scores, confusion_matrix, one_vs_rest_auc
from common.rundir import Run
from common.stats import Interval, bootstrap_sums, date_blocks, group_sums
from lasps.baselines import Trees, fit_baselines, tabulate_dataset
from lasps.data.bars import Bars
from lasps.data.module import LaspsDataModule
from lasps.forecasts import calibration_of, predict, rows_of, shared_head_of
from lasps.judged import Forecast, Rows, from_probabilities
from lasps.ranking import MIN_BLOCKS, direction_and_volatility, paired_rank_ic, rank_ic_summary

STAGES = ("as trained", "temperature", "temperature and biases")
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")
REGIMES = ("calm", "normal", "turbulent")


@dataclass(frozen=True)
class Judged:
    """N windows and all that was said of them.

    Attributes:
        rows: the windows and their outcomes.
        seeds: the runs' own forecasts, one per seed.
        candidate: the forecast that is judged: their mean, calibrated, deciding for what gains most over its share in
            training.
        as_trained: the same deciding for the most probable class before calibration.
        stages: (N, 3) probabilities of the candidate at each of `STAGES`.
        shared: the forecast of the common head that the sector heads started from, decided alike; or None.
        baselines: see `lasps.baselines`.
        prior: (N, 3) class shares in the training windows of each row's fold.
        regime: (N,) number of one of `REGIMES`.
    """

    rows: Rows
    seeds: list[Forecast]
    candidate: Forecast
    as_trained: Forecast
    stages: dict[str, np.ndarray]
    shared: Forecast | None
    baselines: list[Forecast]
    prior: np.ndarray
    regime: np.ndarray

    def forecasts(self) -> list[Forecast]:
        """Every forecast with a name of its own: candidate, seeds, the shared head, baselines."""
        seeds = self.seeds if len(self.seeds) > 1 else []
        shared = [] if self.shared is None else [self.shared]
        return [self.candidate, self.as_trained, *seeds, *shared, *self.baselines]


def judge(
    runs: list[Run], split: Split, data_dir: str | None, trees: Trees
) -> tuple[Judged, list[LaspsDataModule], list[LoadedRun]]:
    """All runs and baselines on their windows of a split, the data of each fold, and the runs.

    Raises:
        UserError: if the runs are not the seeds and folds of one configuration, or windows have no dates or returns.
    """
    folds: dict[str, list[LoadedRun]] = {}
    data: dict[str, LaspsDataModule] = {}
    for run in runs:
        fingerprint = run.config.facts.fingerprint
        loaded = load_run(run, data_dir, data.get(fingerprint))
        data[fingerprint] = loaded.data
        folds.setdefault(fingerprint, []).append(loaded)
    _refuse_mixture(folds)
    parts = [_judge_fold(sorted(fold, key=lambda each: each.config.seed), split, trees) for fold in folds.values()]
    parts.sort(key=lambda part: part.rows.date[0])
    loaded = [each for fold in folds.values() for each in fold]
    return _joined(parts), list(data.values()), loaded


def _refuse_mixture(folds: dict[str, list[LoadedRun]]) -> None:
    seeds = [sorted(loaded.config.seed for loaded in fold) for fold in folds.values()]
    runs = [loaded for fold in folds.values() for loaded in fold]
    one_model = all(loaded.config.model == runs[0].config.model for loaded in runs)
    if any(each != seeds[0] or len(set(each)) < len(each) for each in seeds) or not one_model:
        listed = ", ".join(f"{loaded.run} (seed {loaded.config.seed})" for loaded in runs)
        raise UserError(f"run: a report judges one model, each fold with the same seeds, each once; got {listed}.")


def _judge_fold(fold: list[LoadedRun], split: Split, trees: Trees) -> Judged:
    data: LaspsDataModule = fold[0].data
    rows = rows_of(data.datasets[split], str(fold[0].run))
    tables = [tabulate_dataset(data.datasets[name]) for name in ("train", "val", split)]
    prior = np.bincount(tables[0].label, minlength=3) / len(tables[0])
    stages = [_stages(loaded, split) for loaded in fold]
    mean = {stage: np.mean([each[stage] for each in stages], axis=0) for stage in STAGES}
    name = "lasps" if len(fold) == 1 else f"lasps, mean of {len(fold)} seeds"
    sessions = rows_of(data.datasets["train"], str(fold[0].run))
    return Judged(
        rows=rows,
        seeds=[
            from_probabilities(f"lasps, seed {loaded.config.seed}", each[STAGES[-1]], prior)
            for loaded, each in zip(fold, stages)
        ],
        candidate=from_probabilities(name, mean[STAGES[-1]], prior),
        as_trained=from_probabilities(f"{name}, argmax as trained", mean[STAGES[0]]),
        stages=mean,
        shared=_shared(fold, split, prior),
        baselines=fit_baselines(*tables, seed=0, trees=trees),
        prior=np.tile(prior, (len(rows), 1)),
        regime=_regime(rows, sessions),
    )


def _stages(loaded: LoadedRun, split: Split) -> dict[str, np.ndarray]:
    """(N, 3) probabilities of one run before and after calibration on its validation windows."""
    logits, val = predict(loaded, split).logits, predict(loaded, "val").logits
    scaled = fit_temperature(val, loaded.data.datasets["val"].labels)
    return dict(zip(STAGES, (
        softmax(logits.astype(np.float64), axis=1), scaled(logits), calibration_of(loaded.run, None, loaded)(logits),
    )))  # fmt: skip


def _shared(fold: list[LoadedRun], split: Split, prior: np.ndarray) -> Forecast | None:
    """The mean forecast of the common heads that the runs started from, calibrated and decided as the candidate."""
    shared = [shared_head_of(loaded) for loaded in fold]
    if any(each is None for each in shared):
        return None
    odds = np.mean([_stages(each, split)[STAGES[-1]] for each in shared], axis=0)
    return from_probabilities("common head", odds, prior)


def _regime(rows: Rows, training: Rows) -> np.ndarray:
    """(N,) 0, 1 or 2: the third of the training sessions that each session's median volatility falls into."""
    bounds = np.quantile(_median_by_session(training)[1], [1 / 3, 2 / 3])
    sessions, medians = _median_by_session(rows)
    return np.searchsorted(bounds, medians)[np.searchsorted(sessions, rows.date)]


def _median_by_session(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(rows.date, kind="stable")
    sessions, starts = np.unique(rows.date[order], return_index=True)
    return sessions, np.array([np.median(part) for part in np.split(rows.volatility[order], starts[1:])])


def _joined(parts: Sequence[Judged]) -> Judged:
    def strung(pick: Callable[[Judged], Forecast]) -> Forecast:
        each = [pick(part) for part in parts]
        odds = None if each[0].probabilities is None else np.concatenate([one.probabilities for one in each])
        score, predicted = (np.concatenate([getattr(one, name) for one in each]) for name in ("score", "predicted"))
        return Forecast(each[0].name, score, predicted, odds)

    rows = Rows(**{name: np.concatenate([getattr(part.rows, name) for part in parts]) for name in vars(parts[0].rows)})
    return Judged(
        rows=rows,
        seeds=[strung(lambda part, k=k: part.seeds[k]) for k in range(len(parts[0].seeds))],
        candidate=strung(lambda part: part.candidate),
        as_trained=strung(lambda part: part.as_trained),
        stages={stage: np.concatenate([part.stages[stage] for part in parts]) for stage in STAGES},
        shared=None if any(part.shared is None for part in parts) else strung(lambda part: part.shared),
        baselines=[strung(lambda part, k=k: part.baselines[k]) for k in range(len(parts[0].baselines))],
        prior=np.concatenate([part.prior for part in parts]),
        regime=np.concatenate([part.regime for part in parts]),
    )


def scores(rows: Rows, forecast: Forecast, prior: np.ndarray) -> dict[str, Any]:
    """Everything section 12 asks of one forecast; intervals (95 %) by blocks of five sessions, None for under ten.

    Returns:
        n, accuracy, balanced_accuracy, macro_f1, mcc, rank_ic, icir; for forecasts with probabilities also log_loss,
        log_loss_gain over `prior` (N, 3), brier, auc (SELL, HOLD, BUY against the rest), direction and movement (see
        `lasps.ranking`); and `intervals` by name.
    """
    blocks = date_blocks(rows.date)
    enough = blocks.max() + 1 >= MIN_BLOCKS
    counts = confusion_matrix(rows.label, forecast.predicted, 3, blocks)
    ranked = rank_ic_summary(forecast.score, rows.forward_return, rows.date)
    found = {"n": len(rows)} | {name: float(classification_scores(counts.sum(0))[name]) for name in SCORES}
    found |= {"rank_ic": ranked["rank_ic"], "icir": ranked["icir"]}
    intervals = {"rank_ic": ranked["interval"]}
    if enough:
        intervals |= {name: _score_interval(counts, name) for name in ("accuracy", "balanced_accuracy")}
    if forecast.probabilities is not None:
        losses = row_log_loss(forecast.probabilities, rows.label)
        gains = row_log_loss(prior, rows.label) - losses
        squares = ((forecast.probabilities - np.eye(3)[rows.label]) ** 2).sum(1)
        found |= {"log_loss": losses.mean(), "log_loss_gain": gains.mean(), "brier": squares.mean()}
        found["auc"] = one_vs_rest_auc(forecast.probabilities, rows.label).tolist()
        parts = direction_and_volatility(forecast.probabilities, rows.label, rows.date)
        found |= {name: None if part is None else part.estimate for name, part in parts.items()}
        intervals |= parts
        if enough:
            intervals["log_loss_gain"] = mean_interval(gains, blocks)
    return found | {"intervals": intervals}


def row_log_loss(probabilities: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(N,) −log of the probability given to each row's class."""
    return -np.log(np.maximum(probabilities[np.arange(len(label)), label], SMALLEST_PROBABILITY))


def mean_interval(values: np.ndarray, blocks: np.ndarray) -> Interval:
    """95 % interval of the mean of one value per row, by blocks."""
    sums = group_sums(np.stack([values, np.ones(len(values))], 1), blocks)
    return bootstrap_sums(lambda totals: totals[:, 0] / totals[:, 1], sums)


def _score_interval(counts: np.ndarray, name: str) -> Interval:
    return bootstrap_sums(lambda sums: classification_scores(sums)[name], counts)


def differences(rows: Rows, forecast: Forecast, baseline: Forecast) -> dict[str, Interval | None]:
    """95 % intervals of forecast − baseline on the same rows and draws: balanced_accuracy and rank_ic."""
    blocks = date_blocks(rows.date)
    counts = [confusion_matrix(rows.label, each.predicted, 3, blocks) for each in (baseline, forecast)]
    return {
        "balanced_accuracy": None if blocks.max() + 1 < MIN_BLOCKS else bootstrap_sums(
            lambda sums: np.diff(classification_scores(sums)["balanced_accuracy"])[:, 0], np.stack(counts, 1)
        ),
        "rank_ic": paired_rank_ic(baseline.score, forecast.score, rows.forward_return, rows.date),
    }  # fmt: skip


def bars_of(data: Sequence[LaspsDataModule]) -> Bars | None:
    """The bars behind the folds, which all have the same; None where the data holds windows only."""
    return getattr(data[0], "bars", None)


def looks_and_trials(runs: list[Run]) -> tuple[int, int]:
    """How often the test split of these runs was looked at, and how many finished runs there are on the same windows.

    The windows are the same if their numbers and labels are; how a model sees them is part of what was tried.
    """
    looks = [run.path / "test_looks.jsonl" for run in runs]
    windows = [_windows(run) for run in runs]
    return (
        sum(len(path.read_text(encoding="utf-8").splitlines()) for path in looks if path.is_file()),
        sum(_windows(Run(path.parent)) in windows for path in _summaries(runs[0].path)),
    )


def _windows(run: Run) -> tuple[Any, ...] | None:
    """What tells a run's windows from others; None for a run without any."""
    facts = run.config.get("facts", {})
    known = ("num_samples", "class_counts", "counts")
    return tuple(str(facts[name]) for name in known) if all(name in facts for name in known) else None


def _summaries(run: Path) -> list[Path]:
    """The summary.json of every finished run below the same output directory, sweeps included."""
    outputs = run.parents[2] if run.parent.name.endswith("-sweep") else run.parents[1]
    found = [*outputs.glob("*/*/summary.json"), *outputs.glob("*/*-sweep/*/summary.json")]
    return [path for path in found if (path.parent / "config.yaml").is_file()]

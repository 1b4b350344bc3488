"""Thresholds of the sweet-spot analysis that do well on runs they were not fitted on.

Source: redheart specification, section 10, which asks for the regret from select to test. The test split is left alone
here: thresholds that had been tuned on it could not be judged on it afterwards, and as all seeds share their rows, to
leave a run out would not help. Instead the select rows are cut in three: epochs are picked on the first third,
thresholds are fitted to the regret of those picks on the second, and the run left out is scored on the last, which
neither a pick nor a fit has seen.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import torch
from pydantic import Field

from common.errors import UserError
from common.evaluation import Split
from common.files import write_json, write_text
from common.report import format_table
from common.rundir import Run
from redheart.auto import choose_groups
from redheart.compare import check_same_experiment
from redheart.contributions import Contributions, open_contributions
from redheart.mcda import WEIGHTS
from redheart.records import Records, UnitSeries, read_records
from redheart.sweetspots import Thresholds, analyse
from redheart.tasks import Answer, Targets

SCHEMA = 1
MIN_RUNS = 3
OBJECTIVE = "mean over groups of (loss at the pick − lowest loss) / lowest loss, on rows not used for the pick"
FILE = "calibrated_thresholds.json"
OF_TRAINING = ("train_loss", "grad_norm", "update_ratio", "dead_fraction", "nan_count")


@dataclass(frozen=True)
class Thirds:
    """One run's records on one third of the select rows, and each group's loss at every epoch on the two others.

    Attributes:
        fit, judge: (E,) by group.
    """

    records: Records
    fit: dict[str, np.ndarray]
    judge: dict[str, np.ndarray]

    def regrets(self, thresholds: Thresholds) -> tuple[float, float]:
        """The regret of what these thresholds make the automation choose, on the rows to fit and on those to judge."""
        epochs = next(iter(self.records.units.values())).epochs.tolist()
        chosen = choose_groups(analyse(self.records, thresholds), epochs)
        at = {name: epochs.index(choice.epoch) for name, choice in chosen.items()}
        return regret(self.fit, at), regret(self.judge, at)


def regret(losses: Mapping[str, np.ndarray], at: Mapping[str, int]) -> float:
    """Mean over groups of by how much the loss at a position exceeds the lowest, as a share of it."""
    return float(np.mean([own[at[name]] / own.min() - 1 for name, own in losses.items()]))


def thirds(kept: Contributions, records: Records, seed: int = 0) -> Thirds:
    """The select rows of a run in three random parts, the same in all runs on the same data."""
    order = np.random.default_rng(seed).permutation(len(kept.targets))
    first, *others = (_records_on(kept, records, np.sort(rows)) for rows in np.array_split(order, 3))
    fit, judge = (
        {name: np.mean([part.units[unit].loss for unit in units], axis=0) for name, units in records.groups.items()}
        for part in others
    )
    return Thirds(first, fit, judge)


def _records_on(kept: Contributions, records: Records, rows: np.ndarray) -> Records:
    """The records of the saved epochs as they would be had the select split only these rows."""
    index, scores = torch.from_numpy(rows), []
    targets = Targets(**{name: value[index] for name, value in vars(kept.targets).items()})
    for epoch in kept.units.saved:
        said = kept.branches(kept.units.everywhere(epoch))
        part = {branch: Answer(each.logits[index], each.margin[index]) for branch, each in said.items()}
        kept.module.answered = [(part, targets)]
        scores.append({unit: select for unit, (_, select) in kept.module.unit_scores().items()})
    units = {
        name: _series_on(series, list(kept.units.saved), [each[name] for each in scores])
        for name, series in records.units.items()
    }
    return Records(units, records.groups, records.warnings)


def _series_on(series: UnitSeries, epochs: list[int], scores: list[Any]) -> UnitSeries:
    at = np.searchsorted(series.epochs, epochs)
    own = {name: getattr(series, name)[at] for name in OF_TRAINING}
    metrics = {
        name: np.array([np.nan if each.task_metrics[name] is None else each.task_metrics[name] for each in scores])
        for name in scores[0].task_metrics
    }
    return replace(
        series, epochs=np.array(epochs), n=scores[0].n, loss=np.array([each.loss for each in scores]),
        task_metrics=metrics, row_losses=np.stack([each.row_losses for each in scores]), **own,
    )  # fmt: skip


def calibrate(runs: list[Thirds], num_trials: int = 60, seed: int = 0) -> tuple[Thresholds, float, float]:
    """The thresholds fitted to all runs; the regret that fits leave on the run they leave out; that of the defaults.

    Both regrets are means over the runs, each on its third of rows that nothing was chosen on.
    """
    scores = []
    for number, left_out in enumerate(runs):
        others = runs[:number] + runs[number + 1 :]
        scores.append(left_out.regrets(fit(others, num_trials, seed))[1])
    defaults = [run.regrets(Thresholds())[1] for run in runs]
    return fit(runs, num_trials, seed), float(np.mean(scores)), float(np.mean(defaults))


def fit(runs: list[Thirds], num_trials: int, seed: int) -> Thresholds:
    """The thresholds of the lowest mean regret that Optuna (TPE) finds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(lambda trial: float(np.mean([run.regrets(suggest(trial))[0] for run in runs])), num_trials)
    return suggest(optuna.trial.FixedTrial(study.best_params))


def suggest(trial: optuna.trial.BaseTrial) -> Thresholds:
    """The thresholds of one trial."""
    shares = {name: trial.suggest_float(name, 0.05, 1) for name in WEIGHTS}
    return Thresholds(
        plateau_variance=trial.suggest_float("plateau_variance", 1e-4, 1e-1, log=True),
        improvement_rate=trial.suggest_float("improvement_rate", 1e-5, 1e-1, log=True),
        stability_window=trial.suggest_int("stability_window", 3, 9, step=2),
        mcda_weights={name: share / sum(shares.values()) for name, share in shares.items()},
        voting_confidence=trial.suggest_float("voting_confidence", 0.05, 0.95),
    )


def judge(
    runs: list[Run], split: Split, output: Path, data_dir: str | None, num_trials: Annotated[int, Field(ge=1)] = 60
) -> dict[str, Any]:
    """Thresholds for runs that differ in their seed, as an analysis of `evaluate.py`; below three runs the defaults.

    Raises:
        UserError: for a split other than val, runs of different configs, or as `open_contributions`.
    """
    if split != "val":
        raise UserError(f"analysis=redheart/calibrate chooses thresholds, which {split} must not decide.")
    return write_thresholds(runs, output, data_dir, num_trials)


def write_thresholds(runs: list[Run], output: Path, data_dir: str | None, num_trials: int) -> dict[str, Any]:
    """Leave calibrated_thresholds.json and report.md in `output`; returns what the former says of its making."""
    check_same_experiment(runs)
    fitted, score, of_defaults = Thresholds(), None, None
    if len(runs) >= MIN_RUNS:
        parts = []
        for run in runs:
            kept = open_contributions(run, ("val",), data_dir)["val"]
            parts.append(thirds(kept, read_records(kept.units.folder)))
        fitted, score, of_defaults = calibrate(parts, num_trials)
    made = {
        "schema": SCHEMA, "calibrated": len(runs) >= MIN_RUNS, "fitted_on": [str(run) for run in runs],
        "n_runs": len(runs), "objective": OBJECTIVE, "cv_score": score, "cv_score_of_defaults": of_defaults,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
    }  # fmt: skip
    write_text(output / "report.md", report(fitted, made))
    write_json(output / FILE, asdict(fitted) | made)
    return made


def report(thresholds: Thresholds, made: dict[str, Any]) -> str:
    """The calibration as markdown."""
    told = (
        f"Fitted on {made['n_runs']} runs. Regret on the run left out, on rows that nothing was chosen on: "
        f"{made['cv_score']:.2%}, with the defaults {made['cv_score_of_defaults']:.2%}."
        if made["calibrated"]
        else f"{made['n_runs']} of at least {MIN_RUNS} runs: these are the defaults. Thresholds fitted to the very "
        "curves they are for would be circular."
    )
    rows = [[name, str(value)] for name, value in asdict(thresholds).items()]
    return f"# Thresholds\n\n{told}\n\n{format_table(rows, ['Threshold', 'Value'])}\nObjective: {made['objective']}.\n"

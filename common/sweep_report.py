"""What a study found: a table of its trials, figures, and the best one as an experiment file."""

import math
from pathlib import Path
from typing import Any

import hydra
import matplotlib
import numpy as np
import optuna
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from common.config import initialised
from common.errors import UserError, nearest
from common.files import write_text
from common.plots import COLORS, GREY, new_figure, save_figure
from common.report import format_table
from common.rundir import Run, flat_config
from common.stats import mean_spread
from common.studies import counted_trials, open_storage

SHOWN = 10  # trials in the report; trials.csv has all
NOT_CHOSEN = ("experiment", "sweep", "pruner")  # groups that a best.yaml leaves as they are
OF_THE_RUN = ("name", "facts", "trial", "study", "pruner", "objectives")


def report(
    runs: list[Run], split: str, output: Path, data_dir: str | None, study: str, storage: str, folder: str
) -> dict:
    """Write trials.csv, figures, report.md and experiment/best.yaml of a study; returns its summary.

    Args:
        runs, split, data_dir: not read; the study names its own runs, which were judged on validation data.
        folder: where the runs of the trials are.

    Raises:
        UserError: if there is no such study, or none of its trials is complete.
    """
    known = load_study(study, storage)
    trials = counted_trials(known.get_trials(deepcopy=False))
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        raise UserError(f"study={study}: none of its {len(trials)} trials is complete.")
    names = objective_names(known)
    table = _table(trials, names)
    write_text(output / "trials.csv", table.to_csv(index=False, lineterminator="\n"))
    best = _best(known, complete)
    _write_best(best[0], study, names, Path(folder), output)
    importances = _importances(known, complete)
    _figures(known, trials, complete, names, importances, output / "figures")
    counts = {state.name.lower(): sum(trial.state is state for trial in trials) for state in TrialState}
    _write_report(known, table, names, best, importances, counts, output)
    return {
        "study": study,
        "objectives": names,
        "num_trials": {name: count for name, count in counts.items() if count},
        "best": [{"trial": trial.number, "values": trial.values, "params": trial.params} for trial in best],
        "importances": importances,
    }


def load_study(name: str, storage: str) -> Study:
    """The study of that name.

    Raises:
        UserError: if there is none, with the nearest name.
    """
    known = optuna.get_all_study_names(open_storage(storage))
    if name not in known:
        raise UserError(f"study={name}: no such study.{nearest(name, known)} "
                        f"There are {', '.join(known) or 'none'}; another storage=… may have it.")  # fmt: skip
    return optuna.load_study(study_name=name, storage=open_storage(storage))


def objective_names(study: Study) -> list[str]:
    """Names of what the study optimises."""
    return [word.split()[1] for word in study.user_attrs["definition"]["objectives"].split(", ")]


def _best(study: Study, complete: list[FrozenTrial]) -> list[FrozenTrial]:
    """The best trial, or those no other beats in everything, ordered by the first objective."""
    sign = 1 if study.directions[0] is StudyDirection.MINIMIZE else -1
    numbers = {trial.number for trial in study.best_trials} if len(study.directions) > 1 else None
    front = [trial for trial in complete if numbers is None or trial.number in numbers]
    front = sorted(front, key=lambda trial: sign * trial.values[0])
    return front if numbers is not None else front[:1]


def _table(trials: list[FrozenTrial], names: list[str]) -> pd.DataFrame:
    rows = []
    for trial in trials:
        ended = trial.datetime_complete and trial.datetime_start
        seconds = (trial.datetime_complete - trial.datetime_start).total_seconds() if ended else math.nan
        values = dict(zip(names, trial.values or [math.nan] * len(names)))
        rows.append({"trial": trial.number, "state": trial.state.name.lower(), **values,
                     "epochs": trial.last_step, "seconds": round(seconds, 1), **trial.params})  # fmt: skip
    return pd.DataFrame(rows)


def _importances(study: Study, complete: list[FrozenTrial]) -> dict[str, float]:
    """Share of each key in what separates the best tenth of the trials; {} for too few trials or constant keys."""
    if len(complete) < 10 or len(study.directions) > 1:
        return {}
    evaluator = PedAnovaImportanceEvaluator()
    return {key: float(value) for key, value in get_param_importances(study, evaluator=evaluator).items()}


def _write_best(trial: FrozenTrial, study: str, names: list[str], folder: Path, output: Path) -> None:
    run = Run(folder / str(trial.number))
    typed = dict(word.lstrip("+").split("=", 1) for word in OmegaConf.load(run.path / "overrides.yaml"))
    # the best of an earlier study says in its name what it is the best of
    experiment = run.config.name.removesuffix("_best") if typed["experiment"] == "best" else typed["experiment"]
    with initialised():
        base = hydra.compose("train", [f"experiment={experiment}"], return_hydra_config=True)
        groups = {key: value for key, value in run.environment["choices"].items()
                  if key not in NOT_CHOSEN and value != base.hydra.runtime.choices.get(key)}  # fmt: skip
        base = hydra.compose("train", [f"experiment={experiment}", *map("=".join, groups.items())])
    settings = _settings(run.config, base, [key for key in typed if key not in groups])
    found = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, trial.values, strict=True))
    defaults = [experiment, *({f"override /{key}": value} for key, value in groups.items()), "_self_"]
    content = OmegaConf.create({"defaults": defaults, "name": f"{experiment}_best"})
    for key, value in settings.items():
        OmegaConf.update(content, key, value, force_add=True)
    head = f"# @package _global_\n# Trial {trial.number} of study {study}: {found}.\n"
    write_text(output / "experiment" / "best.yaml", head + OmegaConf.to_yaml(content))


def _settings(config: DictConfig, base: DictConfig, typed: list[str]) -> dict[str, Any]:
    """What has to be set on the base experiment for this run's config; what only follows from it is left out."""
    theirs, ours = flat_config(base, resolve=False), flat_config(config)
    typed = [key for key in typed if key in ours]
    changed = [key for key in ours if key in theirs and "${" not in str(theirs[key]) and theirs[key] != ours[key]]
    return {key: ours[key] for key in [*typed, *changed] if key.split(".")[0] not in OF_THE_RUN}


def _figures(
    study: Study, trials: list[FrozenTrial], complete: list[FrozenTrial], names: list[str],
    importances: dict[str, float], folder: Path,
) -> None:  # fmt: skip
    plot_history(study, trials, names[0], folder / "history.png")
    if len(study.directions) > 1:
        plot_front(study, complete, names, folder / "pareto.png")
    if importances:
        plot_importances(importances, folder / "importances.png")
    if len(complete[0].params) > 1:
        plot_parallel(study, complete, names[0], folder / "parallel.png")


def plot_history(study: Study, trials: list[FrozenTrial], name: str, path: Path) -> None:
    """The first objective by trial, and the best so far; pruned trials are hollow, at their last value."""
    figure, (axes,) = new_figure(7.5, 3.8, f"{study.study_name}: {name} by trial")
    better = min if study.directions[0] is StudyDirection.MINIMIZE else max
    best: list[float] = []
    for trial in (each for each in trials if each.values):
        pruned = trial.state is TrialState.PRUNED
        best.append(better([trial.values[0], *best[-1:]]) if not pruned else (best[-1] if best else math.nan))
        axes.plot(trial.number, trial.values[0], "o", color=GREY if pruned else COLORS[0], markersize=4,
                  markerfacecolor="white" if pruned else COLORS[0])  # fmt: skip
    shown = [trial for trial in trials if trial.values]
    axes.step([trial.number for trial in shown], best, where="post", color=COLORS[1], label="best so far")
    axes.plot([], [], "o", color=COLORS[0], markersize=4, label="complete")
    if any(trial.state is TrialState.PRUNED for trial in shown):
        axes.plot([], [], "o", color=GREY, markerfacecolor="white", markersize=4, label="pruned, at its last value")
    axes.set_xlabel("Trial", fontsize=10)
    axes.set_ylabel(name, fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend(fontsize=9, frameon=False)
    save_figure(figure, path, {"trial": [t.number for t in shown], "state": [t.state.name.lower() for t in shown],
                               name: [t.values[0] for t in shown], "best_so_far": best})  # fmt: skip


def plot_importances(importances: dict[str, float], path: Path) -> None:
    """A bar for each key, the most important at the top."""
    keys = sorted(importances, key=importances.get, reverse=True)
    figure, (axes,) = new_figure(6.5, 1.4 + 0.34 * len(keys), "Which keys separate the best tenth of the trials")
    values = [importances[key] for key in keys]
    axes.barh(keys[::-1], values[::-1], color=COLORS[0], height=0.6)
    axes.set_xlabel("Importance (PED-ANOVA, sums to 1)", fontsize=10)
    axes.grid(visible=False, axis="y")
    save_figure(figure, path, {"key": keys, "importance": values})


def plot_front(study: Study, complete: list[FrozenTrial], names: list[str], path: Path) -> None:
    """The first two objectives against each other; those that no other trial beats are filled and joined."""
    figure, (axes,) = new_figure(6.5, 4.4, f"{study.study_name}: {names[0]} against {names[1]}")
    front = {trial.number for trial in study.best_trials}
    best = sorted((trial for trial in complete if trial.number in front), key=lambda trial: trial.values[0])
    rest = [trial for trial in complete if trial.number not in front]
    axes.plot([t.values[0] for t in rest], [t.values[1] for t in rest], "o", color=GREY, markersize=5,
              markerfacecolor="white", label="beaten by another trial")  # fmt: skip
    axes.plot([t.values[0] for t in best], [t.values[1] for t in best], "o-", color=COLORS[1], markersize=6,
              linewidth=1, label="Pareto front")  # fmt: skip
    for trial in best:
        axes.annotate(
            str(trial.number), (trial.values[0], trial.values[1]), (4, 4), textcoords="offset points", fontsize=8
        )
    for label, name, direction in zip((axes.set_xlabel, axes.set_ylabel), names, study.directions):
        label(f"{name} ({'lower' if direction is StudyDirection.MINIMIZE else 'higher'} is better)", fontsize=10)
    axes.legend(fontsize=9, frameon=False)
    save_figure(figure, path, {"trial": [t.number for t in complete], "on_front": [t.number in front for t in complete]}
                | {name: [t.values[i] for t in complete] for i, name in enumerate(names)})  # fmt: skip


def plot_parallel(study: Study, complete: list[FrozenTrial], name: str, path: Path) -> None:
    """A line for each trial through its values, one axis a key; dark lines are the better ones."""
    keys = list(complete[0].params)
    figure, (axes,) = new_figure(1.6 * (len(keys) + 1) + 1.5, 4.2, f"{study.study_name}: trials by {name}")
    sign = 1 if study.directions[0] is StudyDirection.MINIMIZE else -1
    ordered = sorted(complete, key=lambda trial: -sign * trial.values[0])  # the best are drawn last, on top
    ranks = np.linspace(0.9, 0.0, len(ordered))
    columns = [_axis(axes, at, key, [trial.params[key] for trial in ordered], complete[0].distributions[key])
               for at, key in enumerate(keys)]  # fmt: skip
    columns.append(_axis(axes, len(keys), name, [trial.values[0] for trial in ordered], None))
    colors = matplotlib.colormaps["cividis"]
    for trial, rank, heights in zip(ordered, ranks, zip(*columns)):
        axes.plot(range(len(columns)), heights, color=colors(rank), linewidth=2.2 if trial is ordered[-1] else 1,
                  alpha=0.9)  # fmt: skip
    axes.set_xticks(range(len(columns)), [*keys, name], fontsize=8.5)
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(keys) + 0.5)
    axes.set_ylim(-0.06, 1.06)
    axes.grid(visible=False, axis="y")
    axes.spines[:].set_visible(False)
    figure.supxlabel("Dark: better; bold: the best trial", fontsize=8, color=GREY)
    save_figure(figure, path, {"trial": [t.number for t in ordered], name: [t.values[0] for t in ordered]}
                | {key: [t.params[key] for t in ordered] for key in keys})  # fmt: skip


def _axis(axes: Any, at: int, key: str, values: list[Any], distribution: Any) -> list[float]:
    """Label a vertical axis at `at`; returns the heights in [0, 1] of the values on it."""
    if isinstance(distribution, CategoricalDistribution):
        marks = {choice: (i + 0.5) / len(distribution.choices) for i, choice in enumerate(distribution.choices)}
        heights = [marks[value] for value in values]
        labels = [(marks[choice], str(choice)) for choice in distribution.choices]
    else:
        scale = np.log if distribution is not None and distribution.log else np.asarray
        low, high = (min(values), max(values)) if distribution is None else (distribution.low, distribution.high)
        span = float(scale(high) - scale(low)) or 1.0
        heights = [float(scale(value) - scale(low)) / span for value in values]
        labels = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    axes.axvline(at, color="#BBBBBB", linewidth=1, zorder=0)
    for height, label in labels:
        axes.text(at + 0.04, height, label, fontsize=8, va="center", bbox={"color": "white", "pad": 0.5, "alpha": 0.8})
    return heights


def _write_report(
    study: Study, table: pd.DataFrame, names: list[str], best: list[FrozenTrial], importances: dict[str, float],
    counts: dict[str, int], output: Path,
) -> None:  # fmt: skip
    ascending = study.directions[0] is StudyDirection.MINIMIZE
    order = table[table.state == "complete"].sort_values(names[0], ascending=ascending)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    single = len(names) == 1
    lines = [
        f"# Study {study.study_name}",
        f"{len(table)} trials ({told}), {table.seconds.sum():.0f} s in all. Objective: "
        f"{study.user_attrs['definition']['objectives']}, on validation data: it chose the values, so it is too good "
        "for a figure of the best run; judge that on the test split.",
        f"## {'Best trials' if single else 'Pareto front'}",
        _markdown(order.head(SHOWN) if single else order[order.trial.isin([trial.number for trial in best])]),
        *_over_seeds(order, names[0], list(best[0].params), ascending),
        *(["## Importance", format_table(importances.items(), ["key", "share"])] if importances else []),
        "## Run the best again",
        f"    python train.py --config-dir {Run(output)} experiment=best",
    ]
    write_text(output / "report.md", "\n\n".join(lines) + "\n")


def _over_seeds(order: pd.DataFrame, name: str, keys: list[str], ascending: bool) -> list[str]:
    """Mean and spread of what differs by the seed only, where the seed was swept."""
    keys = [key for key in keys if key != "seed"]
    if "seed" not in order or not keys:
        return []
    rows = [[*(values if isinstance(values, tuple) else (values,)), *mean_spread(group[name])]
            for values, group in order.groupby(keys, sort=False)]  # fmt: skip
    rows.sort(key=lambda row: row[len(keys)] if ascending else -row[len(keys)])
    return ["## Over seeds", format_table(rows, [*keys, f"mean {name}", "std", "seeds"])]


def _markdown(table: pd.DataFrame) -> str:
    rows = table.astype(object).where(table.notna(), None).values.tolist()
    rows = [[f"{value:.4g}" if isinstance(value, float) else value for value in row] for row in rows]
    return format_table(rows, list(table.columns))

"""The report on a batch: what every method gained, where, how surely, and what that says of the four claims.

Source: ssmo specification, preface and section 7.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.evaluation import Split
from common.files import write_text
from common.plots import COLORS, new_figure, plot_intervals, save_figure
from common.report import format_table
from common.rundir import Run
from common.stats import mean_spread
from ssmo.batch import row
from ssmo.comparison import Comparison, Place, Results, Row, compare, gather, ordered, strong_slot
from ssmo.curves import lines_of

Dynamics = dict[str, dict[str, list[float]]]
FIGURES = ("mask_ratio", "conflict_rate", "cos_mean", "gnorm_ratio")
CURVES = {  # name → split and title
    "test_metric_1": ("test", "test metric, slot 1"), "test_metric_2": ("test", "test metric, slot 2"),
    "conflict_rate_1": ("train", "conflict rate, slot 1"),
}  # fmt: skip
MIN_SEEDS = 6  # fewer cannot reach 0.05 in an exact sign-flip test


def matrix(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """Compare all methods over the seeds of a batch; the test figures are those recorded while training.

    Raises:
        UserError: if a run is none of ssmo, or the split is not test.
    """
    if split != "test":
        raise UserError(f"split={split}: the batch recorded the test split; selection on validation is done.")
    for run in runs:
        if "ssmo" not in run.config.module._target_:
            raise UserError(f"{run}: {run.config.name} is no run of ssmo.")
    rows = [row(run) for run in runs] + _unfinished(runs)
    places = gather(rows)
    comparisons = compare(places)
    dynamics = _dynamics(runs)
    figures = [*_gain_figures(comparisons, output), *_curve_figures(runs, output)]
    text = [
        "# Selective mutual learning, batch of runs\n",
        _opening(rows, places),
        "## What was claimed, and what was found\n",
        "\n".join(f"- {sentence}" for sentence in verdicts(places, comparisons, dynamics)) + "\n",
        "## Test metric at the epoch chosen on validation\n",
        _score_table(places),
        "## Gains, paired by seed\n",
        "Positive is better. t interval over seeds; p of the paired t test and of exact sign flips; Holm corrects the "
        "first over this table; d_z is the mean gain over its deviation. “–” where no test is possible: one seed, or "
        "equal gains.\n",
        _gain_table(comparisons),
        "## Negative transfer\n",
        "Gain of the stronger model of an unlike pair over training alone; negative is harm.\n",
        _transfer_table(places, comparisons),
        "## Gradients\n",
        "Mean over epochs, seeds, slots and pairs. Conflict alone does not prove harm: compare at equal mask ratio "
        "(`random_mask`).\n",
        _dynamics_table(dynamics),
        "## Cost\n",
        _cost_table(rows),
        *(f"![{name}](figures/{name})" for name in figures),
    ]  # fmt: skip
    write_text(output / "report.md", "\n".join(text) + "\n")
    return {
        "num_runs": len(runs),
        "diverged": sorted(each["run_id"] for each in rows if each["status"] == "diverged"),
        "comparisons": [_record(each) for each in comparisons],
    }


def _unfinished(runs: Sequence[Run]) -> list[Row]:
    """Rows of the runs beside these that diverged: they are results too."""
    known = {run.path for run in runs}
    beside = {path.parent for folder in {run.path.parent for run in runs} for path in folder.glob("*/config.yaml")}
    rows = (row(Run(path)) for path in sorted(beside - known))
    return [each for each in rows if each["status"] == "diverged"]


def _record(each: Comparison) -> dict[str, Any]:
    gain = None if each.gain is None else each.gain.as_dict()
    return {**vars(each), "place": each.place._asdict(), "gain": gain}


def verdicts(places: dict[Place, Results], comparisons: list[Comparison], dynamics: Dynamics) -> list[str]:
    """The four parts of the claim, each told by the figures.

    Better and worse are what both tests find, t after Holm's correction and exact sign flips; with fewer than six
    seeds the latter can show nothing, which is said.
    """
    hard = [each for each in comparisons if each.method == "ssmo_hard"]
    alone = [each for each in hard if each.baseline == "independent"]
    naive = [each for each in hard if each.baseline == "naive_mutual"]
    unlike = [each for each in naive if each.place.model1 != each.place.model2]
    strong = [each for each in alone if strong_slot(places, each.place) == each.place.slot]
    tasks = {
        task: [each for each in alone if each.place.task == task] for task in {each.place.task: 0 for each in alone}
    }
    sentences = [
        *(f"Generality, {task}: ssmo_hard against training alone is {_count(tasks[task])}." for task in tasks),
        f"Heterogeneity: for unlike models, ssmo_hard against naive_mutual is {_count(unlike)}.",
        f"Negative transfer: the stronger model under ssmo_hard against training alone is {_count(strong)}.",
        _conflicts(dynamics),
        f"Selection: ssmo_hard against random_mask is {_count(_against(places, 'random_mask'))}.",
    ]
    seeds = max((each.n for each in comparisons), default=0)
    if seeds < MIN_SEEDS:
        sentences.append(
            f"No cell can be significant: with {seeds} seeds the smallest possible p is {2.0 ** (1 - seeds):.4f}. "
            f"Intervals below are indications; use {MIN_SEEDS} seeds or more."
        )
    return sentences


def _against(places: dict[Place, Results], baseline: str) -> list[Comparison]:
    return [each for each in compare(places, (baseline,)) if each.method == "ssmo_hard"]


def _count(comparisons: Any) -> str:
    """For example: `better in 2, worse in 0, undecided in 6 of 8 models (mean gain positive in 5)`."""
    comparisons = [each for each in comparisons if each.gain is not None]
    if not comparisons:
        return "not compared: no two runs of equal seed"
    sure = [each for each in comparisons if each.sure]
    better = sum(each.gain.estimate > 0 for each in sure)
    positive = sum(each.gain.estimate > 0 for each in comparisons)
    return (
        f"better in {better}, worse in {len(sure) - better}, undecided in {len(comparisons) - len(sure)} of "
        f"{len(comparisons)} models (mean gain positive in {positive})"
    )


def _conflicts(dynamics: Dynamics) -> str:
    rates = {
        method: np.mean(dynamics[method]["conflict_rate"])
        for method in ("naive_mutual", "ssmo_hard", "random_mask")
        if dynamics.get(method, {}).get("conflict_rate")
    }
    if "naive_mutual" not in rates or "ssmo_hard" not in rates:
        return "Dynamics: not measured for both naive_mutual and ssmo_hard."
    relation = "less" if rates["ssmo_hard"] < rates["naive_mutual"] else "not less"
    listed = ", ".join(f"{method} {rate:.3f}" for method, rate in rates.items())
    return f"Dynamics: imitation conflicts with supervision {relation} often under ssmo_hard (rates: {listed})."


def _opening(rows: list[Row], places: dict[Place, Results]) -> str:
    done = [each for each in rows if each["status"] == "done"]
    seeds = sorted({each["seed"] for each in done})
    lines = [
        f"- {len(done)} runs: seeds {seeds}; tasks {', '.join(sorted({each['task'] for each in done}))}.",
        "- Epochs are chosen on validation, per model; the test curves recorded in training were read by nothing.",
    ]
    diverged = {place.short: results.diverged for place, results in places.items() if results.diverged}
    lines += [f"- Diverged, {name}: {seeds}." for name, seeds in diverged.items()]
    return "\n".join(lines) + "\n"


def _score_table(places: dict[Place, Results]) -> str:
    rows = []
    for place, results in places.items():
        for method in ordered(results.scores):
            mean, spread, n = mean_spread(list(results.scores[method].values()))
            sign = f"{mean:.4g} ± {spread:.2g}" if n > 1 else f"{mean:.4g}"
            rows.append(
                [place.dataset, place.condition, place.model, place.peer, place.slot, results.metric, method, sign, n]
            )
    headers = ["data", "condition", "model", "peer", "slot", "metric", "method", "mean ± std over seeds", "seeds"]
    return format_table(rows, headers)


def _gain_table(comparisons: list[Comparison]) -> str:
    rows = [
        [
            each.place.short, each.method, each.baseline, each.n, "–" if each.gain is None else str(each.gain),
            each.t_p, each.flip_p, each.holm_p, each.effect,
        ]
        for each in comparisons
    ]  # fmt: skip
    headers = ["model", "method", "against", "seeds", "gain [95 %]", "p, t", "p, sign flips", "p, Holm", "d_z"]
    return format_table(rows, headers)


def _transfer_table(places: dict[Place, Results], comparisons: list[Comparison]) -> str:
    rows = [
        [each.place.short, each.method, "–" if each.gain is None else str(each.gain)]
        for each in comparisons
        if each.baseline == "independent" and strong_slot(places, each.place) == each.place.slot
    ]
    return (
        format_table(rows, ["stronger model", "method", "gain over training alone"]) if rows else "No unlike pairs.\n"
    )


def _dynamics(runs: list[Run]) -> Dynamics:
    """Figures of metrics.jsonl by method; every epoch of every run gives one value per slot, if it is defined."""
    found: Dynamics = {}
    for run in runs:
        method = found.setdefault(run.config.loss.name, {name: [] for name in FIGURES})
        for epoch in lines_of(run, "train"):
            for name in FIGURES:
                method[name] += [value for slot in (1, 2) if (value := epoch[f"{name}_{slot}"]) is not None]
    return found


def _dynamics_table(dynamics: Dynamics) -> str:
    rows = [
        [method, *(float(np.mean(dynamics[method][name])) if dynamics[method][name] else None for name in FIGURES)]
        for method in ordered(dynamics)
    ]
    return format_table(rows, ["method", "mask ratio", "conflict rate", "mean cosine", "‖g_im‖ / ‖g_sup‖ (λ included)"])


def _cost_table(rows: list[Row]) -> str:
    found: dict[tuple[str, str], list[float]] = {}
    for each in rows:
        if each["status"] == "done":
            found.setdefault((each["task"], each["method"]), []).append(each["wall_time_sec"] / each["steps"] * 1e3)
    keys = sorted(found, key=lambda key: (key[0], ordered([key[1] for key in found]).index(key[1])))
    return format_table(
        [[*key, float(np.median(found[key]))] for key in keys], ["task", "method", "ms per step, median"]
    )


def _gain_figures(comparisons: list[Comparison], output: Path) -> list[str]:
    """One figure per task: gains over training alone."""
    names = []
    shown = [each for each in comparisons if each.baseline == "independent" and each.gain is not None]
    for task in dict.fromkeys(each.place.task for each in shown):
        mine = [each for each in shown if each.place.task == task]
        labels = [f"{each.place.dataset}/{each.place.condition} {each.place.model} · {each.method}" for each in mine]
        name = f"gains_{task}.png"
        plot_intervals(
            labels, [each.gain for each in mine], output / "figures" / name, f"Gain over training alone, {task}",
            "improvement of the test metric", reference=0.0,
        )  # fmt: skip
        names.append(name)
    return names


def _curve_figures(runs: list[Run], output: Path) -> list[str]:
    """For every pair: test curves of both slots and conflict rates, mean over seeds with one standard deviation."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        each = row(run)
        key = f"{each['task']}_{each['dataset']}_{each['condition_tag']}_{each['model1']}_{each['model2']}"
        groups.setdefault(key, {}).setdefault(each["method"], []).append(run)
    for key, methods in groups.items():
        figure, panels = new_figure(11, 4, key.replace("_", " "), num_panels=3)
        table: dict[str, list] = {"method": [], "curve": [], "epoch": [], "mean": [], "std": []}
        for number, method in enumerate(ordered(methods)):
            color = COLORS[number % len(COLORS)]
            for axes, curve in zip(panels, CURVES, strict=True):
                _plot_curve(axes, methods[method], curve, method, color, table)
        for axes, (_, title) in zip(panels, CURVES.values(), strict=True):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlabel("epoch", fontsize=10)
            axes.set_title(title, fontsize=10)
        panels[0].legend(fontsize=8, frameon=False)
        save_figure(figure, output / "figures" / f"curves_{key}.png", table)
    return [f"curves_{key}.png" for key in groups]


def _plot_curve(axes: Any, runs: list[Run], name: str, method: str, color: str, table: dict[str, list]) -> None:
    lines = [[line[name] for line in lines_of(run, CURVES[name][0])] for run in runs]
    epochs = min(map(len, lines))
    values = np.array([line[:epochs] for line in lines], float)
    if np.isnan(values).all():
        return
    mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(epochs)
    at = np.arange(1, epochs + 1)
    axes.plot(at, mean, color=color, label=method, linewidth=1.6)
    axes.fill_between(at, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
    for column, cells in zip(table, ([method] * epochs, [name] * epochs, at, mean, std), strict=True):
        table[column] += list(cells)

"""What `evaluate.py` can say of lasps runs."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.files import write_text
from common.metrics import classification_report, classification_scores, compare_classifiers, confusion_matrix
from common.plots import plot_confusion, plot_intervals, plot_learning_curves
from common.report import format_table, verdict
from common.rundir import Run
from common.stats import Interval, bootstrap_sums, date_blocks, paired_difference
from lasps.data.dataset import StockDataset
from lasps.forecasts import Predictions, head_status, parent_of, predict, session_blocks
from lasps.judged import CLASSES
from lasps.ranking import MIN_BLOCKS

COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


def validation(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """The report of section 9 of the specification on one run.

    Scores overall, per class and per sector with intervals by blocks of five sessions, the constant predictor beside
    them, and before/after: the parent run on the same rows, paired.

    Raises:
        UserError: for more than one run.
    """
    if len(runs) != 1:
        raise UserError(f"analysis=lasps/validation judges one run; {len(runs)} given. See analysis=lasps/phase_gain.")
    loaded = load_run(runs[0], data_dir)
    dataset, prior = loaded.data.datasets[split], loaded.data.facts["class_counts"]
    after, blocks = predict(loaded, split), session_blocks(dataset)
    report = classification_report(dataset.labels, after.probabilities, class_names=CLASSES, prior=prior, groups=blocks)
    before = parent_of(loaded)
    earlier = None if before is None else predict(before, split)
    summary = {
        "checkpoint": str(runs[0].best),
        "head": loaded.module.head,
        "data_source": loaded.data.data_source,
        "loss": after.loss,
        **report,
        "before_after": None if earlier is None else _before_after(dataset, earlier, after, blocks),
        "sectors": _per_sector(loaded, dataset, earlier, after),
    }
    _figures(runs[0], output, summary)
    write_text(output / "report.md", _report(loaded, split, summary))
    return summary


def phase_gain(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """What the last phase adds over its parent, over several runs that differ in their seed; chance beside it.

    For each run the scores before (its parent) and after on the same rows. Two intervals answer two questions: a t
    interval over the seeds (would other seeds agree, on these sessions?) and a bootstrap of the mean over seeds by
    blocks of five sessions (would other sessions agree?). Skill over chance is judged by the latter.

    Raises:
        UserError: for fewer than two runs, runs on different data or without dates, or a run without parent.
    """
    if len(runs) < 2:
        raise UserError("analysis=lasps/phase_gain compares over seeds; pass run=[DIR,DIR,…] or a sweep directory.")
    rows, confusions, data = [], [], None
    for run in runs:
        loaded = load_run(run, data_dir, data)
        data, before = loaded.data, parent_of(loaded)
        if before is None:
            raise UserError(f"{run}: started from random weights; there is nothing to compare it with.")
        row, pair = {"seed": loaded.config.seed}, []
        for when, each in (("before", before), ("after", loaded)):
            scores, confusion = _scores_of(each, split)
            row |= {f"{when}/{name}": value for name, value in scores.items()}
            pair.append(confusion)
        rows.append(row)
        confusions.append(np.stack(pair, 1))
    counts = np.stack(confusions, 1)  # (K blocks, S seeds, before and after, 3, 3)
    over_seeds = {
        name: paired_difference([row[f"before/{name}"] for row in rows], [row[f"after/{name}"] for row in rows])
        for name in COMPARED
    }
    over_sessions = {name: bootstrap_sums(_mean_gain(name), counts) for name in COMPARED if name != "log_loss"}
    skill = {
        "balanced_accuracy − 1/3": bootstrap_sums(_mean_skill("balanced_accuracy", 1 / 3), counts),
        "mcc": bootstrap_sums(_mean_skill("mcc", 0.0), counts),
    }
    write_text(output / "report.md", _gain_report(split, rows, over_seeds, over_sessions, skill))
    return {
        "seeds": rows,
        "gain_over_seeds": {name: interval.as_dict() for name, interval in over_seeds.items()},
        "gain_over_sessions": {name: interval.as_dict() for name, interval in over_sessions.items()},
        "skill": {name: interval.as_dict() for name, interval in skill.items()},
    }


def _mean_gain(name: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: np.diff(classification_scores(sums)[name], axis=2)[..., 0].mean(1)


def _mean_skill(name: str, chance: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: classification_scores(sums)[name][..., 1].mean(1) - chance


def _scores_of(loaded: LoadedRun, split: Split) -> tuple[dict[str, float], np.ndarray]:
    """Scores of a run, and its confusion matrices by block of sessions (K, 3, 3)."""
    dataset = loaded.data.datasets[split]
    blocks = session_blocks(dataset)
    if blocks is None:
        raise UserError(f"{loaded.run}: the {split} split has no dates, or fewer than {MIN_BLOCKS} blocks of sessions.")
    predictions = predict(loaded, split)
    prior = loaded.data.facts["class_counts"]
    report = classification_report(dataset.labels, predictions.probabilities, class_names=CLASSES, prior=prior)
    counts = confusion_matrix(dataset.labels, predictions.logits.argmax(1), len(CLASSES), blocks)
    return {name: report[name] for name in (*COMPARED, "mcc", "log_loss_gain")}, counts


def _before_after(
    dataset: StockDataset, before: Predictions, after: Predictions, blocks: np.ndarray | None
) -> dict[str, Any]:
    scores = {
        when: classification_scores(confusion_matrix(dataset.labels, each.logits.argmax(1), len(CLASSES)))
        for when, each in (("before", before), ("after", after))
    }
    result = {
        when: {name: float(each[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
        for when, each in scores.items()
    }
    result["before"]["loss"], result["after"]["loss"] = before.loss, after.loss
    if blocks is not None:
        differences = compare_classifiers(dataset.labels, before.probabilities, after.probabilities, blocks)
        result["difference"] = {name: interval.as_dict() for name, interval in differences.items()}
        result["verdict"] = verdict(differences["balanced_accuracy"], "this phase improves balanced accuracy")
    return result


def _per_sector(
    loaded: LoadedRun, dataset: StockDataset, before: Predictions | None, after: Predictions
) -> list[dict[str, Any]]:
    status = head_status(loaded.run)
    rows = []
    for sector, name in enumerate(loaded.data.sectors.english):
        chosen = dataset.get_sector_indices(sector)
        row = {"sector": sector, "name": name, "n": len(chosen), "head": status.get(sector, loaded.module.head)}
        if len(chosen):
            labels, predicted = dataset.labels[chosen], after.logits[chosen].argmax(1)
            confusion = confusion_matrix(labels, predicted, len(CLASSES))
            scores = classification_scores(confusion)
            row |= {key: float(scores[key]) for key in ("accuracy", "balanced_accuracy", "macro_f1")}
            row["class_counts"] = dict(zip(CLASSES, confusion.sum(1).tolist()))
            row["interval"] = _sector_interval(dataset, chosen, predicted)
        if len(chosen) and before is not None:
            earlier = confusion_matrix(labels, before.logits[chosen].argmax(1), len(CLASSES))
            row["balanced_accuracy_before"] = float(classification_scores(earlier)["balanced_accuracy"])
        rows.append(row)
    return rows


def _sector_interval(dataset: StockDataset, chosen: np.ndarray, predicted: np.ndarray) -> dict[str, Any] | None:
    if dataset.date is None:
        return None
    blocks = date_blocks(dataset.date[chosen])
    if blocks.max() + 1 < MIN_BLOCKS:
        return None
    counts = confusion_matrix(dataset.labels[chosen], predicted, len(CLASSES), blocks)
    return bootstrap_sums(lambda sums: classification_scores(sums)["balanced_accuracy"], counts).as_dict()


def _figures(run: Run, output: Path, summary: dict[str, Any]) -> None:
    with open(run.path / "metrics.csv", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    figures = output / "figures"
    title = f"{run.config.name}: losses by epoch"
    plot_learning_curves(rows, figures / "learning_curves.png", ["train/loss", "val/loss"], title)
    scores = f"balanced accuracy {summary['balanced_accuracy']:.3f}, constant predictor 0.333"
    plot_confusion(np.array(summary["confusion"]), CLASSES, figures / "confusion.png", scores)
    judged = [row for row in summary["sectors"] if row.get("interval")]
    if judged:
        names = [f"{row['name']} (n = {row['n']})" for row in judged]
        title = "Balanced accuracy by sector"
        intervals = [Interval(**row["interval"]) for row in judged]
        plot_intervals(names, intervals, figures / "sectors.png", title, "balanced accuracy", reference=1 / 3)


def _report(loaded: LoadedRun, split: Split, summary: dict[str, Any]) -> str:
    config, run = loaded.config, loaded.run
    source = "**simulated data**" if summary["data_source"] == "synthetic" else "real data"
    constant, intervals = summary["constant_predictor"], summary["intervals"]
    scores = [
        [name, summary[name], _range(intervals.get(name)), constant.get(name)]
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss")
    ]
    classes = [
        [name, summary["class_counts"][name], *(summary[key][name] for key in ("class_accuracy", "precision", "f1"))]
        for name in CLASSES
    ]
    parts = [
        f"# {config.name} on the {split} split\n",
        f"Run `{run}`, checkpoint `{run.best.name}`, head `{summary['head']}`, {source} "
        f"(fingerprint {config.facts.fingerprint}), N = {summary['n']}, loss {summary['loss']:.4f}.\n",
        "## Scores\n",
        "Intervals: 95 %, bootstrap by blocks of five sessions. The constant predictor always says "
        f"{constant['class']}, the most frequent class in training.\n",
        format_table(scores, ["score", "model", "95 % interval", "constant"]),
        _skill_sentence(summary),
        "\n## Classes\n",
        format_table(classes, ["class", "N", "accuracy (recall)", "precision", "F1"]),
        "\n## Confusion matrix (rows actual)\n",
        format_table(
            [[name, *row] for name, row in zip(CLASSES, summary["confusion"])], ["actual \\ predicted", *CLASSES]
        ),
        _before_after_text(summary["before_after"], run),
        "\n## Sectors\n",
        format_table([_sector_row(row) for row in summary["sectors"]],
                     ["sector", "N", "head", "accuracy", "balanced", "before", "macro-F1", "95 % of balanced"]),
        "\n![learning curves](figures/learning_curves.png)\n![confusion](figures/confusion.png)\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _skill_sentence(summary: dict[str, Any]) -> str:
    interval = summary["intervals"].get("balanced_accuracy")
    if interval is None:
        return "\nToo few sessions, or no dates, for an interval: nothing can be said about skill.\n"
    if interval["low"] > 1 / 3:
        return "\nBalanced accuracy is above chance (1/3): its interval lies above.\n"
    return "\nNo evidence of skill: the interval of balanced accuracy is not above chance (1/3).\n"


def _before_after_text(comparison: dict[str, Any] | None, run: Run) -> str:
    if comparison is None:
        return "\nThe run started from random weights: there is no earlier phase to compare with.\n"
    parent = run.environment["parent"]
    difference = comparison.get("difference", {})
    rows = [
        [name, comparison["before"].get(name), comparison["after"].get(name), _range(difference.get(name))]
        for name in ("loss", "accuracy", "balanced_accuracy", "macro_f1")
    ]
    table = format_table(rows, ["score", "before", "after", "95 % of the difference, paired"])
    origin = parent["experiment"] or parent["checkpoint"]
    return f"\n## Before ({origin}) and after, on the same rows\n\n{table}\n{comparison.get('verdict', '')}\n"


def _range(interval: dict[str, Any] | None) -> str:
    return "–" if interval is None else f"[{interval['low']:.4f}, {interval['high']:.4f}]"


def _sector_row(row: dict[str, Any]) -> list[Any]:
    keys = ("accuracy", "balanced_accuracy", "balanced_accuracy_before", "macro_f1")
    return [row["name"], row["n"], row["head"], *(row.get(key) for key in keys), _range(row.get("interval"))]


def _gain_report(
    split: Split, rows: list[dict[str, float]], over_seeds: dict[str, Interval], over_sessions: dict[str, Interval],
    skill: dict[str, Interval],
) -> str:  # fmt: skip
    header = ["seed", *(f"{name} {when}" for name in COMPARED for when in ("before", "after"))]
    table = [
        [row["seed"], *(row[f"{when}/{name}"] for name in COMPARED for when in ("before", "after"))] for row in rows
    ]
    sentences = [
        verdict(gain, f"the last phase improves {name}", "lower" if name == "log_loss" else "higher")
        for gains in (over_seeds, over_sessions)
        for name, gain in gains.items()
    ]
    chance = [verdict(interval, f"there is skill ({name} above 0)") for name, interval in skill.items()]
    prior = sum(row["after/log_loss_gain"] for row in rows) / len(rows)
    return "\n".join(
        [
            f"# What the last phase adds, {split} split, {len(rows)} seeds\n",
            format_table(table, header),
            "\n".join(f"- {sentence}" for sentence in sentences),
            "\n## Skill over chance after the last phase, mean over seeds\n",
            "\n".join(f"- {sentence}" for sentence in chance),
            f"- Log loss against the class shares: {prior:+.4f} nats (above 0 is better; not calibrated).\n",
        ]
    )

"""What `evaluate.py` can say of a run of the classifier."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.files import write_text
from common.plots import plot_confusion, plot_intervals, plot_learning_curves
from common.report import format_table
from common.rundir import Run
from common.stats import Interval
from nandseq import scenarios
from nandseq.data import SequenceSet
from nandseq.metrics import Answers, Truth, best_constant, confusion, intervals, scores, worst_f1
from nandseq.simulator import EXTRA_SETS

TOLD = ("accuracy", "balanced_accuracy", "f1_invalid", "f1_valid", "false_alarms", "auroc", "accuracy_strategy",
        "macro_f1", "locate_at_1")  # fmt: skip


def validation(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """Scores of one run with intervals and the best constant predictor, by difficulty, by scenario, and off the beat.

    The four harder test sets are looked at with the test split only.

    Raises:
        UserError: for more than one run.
    """
    if len(runs) != 1:
        raise UserError(f"analysis=nandseq/validation judges one run; {len(runs)} given. See analysis=nandseq/roadmap.")
    loaded = load_run(runs[0], data_dir)
    data = loaded.data.datasets[split]
    answers = answers_of(loaded, data)
    extra = list(EXTRA_SETS) if split == "test" else []
    summary = {
        "checkpoint": str(runs[0].best),
        "data_source": loaded.data.data_source,
        "features": loaded.data.features,
        "leak": loaded.data.facts["leak"],
        "n": len(data),
        **scores(data.truth, answers),
        "intervals": intervals(data.truth, [answers]),
        "constant_predictor": best_constant(data.truth, data.sequences.op.shape[1]),
        "class_counts": dict(zip(data.truth.names, np.bincount(data.truth.label).tolist())),
        "confusion": confusion(data.truth, answers),
        "difficulty": _by_difficulty(data, answers),
        "scenarios": _by_scenario(data, answers),
        "extra": {name: _extra(loaded, name) for name in extra},
    }
    _figures(runs[0], output, summary)
    write_text(output / "report.md", _report(loaded, split, summary))
    return summary


def answers_of(loaded: LoadedRun, data: SequenceSet) -> Answers:
    """What a run says of all sequences of a set."""
    module, parts = loaded.module, []
    with torch.inference_mode():
        for batch in loaded.data.whole(data):
            parts.append(module.answers(module.logits(move_data_to_device(batch, module.device))))
    columns = [[getattr(part, name) for part in parts] for name in ("invalid", "strategy", "ops")]
    return Answers(*(None if column[0] is None else np.concatenate(column) for column in columns))


def _extra(loaded: LoadedRun, name: str) -> dict[str, Any]:
    data = loaded.data.make(name)
    answers = answers_of(loaded, data)
    return {"n": len(data), **scores(data.truth, answers), "intervals": intervals(data.truth, [answers])}


def _by_difficulty(data: SequenceSet, answers: Answers) -> dict[str, dict[str, float]]:
    hard = data.sequences.hard
    chosen = {"hard": hard, "easy": ~hard}
    return {name: {"n": int(rows.sum()), **_scores_of(data, answers, rows)}
            for name, rows in chosen.items() if rows.any()}  # fmt: skip


def _by_scenario(data: SequenceSet, answers: Answers) -> dict[str, dict[str, float]]:
    number = data.sequences.scenario
    return {scenarios.NAMES[each]: {"n": int((number == each).sum()), **_scores_of(data, answers, number == each)}
            for each in np.unique(number).tolist()}  # fmt: skip


def _scores_of(data: SequenceSet, answers: Answers, rows: np.ndarray) -> dict[str, float]:
    truth = Truth(data.truth.label[rows], data.truth.bad_index[rows], data.truth.names)
    parts = (getattr(answers, name) for name in ("invalid", "strategy", "ops"))
    return scores(truth, Answers(*(None if part is None else part[rows] for part in parts)))


def _figures(run: Run, output: Path, summary: dict[str, Any]) -> None:
    with open(run.path / "metrics.csv", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    figures, names = output / "figures", list(summary["class_counts"])
    plot_learning_curves(rows, figures / "learning_curves.png", ["train/loss", "val/loss", "val/f1_invalid"],
                         f"{run.config.name}: losses and F1 by epoch")  # fmt: skip
    if "macro_f1" in summary:
        chance = summary["constant_predictor"]["macro_f1"]
        title = f"macro F1 {summary['macro_f1']:.3f}, constant predictor {chance:.3f}"
        plot_confusion(summary["confusion"], names, figures / "confusion.png", title)
    key = "macro_f1" if "macro_f1" in summary else "f1_invalid"
    sets = {"same distribution": summary} | summary["extra"]
    each = [Interval(**judged["intervals"][key]) for judged in sets.values()]
    plot_intervals(list(sets), each, figures / "sets.png", f"{key} on harder sets", key)


def _report(loaded: LoadedRun, split: Split, summary: dict[str, Any]) -> str:
    config, run, constant = loaded.config, loaded.run, summary["constant_predictor"]
    named = [name for name in summary if name in TOLD or name.startswith(("f1_ovr/", "f1_detect/"))]
    sets = {"this split": summary} | summary["extra"]
    parts = {**summary["difficulty"], **summary["scenarios"]}
    return "\n".join([
        f"# {config.name} on the {split} split\n",
        f"Run `{run}`, checkpoint `{run.best.name}`, {summary['data_source']} data (fingerprint "
        f"{config.facts.fingerprint}), N = {summary['n']}. Features {' + '.join(summary['features'])}: they give away "
        f"**{summary['leak']}**.\n",
        "Invalid is the positive class. Intervals: 95 %, bootstrap over sequences. The constant predictor is the best "
        "answer, for each score, that never looks at the sequence.\n",
        format_table([[name, summary[name], _range(summary["intervals"].get(name)), constant.get(name)]
                      for name in named], ["score", "model", "95 % interval", "constant"]),
        "## Confusion (rows actual)\n",
        format_table([[name, *row] for name, row in zip(summary["class_counts"], summary["confusion"].tolist())],
                     ["actual \\ predicted", *_columns(summary)]),
        "## Harder sets\n",
        "long: 200 commands; wide: 8 blocks; scenario: one never trained on; late: blocks that hold 1000 pages before "
        "the first command, of which only the feature set `state` is told.\n",
        format_table([_set_row(name, judged) for name, judged in sets.items()], SET_HEADERS),
        "## By difficulty and scenario\n",
        format_table([_set_row(name, judged) for name, judged in parts.items()], SET_HEADERS),
        "![learning curves](figures/learning_curves.png)\n![sets](figures/sets.png)\n",
    ])  # fmt: skip


SET_HEADERS = ["set", "N", "accuracy", "F1 invalid", "macro F1", "lowest F1", "locate@1", "false alarms"]


def _set_row(name: str, judged: dict[str, Any]) -> list[Any]:
    told = [judged.get(key) for key in ("accuracy", "f1_invalid", "macro_f1")]
    return [name, judged["n"], *told, worst_f1(judged), judged.get("locate_at_1"), judged["false_alarms"]]


def _columns(summary: dict[str, Any]) -> list[str]:
    return list(summary["class_counts"]) if "macro_f1" in summary else ["called valid", "called invalid"]


def _range(interval: dict[str, Any] | None) -> str:
    return "–" if interval is None else f"[{interval['low']:.4f}, {interval['high']:.4f}]"

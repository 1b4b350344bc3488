"""One run in figures, tables and pictures: both models, their ensemble, and what answers without learning.

Source: ssmo specification, section 4.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.files import write_text
from common.plots import plot_learning_curves
from common.report import format_table
from common.rundir import Run
from ssmo.judged import further
from ssmo.pictures import draw
from ssmo.tasks import Classification, Segmentation, Series, Task

Answers = dict[str, Tensor]
PANELS = {"supervised loss": "train/sup_loss", "validation metric": "val/metric", "mask ratio": "train/mask_ratio"}


def run(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """Judge one run on a split by its best weights.

    Raises:
        UserError: for more than one run, one of another programme, or the training split.
    """
    loaded = load_one(runs, split, data_dir)
    figures = judge(loaded, split)
    _curves(loaded, output)
    pictures = draw(loaded, split, output / "figures")
    write_text(output / "report.md", _report(loaded, split, figures, ["curves.png", *pictures]))
    return {"figures": figures}


def load_one(runs: list[Run], split: Split, data_dir: str | None) -> LoadedRun:
    """The run to judge; raises UserError as `run` says."""
    if len(runs) > 1:
        raise UserError(f"{len(runs)} runs: this analysis reads one; to compare a batch use analysis=ssmo/matrix.")
    if "ssmo" not in runs[0].config.module._target_:
        raise UserError(f"{runs[0]}: {runs[0].config.name} is no run of ssmo.")
    if split == "train":
        raise UserError("split=train: choose val or test; training samples may be noisy or incomplete.")
    return load_run(runs[0], data_dir)


@torch.no_grad()
def judge(loaded: LoadedRun, split: Split) -> dict[str, dict[str, float]]:
    """Who answers → metric → value: the deciding metric first, then the others of the task."""
    task, device = loaded.module.task, loaded.module.device
    constant = _constant(loaded)
    statistics: dict[str, Tensor] = {}
    rows: dict[str, list[dict[str, Tensor]]] = {}
    for batch in loaded.data.whole(split):
        batch = batch.to(device)
        target = batch.targets[0]
        for name, answer in answers(loaded, batch.x, target, constant).items():
            statistics[name] = statistics.get(name, 0) + task.statistics(answer, target)
            measured = further(task, loaded.data.facts).rows(answer, target)
            rows.setdefault(name, []).append({key: value.cpu() for key, value in measured.items()})
    found = {}
    for name, parts in rows.items():
        joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        found[name] = task.scores(statistics[name].cpu()) | further(task, loaded.data.facts).figures(joined)
    return found


def answers(loaded: LoadedRun, x: Tensor, target: Tensor, constant: Tensor) -> Answers:
    """Outputs of both models, of their ensemble, and of the baselines that look at no parameter."""
    task = loaded.module.task
    outputs = loaded.module.network(x)
    names = loaded.module.network.names
    found = {f"{number}: {name}": each for number, (name, each) in enumerate(zip(names, outputs, strict=True), 1)}
    found["ensemble of both"] = task.mean(*outputs)
    found["constant of the training split"] = constant.expand(task.output_shape(target))
    if isinstance(task, Series):
        found["last value repeated"] = x[:, -1:].expand(target.shape)
    elif not isinstance(task, Classification | Segmentation):
        zero = (0 - x.new_tensor(task.target_mean)) / x.new_tensor(task.target_std)
        found["zero"] = zero.view(1, -1, *[1] * (target.dim() - 2)).expand(target.shape)
    return found


def _constant(loaded: LoadedRun) -> Tensor:
    """The best answer that looks at no input: log frequencies of the classes, or the mean, which is standardised to 0.

    Frequencies of pixels are those of a thousand training samples at most.
    """
    task, device = loaded.module.task, loaded.module.device
    if not isinstance(task, Classification | Segmentation):
        return torch.zeros((), device=device)
    train = loaded.data.splits["train"].y
    label = torch.from_numpy(train[torch.arange(min(len(train), 1000)).numpy()]).long()
    counts = torch.bincount(label[task.valid(label)], minlength=task.num_classes).to(device) + 1
    shape = (1, -1, *[1] * (label.dim() - 1))
    return (counts / counts.sum()).log().view(shape)


def _curves(loaded: LoadedRun, output: Path) -> None:
    with open(loaded.run.path / "metrics.csv", encoding="utf-8", newline="") as file:
        logged = list(csv.DictReader(file))
    names = {
        f"{slot}: {name}/{panel}": f"{column}_{slot}"
        for panel, column in PANELS.items()
        for slot, name in enumerate(loaded.module.network.names, 1)
    }
    rows = [{"epoch": row["epoch"]} | {name: row[column] for name, column in names.items()} for row in logged]
    plot_learning_curves(rows, output / "figures" / "curves.png", list(names), _title(loaded, "learning curves"))


def _title(loaded: LoadedRun, what: str) -> str:
    return f"{' × '.join(loaded.module.network.names)}, {loaded.module.method.name}, {loaded.data.dataset}: {what}"


def _report(loaded: LoadedRun, split: Split, figures: dict[str, dict[str, float]], pictures: Sequence[str]) -> str:
    task: Task = loaded.module.task
    names = list(dict.fromkeys(key for each in figures.values() for key in each))
    main, others = names[0], names[1:]
    best = "more" if task.mode == "max" else "less"
    lines = [
        f"# {_title(loaded, f'{split} split')}\n",
        f"- {len(loaded.data.splits[split])} samples, condition {loaded.data.condition}; weights of the epoch that was "
        f"best on validation.",
        f"- {_verdict(figures, main, task)}\n",
        f"## {main}, which decides ({best} is better)\n",
        format_table([[name, f"{each[main]:.4g}"] for name, each in figures.items()], ["answer", main]),
        "## Further metrics\n",
        format_table(
            [[key, *(f"{each[key]:.4g}" for each in figures.values())] for key in others], ["metric", *figures]
        ),
        "## Pictures\n",
        *(f"![{name}](figures/{name})" for name in pictures),
    ]
    return "\n".join(lines) + "\n"


def _verdict(figures: dict[str, dict[str, float]], metric: str, task: Task) -> str:
    """Says whether each model beats every answer that learned nothing."""
    errors = {name: task.error(each[metric]) for name, each in figures.items()}
    learned, idle = list(errors)[:3], list(errors)[3:]
    best = min(idle, key=errors.__getitem__)
    parts = [f"{name} is {'better' if errors[name] < errors[best] else 'NOT better'}" for name in learned]
    return f"Against “{best}” ({figures[best][metric]:.4g}): {', '.join(parts)}."

"""Pictures of what a pair answers: fields, forecasts, segmentations, and the pictures it mistakes most.

Each shows the truth, both predictions, and on which elements which model has the lower loss: there, and only there, the
other one would imitate it under ssmo_hard with margin 0.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from common.evaluation import LoadedRun, Split
from common.plots import COLORS, GREY, new_figure, plot_confusion, save_figure
from ssmo.data.base import PairBatch
from ssmo.tasks import Classification, Operator, Segmentation

SHOWN = 3
CONFUSED = 8
POOL = 256  # samples of the split from which the pictures are chosen
BETTER = ListedColormap(["#FFFFFF", COLORS[0], COLORS[1]])  # neither, model 1, model 2


@torch.no_grad()
def draw(loaded: LoadedRun, split: Split, folder: Path) -> list[str]:
    """Write the figures of a run's task; returns their file names."""
    data = loaded.data.dataset_of(split)
    batch = data[np.arange(min(POOL, len(data)))].to(loaded.module.device)
    outputs = [each.cpu() for each in loaded.module.network(batch.x)]
    return KINDS[type(loaded.module.task).__name__](loaded, batch.to("cpu"), outputs, folder)


def draw_confused(loaded: LoadedRun, batch: PairBatch, outputs: list[Tensor], folder: Path) -> list[str]:
    """Pictures to which both together give the least probability of their label, and confusion matrices."""
    names, label = loaded.data.facts["class_names"], batch.targets[0]
    mean = loaded.module.task.mean(*outputs).softmax(1)
    worst = mean[torch.arange(len(label)), label].argsort()[:CONFUSED]
    title = "Most confused pictures: label, then answers of models 1 and 2"
    figure, panels = new_figure(1.5 * len(worst), 2.4, title, len(worst))
    answers = [output.argmax(1) for output in outputs]
    for axes, row in zip(panels, worst.tolist(), strict=True):
        _show(axes, _picture(batch.x[row]), "\n".join(names[each[row]] for each in (label, *answers)))
    table = {"sample": batch.index[worst].tolist(), "label": [names[each] for each in label[worst]]}
    table |= {f"model_{number}": [names[each] for each in answer[worst]] for number, answer in enumerate(answers, 1)}
    save_figure(figure, folder / "confused.png", table)
    return ["confused.png", *_confusions(loaded, label, answers, folder)]


def _confusions(loaded: LoadedRun, label: Tensor, answers: list[Tensor], folder: Path) -> list[str]:
    names = loaded.data.facts["class_names"]
    if len(names) > 20:
        return []
    for number, answer in enumerate(answers, 1):
        counts = torch.bincount(label * len(names) + answer, minlength=len(names) ** 2).view(len(names), -1)
        title = f"Model {number}, {loaded.module.network.names[number - 1]}, first {len(label)} samples"
        plot_confusion(counts.numpy(), names, folder / f"confusion_{number}.png", title)
    return [f"confusion_{number}.png" for number in (1, 2)]


def draw_fields(loaded: LoadedRun, batch: PairBatch, outputs: list[Tensor], folder: Path) -> list[str]:
    """The samples of the least, the median and the largest error of the mean of both models."""
    task: Operator = loaded.module.task
    truth, answers = task.fields(batch.targets[0]), [task.fields(output) for output in outputs]
    error = (sum(answers) / 2 - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    better = who_is_better(loaded, batch, outputs)
    panels = _field_curves if truth.dim() == 3 else _field_maps
    names = []
    for name, row in zip(("best", "median", "worst"), _spread(error), strict=False):
        title = f"{loaded.data.dataset}, {name} of {len(truth)} samples: relative L2 error of the mean {error[row]:.3g}"
        figure = panels(title, batch.x[row, 0], truth[row, 0], [each[row, 0] for each in answers], better[row, 0])
        flat = [each.flatten().tolist() for each in (truth[row, 0], *(answer[row, 0] for answer in answers))]
        flat.append(better[row, 0].flatten().tolist())
        columns = ("truth", "model_1", "model_2", "better")
        save_figure(figure, folder / f"field_{name}.png", dict(zip(columns, flat, strict=True)))
        names.append(f"field_{name}.png")
    return names


def _field_curves(title: str, x: Tensor, truth: Tensor, answers: list[Tensor], better: Tensor) -> Any:
    figure, panels = new_figure(12, 3.4, title, 3)
    position = np.linspace(0, 1, len(truth), endpoint=False)
    panels[0].plot(np.linspace(0, 1, len(x), endpoint=False), x, color=GREY)
    panels[0].set_title("input, standardised", fontsize=9)
    panels[1].plot(position, truth, color="black", label="truth")
    for number, answer in enumerate(answers):
        panels[1].plot(position, answer, "--", color=COLORS[number], label=f"model {number + 1}")
        panels[2].plot(position, answer - truth, color=COLORS[number], label=f"model {number + 1}")
    panels[1].set_title("truth and predictions", fontsize=9)
    panels[2].set_title("errors; the strip: which model is better", fontsize=9)
    low, high = panels[2].get_ylim()
    strip = (0, 1, low - 0.08 * (high - low), low)
    panels[2].imshow(better[None], aspect="auto", extent=strip, cmap=BETTER, vmin=0, vmax=2, interpolation="nearest")
    panels[2].set_ylim(low - 0.08 * (high - low), high)
    panels[2].grid(visible=False)
    for axes in panels[1:]:
        axes.legend(fontsize=8, frameon=False)
    for axes in panels:
        axes.set_xlabel("x", fontsize=9)
    return figure


def _field_maps(title: str, x: Tensor, truth: Tensor, answers: list[Tensor], better: Tensor) -> Any:
    figure, panels = new_figure(15.5, 2.9, title, 7)
    errors = [answer - truth for answer in answers]
    limits = {"vmin": float(truth.min()), "vmax": float(truth.max())}
    largest = float(max(each.abs().max() for each in errors))
    _show(panels[0], x, "input", figure)
    for axes, field, name in zip(panels[1:4], (truth, *answers), ("truth", "model 1", "model 2"), strict=True):
        _show(axes, field, name, figure if field is truth else None, **limits)
    for number, (axes, error) in enumerate(zip(panels[4:6], errors, strict=True), 1):
        bar = figure if number == 2 else None
        _show(axes, error, f"error of model {number}", bar, cmap="RdBu_r", vmin=-largest, vmax=largest)
    _show_better(panels[6], better)
    return figure


def draw_forecasts(loaded: LoadedRun, batch: PairBatch, outputs: list[Tensor], folder: Path) -> list[str]:
    """The windows of the least, the median and the largest error of the mean, on their first channel."""
    truth = batch.targets[0]
    error = (sum(outputs) / 2 - truth).square().flatten(1).nanmean(1)
    better = who_is_better(loaded, batch, outputs)
    names = [name for name, _ in zip(("best", "median", "worst"), _spread(error), strict=False)]
    figure, panels = new_figure(14, 3.6, f"Forecasts of {loaded.data.facts['channels'][0]}, standardised", len(names))
    table: dict[str, list] = {"window": [], "step": [], "truth": [], "model_1": [], "model_2": [], "better": []}
    for axes, name, row in zip(panels, names, _spread(error), strict=True):
        steps = np.arange(1, truth.shape[1] + 1)
        past = batch.x[row, :, 0]
        axes.plot(np.arange(1 - len(past), 1), past, color=GREY, label="input")
        series = [truth[row, :, 0], *(output[row, :, 0] for output in outputs)]
        for values, color, label in zip(series, ("black", *COLORS), ("truth", "model 1", "model 2"), strict=False):
            axes.plot(steps, values, color=color, label=label, linewidth=1.4)
        low, high = axes.get_ylim()
        strip = (0.5, len(steps) + 0.5, low - 0.06 * (high - low), low)
        axes.imshow(better[row, :, 0][None], aspect="auto", extent=strip, cmap=BETTER, vmin=0, vmax=2)
        axes.set_xlim(1 - len(past), len(steps) + 1)
        axes.set_ylim(low - 0.06 * (high - low), high)
        axes.set_title(f"{name} window, MSE of the mean {error[row]:.3g}; strip: the better model", fontsize=9)
        axes.set_xlabel("step", fontsize=9)
        columns = ([int(batch.index[row])] * len(steps), steps, *series, better[row, :, 0])
        for column, values in zip(table.values(), columns, strict=True):
            column.extend(np.asarray(values).tolist())
    panels[0].legend(fontsize=8, frameon=False)
    save_figure(figure, folder / "forecasts.png", table)
    return ["forecasts.png"]


def draw_segmentations(loaded: LoadedRun, batch: PairBatch, outputs: list[Tensor], folder: Path) -> list[str]:
    """The pictures with the most, the median and the least share of right pixels of the ensemble."""
    task, target = loaded.module.task, batch.targets[0]
    valid = task.valid(target)
    right = task.right(task.mean(*outputs), target) & valid
    share = right.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)
    better = who_is_better(loaded, batch, outputs)
    names = []
    for name, row in zip(("best", "median", "worst"), _spread(-share), strict=False):
        title = (
            f"{loaded.data.dataset}, {name} of {len(target)} pictures: {share[row]:.1%} of the ensemble's pixels right"
        )
        figure, panels = new_figure(12, 3.0, title, 5)
        _show(panels[0], _picture(batch.x[row]), "input")
        maps = [target[row].masked_fill(~valid[row], -1), *(output[row].argmax(0) for output in outputs)]
        for axes, labels, what in zip(panels[1:4], maps, ("truth", "model 1", "model 2"), strict=True):
            shown = np.ma.masked_less(labels.numpy(), 0)
            _show(axes, shown, what, cmap="tab20", vmin=-0.5, vmax=19.5, interpolation="nearest")
        _show_better(panels[4], better[row])
        counts = [[int((each == number).sum()) for number in range(task.num_classes)] for each in maps]
        columns = {
            "class": list(range(task.num_classes)),
            "truth": counts[0],
            "model_1": counts[1],
            "model_2": counts[2],
        }
        save_figure(figure, folder / f"segmentation_{name}.png", columns)
        names.append(f"segmentation_{name}.png")
    return names


def who_is_better(loaded: LoadedRun, batch: PairBatch, outputs: list[Tensor]) -> Tensor:
    """(B, *E) 1 or 2 where that model has the lower loss, else 0; what does not count is 0."""
    task, target = loaded.module.task, batch.targets[0]
    first, second = (task.losses(task.answer(output), target) for output in outputs)
    better = torch.where(first < second, 1, torch.where(second < first, 2, 0))
    return better * task.valid(target)


def _spread(error: Tensor) -> list[int]:
    """Samples of the least, the median and the largest error."""
    order = error.argsort()
    return [int(order[place]) for place in sorted({0, len(order) // 2, len(order) - 1})]


def _picture(x: Tensor) -> np.ndarray:
    """A standardised picture (C, H, W) stretched to [0, 1] for the eye, (H, W) or (H, W, 3)."""
    picture = ((x - x.min()) / (x.max() - x.min()).clamp_min(1e-9)).numpy()
    return picture[0] if len(picture) != 3 else picture.transpose(1, 2, 0)


def _show(axes: Axes, values: Any, title: str, bar: Any = None, **how: Any) -> None:
    image = axes.imshow(values, **({"cmap": "gray" if bar is None and not how else "viridis"} | how))
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    if bar is not None:
        bar.colorbar(image, ax=axes, shrink=0.75).ax.tick_params(labelsize=7)


def _show_better(axes: Axes, better: Tensor) -> None:
    title = "better: model 1 blue,\n2 orange; the other imitates"
    _show(axes, better, title, cmap=BETTER, vmin=0, vmax=2, interpolation="nearest")


KINDS: dict[str, Callable[[LoadedRun, PairBatch, list[Tensor], Path], list[str]]] = {
    Classification.__name__: draw_confused,
    Operator.__name__: draw_fields,
    "Series": draw_forecasts,
    Segmentation.__name__: draw_segmentations,
}

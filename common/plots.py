"""Figures of reports: one look, safe for colour-blind readers, each with the table behind it.

Figures are built without pyplot, so that nothing outlives them, and carry no date: the same input gives the same
bytes. Text in figures is English, because fonts for other scripts may be missing.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from common.files import plain, write_atomic, write_text
from common.stats import Interval

# Okabe and Ito (2008), told apart under every common colour blindness; yellow left out, too pale for lines
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
GREY = "#6B6B6B"
DPI = 160


def new_figure(width: float, height: float, title: str, num_panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `width` × `height` inches with a title and panels side by side, in the look all figures share."""
    figure = Figure((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, fontweight="bold", wrap=True)
    panels = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.grid(color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def save_figure(figure: Figure, path: Path, table: Mapping[str, Sequence[Any]]) -> None:
    """Write the figure to `path` (.png) and its table beside it (.csv), atomically, and empty the figure.

    Args:
        table: equally long columns by name, or a pandas DataFrame. NaN becomes an empty cell.

    Raises:
        ValueError: for a path that does not end in .png, or columns of unequal length.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"{path}: figures are PNG files; name it {path.name}.png")
    columns = [plain(list(table[name])) for name in table]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(list(table))
    writer.writerows(zip(*columns, strict=True))
    write_text(path.with_suffix(".csv"), text.getvalue())
    # without Software, which names matplotlib's version
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}))
    figure.clear()


def save_image(pixels: np.ndarray, path: Path) -> None:
    """Write an image (H, W, 3), float in [0, 1], as PNG, pixel by pixel, atomically."""
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
    write_atomic(path, lambda file: image.save(file, format="png"))


def plot_learning_curves(rows: Sequence[Mapping[str, Any]], path: Path, metrics: Sequence[str], title: str) -> None:
    """Metrics against epochs trained, one panel for each name after the slash: `train/loss` and `val/loss` share one.

    Rows of several runs (seeds) give the mean with a band of one sample standard deviation.

    Args:
        rows: those of one or more metrics.csv, as numbers or text, with `epoch` counted from 0; empty cells are gaps.

    Raises:
        ValueError: if no row holds one of the metrics.
    """
    panels = list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
    figure, axes = new_figure(4.2 * len(panels) + 0.4, 3.6, title, len(panels))
    epochs = sorted({int(row["epoch"]) for row in rows})
    trained = [epoch + 1 for epoch in epochs]
    table: dict[str, Sequence[Any]] = {"epochs_trained": trained}
    for name in metrics:
        panel = axes[panels.index(name.rpartition("/")[2])]
        mean, std, counts = _spread_by_epoch(rows, epochs, name)
        k, label, table[name] = len(panel.get_lines()) % len(COLORS), name, mean
        if max(counts) > 1:
            panel.fill_between(trained, mean - std, mean + std, color=COLORS[k], alpha=0.2, linewidth=0)
            table |= {f"{name}_std": std, f"{name}_n": counts}
            label = f"{name} (mean ± std, {max(counts)} runs)"
        panel.plot(trained, mean, marker=MARKERS[k], color=COLORS[k], markersize=4, label=label)
    for name, panel in zip(panels, axes, strict=True):
        panel.set_xlabel("Epochs trained", fontsize=10)
        panel.set_xlim(trained[0] - 0.5, trained[-1] + 0.5)
        panel.set_ylabel(name.replace("_", " ").capitalize(), fontsize=10)
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panel.legend(fontsize=9, frameon=False)
    save_figure(figure, path, table)


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: Path, title: str) -> None:
    """A confusion matrix, rows actual: each cell shows its count and its share of the row.

    Args:
        confusion: (C, C) counts.
    """
    confusion, size = np.asarray(confusion), len(class_names)
    actual = confusion.sum(1)
    share = 100 * confusion / np.maximum(actual, 1)[:, None]
    side = min(0.85 * size, 11)
    figure, (axes,) = new_figure(side + 3.0, side + 1.6, title)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(size), class_names, rotation=45 if size > 5 else 0, ha="right" if size > 5 else "center")
    axes.set_yticks(range(size), [f"{name}\nn = {n:,}" for name, n in zip(class_names, actual, strict=True)])
    axes.set_xlabel("Predicted class", fontsize=10)
    axes.set_ylabel("Actual class", fontsize=10)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if side / size > 0.6:  # smaller cells have no room for text
        for (row, column), count in np.ndenumerate(confusion):
            ink = "white" if share[row, column] > 60 else "black"
            text = f"{count:,}\n{share[row, column]:.1f} %"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8.5)
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    bar.set_label("Share of the actual class [%]", fontsize=9)
    bar.ax.tick_params(labelsize=8.5)
    bar.outline.set_visible(False)
    rows, columns = np.indices(confusion.shape).reshape(2, -1)
    save_figure(figure, path, {
        "actual": [class_names[row] for row in rows], "predicted": [class_names[column] for column in columns],
        "count": confusion.ravel(), "percent_of_actual": share.ravel(),
    })  # fmt: skip


def plot_intervals(
    names: Sequence[str],
    intervals: Sequence[Interval],
    path: Path,
    title: str,
    xlabel: str,
    reference: float | None = None,
) -> None:
    """A dot with its interval for each name, top to bottom, and the figures in words at the right.

    Args:
        xlabel: what is measured, with its unit.
        reference: value of no effect; intervals that cover it are grey and hollow.

    Raises:
        ValueError: without at least one name, or without an interval for each.
    """
    if not names or len(names) != len(intervals):
        raise ValueError(f"{len(names)} names and {len(intervals)} intervals; need one interval for each name")
    figure, (axes,) = new_figure(8, 1.5 + 0.34 * len(names), title)
    for y, interval in enumerate(intervals):
        clear = reference is None or interval.excludes(reference)
        color = COLORS[0] if clear else GREY
        axes.plot([interval.low, interval.high], [y, y], color=color, linewidth=2, solid_capstyle="butt")
        axes.plot(interval.estimate, y, "o", color=color, markersize=6.5, markerfacecolor=color if clear else "white")
    if reference is not None:
        axes.axvline(reference, color="black", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel, fontsize=10)
    note = "" if reference is None else f"; hollow where it covers {reference:.3g} (dashed)"
    method = f"Line: {intervals[0].level:.0%} interval, {intervals[0].method}; n: independent units{note}"
    figure.supxlabel(method, fontsize=8, color=GREY)
    figures = axes.secondary_yaxis("right")
    figures.set_yticks(range(len(names)), [f"{interval}   n = {interval.n:,}" for interval in intervals])
    figures.tick_params(length=0, labelsize=8.5, colors=GREY)
    figures.spines[:].set_visible(False)
    save_figure(figure, path, {"name": names} | {
        key: [interval.as_dict()[key] for interval in intervals] for key in Interval.__dataclass_fields__
    })  # fmt: skip


def _spread_by_epoch(
    rows: Sequence[Mapping[str, Any]], epochs: Sequence[int], name: str
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Mean, sample standard deviation and number of a metric's finite values at each epoch; NaN where too few."""
    cells = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name) not in (None, "")]
    values = [[value for at, value in cells if at == epoch and math.isfinite(value)] for epoch in epochs]
    if not any(values):
        known = ", ".join(dict.fromkeys(key for row in rows for key in row))
        raise ValueError(f"no row holds a value of {name!r}; there are {known}")
    mean = np.array([np.mean(each) if each else math.nan for each in values])
    std = np.array([np.std(each, ddof=1) if len(each) > 1 else math.nan for each in values])
    return mean, std, [len(each) for each in values]

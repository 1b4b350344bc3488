"""Figures of kfashion: similarities, training, and what a search brings up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.plots import COLORS, GREY, new_figure, save_figure

PANELS = {
    "Loss": ("train/loss", "val/loss"),
    "Hit (same record, full gallery)": ("val/hit_at_1", "val/hit_at_5"),
    "Mean reciprocal rank": ("val/mrr",),
    "Cosine": ("val/positive_similarity", "val/negative_similarity"),
}
TILE = 160
STYLES = {  # figures are in English
    "레트로": "retro", "로맨틱": "romantic", "리조트": "resort", "매니시": "mannish", "모던": "modern",
    "밀리터리": "military", "섹시": "sexy", "소피스트케이티드": "sophisticated", "스트리트": "street",
    "스포티": "sporty", "아방가르드": "avant-garde", "오리엔탈": "oriental", "웨스턴": "western",
    "젠더리스": "genderless", "컨트리": "country", "클래식": "classic", "키치": "kitsch", "톰보이": "tomboy",
    "펑크": "punk", "페미닌": "feminine", "프레피": "preppy", "히피": "hippie", "힙합": "hip-hop", "기타": "other",
}  # fmt: skip


def plot_similarities(positive: np.ndarray, negative: np.ndarray, path: Path) -> None:
    """Histogram of the cosines of records with their own image, and with those of other records."""
    edges = np.linspace(min(positive.min(), negative.min()), max(positive.max(), negative.max()), 61)
    title = (
        f"Own image {positive.mean():.3f} ± {positive.std():.3f}, others {negative.mean():.3f} ± {negative.std():.3f}"
    )
    figure, (axes,) = new_figure(7, 3.8, title)
    shares = {}
    for name, values, color in (("own image", positive, COLORS[0]), ("image of another record", negative, COLORS[1])):
        shares[name] = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares[name], edges, color=color, fill=True, alpha=0.45, label=f"{name} (n = {len(values):,})")
    axes.set_xlabel("Cosine of record and image", fontsize=10)
    axes.set_ylabel("Share of pairs", fontsize=10)
    axes.legend(fontsize=9, frameon=False)
    save_figure(figure, path, {"from": edges[:-1], "to": edges[1:], **shares})


def plot_training(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss, hits, reciprocal rank and similarities by epoch, two panels above two."""
    figure, _ = new_figure(9, 6.4, "Training by epoch")
    panels = _two_by_two(figure)
    epochs, table = [int(row["epoch"]) + 1 for row in rows], {}
    for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
        for name, color in zip(names, COLORS):
            table[name] = [row.get(name, np.nan) for row in rows]
            axes.plot(epochs, table[name], "o-", color=color, markersize=3.5, label=name)
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8, frameon=False)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for axes in panels[2:]:
        axes.set_xlabel("Epochs trained", fontsize=9)
    save_figure(figure, path, {"epochs_trained": epochs, **table})


def plot_trend(rows: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Metrics with their intervals run by run; dashed: chance."""
    figure, (axes,) = new_figure(
        1.6 + 0.6 * max(len(rows), 6), 3.8, "Equal record in the whole gallery, run by run; dashed: chance"
    )
    places, table = np.arange(1, len(rows) + 1), {}
    for shift, name, color in zip(np.linspace(-0.1, 0.1, len(names)), names, COLORS):
        value, low, high, chance = (
            np.array([row[name][each] for row in rows], float) for each in ("value", "low", "high", "chance")
        )
        axes.plot(places + shift, value, "o-", color=color, markersize=4, linewidth=1, label=name)
        axes.vlines(places + shift, low, high, color=color)
        axes.plot(places, chance, "--", color=color, linewidth=1)
        table |= {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_chance": chance}
    axes.set_xticks(places)
    axes.set_xlabel("Run, in the order in which they ended", fontsize=10)
    axes.margins(y=0.15)
    axes.legend(fontsize=9, frameon=False, loc="upper center", ncols=len(names))
    save_figure(figure, path, {"run": [row["run"] for row in rows], **table})


def plot_centrality(scores: np.ndarray, category: np.ndarray, threshold: float, path: Path) -> None:
    """Cosine with the centre of the training images, by category from the least to the most central."""
    everything = np.unique(category).tolist()
    means = {name: scores[category == name].mean() for name in everything}
    names = sorted(everything, key=means.get)
    figure, (axes,) = new_figure(7.5, 1.8 + 0.34 * len(names), "Centrality by category; dashed: where anchors begin")
    boxes = [scores[category == name] for name in names]
    axes.boxplot(
        boxes, orientation="horizontal", widths=0.6, medianprops={"color": COLORS[1]}, flierprops={"markersize": 2}
    )
    axes.set_yticks(
        range(1, len(names) + 1),
        [f"{shown_name(name, everything)} (n = {len(box)})" for name, box in zip(names, boxes)],
    )
    axes.axvline(threshold, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel("Cosine with the centre of the training images", fontsize=10)
    save_figure(figure, path, {"category": names, "n": list(map(len, boxes)), "mean": [means[name] for name in names]})


def save_grid(rows: Sequence[Sequence[tuple[Image.Image, str, bool | None]]], path: Path, title: str) -> None:
    """Pictures in rows, each with a caption, framed in one colour where right and another where wrong.

    Args:
        rows: of (picture, caption, whether it is right; None for the query's own).
    """
    width = max(map(len, rows))
    figure, _ = new_figure(1.5 * width + 0.3, 1.85 * len(rows) + 0.6, title)
    figure.clear()
    figure.suptitle(title, fontsize=11, fontweight="bold", wrap=True)
    grid = figure.subplots(len(rows), width, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    table: dict[str, list[Any]] = {"row": [], "column": [], "caption": [], "right": []}
    for r, row in enumerate(rows):
        for c, (picture, caption, right) in enumerate(row):
            axes = grid[r, c]
            axes.set_axis_on()
            axes.imshow(_tile(picture))
            axes.set_xticks([])
            axes.set_yticks([])
            color = GREY if right is None else COLORS[2] if right else COLORS[1]
            axes.spines[:].set(
                visible=True, color=color, linewidth=2.5, linestyle="-" if right in (None, True) else "--"
            )
            axes.set_title("".join(filter(str.isascii, caption)), fontsize=7.5, color=color)
            for name, value in zip(table, (r, c, caption, right)):
                table[name].append(value)
    save_figure(figure, path, table)


def shown_name(name: str, names: Sequence[str]) -> str:
    """A category in letters that any font has: as it is, the English of a style, or its place among all `names`."""
    return name if name.isascii() else STYLES.get(name, f"category {list(names).index(name) + 1}")


def _tile(picture: Image.Image) -> np.ndarray:
    """(TILE, TILE, 3) the picture in the middle of a white square."""
    picture = picture.copy()
    picture.thumbnail((TILE, TILE))
    square = Image.new("RGB", (TILE, TILE), "white")
    square.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return np.asarray(square)


def _two_by_two(figure: Figure) -> list:
    figure.clear()
    figure.suptitle("Training by epoch", fontsize=11, fontweight="bold")
    panels = list(figure.subplots(2, 2).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
        axes.grid(color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
    return panels

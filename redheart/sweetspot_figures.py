"""The sweet spots in pictures: one for each unit, all units at a glance, and the cost of sharing an epoch."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from common.plots import COLORS, GREY, new_figure, save_figure
from redheart.sweetspots import Analysis, GroupPick, UnitAnalysis
from redheart.trend import running_median

VOTERS = ("plateau", "task", "gradient", "mcda", "loss")


def draw(analysis: Analysis, folder: Path) -> None:
    """Write <unit>.png for each unit, summary_heatmap.png, and crossover_matrix_<group>.png for groups of several."""
    for name, unit in analysis.units.items():
        draw_unit(name, unit, folder / f"{name}.png")
    scored = {name: unit for name, unit in analysis.units.items() if unit.mcda is not None}
    if scored:
        draw_heatmap(scored, folder / "summary_heatmap.png")
    for name, group in analysis.groups.items():
        if len(group.units) > 1 and group.epoch is not None:
            draw_crossover(name, group, analysis, folder / f"crossover_matrix_{name}.png")


def draw_unit(name: str, unit: UnitAnalysis, path: Path) -> None:
    """Loss with plateaus and jumps, task score, gradient health and votes against epochs, side by side."""
    pick, epochs = unit.recommendation, unit.series.epochs
    found = "too few checkpoints" if pick.epoch is None else f"epoch {pick.epoch}, confidence {pick.confidence:.0%}"
    figure, panels = new_figure(16, 3.8, f"{name}: {found}", 4)
    _draw_loss(panels[0], unit)
    table = {"epoch": epochs, "select_loss": unit.series.loss, "train_loss": unit.series.train_loss}
    if unit.task is not None:
        _draw_score(panels[1], epochs, unit.task.score, "Task score", unit.task.abstained)
        _draw_score(panels[2], epochs, unit.gradient.score, "Gradient health", unit.gradient.abstained)
        _draw_votes(panels[3], unit)
        table |= {"task_score": unit.task.score, "gradient_health": unit.gradient.score,
                  "mcda_score": unit.mcda.score, "vote_score": unit.score}  # fmt: skip
    if unit.bootstrap is not None:
        table |= {"p_best": unit.bootstrap.p_best, "within_one_standard_error": unit.bootstrap.inside}
    for panel in panels:
        panel.set_xlabel("Epoch", fontsize=10)
        if pick.epoch is not None:
            panel.axvline(pick.epoch, color="black", linewidth=1, linestyle=(0, (4, 3)))
    save_figure(figure, path, table)


def _draw_loss(axes: Axes, unit: UnitAnalysis) -> None:
    series = unit.series
    for number, flat in enumerate(unit.plateau.plateaus):
        label = None if number else "plateau"
        axes.axvspan(flat.start, flat.end, color=COLORS[2], alpha=0.15, linewidth=0, label=label)
    for number, jump in enumerate(unit.changepoints.jumps if unit.changepoints else []):
        axes.axvline(jump.epoch, color=COLORS[1], linewidth=1.2, label=None if number else "jump")
    axes.plot(series.epochs, series.train_loss, color=GREY, linewidth=1, label="train")
    axes.plot(series.epochs, series.loss, color=COLORS[0], marker="o", markersize=3.5, label="select")
    axes.set_ylabel("Loss", fontsize=10)
    axes.legend(fontsize=8.5, frameon=False)


def _draw_score(axes: Axes, epochs: np.ndarray, score: np.ndarray, name: str, abstained: str | None) -> None:
    axes.set_ylabel(name, fontsize=10)
    if np.isfinite(score).any():
        axes.plot(epochs, score, color=COLORS[5], marker="o", markersize=3.5, linewidth=0.8, label="each epoch")
        axes.plot(epochs, running_median(score, 3), color=COLORS[0], linewidth=1.8, label="median of 3")
        axes.legend(fontsize=8.5, frameon=False)
    if abstained:
        axes.set_title(f"abstains: {abstained}", fontsize=8.5, color=GREY, wrap=True)


def _draw_votes(axes: Axes, unit: UnitAnalysis) -> None:
    """Votes as bars, darker the surer, above the score they add up to; below, the epochs as good as the best."""
    epochs = unit.series.epochs
    axes.fill_between(epochs, unit.score, color=COLORS[0], alpha=0.25, linewidth=0)
    axes.plot(epochs, unit.score, color=COLORS[0], marker="o", markersize=3)
    rows = {voter: 1.1 + 0.14 * number for number, voter in enumerate(reversed(VOTERS))}
    for vote in unit.votes:
        axes.plot([vote.start, vote.end], [rows[vote.voter]] * 2, color=COLORS[1], alpha=0.25 + 0.75 * vote.confidence,
                  linewidth=6, solid_capstyle="butt")  # fmt: skip
    if unit.bootstrap is not None:
        good = epochs[unit.bootstrap.inside]
        axes.plot(good, np.full(len(good), -0.1), "s", color=COLORS[2], markersize=4)
    ticks = {0.0: "0", 0.5: "0.5", 1.0: "1"} | {at: voter for voter, at in rows.items()}
    if unit.bootstrap is not None:
        ticks[-0.1] = "as good"
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8.5)
    axes.set_ylim(-0.2, 1.8)
    axes.set_ylabel("Vote score, and who voted", fontsize=10)


def draw_heatmap(units: dict[str, UnitAnalysis], path: Path) -> None:
    """MCDA score of every unit at every epoch, with a ring at the pick; grey in warm-up or where not recorded."""
    epochs = sorted({int(epoch) for unit in units.values() for epoch in unit.series.epochs})
    scores = np.full((len(units), len(epochs)), np.nan)
    for row, unit in zip(scores, units.values()):
        row[np.searchsorted(epochs, unit.series.epochs)] = unit.mcda.score
    title = "MCDA score by unit and epoch; rings: picks"
    figure, (axes,) = new_figure(3 + 0.3 * len(epochs), 1.8 + 0.4 * len(units), title)
    axes.set_facecolor("#D9D9D9")
    image = axes.imshow(scores, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    picks = [epochs.index(unit.recommendation.epoch) for unit in units.values()]
    axes.plot(picks, range(len(units)), "o", markersize=11, markerfacecolor="none", color=COLORS[1], markeredgewidth=2)
    axes.set_xticks(range(len(epochs)), epochs, fontsize=8.5)
    axes.set_yticks(range(len(units)), list(units))
    axes.set_xlabel("Epoch", fontsize=10)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    bar.set_label("MCDA score", fontsize=9)
    bar.outline.set_visible(False)
    rows, columns = np.indices(scores.shape).reshape(2, -1)
    save_figure(figure, path, {
        "unit": [list(units)[row] for row in rows], "epoch": [epochs[column] for column in columns],
        "mcda_score": scores.ravel(), "picked": [picks[row] == column for row, column in zip(rows, columns)],
    })  # fmt: skip


def draw_crossover(name: str, group: GroupPick, analysis: Analysis, path: Path) -> None:
    """By how much each unit's recorded loss rises at the picks of the others: what sharing an epoch costs."""
    picks = [analysis.units[unit].recommendation.epoch for unit in group.units]
    percent, size = 100 * group.extra_loss, len(group.units)
    figure, (axes,) = new_figure(3.6 + 1.0 * size, 2.4 + 0.6 * size, f"Group {name}: loss at another unit's pick")
    bound = max(1.0, float(np.nanmax(np.abs(percent))))
    image = axes.imshow(percent, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    labels = [f"{unit}\nepoch {pick}" for unit, pick in zip(group.units, picks)]
    axes.set_xticks(range(size), labels, rotation=45, ha="right", fontsize=8.5)
    axes.set_yticks(range(size), group.units, fontsize=8.5)
    axes.set_xlabel("At the pick of", fontsize=10)
    axes.set_ylabel("Loss of", fontsize=10)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(percent):
        axes.text(column, row, f"{value:+.1f} %", ha="center", va="center", fontsize=8.5,
                  color="white" if abs(value) > 0.6 * bound else "black")  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    bar.set_label("Change against the unit's own pick [%]", fontsize=9)
    bar.outline.set_visible(False)
    rows, columns = np.indices(percent.shape).reshape(2, -1)
    save_figure(figure, path, {
        "unit": [group.units[row] for row in rows], "at_pick_of": [group.units[column] for column in columns],
        "epoch": [picks[column] for column in columns], "percent": percent.ravel(),
    })  # fmt: skip

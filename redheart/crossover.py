"""What mixing inside a dependency group costs or gains: each unit on the outputs of every epoch of those it reads."""

from pathlib import Path

import numpy as np

from common.plots import COLORS, new_figure, save_figure
from redheart.contributions import Contributions

Pairs = dict[tuple[str, str], np.ndarray]


def pair_losses(kept: Contributions) -> Pairs:
    """By unit and unit that it reads: (E, E) mean losses of the former at a row's epoch, the latter at a column's.

    Whatever else either of them reads is of the row's epoch.
    """
    epochs = kept.units.saved
    return {
        (unit, read): np.array([[_loss(kept, unit, own, read, other) for other in epochs] for own in epochs])
        for unit, described in kept.units.graph.items()
        for read in described.inputs
    }


def _loss(kept: Contributions, unit: str, own: int, read: str, other: int) -> float:
    recipe = kept.units.everywhere(own)
    return float(kept.losses(kept.run(unit, recipe | {read: kept.units.everywhere(other)[read]}).answers).mean())


def draw_pairs(pairs: Pairs, epochs: list[int], folder: Path) -> None:
    """Write <unit>_on_<read>.png for each pair: losses, the pairs of one epoch, and each row's lowest."""
    for (unit, read), losses in pairs.items():
        best = np.unravel_index(losses.argmin(), losses.shape)
        title = (
            f"{unit} on {read}: lowest at {epochs[best[0]]} on {epochs[best[1]]} ({losses.min():.4f}), "
            f"of one epoch {losses.diagonal().min():.4f}"
        )
        side = 2.4 + 0.2 * len(epochs)
        figure, (axes,) = new_figure(side + 1.2, side, title)
        image = axes.imshow(losses, cmap="Blues_r", origin="lower")
        axes.plot(range(len(epochs)), range(len(epochs)), ".", color="white", markersize=4)
        axes.plot(losses.argmin(1), range(len(epochs)), "o", markersize=7, markerfacecolor="none", color=COLORS[1])
        for ticks in (axes.set_xticks, axes.set_yticks):
            ticks(range(0, len(epochs), 3), epochs[::3], fontsize=8.5)
        axes.set_xlabel(f"Epoch of {read}", fontsize=10)
        axes.set_ylabel(f"Epoch of {unit}", fontsize=10)
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, shrink=0.85)
        bar.set_label("Select loss; ring: lowest of the row, dot: one epoch", fontsize=9)
        rows, columns = np.indices(losses.shape).reshape(2, -1)
        table = {unit: [epochs[row] for row in rows], read: [epochs[column] for column in columns]}
        save_figure(figure, folder / f"{unit}_on_{read}.png", table | {"select_loss": losses.ravel()})

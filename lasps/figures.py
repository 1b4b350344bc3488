"""The pictures of the lasps report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.plots import COLORS, GREY, new_figure, save_figure


def plot_reliability(tables: Mapping[str, list[dict[str, float]]], path: Path) -> None:
    """How often the model was right against how sure it was, one line per stage of calibration.

    Args:
        tables: stage → `common.calibration.reliability` of the predicted class.
    """
    figure, (axes,) = new_figure(5.4, 4.4, "Reliability of the predicted class")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=(0, (4, 3)))
    columns: dict[str, list[Any]] = {"stage": [], "confidence": [], "frequency": [], "n": []}
    for color, (stage, table) in zip(COLORS, tables.items()):
        filled = [row for row in table if row["n"]]
        for name in ("confidence", "frequency", "n"):
            columns[name] += [row[name] for row in filled]
        columns["stage"] += [stage] * len(filled)
        axes.plot([row["confidence"] for row in filled], [row["frequency"] for row in filled], "o-", color=color,
                  markersize=4, label=stage)  # fmt: skip
    low = min(columns["confidence"] + columns["frequency"]) - 0.05
    high = max(columns["confidence"] + columns["frequency"]) + 0.05
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("Mean probability of the predicted class", fontsize=10)
    axes.set_ylabel("Share that was right", fontsize=10)
    axes.legend(fontsize=9, frameon=False)
    save_figure(figure, path, columns)


def plot_deciles(excess: Mapping[str, list[float]], path: Path) -> None:
    """Mean return over the day's universe by tenth of the score, before costs; one line per model."""
    figure, (axes,) = new_figure(6.2, 3.8, "Return by tenth of the daily score, before costs")
    axes.axhline(0, color="black", linewidth=1)
    num = len(next(iter(excess.values())))
    tenths = list(range(1, num + 1))
    for color, (name, values) in zip(COLORS, excess.items()):
        axes.plot(tenths, 100 * np.array(values), "o-", color=color, markersize=4, label=name)
    axes.set_xticks(tenths)
    axes.set_xlabel("Tenth of the issues by score, highest last", fontsize=10)
    axes.set_ylabel("Return over the universe [%]", fontsize=10)
    axes.legend(fontsize=9, frameon=False)
    save_figure(figure, path, {"tenth": tenths, **excess})


def plot_equity(dates: np.ndarray, curves: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """What one unit of money became; the first curve in front, benchmarks in grey.

    Args:
        dates: (D,) sessions.
        curves: name → (D,) equity as a multiple of the capital.
    """
    figure, (axes,) = new_figure(8, 4, title)
    styles = [(0, (4, 2)), (0, (1, 1))]
    colors = iter(COLORS)
    for number, (name, curve) in enumerate(curves.items()):
        benchmark = name in ("equal weight", "index")
        color = GREY if benchmark else next(colors)
        line = styles[name == "index"] if benchmark else "-"
        width, order = (1.2, 2) if number else (2, 3)
        axes.plot(dates, curve, label=name, color=color, zorder=order, linewidth=width, linestyle=line)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("Equity / capital", fontsize=10)
    axes.legend(fontsize=8.5, frameon=False)
    save_figure(figure, path, {"date": dates.astype(str)} | {name: list(curve) for name, curve in curves.items()})


def plot_cumulative_ic(dates: np.ndarray, curves: Mapping[str, np.ndarray], path: Path) -> None:
    """Sum of the daily rank ICs so far; a steady rise is skill, a single step is luck.

    Args:
        dates: (D,) sessions.
        curves: name → (D,) daily rank ICs, NaN where there is none.
    """
    figure, (axes,) = new_figure(8, 3.6, "Daily rank IC, summed up")
    sums = {name: np.cumsum(np.nan_to_num(values)) for name, values in curves.items()}
    for color, (name, values) in zip(COLORS, sums.items()):
        axes.plot(dates, values, color=color, linewidth=1.6, label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("Sum of rank ICs", fontsize=10)
    axes.legend(fontsize=8.5, frameon=False)
    save_figure(figure, path, {"date": dates.astype(str)} | {name: list(values) for name, values in sums.items()})

"""Candle charts per CPU second on one thread: the batched renderer against two ways of drawing one chart at a time.

The NumPy baseline draws the same pixels; matplotlib draws the same candles and averages with its own anti-aliasing.
Bar: 2,000 charts of 224 × 224 pixels per CPU second. Run with `python benchmarks/lasps_charts.py`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lasps.charts import ChartRenderer

SIZE, DAYS, BATCH, ROUNDS = 224, 60, 64, 5
COLOURS = {"up": (0, 170, 85), "down": (255, 0, 0), "pale_up": (85, 255, 170), "pale_down": (255, 170, 170),
           5: (0, 0, 255), 20: (255, 170, 0)}  # fmt: skip


def simulated_windows(count: int, seed: int = 0) -> np.ndarray:
    """(count, DAYS, 5) float32 open, high, low, close, volume of random walks."""
    rng = np.random.default_rng(seed)
    close = 10_000 * np.exp(np.cumsum(0.02 * rng.standard_normal((count, DAYS)), 1))
    open_ = np.roll(close, 1, 1) * np.exp(0.005 * rng.standard_normal((count, DAYS)))
    open_[:, 0] = close[:, 0]
    high = np.maximum(open_, close) * (1 + 0.01 * rng.random((count, DAYS)))
    low = np.minimum(open_, close) * (1 - 0.01 * rng.random((count, DAYS)))
    return np.stack([open_, high, low, close, rng.uniform(1e4, 1e6, (count, DAYS))], -1).astype(np.float32)


def numpy_chart(window: np.ndarray) -> np.ndarray:
    """(3, SIZE, SIZE) float32 picture of one window, drawn candle by candle and line by line."""
    open_, high, low, close, _ = window.T
    span = high.max() - low.min()
    y = (high.max() - window[:, :4]) / span * (SIZE - 1)
    rows = np.round(y).astype(int)
    start = -(-np.arange(DAYS) * SIZE // DAYS)
    half = (5 * SIZE // (6 * DAYS) - 1) // 2
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    for (opened, top, bottom, closed), x, up in zip(rows, start, close >= open_):
        image[top : bottom + 1, x + half] = COLOURS["pale_up" if up else "pale_down"]
        body = slice(min(opened, closed), max(opened, closed) + 1)
        image[body, x : x + 2 * half + 1] = COLOURS["up" if up else "down"]
    for days in (5, 20):
        mean = np.lib.stride_tricks.sliding_window_view(close, days).mean(-1)
        draw_line(image, start[days - 1 :] + half, (high.max() - mean) / span * (SIZE - 1), COLOURS[days])
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / np.float32(255)


def draw_line(image: np.ndarray, x: np.ndarray, y: np.ndarray, colour: tuple[int, int, int]) -> None:
    columns = np.arange(x[0], x[-1] + 1)
    edges = np.interp(np.arange(x[0], x[-1] + 2) - 0.5, x, y)
    middle = np.round(np.interp(columns, x, y))
    first = np.minimum(np.ceil(np.minimum(edges[:-1], edges[1:])), middle).astype(int)
    last = np.maximum(np.floor(np.maximum(edges[:-1], edges[1:])), middle).astype(int)
    for column, top, bottom in zip(columns, first, last):
        image[top : bottom + 1, column] = colour


def matplotlib_chart(window: np.ndarray) -> np.ndarray:
    """(3, SIZE, SIZE) float32 picture of one window, drawn by matplotlib's Agg backend."""
    open_, high, low, close, _ = window.T
    figure = Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.5, DAYS - 0.5)
    axes.set_ylim(low.min(), high.max())
    colour = np.where(close >= open_, "#00aa55", "#ff0000")
    days = np.arange(DAYS)
    axes.vlines(days, low, high, colors=colour, linewidth=0.7)
    axes.bar(days, np.abs(close - open_), 0.8, np.minimum(open_, close), color=colour)
    for length, paint in ((5, "#0000ff"), (20, "#ffaa00")):
        axes.plot(days[length - 1 :], np.convolve(close, np.ones(length) / length, "valid"), color=paint, linewidth=0.7)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3].transpose(2, 0, 1), np.float32) / 255


def charts_per_second(draw: Callable[[], object], count: int) -> float:
    """Best of ROUNDS after one round of warm-up, by CPU time."""
    seconds = []
    for _ in range(ROUNDS + 1):
        begin = time.process_time()
        draw()
        seconds.append(time.process_time() - begin)
    return count / min(seconds[1:])


def main() -> None:
    torch.set_num_threads(1)
    windows = simulated_windows(BATCH)
    batch, renderer = torch.from_numpy(windows), ChartRenderer(SIZE)
    differing = np.mean((renderer(batch).numpy() != np.stack([numpy_chart(each) for each in windows])).any(1))
    rates = {
        # the output of 64 charts is past the size from which the allocator asks the system for fresh pages every time
        f"ChartRenderer, batches of {BATCH // 2}": charts_per_second(lambda: renderer(batch[: BATCH // 2]), BATCH // 2),
        f"ChartRenderer, batches of {BATCH}": charts_per_second(lambda: renderer(batch), BATCH),
        "NumPy, one at a time": charts_per_second(lambda: [numpy_chart(each) for each in windows], BATCH),
        "matplotlib, one at a time": charts_per_second(lambda: [matplotlib_chart(each) for each in windows[:8]], 8),
    }
    best = next(iter(rates.values()))
    print(f"{'charts of 224 × 224, one thread':<32} {'per CPU s':>10} {'ratio':>7}")
    for name, rate in rates.items():
        print(f"{name:<32} {rate:>10.0f} {best / rate:>6.1f}×")
    print(f"pixels in which ChartRenderer and NumPy differ: {differing:.4%}")


if __name__ == "__main__":
    main()

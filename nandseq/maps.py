"""Pictures of traces: which blocks and pages were used, when, and how two traces differ.

A `TraceMap` keeps counts and a thinned sample, so it takes in a trace of any length chunk by chunk.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm

from common.plots import COLORS, GREY, new_figure, save_figure
from nandseq.codes import KIND, Op
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import LAST_WITH_BLOCK, Verdicts, block_slots

MAX_ROWS, MAX_COLUMNS = 2**14, 64  # of counts: ranges of blocks, ranges of pages
MAX_DRAWN = 200  # ranges of blocks in a picture
MAX_POINTS, MAX_BROKEN = 20_000, 2_000
LAYERS = ("programs", "reads", "violations")
ERASE, PROGRAM, READ, OTHER = range(4)
CLASSES = np.array([KIND[op] if op <= LAST_WITH_BLOCK else OTHER for op in Op] + [OTHER])
STYLES = {ERASE: ("erase", COLORS[6], "s"), PROGRAM: ("program", COLORS[0], "o"), READ: ("read", COLORS[2], "^")}
SAMPLE_FIELDS = ("index", "t_ns", "slot", "page", "kind")


class Thinned:
    """At most about `limit` rows of a long table, evenly spaced: every first, every second, every fourth row, …"""

    def __init__(self, limit: int):
        self.limit, self.step, self.seen = limit, 1, 0
        self.rows = np.empty((0, len(SAMPLE_FIELDS)), np.int64)

    def add(self, rows: np.ndarray) -> None:
        """Take in the next rows, (n, 5) integers."""
        self.rows = np.concatenate((self.rows, rows[-self.seen % self.step :: self.step]))
        self.seen += len(rows)
        while len(self.rows) > self.limit:
            self.rows, self.step = self.rows[::2], 2 * self.step


class TraceMap:
    """Where and when the commands of a trace went.

    Attributes:
        counts: (3, R, C) int64 programs, reads and violations in R ranges of blocks and C ranges of pages.
        mix: (4,) int64 erases, programs, reads and other commands.
        sample, broken: thinned rows of `SAMPLE_FIELDS`, of all commands with an address and of violations.
    """

    def __init__(self, profile: Profile):
        self.profile = profile
        self.shape = (min(profile.num_blocks, MAX_ROWS), min(profile.pages, MAX_COLUMNS))
        self.counts = np.zeros((len(LAYERS), *self.shape), np.int64)
        self.mix = np.zeros(4, np.int64)
        self.sample, self.broken = Thinned(MAX_POINTS), Thinned(MAX_BROKEN)
        self.num_ops, self.num_violations = 0, 0

    def add(self, ops: Ops, verdicts: Verdicts) -> None:
        """Take in the next commands."""
        slots, kinds, violated = block_slots(ops, self.profile), CLASSES[ops.op], verdicts.violated
        pages = np.where(kinds == ERASE, 0, ops.page)
        inside = (slots >= 0) & (pages >= 0) & (pages < self.profile.pages) & (kinds != OTHER)
        for layer, chosen in zip(self.counts, (kinds == PROGRAM, kinds == READ, violated)):
            layer += self._histogram(slots[inside & chosen], pages[inside & chosen])
        self.mix += np.bincount(kinds, minlength=4)
        index = np.arange(self.num_ops, self.num_ops + len(ops))
        times = index if ops.t_ns is None else ops.t_ns
        rows = np.stack([index, times, slots, pages, kinds], 1)
        self.sample.add(rows[inside])
        self.broken.add(rows[inside & violated])
        self.num_ops += len(ops)
        self.num_violations += int(violated.sum())

    def _histogram(self, slots: np.ndarray, pages: np.ndarray) -> np.ndarray:
        rows = slots.astype(np.int64) * self.shape[0] // self.profile.num_blocks
        columns = pages.astype(np.int64) * self.shape[1] // self.profile.pages
        return np.bincount(rows * self.shape[1] + columns, minlength=self.counts[0].size).reshape(self.shape)

    @property
    def touched(self) -> np.ndarray:
        """Ranges of blocks that were programmed or read, or in which a command was bad."""
        return np.flatnonzero(self.counts.any((0, 2)))

    def save_figures(self, folder: Path, name: str) -> None:
        """Write block_map.png and timeline.png, each with its table, to a folder."""
        plot_block_map(self, folder / "block_map.png", name)
        plot_timeline(self, folder / "timeline.png", name)

    def first_block(self, row: int) -> str:
        """Address of the first block of a range."""
        return self.address(-(-row * self.profile.num_blocks // self.shape[0]))

    def address(self, slot: int) -> str:
        """`die/plane/block` of a block numbered among all blocks."""
        die, rest = divmod(slot, self.profile.planes * self.profile.blocks)
        return f"{die}/{rest // self.profile.blocks}/{rest % self.profile.blocks}"

    def first_page(self, column: int) -> int:
        return -(-column * self.profile.pages // self.shape[1])


def plot_block_map(trace: TraceMap, path: Path, name: str) -> None:
    """Programs, reads and violations by block and page; blocks without any are left out."""
    groups = _groups(trace.touched)
    layers = [np.stack([layer[group].sum(0) for group in groups]) for layer in trace.counts]
    last_used = max((int(np.flatnonzero(layer.any(0))[-1]) + 1 for layer in layers if layer.any()), default=1)
    figure, panels = new_figure(12, 4.8, f"{name}: {_finding(trace)}", len(LAYERS))
    for axes, layer, title, colors in zip(panels, layers, LAYERS, ("Blues", "Greens", "Reds")):
        shown = np.ma.masked_equal(layer[:, :last_used].T, 0)
        largest = int(layer.max(initial=1))
        norm = LogNorm(0.5, max(2, largest))  # from below 1, so that a single command is seen
        edges = (np.arange(len(groups) + 1) - 0.5, [trace.first_page(column) for column in range(last_used + 1)])
        image = axes.pcolormesh(*edges, shown, cmap=colors, norm=norm)
        unplaced = trace.num_violations - int(layer.sum()) if title == "violations" else 0
        outside = f" and {unplaced:,} without a page here" if unplaced else ""
        axes.set_title(f"{title}: {layer.sum():,}{outside}", fontsize=10)
        axes.grid(False)
        names = [trace.first_block(int(group[0])) for group in groups]
        axes.set_xticks(*_some(names), fontsize=8, rotation=90)
        axes.set_xlabel("Block (die/plane/block)", fontsize=10)
        if layer.any():
            bar = figure.colorbar(image, ax=axes, shrink=0.85, ticks=_decades(largest), format="{x:,.0f}")
            bar.ax.tick_params(labelsize=8)
            bar.ax.minorticks_off()
    per_cell = -(-trace.profile.pages // trace.shape[1])
    panels[0].set_ylabel("Page" if per_cell == 1 else f"Page; up to {per_cell} to a cell", fontsize=10)
    rows, columns = np.nonzero(np.any(layers, axis=0))
    save_figure(figure, path, {
        "first_block": [trace.first_block(int(groups[row][0])) for row in rows],
        "last_range_of_blocks": [trace.first_block(int(groups[row][-1])) for row in rows],
        "first_page": [trace.first_page(int(column)) for column in columns],
        **{title: layer[rows, columns] for title, layer in zip(LAYERS, layers)},
    })  # fmt: skip


def plot_timeline(trace: TraceMap, path: Path, name: str) -> None:
    """A sample of the commands over time, coloured by command, with violations ringed on top."""
    sample, broken = trace.sample.rows, trace.broken.rows
    times = np.concatenate((sample[:, 1], broken[:, 1]))
    divisor, unit = _time_scale(trace, times)
    blocks = np.unique(np.concatenate((sample[:, 2], broken[:, 2])))
    num_pages = max(sample[:, 3].max(initial=0), broken[:, 3].max(initial=0)) + 1
    figure, (axes,) = new_figure(10, 5, f"{name}: {_finding(trace)}")
    for kind, (label, color, marker) in STYLES.items():
        rows = sample[sample[:, 4] == kind]
        style = {"s": 9, "color": color, "marker": marker, "linewidths": 0, "alpha": 0.7}
        axes.scatter(rows[:, 1] / divisor, _heights(rows, blocks, num_pages), label=label, **style)
    ring = {"s": 42, "facecolors": "none", "edgecolors": COLORS[1], "linewidths": 1.2, "zorder": 3}
    axes.scatter(broken[:, 1] / divisor, _heights(broken, blocks, num_pages), label="violation", **ring)
    axes.set_xlabel(unit, fontsize=10)
    axes.set_ylabel("Block (die/plane/block); pages upwards", fontsize=10)
    axes.set_yticks(*_some([trace.address(int(slot)) for slot in blocks]), fontsize=8)
    axes.legend(fontsize=9, frameon=False, ncols=4, markerscale=1.5, loc="lower left", bbox_to_anchor=(0, 1))
    drawn = f"Drawn: {_share(trace.sample.step)} commands, {_share(trace.broken.step)} violations"
    figure.supxlabel(drawn, fontsize=8, color=GREY)
    table = np.concatenate((sample, broken))
    flags = np.repeat([0, 1], [len(sample), len(broken)])
    columns = {field: table[:, at] for at, field in enumerate(SAMPLE_FIELDS)}
    save_figure(figure, path, columns | {"violation": flags})


def _groups(touched: np.ndarray) -> list[np.ndarray]:
    return np.array_split(touched, min(len(touched), MAX_DRAWN)) if len(touched) else [np.array([0])]


def _finding(trace: TraceMap) -> str:
    names = ("erase", "program", "read")
    counts = ", ".join(f"{n:,} {name}{'' if n == 1 else 's'}" for n, name in zip(trace.mix, names))
    broken = f"{trace.num_violations:,} of {trace.num_ops:,} commands break a rule"
    return f"{broken} ({counts})" if trace.num_violations else f"no violation ({counts})"


def _some(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Positions and texts of at most a dozen of the names."""
    at = np.unique(np.linspace(0, max(len(names) - 1, 0), min(len(names), 12)).astype(int)).tolist()
    return at, [names[each] for each in at]


def _heights(rows: np.ndarray, blocks: np.ndarray, num_pages: int) -> np.ndarray:
    """Rank of the block among those drawn, plus the page as a fraction."""
    return np.searchsorted(blocks, rows[:, 2]) + 0.8 * rows[:, 3] / num_pages


def _time_scale(trace: TraceMap, times: np.ndarray) -> tuple[float, str]:
    if np.array_equal(trace.sample.rows[:, 0], trace.sample.rows[:, 1]):
        return 1, "Command"
    longest = int(times.max(initial=0))
    return next(((d, f"Time [{unit}]") for d, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")) if longest > 5 * d),
                (1, "Time [ns]"))  # fmt: skip


def _share(step: int) -> str:
    return "all" if step == 1 else f"1 in {step:,}"


def _decades(largest: int) -> list[int]:
    """1, 10, 100, …, and the largest where it stands clear of them."""
    below = [10**power for power in range(len(str(largest)))]
    return below if largest < 2 * below[-1] else [*below, largest]


def _by_page(trace: TraceMap) -> tuple[np.ndarray, np.ndarray]:
    used = trace.counts[:2].sum((0, 1))
    num_columns = max(np.flatnonzero(used), default=0) + 1
    last_pages = np.array([trace.first_page(column + 1) - 1 for column in range(num_columns)])
    return last_pages, 100 * np.cumsum(used[:num_columns]) / max(used.sum(), 1)


def _by_rank(trace: TraceMap) -> np.ndarray:
    used = np.sort(trace.counts[:2].sum((0, 2))[trace.touched])[::-1]
    return 100 * np.cumsum(used) / max(used.sum(), 1)

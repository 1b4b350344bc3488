import csv

import numpy as np
import pytest

from nandseq.maps import MAX_POINTS, Thinned, TraceMap
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import check
from tests.nandseq.traces import random_device_trace

SMALL = Profile(name="small", dies=2, planes=2, blocks=4, pages=8, read_offset_limit=5)
WIDE = Profile(name="wide", dies=4, planes=4, blocks=2048, pages=1000)  # more blocks and pages than the map has cells
ROWS = [
    ("erase", 1, 0, 2, 0, 100),
    ("program", 1, 0, 2, 0, 200),
    ("program", 1, 0, 2, 2, 300),  # a hop
    ("read", 1, 0, 2, 2, 400),
    ("read", 1, 0, 9, 0, 500),  # no such block
    ("status", 1, 0, 0, 0, 600),
]


def map_of(ops: Ops, profile: Profile, num_parts: int = 1) -> TraceMap:
    trace, verdicts = TraceMap(profile), check(ops, profile)
    for rows in np.array_split(np.arange(len(ops)), num_parts):
        part = type(verdicts)(verdicts.mask[rows], verdicts.last[rows], verdicts.flags[rows])
        trace.add(ops[rows], part)
    return trace


def table_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_map_counts_programs_reads_and_violations_by_block_and_page():
    trace = map_of(Ops.from_rows(ROWS), SMALL)
    block = 2 * 4 + 2
    for layer, cells in zip(trace.counts, ([(block, 0), (block, 2)], [(block, 2)], [(block, 2)])):
        assert list(zip(*map(np.ndarray.tolist, np.nonzero(layer)))) == cells
    assert (trace.mix.tolist(), trace.num_ops, trace.num_violations) == ([1, 2, 2, 1], 6, 2)
    assert trace.sample.rows.tolist() == [
        [0, 100, block, 0, 0], [1, 200, block, 0, 1], [2, 300, block, 2, 1], [3, 400, block, 2, 2]
    ]  # fmt: skip
    assert trace.broken.rows.tolist() == [[2, 300, block, 2, 1]]


@pytest.mark.parametrize("num_parts", [2, 7, 100])
def test_a_map_filled_in_chunks_is_the_map_of_the_whole(num_parts):
    ops = random_device_trace(np.random.default_rng(0), 500, SMALL)
    whole, parts = map_of(ops, SMALL), map_of(ops, SMALL, num_parts)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    np.testing.assert_array_equal(whole.sample.rows, parts.sample.rows)
    np.testing.assert_array_equal(whole.broken.rows, parts.broken.rows)


def test_thinning_keeps_every_nth_row_however_the_table_comes():
    table = np.arange(5 * 10_007).reshape(-1, 5)
    for size in (1, 13, 1000, 20_000):
        thinned = Thinned(100)
        for start in range(0, len(table), size):
            thinned.add(table[start : start + size])
        assert 50 <= len(thinned.rows) <= 100
        np.testing.assert_array_equal(thinned.rows, table[:: thinned.step])


@pytest.mark.slow
def test_large_devices_are_counted_in_ranges_that_begin_where_they_say():
    rng = np.random.default_rng(0)
    columns = (rng.integers(0, size, 3000) for size in (WIDE.dies, WIDE.planes, WIDE.blocks, WIDE.pages))
    trace = map_of(Ops(np.full(3000, 2), *columns), WIDE)
    assert trace.counts[1].sum() == trace.counts[2].sum() == 3000
    assert len(trace.sample.rows) < MAX_POINTS
    for _, _, slot, page, _ in trace.sample.rows[:50].tolist():
        row, column = np.argwhere(map_of_one(slot, page))[0]
        assert trace.first_page(column) <= page < trace.first_page(column + 1)
        die, plane, block = map(int, trace.first_block(row).split("/"))
        assert 0 <= slot - ((die * WIDE.planes + plane) * WIDE.blocks + block) < WIDE.num_blocks / trace.shape[0]


def map_of_one(slot: int, page: int) -> np.ndarray:
    plane, block = divmod(slot, WIDE.blocks)
    return map_of(Ops.from_rows([("read", *divmod(plane, WIDE.planes), block, page)]), WIDE).counts[1]


@pytest.mark.slow
def test_the_figures_come_with_the_numbers_they_show(tmp_path):
    map_of(Ops.from_rows(ROWS), SMALL).save_figures(tmp_path, "six commands")
    cells = [(row["first_block"], *map(int, list(row.values())[2:])) for row in table_of(tmp_path / "block_map.csv")]
    assert cells == [("1/0/2", 0, 1, 0, 0), ("1/0/2", 2, 1, 1, 1)]
    points = [(row["t_ns"], row["page"], row["violation"]) for row in table_of(tmp_path / "timeline.csv")]
    assert points == [("100", "0", "0"), ("200", "0", "0"), ("300", "2", "0"), ("400", "2", "0"), ("300", "2", "1")]
    for name in ("block_map.png", "timeline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[("status", 1, 0, 0, 0)], [("read", 0, 0, 99, 0)], [("nonsense", 0, 0, 0, 0)]])
def test_traces_without_a_place_on_the_map_are_drawn_all_the_same(tmp_path, rows):
    map_of(Ops.from_rows(rows), SMALL).save_figures(tmp_path, "nothing to see")
    assert table_of(tmp_path / "block_map.csv") == table_of(tmp_path / "timeline.csv") == []

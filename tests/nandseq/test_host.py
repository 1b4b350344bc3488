import gzip

import numpy as np
import pytest

from common.errors import UserError
from nandseq import check as checker
from nandseq import reference
from nandseq.host import SECTOR, Requests, from_host, main, read_requests
from nandseq.ops import Ops
from nandseq.profiles import Profile, Timing

TINY = Profile(name="tiny", dies=1, planes=1, blocks=4, pages=2)


def requests_of(*rows: tuple[str, int]) -> Requests:
    """One request of one sector a row, 10 ns apart: ("w" or "r", sector)."""
    kinds, sectors = zip(*rows)
    count = len(rows)
    return Requests(10 * np.arange(count), np.array(sectors), np.ones(count, int), np.array(kinds) == "r")


def random_requests(rng: np.random.Generator, count: int, num_sectors: int) -> Requests:
    size = rng.integers(0, 5, count)
    return Requests(
        np.sort(rng.integers(0, 10**6, count)), rng.integers(0, num_sectors, count), size, rng.random(count) < 0.4
    )


def commands(ops: Ops) -> list[str]:
    """Each command as `E0` (block) or `P0.1` (block, page)."""
    rows = zip(ops.op.tolist(), ops.block.tolist(), ops.page.tolist())
    return [f"E{block}" if op == 0 else f"{'EPR'[op]}{block}.{page}" for op, block, page in rows]


def test_a_page_written_again_goes_to_the_next_page_and_is_read_from_there():
    replay = from_host(requests_of(("w", 70), ("r", 70), ("w", 70), ("r", 70)), TINY, SECTOR)
    assert commands(replay.ops) == ["E0", "P0.0", "R0.0", "P0.1", "R0.1"]
    assert replay.ops.t_ns.tolist() == [0, 0, 10, 20, 30]
    assert (replay.num_written, replay.num_moved, replay.write_amplification) == (2, 0, 1)


def test_collection_moves_what_is_valid_in_the_block_with_the_fewest_valid_pages():
    rows = [("w", sector) for sector in (0, 1, 2, 3, 0, 0, 0)]
    replay = from_host(requests_of(*rows, ("r", 1), ("w", 2)), TINY, SECTOR)
    filled = ["E0", "P0.0", "P0.1", "E1", "P1.0", "P1.1", "E2", "P2.0", "P2.1"]
    # block 3 is the last free one, so page 1 moves out of block 0, in which only it is valid
    collected = ["E3", "R0.1", "P3.0", "P3.1", "R3.0"]
    # block 2 now holds nothing valid: it is freed without a move
    assert commands(replay.ops) == [*filled, *collected, "E0", "P0.0"]
    assert (replay.num_written, replay.num_moved, replay.write_amplification) == (8, 1, 9 / 8)


def test_reads_before_the_first_write_give_no_command():
    replay = from_host(requests_of(("r", 5), ("r", 6), ("w", 5), ("r", 5), ("r", 6)), TINY, SECTOR)
    assert commands(replay.ops) == ["E0", "P0.0", "R0.0"]
    assert replay.num_unmapped == 3


def test_a_trace_of_reads_alone_gives_no_command_and_no_amplification():
    replay = from_host(requests_of(("r", 5)), TINY, SECTOR)
    assert (len(replay.ops), replay.num_unmapped) == (0, 1)
    assert np.isnan(replay.write_amplification)


def test_unsettled_pages_of_the_open_block_are_read_from_the_buffer():
    profile = TINY.replace(pages=4, min_read_distance=2)
    rows = [("w", 0), ("r", 0), ("w", 1), ("w", 2), ("r", 0), ("r", 1), ("w", 3), ("r", 3)]
    replay = from_host(requests_of(*rows), profile, SECTOR)
    assert commands(replay.ops) == ["E0", "P0.0", "P0.1", "P0.2", "R0.0", "P0.3", "R0.3"]
    assert replay.num_buffered == 2


def test_a_request_covers_every_page_it_touches():
    requests = Requests(np.array([0, 1]), np.array([7, 7]), np.array([10, 0]), np.array([False, False]))
    replay = from_host(requests, TINY.replace(pages=8), 8 * SECTOR)
    assert commands(replay.ops) == ["E0", "P0.0", "P0.1", "P0.2"]  # sectors 7 to 16 lie on pages 0, 1 and 2


def test_logical_pages_are_spread_over_dies_and_planes():
    replay = from_host(requests_of(*(("w", sector) for sector in range(4))), TINY.replace(dies=2, planes=2), SECTOR)
    programs = replay.ops[replay.ops.op == 1]
    assert list(zip(programs.die.tolist(), programs.plane.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_with_timing_commands_wait_until_the_die_is_ready():
    timing = Timing(read_ns=(5,), program_ns=(100, 200), erase_ns=1000)
    profile = TINY.replace(timing=timing, busy="die")
    replay = from_host(requests_of(("w", 0), ("r", 0), ("w", 1)), profile, SECTOR)
    assert commands(replay.ops) == ["E0", "P0.0", "R0.0", "P0.1"]
    assert replay.ops.t_ns.tolist() == [0, 1000, 1200, 1205]


@pytest.mark.parametrize("name", ["realistic", "generic_slc", "generic_mlc", "generic_tlc"])
def test_every_replay_is_legal_and_its_commands_are_accounted_for(name):
    profile = Profile.load(name).replace(
        dies=2, planes=2, blocks=8, pages=16, min_read_distance=3, bad_blocks=((1, 0, 3),)
    )
    requests = random_requests(np.random.default_rng(0), 2000, 250)
    replay = from_host(requests, profile, SECTOR)
    assert not any(verdict.mask & (2**28 - 2) for verdict in reference.check(replay.ops, profile))
    _, programs, reads = np.bincount(replay.ops.op)
    host_reads = requests.size[requests.is_read].sum() - replay.num_unmapped - replay.num_buffered
    assert replay.num_moved > 500
    assert (programs, reads) == (replay.num_written + replay.num_moved, host_reads + replay.num_moved)


def test_free_blocks_are_taken_by_wear():
    replay = from_host(requests_of(*(("w", sector % 3) for sector in range(200))), TINY, SECTOR)
    erases = np.bincount(replay.ops.block[replay.ops.op == 0])
    assert erases.max() - erases.min() <= 2


@pytest.mark.parametrize(
    ("changes", "num_pages", "message"),
    [
        ({"read_offset_limit": 5}, 1, "forbids reading older data"),
        ({}, 5, "5 different pages are written; 1 planes with 4 good blocks of 2 pages hold 4"),
        ({"blocks": 1}, 1, "hold 0"),
        ({"bad_blocks": ((0, 0, 1), (0, 0, 2))}, 1, "with 2 good blocks of 2 pages hold 0"),
        ({"endurance": 1}, 4, "would break PE_LIMIT"),
    ],
)
def test_profiles_that_the_layer_cannot_serve_are_refused(changes, num_pages, message):
    rows = [("w", sector % num_pages) for sector in range(20)]
    with pytest.raises(UserError) as raised:
        from_host(requests_of(*rows), TINY.replace(**changes), SECTOR)
    assert message in str(raised.value)


def test_page_sizes_and_lengths_out_of_range_are_refused():
    for page_bytes in (0, 700, -512):
        with pytest.raises(UserError, match="multiple of 512"):
            from_host(requests_of(("w", 0)), TINY, page_bytes)
    requests = Requests(np.array([0]), np.array([0]), np.array([2**31 - 1]), np.array([False]))
    with pytest.raises(UserError, match="replay a shorter part"):
        from_host(requests, TINY, SECTOR)


@pytest.mark.parametrize("packed", [False, True])
def test_requests_are_read_in_order_of_arrival(tmp_path, packed):
    text = b"# arrival device lba size type\n20 0 8 1 1\n\n10 1 8 16 0\r\n20 0 9 1 0 # last\n"
    (tmp_path / "a.trace").write_bytes(gzip.compress(text, mtime=0) if packed else text)
    requests = read_requests(tmp_path / "a.trace")
    assert requests.arrival.tolist() == [10, 20, 20]
    assert (requests.first - requests.first[1]).tolist() == [2**40, 0, 1]
    assert (requests.size.tolist(), requests.is_read.tolist()) == ([16, 1, 1], [False, True, False])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no requests"),
        (b"1 0 8 1\n", "line 1: 4 fields; need five"),
        (b"\n1 0 8 1 2\n", "line 2: type: '2' is no whole number from 0 to 1"),
        (b"1.5 0 8 1 0\n", "arrival: '1.5'"),
        (b"-1 0 8 1 0\n", "arrival: '-1'"),
        (b"1 0 8 9999999999 0\n", "size: '9999999999'"),
        (b"1 0 " + b"9" * 5000 + b" 1 0\n", "first LBA"),
        (b"\xff\xfe\n", "not a text file"),
        (gzip.compress(b"1 0 8 1 0\n" * 500, mtime=0)[:40], "cannot be read"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 30, "cannot be read"),
    ],
)
def test_a_host_trace_that_cannot_be_read_is_told_in_one_line(tmp_path, content, message):
    (tmp_path / "a.trace").write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_requests(tmp_path / "a.trace")
    assert message in str(raised.value)


@pytest.mark.slow
def test_the_command_writes_a_trace_that_the_checker_finds_clean(tmp_path, capsys):
    (tmp_path / "a.trace").write_text("0 0 0 64 0\n9 0 32 32 1\n9 0 999 1 1\n")
    out = tmp_path / "a.csv"
    main([str(tmp_path / "a.trace"), str(out), "--profile", "realistic"])
    assert "3 requests; write amplification 1.00; without a command: 1 reads" in capsys.readouterr().out
    assert checker.main([str(out), "--profile", "realistic"]) == 0


@pytest.mark.parametrize(
    ("out", "message"), [("a.txt", "name it .csv"), ("a.trace/b.csv", "cannot be written"), ("a.csv", "no requests")]
)
def test_mistakes_end_the_command_with_one_line_and_code_2(tmp_path, capsys, out, message):
    (tmp_path / "a.trace").write_text("" if message == "no requests" else "0 0 0 64 0\n")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "a.trace"), str(tmp_path / out), "--profile", "realistic"])
    printed = capsys.readouterr().err
    assert (stop.value.code, printed.count("\n")) == (2, 1)
    assert message in printed

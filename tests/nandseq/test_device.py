"""The extended rules: random traces against the reference, and one hand case per rule."""

import numpy as np
import pytest

from nandseq.codes import Op, Rule
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import Verdicts, check
from nandseq.state import State
from tests.nandseq.test_kernels import assert_equal, by_reference
from tests.nandseq.traces import random_device_trace

TIMING = {"read_ns": [5, 8], "program_ns": [20, 40], "erase_ns": 60, "suspend_ns": 3, "reset_ns": 10}
SMALL = {"dies": 2, "planes": 2, "blocks": 2, "pages": 8}
EVERYTHING = SMALL | {
    "min_read_distance": 1, "bits_per_cell": 2, "pairing": "stride3", "timing": TIMING, "busy": "die", "suspend": True,
    "max_suspends": 2, "multi_plane": True, "copyback": "parity", "cache": True, "partial_erase": True,
    "word_line_order": True, "page_order": "monotone", "bad_blocks": [[1, 1, 1]], "endurance": 20,
    "read_disturb_limit": 4, "open_block_age_ns": 300, "read_retry": True, "mode": True,
}  # fmt: skip
VARIANTS = {
    "everything": {},
    "planes apart": {"busy": "plane", "multi_plane_same_block": True, "page_order": "free", "copyback": "plane"},
    "one shot": {"busy": "off", "pairing": "adjacent", "one_shot": True, "page_order": "strict", "suspend": False},
    "ignore": {"on_violation": "ignore", "read_offset_limit": 5},
    "unknown": {"initial_state": "unknown", "busy": "off"},
    "stop": {"on_violation": "stop", "initial_state": "erased"},
    "several programs": {"programs_per_page": 3, "timing": None, "busy": "off", "suspend": False,
                         "partial_erase": False, "endurance": 400},
}  # fmt: skip


@pytest.mark.slow
def test_random_traces_get_the_verdicts_of_the_reference_and_break_every_rule():
    rng, seen = np.random.default_rng(3), np.uint32(0)
    for variant in VARIANTS.values():
        profile = Profile.load(EVERYTHING | variant)
        for _ in range(6):
            ops = random_device_trace(rng, 2_000, profile)
            found = check(ops, profile)
            assert_equal(found, by_reference(ops, profile))
            seen |= np.bitwise_or.reduce(found.mask)
    wanted = {rule for rule in Rule if rule != Rule.OK}
    assert {rule for rule in wanted if seen & rule.bit} == wanted


def test_a_trace_in_chunks_gets_the_verdicts_of_the_whole(tmp_path):
    profile = Profile.load(EVERYTHING)
    ops = random_device_trace(np.random.default_rng(4), 600, profile)
    state, parts = State.initial(profile), []
    for start in range(0, 600, 150):
        parts.append(check(ops[start : start + 150], profile, state))
        state.save(tmp_path / "state.npz")
        state = State.load(tmp_path / "state.npz", profile)
    joined = Verdicts(*(np.concatenate([getattr(part, n) for part in parts]) for n in ("mask", "last", "flags")))
    assert_equal(joined, check(ops, profile))


def codes(rows: list[dict], **settings) -> list[int]:
    """Primary code of each row under a small profile; warnings, which have none, by their own code."""
    verdicts = check(Ops.from_rows(rows), Profile.load(SMALL | settings))
    return [int(np.log2(mask & -mask)) if mask else 0 for mask in verdicts.mask.astype(int).tolist()]


def row(op: str, page: int = 0, t: int = 0, **more: int) -> dict:
    return {"op": op, "page": page, "t_ns": t, **more}


ERASE, PROGRAM = row("erase"), row("program")


def test_a_command_is_refused_until_the_array_time_of_the_last_one_is_over():
    rows = [row("erase", t=0), row("program", t=59), row("status", t=59), row("program", t=60), row("read", t=79)]
    assert codes(rows, busy="die", timing=TIMING) == [0, Rule.BUSY, 0, 0, Rule.BUSY]


def test_with_independent_planes_a_read_waits_for_its_own_plane_only():
    rows = [row("erase", t=0, plane=1), row("erase", t=60), row("read", t=61, plane=1), row("erase", t=66, plane=1)]
    assert codes(rows, busy="plane", timing=TIMING, initial_state="unknown") == [0, 0, Rule.READ_UNWRITTEN, Rule.BUSY]


def test_the_planes_of_a_group_start_together():
    rows = [row("erase", t=0, plane=0, group=7), row("erase", t=0, plane=1, group=7), row("erase", t=0, plane=1)]
    assert codes(rows, busy="die", timing=TIMING) == [0, 0, Rule.BUSY]


def test_a_group_has_one_command_one_page_and_different_planes():
    erases = [row("erase", plane=plane) for plane in (0, 1)]
    rows = [row("program", 0, group=1), row("read", 0, plane=1, group=1)]
    assert codes(erases + rows, multi_plane=True)[2:] == [0, Rule.READ_UNWRITTEN]
    rows = [row("program", 0, group=1), row("erase", 0, group=1)]
    assert codes(erases + rows, multi_plane=True)[2:] == [0, Rule.MP_PLANE]
    rows = [row("program", 0, group=1), row("program", 0, group=2), row("program", 1, plane=1, group=2)]
    assert codes(erases + rows, multi_plane=True, programs_per_page=2, page_order="free")[2:] == [0, 0, Rule.MP_PAGE]


def test_copyback_needs_a_source_in_the_same_plane_and_of_the_same_parity():
    start = [ERASE, row("erase", plane=1), PROGRAM, row("copyback_read", 0)]
    assert codes([*start, row("copyback_program", 1)], copyback="plane")[3:] == [0, 0]
    assert codes([*start, row("copyback_program", 1)], copyback="parity")[3:] == [0, Rule.COPYBACK_PLANE]
    assert codes([*start, row("copyback_program", 0, plane=1)], copyback="plane")[3:] == [0, Rule.COPYBACK_PLANE]
    assert codes([*start, row("read", 0), row("copyback_program", 1)], copyback="plane")[4:] == [0, Rule.COPYBACK_PLANE]
    claimed = row("copyback_program", 1, src_block=0, src_page=3)
    assert codes([*start, claimed], copyback="plane")[4:] == [Rule.COPYBACK_PLANE]


def test_a_cache_read_follows_a_read_and_a_cache_program_chain_ends_in_a_program():
    start = [ERASE, PROGRAM]
    assert codes([*start, row("cache_read")], cache=True)[2:] == [Rule.CACHE_SEQ]
    rows = [row("read"), row("cache_read"), row("cache_read_end"), row("cache_read_end")]
    assert codes(start + rows, cache=True)[2:] == [0, 0, 0, Rule.CACHE_SEQ]
    rows = [row("cache_program", 1), row("read", 0), row("cache_program", 2), row("program", 3), row("read", 0)]
    assert codes(start + rows, cache=True)[2:] == [0, Rule.CACHE_SEQ, 0, 0, 0]


def test_only_a_running_erase_or_program_can_be_suspended_and_its_block_is_untouchable():
    rows = [row("suspend", t=0), row("erase", t=0), row("suspend", t=10), row("read", t=20),
            row("erase", t=20, block=1), row("suspend", t=20), row("resume", t=30), row("resume", t=30),
            row("suspend", t=79), row("resume", t=200), row("suspend", t=201)]  # fmt: skip
    found = codes(rows, suspend=True, timing=TIMING)
    bad = Rule.SUSPEND_STATE
    # 50 ns were left at t = 10; resumed at 30 the erase ends at 80, suspended at 79 and resumed at 200 at 201
    assert found == [bad, 0, 0, bad, bad, bad, 0, bad, 0, 0, bad]


def test_an_erase_cut_short_leaves_the_block_unknown_until_a_full_erase():
    rows = [row("erase", t=0), row("reset", t=59), row("program", t=70), row("erase", t=70), row("program", t=130)]
    assert codes(rows, partial_erase=True, timing=TIMING) == [0, 0, Rule.PARTIAL_ERASE, 0, 0]
    rows[1] = row("power_loss", t=60)
    assert codes(rows[:3], partial_erase=True, timing=TIMING) == [0, 0, 0]


def test_cutting_an_upper_page_program_endangers_its_pair():
    rows = [row("erase", t=0), row("program", 0, t=60), row("program", 1, t=80), row("reset", t=119)]
    settings = {"partial_erase": True, "timing": TIMING, "bits_per_cell": 2}
    assert codes(rows, **settings) == [0, 0, 0, Rule.PAIR_RISK]
    assert codes([*rows[:3], row("reset", t=120)], **settings) == [0, 0, 0, 0]


def test_lower_pages_of_a_word_line_come_first_and_one_shot_pages_come_together():
    rows = [ERASE, row("program", 1), row("program", 0), row("program", 2), row("read", 0), row("program", 3)]
    settings = {"bits_per_cell": 2, "page_order": "free"}
    assert codes(rows, word_line_order=True, **settings) == [0, Rule.WL_ORDER, 0, 0, 0, 0]
    assert codes(rows, one_shot=True, **settings) == [0, 0, 0, Rule.WL_ORDER, Rule.WL_ORDER, 0]


def test_a_bad_block_may_only_give_its_mark_before_the_first_erase():
    rows = [row("read", 0), row("read", 1), row("erase"), row("read", 0)]
    assert codes(rows, bad_blocks=[[0, 0, 0]]) == [0, Rule.NOT_ERASED, Rule.BAD_BLOCK, Rule.READ_UNWRITTEN]
    assert check(Ops.from_rows(rows), Profile.load(SMALL | {"bad_blocks": [[0, 0, 0]]})).mask[1] & Rule.BAD_BLOCK.bit


def test_erases_beyond_ninety_percent_warn_and_beyond_the_endurance_are_violations():
    assert codes([ERASE] * 11, endurance=10) == [0] * 9 + [Rule.PE_WARN, Rule.PE_LIMIT]
    verdicts = check(Ops.from_rows([ERASE] * 10), Profile.load(SMALL | {"endurance": 10}))
    assert not verdicts.violated.any()


def test_reads_beyond_the_disturb_limit_warn_until_the_next_erase():
    read = row("read")
    found = codes([ERASE, PROGRAM, read, read, read, ERASE, PROGRAM, read], read_disturb_limit=2)
    assert found == [0, 0, 0, 0, Rule.READ_DISTURB, 0, 0, 0]


def test_a_block_left_open_too_long_must_not_be_gone_on_with():
    rows = [row("erase"), row("program", 0, t=5), row("program", 1, t=105), row("read", 0, t=106), row("erase", t=300)]
    assert codes(rows, open_block_age_ns=100) == [0, 0, 0, Rule.OPEN_BLOCK_AGE, 0]


def test_a_retry_level_is_for_the_failed_page_only_and_goes_back_to_zero():
    start = [row("erase", status=0), row("program", status=0)]
    level = [row("set_retry", 2), row("read", 0, status=0), row("read", 0, status=0), row("set_retry", 0)]
    bad = Rule.READ_RETRY
    assert codes([*start, *level], read_retry=True)[2:] == [bad, bad, bad, 0]
    assert codes([*start, row("read", 0, status=1), *level], read_retry=True)[3:] == [0, 0, bad, 0]


def test_a_block_is_used_in_the_mode_it_was_erased_in():
    rows = [row("erase", mode=1), row("program", mode=1), row("read", mode=0), row("read")]
    assert codes(rows, mode=True) == [0, 0, Rule.MODE, 0]


@pytest.mark.parametrize("op", [op for op in Op if op >= Op.CACHE_READ_END])
def test_control_commands_break_nothing_where_their_rules_are_off(op):
    assert codes([row(op.name.lower())], dies=1) == [0]

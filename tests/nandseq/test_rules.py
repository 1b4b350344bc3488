"""The base rules by hand; nandseq specification, section 3."""

import json

import numpy as np
import pytest

from common.errors import UserError
from nandseq.batched import step
from nandseq.codes import Rule
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import check, check_batch, expected_pages, rule_name
from nandseq.state import State

FILL = [("program", page) for page in range(6)]  # pages 0 … 5
E = ("erase", 0)


def profile(**settings) -> Profile:
    return Profile.load({"dies": 1, "planes": 1, "blocks": 4, "pages": 8} | settings)


def trace(*rows) -> Ops:
    return Ops.from_rows([(op, 0, 0, 0, page) for op, page in rows])


def codes(*rows, **settings) -> list[int]:
    return check(trace(*rows), profile(**settings)).primary.tolist()


def last_code(*rows, **settings) -> int:
    return codes(*rows, **settings)[-1]


def test_age_five_is_the_first_stale_read_at_limit_five():
    assert codes(E, *FILL, ("read", 1), ("read", 0), read_offset_limit=5)[-2:] == [0, Rule.READ_STALE]


def test_without_a_limit_any_programmed_page_may_be_read():
    assert last_code(E, *FILL, ("read", 0)) == 0


def test_the_newest_pages_of_an_open_block_are_too_close_until_it_is_full():
    rows = [E, *FILL, ("read", 3), ("read", 4), ("program", 6), ("program", 7), ("read", 7)]
    assert codes(*rows, min_read_distance=2)[7:] == [0, Rule.READ_TOO_CLOSE, 0, 0, 0]


def test_reading_an_unwritten_page_is_invalid():
    assert last_code(E, *FILL, ("read", 6)) == Rule.READ_UNWRITTEN


def test_programming_a_page_twice_is_a_reprogram_and_no_page_order_fault():
    verdicts = check(trace(E, *FILL, ("program", 2)), profile())
    assert verdicts.mask[-1] == Rule.REPROGRAM.bit


def test_erase_is_always_legal_and_starts_the_block_again():
    assert codes(E, *FILL, E, E, ("program", 0), ("read", 1)) == [0] * 10 + [Rule.READ_UNWRITTEN]


def test_a_hop_programs_its_page_and_leaves_the_skipped_ones_unwritten():
    rows = [E, ("program", 0), ("program", 3), ("read", 2), ("read", 3), ("program", 2), ("read", 2), ("program", 4)]
    order, unwritten = Rule.PAGE_ORDER, Rule.READ_UNWRITTEN
    assert codes(*rows) == [0, 0, order, unwritten, 0, order, unwritten, 0]


def test_an_ignored_violation_changes_nothing():
    rows = [E, ("program", 0), ("program", 3), ("read", 3), ("program", 1)]
    assert codes(*rows, on_violation="ignore") == [0, 0, Rule.PAGE_ORDER, Rule.READ_UNWRITTEN, 0]


def test_after_stop_only_the_first_violation_is_reported_and_nothing_changes():
    settings = profile(on_violation="stop")
    state = State.initial(settings)
    verdicts = check(trace(E, ("program", 0), ("program", 3), ("read", 6), ("program", 1)), settings, state)
    assert verdicts.primary.tolist() == [0, 0, Rule.PAGE_ORDER, 0, 0]
    assert state.to_dict()["blocks"][0]["programmed"] == [[0, 0, 1]]


def test_compat_update_moves_last_backwards():
    rows = [E, *FILL, ("program", 1), ("program", 2), ("read", 0), ("read", 5)]
    reprogram = Rule.REPROGRAM
    assert codes(*rows, compat_update=True, read_offset_limit=3)[7:] == [reprogram, reprogram, 0, 0]
    assert codes(*rows, read_offset_limit=3)[7:] == [reprogram, reprogram, Rule.READ_STALE, 0]
    rows = [E, *FILL, ("program", 1), ("program", 2), ("program", 6)]  # the page after `last` is 3
    assert last_code(*rows, compat_update=True) == Rule.PAGE_ORDER


def test_a_strict_start_wants_an_erase_first_and_masks_name_every_broken_rule():
    verdicts = check(trace(("program", 0), ("program", 1), ("read", 0)), profile())
    not_erased = Rule.NOT_ERASED.bit
    expected = [not_erased, not_erased | Rule.PAGE_ORDER.bit, not_erased | Rule.READ_UNWRITTEN.bit]
    assert verdicts.mask.tolist() == expected
    assert verdicts.primary.tolist() == [Rule.NOT_ERASED] * 3
    assert not verdicts.known.any()


def test_an_erased_start_needs_no_erase():
    assert codes(("program", 0), ("program", 1), ("read", 1), initial_state="erased") == [0, 0, 0]


def test_in_an_unknown_start_blocks_are_indeterminate_until_their_first_erase():
    verdicts = check(trace(("program", 5), ("read", 5), E, ("read", 5)), profile(initial_state="unknown"))
    assert verdicts.indeterminate.tolist() == [True, True, False, False]
    assert verdicts.primary.tolist() == [0, 0, 0, Rule.READ_UNWRITTEN]


def test_addresses_outside_the_geometry_and_unknown_names_are_address_faults_and_nothing_else():
    rows = [("erase", 1, 0, 0, 0), ("erase", 0, -1, 0, 0), ("program", 0, 0, 4, 0), ("read", 0, 0, 0, 8),
            ("read", 0, 0, 2**40, 0), ("format", 0, 0, 0, 0), (99, 0, 0, 0, 0)]  # fmt: skip
    assert check(Ops.from_rows(rows), profile()).mask.tolist() == [Rule.ADDR_RANGE.bit] * len(rows)


def test_the_page_of_an_erase_is_ignored():
    assert codes(("erase", 99), ("program", 0)) == [0, 0]


def test_the_nth_program_of_a_page_exceeds_the_limit():
    rows = [E, ("program", 0), ("program", 0), ("program", 0), ("program", 1), ("program", 0), ("program", 0)]
    settings = {"programs_per_page": 2}
    # page 0 was programmed twice, so every later program of it exceeds; page 1 once, so page 1 may go on
    assert codes(*rows, **settings) == [0, 0, 0, Rule.REPROGRAM, 0, Rule.REPROGRAM, Rule.REPROGRAM]
    early = [E, ("program", 0), ("program", 1), ("program", 0), ("program", 1), ("program", 1)]
    assert codes(*early, **settings) == [0, 0, 0, Rule.PAGE_ORDER, 0, Rule.REPROGRAM]
    assert rule_name(3, profile(**settings)) == "NOP_EXCEEDED"
    assert rule_name(3, profile()) == "REPROGRAM"


def test_monotone_order_may_skip_up_and_free_order_may_do_anything_once():
    rows = [E, ("program", 3), ("program", 1), ("program", 4), ("program", 4)]
    order, again = Rule.PAGE_ORDER, Rule.REPROGRAM
    assert codes(*rows, page_order="monotone") == [0, 0, order, 0, again]
    assert codes(*rows, page_order="free") == [0, 0, 0, 0, again]


def test_last_and_page_programmed_describe_the_state_before_the_command():
    verdicts = check(trace(E, ("program", 0), ("program", 0), ("read", 0), ("read", 1)), profile())
    assert verdicts.last.tolist() == [-1, -1, 0, 0, 0]
    assert verdicts.page_programmed.tolist() == [False, False, True, True, False]


def test_expected_pages_are_the_next_page_and_the_interval_of_legal_reads():
    settings = profile(read_offset_limit=5, min_read_distance=1)
    ops = trace(("read", 0), E, *FILL, ("program", 7), ("read", 0), E, ("read", 0))
    first, last = expected_pages(ops.op, check(ops, settings), settings)
    assert (first[8], last[8]) == (6, 6)
    assert (first[9], last[9]) == (3, 7)  # the hop to page 7 filled the block, so its newest page is settled
    assert all(first[i] > last[i] for i in (0, 1, 11))


def test_a_saved_state_comes_back_and_tells_what_it_holds(tmp_path):
    settings = profile()
    state = State.initial(settings)
    check(trace(E, ("program", 0), ("program", 3)), settings, state)
    state.save(tmp_path / "state.npz")
    loaded = State.load(tmp_path / "state.npz", settings)
    record = {"die": 0, "plane": 0, "block": 0, "last": 3, "erase_count": 1, "programmed": [[0, 0, 1], [3, 3, 1]]}
    assert json.loads(json.dumps(loaded.to_dict()))["blocks"] == [record]
    assert check(trace(("read", 3), ("read", 1)), settings, loaded).primary.tolist() == [0, Rule.READ_UNWRITTEN]
    late = settings.replace(initial_state=str(tmp_path / "state.npz"))
    assert check(trace(("program", 4), ("program", 4)), late).primary.tolist() == [0, Rule.REPROGRAM]


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    State.initial(profile()).save(tmp_path / "state.npz")
    with pytest.raises(UserError, match="the profile has"):
        State.load(tmp_path / "state.npz", profile(pages=9))
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(UserError, match="not a saved state"):
        State.load(tmp_path / "text.npz", profile())
    with pytest.raises(UserError, match="cannot be read"):
        State.load(tmp_path / "none.npz", profile())


def test_sequences_of_a_batch_start_where_their_state_says():
    settings = profile(read_offset_limit=3)
    columns = [np.array([[1, 2], [1, 2]]), np.zeros((2, 2), int), np.array([[5, 2], [5, 3]])]
    state = State.batch(settings, 2, 1, last=np.array([[4], [3]]))
    assert check_batch(*columns, settings, state).primary.tolist() == [[0, Rule.READ_STALE], [Rule.PAGE_ORDER, 0]]


def test_one_step_advances_every_sequence():
    settings = profile()
    state = State.batch(settings, 3, 2)
    step(state, np.zeros(3, int), np.array([0, 1, 2]), np.zeros(3, int), settings)
    verdicts = step(state, np.ones(3, int), np.array([0, 0, 0]), np.zeros(3, int), settings)
    assert verdicts.primary.tolist() == [0, Rule.NOT_ERASED, Rule.NOT_ERASED]
    assert state.blocks.last.tolist() == [[0, -1], [-1, -1], [-1, -1]]


def test_a_missing_column_and_an_extended_batch_are_refused():
    timing = {"read_ns": [1], "program_ns": [1], "erase_ns": 1}
    with pytest.raises(UserError, match="t_ns"):
        check(trace(E), profile(busy="die", timing=timing))
    with pytest.raises(UserError, match="address"):
        check_batch(*[np.zeros((1, 1), int)] * 3, profile(endurance=3))


def test_an_empty_trace_has_no_verdicts():
    assert len(check(Ops.from_rows([]), profile()).mask) == 0

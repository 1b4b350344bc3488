"""All engines give the same answers, command by command."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nandseq import batched, reference
from nandseq.codes import Rule
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import Verdicts, block_slots, check, check_batch
from nandseq.state import State
from tests.nandseq.traces import random_trace

TINY = {"dies": 2, "planes": 1, "blocks": 2, "pages": 12}
PROFILES = {
    "seed": {"read_offset_limit": 5},
    "both read rules": {"read_offset_limit": 5, "min_read_distance": 2},
    "compat": {"read_offset_limit": 3, "compat_update": True, "min_read_distance": 1},
    "ignore": {"read_offset_limit": 3, "on_violation": "ignore"},
    "stop": {"read_offset_limit": 5, "on_violation": "stop"},
    "erased": {"read_offset_limit": 5, "initial_state": "erased", "page_order": "monotone"},
    "unknown": {"min_read_distance": 3, "initial_state": "unknown", "page_order": "free"},
    "four programs": {"read_offset_limit": 4, "programs_per_page": 4},
    "four programs, compat": {"programs_per_page": 3, "compat_update": True},
}


def tiny(name: str) -> Profile:
    return Profile.load(TINY | PROFILES[name])


def by_reference(ops: Ops, profile: Profile) -> Verdicts:
    verdicts = reference.check(ops, profile)
    columns = [(each.mask, each.last, each.flags) for each in verdicts]
    return Verdicts(*(np.array(column) for column in zip(*columns)))


def assert_equal(one: Verdicts, other: Verdicts) -> None:
    for name in ("mask", "last", "flags"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


@pytest.mark.slow
def test_a_million_random_commands_get_the_verdicts_of_the_reference_and_break_every_base_rule():
    rng = np.random.default_rng(0)
    seen, count = np.uint32(0), 0
    for name in PROFILES:
        profile = tiny(name)
        for _ in range(2 if name != "stop" else 1):
            ops = random_trace(rng, 60_000, profile)
            found = check(ops, profile)
            assert_equal(found, by_reference(ops, profile))
            cut = [column.reshape(600, 100) for column in (ops.op, block_slots(ops, profile), ops.page)]
            states = [State.batch(profile, 600, profile.num_blocks) for _ in range(2)]
            assert_equal(batched.check_steps(*cut, profile, states[0]), check_batch(*cut, profile, states[1]))
            seen |= np.bitwise_or.reduce(found.mask)
            count += len(ops)
    assert count >= 1_000_000
    assert seen == sum(rule.bit for rule in Rule if 1 <= rule <= Rule.READ_TOO_CLOSE)


@pytest.mark.parametrize("name", PROFILES)
def test_batches_of_short_sequences_get_the_verdicts_of_each_one_alone(name):
    profile, rng = tiny(name), np.random.default_rng(1)
    traces = [random_trace(rng, 40, profile, 4) for _ in range(60)]
    alone = [check(ops, profile) for ops in traces]
    op, slot, page = (
        np.stack(columns) for columns in zip(*((ops.op, block_slots(ops, profile), ops.page) for ops in traces))
    )
    for together in (
        check_batch(op, slot, page, profile, State.batch(profile, len(op), profile.num_blocks)),
        batched.check_steps(op, slot, page, profile, State.batch(profile, len(op), profile.num_blocks)),
    ):
        assert_equal(together, Verdicts(*(np.stack([getattr(v, n) for v in alone]) for n in ("mask", "last", "flags"))))


commands = st.tuples(st.integers(-1, 14), st.integers(0, 1), st.integers(0, 0), st.integers(0, 1), st.integers(-1, 12))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(commands, max_size=40), st.sampled_from(list(PROFILES)))
def test_any_commands_get_the_verdicts_of_the_reference(rows, name):
    profile, ops = tiny(name), Ops.from_rows(rows)
    if len(ops):
        assert_equal(check(ops, profile), by_reference(ops, profile))


@settings(max_examples=60, deadline=None)
@given(st.lists(commands, max_size=40), st.sampled_from(list(PROFILES)), st.integers(0, 40))
def test_a_trace_in_two_chunks_gets_the_verdicts_of_the_whole(rows, name, cut):
    profile, ops = tiny(name), Ops.from_rows(rows)
    state = State.initial(profile)
    first, second = check(ops[:cut], profile, state), check(ops[cut:], profile, state)
    joined = Verdicts(*(np.concatenate([getattr(first, n), getattr(second, n)]) for n in ("mask", "last", "flags")))
    assert_equal(joined, check(ops, profile))

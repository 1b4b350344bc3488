"""Labelled sequences: shares by counting, streams, test sets, and one sequence at a time."""

import hashlib
from dataclasses import fields

import numpy as np
import pytest

from common.errors import UserError
from nandseq import reference, simulator
from nandseq.codes import Op
from nandseq.machines import NAMES, TRAITS
from nandseq.profiles import Profile
from nandseq.scenarios import MIXTURE
from nandseq.simulator import EXTRA_SETS, STREAMS, NANDSimulator, Sequences, make_sequences, split

SEED = Profile.load("seed")


def content(sequences: Sequences) -> list[np.ndarray]:
    columns = (getattr(sequences, each.name) for each in fields(sequences))
    return [column for column in columns if isinstance(column, np.ndarray)]


def digests(sequences: Sequences) -> set[bytes]:
    rows = np.concatenate([sequences.op, sequences.slot, sequences.page], axis=1)
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows}


def same(one: Sequences, other: Sequences) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(content(one), content(other), strict=True))


def test_the_same_seed_and_stream_give_the_same_bits_and_any_other_gives_other_sequences():
    made = {(seed, stream): make_sequences(200, seed=seed, stream=stream) for seed in (0, 1) for stream in STREAMS}
    assert same(made[0, "val"], make_sequences(200, seed=0, stream="val"))
    assert len(set().union(*map(digests, made.values()))) == sum(map(len, made.values()))


def test_what_is_drawn_at_once_does_not_matter(monkeypatch):
    whole = make_sequences(300, seed=3)
    monkeypatch.setattr(simulator, "BATCH", 17)
    assert same(whole, make_sequences(300, seed=3))


def test_classes_difficulties_and_scenarios_have_their_shares_to_within_one():
    shares = {"valid": 3, "page_hop": 1, "read_unwritten": 1, "stale_read": 1}
    made = make_sequences(1007, class_shares=shares, hard_share=0.25)
    assert made.names == tuple(shares)
    assert np.bincount(made.label).tolist() == [503, 168, 168, 168]
    for label in range(4):
        mine = made.label == label
        assert abs(made.hard[mine].sum() - 0.25 * mine.sum()) <= 1
        for hard in (False, True):
            part = made.scenario[mine & (made.hard == hard)]
            counts = np.bincount(part, minlength=len(NAMES))[[NAMES.index(name) for name in MIXTURE]]
            assert counts.sum() == len(part)
            assert np.ptp(counts) <= 1


def test_the_order_of_the_sequences_says_nothing_of_their_class():
    made = make_sequences(2000)
    halves = [np.bincount(made.label[half]) for half in (slice(1000), slice(1000, None))]
    assert abs(halves[0] - halves[1]).max() < 90
    assert len(set(made.label[:20].tolist())) == 4


def test_split_rounds_by_the_largest_remainders():
    assert split(10, np.array([0.55, 0.25, 0.2])).tolist() == [6, 2, 2]
    assert split(0, np.array([0.5, 0.5])).tolist() == [0, 0]


def test_hard_sequences_have_something_that_looks_illegal_and_is_not():
    made = make_sequences(900)
    assert (made.traits[made.hard] > 0).all()
    for bit in TRAITS.values():
        assert (made.traits[made.hard & (made.label == 0)] & bit > 0).mean() > 1 / 3
    assert not made.codes[made.label == 0].any()


@pytest.mark.parametrize("name", EXTRA_SETS)
def test_the_extra_test_sets_hold_one_bad_command_for_the_reference_and_differ_as_named(name):
    made = make_sequences(40, stream=name, **EXTRA_SETS[name])
    assert made.op.shape == (40, 200 if name == "long" else 50)
    assert made.address.shape[1] == (8 if name == "wide" else 3)
    assert set(made.scenario.tolist()) == ({NAMES.index("wear_level")} if name == "scenario" else set(range(8)) - {6})
    np.testing.assert_array_equal(made.check(SEED).primary, made.codes)
    if name == "late":
        assert made.initial_last.min() >= 1000
        assert (made.codes > 0).sum(1).tolist() == (made.label > 0).tolist()
        return
    for n in range(40):
        bad = [i for i, verdict in enumerate(reference.check(made.trace(n), SEED)) if verdict.rules]
        assert bad == ([made.bad_index[n]] if made.label[n] else [])


def test_late_sequences_are_confirmed_by_the_reference_after_the_writes_that_lead_there():
    made = make_sequences(8, stream="late", start_page=1000)
    for n in range(8):
        device = reference.Reference(SEED)
        for slot, last in enumerate(made.initial_last[n]):
            device.blocks[tuple(made.address[n, slot])] = reference.Block(
                known=True, last=int(last), programs=dict.fromkeys(range(last + 1), 1)
            )
        trace = made.trace(n)
        rows = zip(*(getattr(trace, name).tolist() for name in ("op", "die", "plane", "block", "page")))
        bad = [i for i, row in enumerate(rows) if device.check(*row).rules]
        assert bad == ([made.bad_index[n]] if made.label[n] else [])


def test_slots_are_numbered_by_first_appearance_and_stand_for_distinct_addresses():
    made = make_sequences(100, num_blocks=5)
    for slots, addresses in zip(made.slot, made.address):
        first = list(dict.fromkeys(slots.tolist()))
        assert first == list(range(len(first)))
        assert len({tuple(address) for address in addresses}) == 5
        assert (addresses >= 0).all()
        assert (addresses < [2, 4, 1000]).all()
    np.testing.assert_array_equal(made.block[7], made.trace(7).block)


def test_all_blocks_of_a_tiny_device_are_used_equally_often():
    tiny = SEED.replace(dies=1, planes=2, blocks=3)
    made = make_sequences(3000, tiny, class_shares={"valid": 1}, num_blocks=2, hard_share=0.0)
    flat = made.address[:, :, 1] * 3 + made.address[:, :, 2]
    for slot in range(2):
        assert abs(np.bincount(flat[:, slot], minlength=6) - 500).max() < 80


def test_rows_can_be_taken_out():
    made = make_sequences(50)
    some = made[np.array([4, 2])]
    assert len(some) == 2
    assert some.names == made.names
    np.testing.assert_array_equal(some.page, made.page[[4, 2]])


def test_issue_times_come_from_the_profile_and_are_absent_without():
    assert make_sequences(4).t_ns is None
    slc = Profile.load("generic_slc").base
    made = make_sequences(4, slc)
    times = {Op.ERASE: slc.timing.erase_ns, Op.PROGRAM: max(slc.timing.program_ns), Op.READ: max(slc.timing.read_ns)}
    waits = [[times[op] for op in row[:-1]] for row in made.op.tolist()]
    np.testing.assert_array_equal(np.diff(made.t_ns, axis=1), waits)
    assert (made.t_ns[:, 0] == 0).all()


def test_by_default_there_are_the_classes_that_the_profile_has_a_rule_for():
    assert make_sequences(10, "realistic", seq_len=150).names == ("valid", "page_hop", "read_unwritten")
    one = NANDSimulator("realistic", seq_len=150)
    assert [one.generate_invalid()[1] for _ in range(3)] == ["page_hop", "read_unwritten", "page_hop"]


def test_one_block_leaves_out_the_scenarios_that_need_two():
    made = make_sequences(40, num_blocks=1)
    assert NAMES.index("gc_loop") not in made.scenario
    assert (made.slot == 0).all()


def test_the_older_generator_has_its_own_shares_and_no_hard_ones():
    made = make_sequences(2000, "compat")
    assert np.bincount(made.label).tolist() == [1000, 435, 427, 138]
    assert not made.hard.any()
    assert set(made.scenario.tolist()) == {NAMES.index("compat")}


def test_one_at_a_time_gives_legal_traces_and_each_strategy_in_turn_with_its_name():
    simulator = NANDSimulator(seed=5)
    assert not any(verdict.rules for verdict in reference.check(simulator.generate_valid(), SEED))
    named = {"page_hop": "PAGE_ORDER", "read_unwritten": "READ_UNWRITTEN", "stale_read": "READ_STALE"}
    for strategy in [*named, *named]:
        trace, name = simulator.generate_invalid()
        broken = [rule.name for verdict in reference.check(trace, SEED) for rule in verdict.rules]
        assert (name, broken) == (strategy, [named[strategy]])
    assert simulator.generate_invalid("reprogram")[1] == "reprogram"


def test_one_at_a_time_repeats_with_its_seed_and_never_repeats_within():
    traces = [[NANDSimulator(seed=seed).generate_valid().page.tolist() for _ in range(2)] for seed in (1, 2)]
    assert traces[0][0] == traces[0][1] != traces[1][0]
    one = NANDSimulator(seed=1)
    pages = [(trace.op.tobytes(), trace.page.tobytes()) for trace in (one.generate_valid() for _ in range(300))]
    assert len(set(pages)) == 300


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "count=0: give 1"),
        ({"seed": -1}, "seed=-1"),
        ({"hop_max": 1}, "hop_max=1: give 2"),
        ({"hard_share": 1.5}, "hard_share=1.5"),
        ({"stream": "tset"}, "Did you mean test"),
        ({"num_blocks": 65}, "num_blocks=65"),
        ({"class_shares": {"page_hopp": 1}}, "Did you mean page_hop"),
        ({"class_shares": {"valid": 0}}, "one of them above 0"),
        ({"class_shares": {"valid": float("nan")}}, "one of them above 0"),
        ({"class_shares": {"no_erase": 1}, "start_page": 1000}, "no block needs an erase"),
        ({"profile": "realistic", "class_shares": {"stale_read": 1}}, "realistic has no rule READ_STALE"),
        ({"seq_len": 5, "class_shares": {"stale_read": 1}}, "stale_read in scenario .* seq_len=5"),
        ({"profile": {"initial_state": "erased"}, "class_shares": {"no_erase": 1}}, "no rule NOT_ERASED"),
        ({"profile": "compat", "mixture": {"seq_write": 1}}, "compat_update"),
        ({"profile": "compat", "seq_len": 3}, "seq_len=3"),
        ({"profile": "compat", "class_shares": {"reprogram": 1}}, "class_shares: reprogram: unknown"),
        ({"profile": "generic_tlc"}, "base rules only"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(change, words):
    with pytest.raises(UserError, match=words) as error:
        make_sequences(**{"count": 10} | change)
    assert "\n" not in str(error.value)


def test_valid_is_no_way_of_being_invalid():
    with pytest.raises(UserError, match="valid is no corruption"):
        NANDSimulator().generate_invalid("valid")

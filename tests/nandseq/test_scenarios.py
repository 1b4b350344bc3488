"""Every scenario is legal and does what its name says."""

import itertools

import numpy as np
import pytest

from common.errors import UserError
from nandseq import reference
from nandseq.codes import Op
from nandseq.machines import EDGE_READ, INTERLEAVED, NAMES, RE_ERASE, TRAITS, UNKNOWN
from nandseq.ops import Ops
from nandseq.profiles import EXTENDED, Profile
from nandseq.scenarios import GcLoop, SeqWrite, Source
from nandseq.simulator import make_sequences

SEED = Profile.load("seed")
RULES = {
    "seed": {"read_offset_limit": 5},
    "narrow": {"read_offset_limit": 1},
    "realistic": {"min_read_distance": 30},
    "both": {"read_offset_limit": 6, "min_read_distance": 3},
    "small blocks": {"read_offset_limit": 5, "pages": 7},
    "one page": {"pages": 1},
    "erased": {"initial_state": "erased"},
}


def draw(name: str, profile: Profile = SEED, count: int = 300, seq_len: int = 60, streams: int = 1, **settings):
    source = Source(profile, {name: 1.0}, seq_len, settings.pop("num_blocks", 3), streams, **settings)
    keys = np.random.default_rng(0).integers(0, 2**64, count, np.uint64)
    return source.draw(keys, np.full(count, NAMES.index(name)))


def trace(drawn, n: int) -> Ops:
    zero = np.zeros(drawn.op.shape[1], int)
    return Ops(drawn.op[n], zero, zero, drawn.block[n], drawn.page[n])


def rows(drawn, n: int = 0) -> list[tuple[int, int, int]]:
    return list(zip(drawn.op[n].tolist(), drawn.block[n].tolist(), drawn.page[n].tolist()))


def shares(drawn) -> dict[Op, float]:
    return {op: float((drawn.op == op).mean()) for op in Op}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_every_scenario_is_legal_for_the_reference_under_any_read_rule(name, rules):
    profile = Profile.load(RULES[rules])
    for streams in (1, 3):
        drawn = draw(name, profile, 12, 80, streams, num_blocks=5)
        for n in range(12):
            assert not any(verdict.mask for verdict in reference.check(trace(drawn, n), profile))


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_programmed_in_order_after_an_erase(name):
    drawn = draw(name, count=50)
    for n in range(50):
        last = {}
        for op, block, page in rows(drawn, n):
            if op == Op.ERASE:
                last[block] = -1
            elif op == Op.PROGRAM:
                assert page == last[block] + 1
                last[block] = page


def test_sequential_writes_finish_a_block_before_the_next_and_verify_the_page_just_written():
    drawn = draw("seq_write")
    for n in range(300):
        commands = rows(drawn, n)
        blocks = [block for op, block, _ in commands if op == Op.ERASE]
        assert [b % 3 for b in range(len(blocks))] == blocks
        for (op, block, page), (next_op, next_block, next_page) in itertools.pairwise(commands):
            if next_op == Op.READ:
                assert (op, block, page) == (Op.PROGRAM, next_block, next_page)
            if op == Op.ERASE:
                assert (next_op, next_block, next_page) == (Op.PROGRAM, block, 0)
    assert shares(drawn)[Op.READ] / shares(drawn)[Op.PROGRAM] == pytest.approx(0.3, abs=0.02)


def test_garbage_collection_reads_a_page_programs_it_elsewhere_and_erases_the_victim():
    drawn = draw("gc_loop", num_blocks=2, seq_len=120)
    erased_with_pages = 0
    for n in range(300):
        commands = rows(drawn, n)
        for (op, block, _), (next_op, next_block, _) in itertools.pairwise(commands):
            if op == Op.READ:
                assert (next_op, next_block) == (Op.PROGRAM, 1 - block)
        traits = drawn.traits[n]
        erased_with_pages += bool(traits & RE_ERASE)
    assert erased_with_pages > 150


@pytest.mark.slow
def test_the_copyback_variant_moves_the_same_pages_inside_the_device_and_within_a_plane():
    mixture, parameters = {"gc_loop": 1.0}, (GcLoop(copyback=True),)
    plain = draw("gc_loop")
    moved = draw("gc_loop", parameters=parameters)
    np.testing.assert_array_equal(plain.page, moved.page)
    assert (moved.op == Op.COPYBACK_READ).sum() == (plain.op == Op.READ).sum() > 0
    strict = SEED.replace(copyback="plane")
    made = make_sequences(20, "seed", mixture, {"valid": 1}, parameters=parameters)
    for n in range(20):
        assert not any(verdict.mask for verdict in reference.check(made.trace(n), strict))


def test_the_first_of_the_hot_blocks_gets_its_zipf_share_and_short_cycles():
    drawn = draw("hot_block", num_blocks=4, seq_len=100)
    weights = np.arange(1, 5) ** -1.2
    found = np.bincount(drawn.block.ravel(), minlength=4) / drawn.block.size
    np.testing.assert_allclose(found, weights / weights.sum(), atol=0.01)
    assert drawn.page.max() <= 13
    assert (drawn.traits & RE_ERASE > 0).mean() > 0.9


def test_random_reads_come_after_the_writes_and_reach_every_page_where_no_rule_limits_them():
    drawn = draw("random_read", SEED.replace(read_offset_limit=0), seq_len=200)
    for n in range(300):
        kinds = drawn.op[n]
        first = int((kinds == Op.READ).argmax())
        assert (kinds[first:] == Op.READ).all()
        written = {(block, page) for op, block, page in rows(drawn, n)[:first] if op == Op.PROGRAM}
        assert {(block, page) for _, block, page in rows(drawn, n)[first:]} <= written
    ages = drawn.page[drawn.op == Op.READ]
    assert np.bincount(ages)[:5].min() > 0.09 * len(ages)  # blocks hold 5 to 11 pages; each is equally likely


def test_mixed_reads_in_seven_of_ten_commands_that_could_be_one():
    found = shares(draw("mixed", seq_len=400))
    assert found[Op.READ] / (found[Op.READ] + found[Op.PROGRAM]) == pytest.approx(0.7, abs=0.03)
    assert 0.02 < found[Op.ERASE] < 0.06


def test_read_verify_reads_back_a_burst_in_order():
    drawn = draw("read_verify")
    for n in range(300):
        commands = rows(drawn, n)
        burst = []
        for op, block, page in commands:
            if op == Op.READ:
                assert (block, page) in burst
                burst = burst[burst.index((block, page)) + 1 :]
            elif op == Op.PROGRAM:
                burst.append((block, page))
    assert 0.8 < shares(drawn)[Op.READ] / shares(drawn)[Op.PROGRAM] < 0.95


def test_wear_levelling_moves_the_cold_block_in_page_order_into_a_block_that_was_erased_more_often():
    drawn = draw("wear_level", num_blocks=2, seq_len=200)
    moves = 0
    for n in range(300):
        erases = [0, 0]
        commands = rows(drawn, n)
        for (op, block, page), (next_op, next_block, _), (third, third_block, third_page) in zip(
            commands, commands[1:], commands[2:]
        ):
            erases[block] += op == Op.ERASE
            if (op, next_op, third) == (Op.READ, Op.PROGRAM, Op.READ) and block == third_block != next_block:
                assert third_page == page + 1
                assert erases[next_block] >= 2
                moves += 1
    assert moves > 300


def test_the_older_generator_erases_all_first_and_then_flips_a_coin():
    drawn = draw("compat")
    assert (drawn.op[:, :3] == Op.ERASE).all()
    assert (drawn.op[:, 3:] != Op.ERASE).all()
    assert (np.sort(drawn.block[:, :3]) == [0, 1, 2]).all()
    assert shares(drawn)[Op.READ] == pytest.approx(0.5 * 57 / 60 - 1.5 / 60, abs=0.02)


def test_suspended_programs_are_resumed_after_reads_of_another_block():
    drawn = draw("idle_resume", count=100)
    for n in range(100):
        suspended = None
        for (op, block, _page), (next_op, next_block, _) in zip(rows(drawn, n), rows(drawn, n)[1:]):
            if next_op == Op.SUSPEND:
                assert (op, block) == (Op.PROGRAM, next_block)
                suspended = block
            elif suspended is not None:
                assert next_op == Op.RESUME if next_block == suspended else next_op == Op.READ
                suspended = None if next_op == Op.RESUME else suspended
    found = shares(drawn)
    assert found[Op.SUSPEND] / found[Op.PROGRAM] == pytest.approx(0.4, abs=0.03)


@pytest.mark.slow
def test_suspends_and_all_else_are_legal_in_time_under_every_rule_of_a_full_device():
    full = Profile.load("generic_mlc")
    assert {"busy", "suspend", "word_line_order", "cache"} <= {
        key for key in EXTENDED if getattr(full, key) != getattr(Profile, key)
    }
    mixture = dict.fromkeys(NAMES, 1.0)
    made = make_sequences(60, full.base, mixture, {"valid": 1}, hard_share=0.0, max_streams=1)
    assert (made.op == Op.SUSPEND).any()
    for n in range(60):
        assert not any(verdict.mask for verdict in reference.check(made.trace(n), full))


def test_streams_share_the_blocks_without_meeting_and_the_larger_part_goes_to_the_first():
    source = Source(SEED, {"seq_write": 1.0}, 200, 5, 2)
    drawn = source.draw(np.arange(200, dtype=np.uint64), np.zeros(200, np.int64))
    assert set(drawn.streams.tolist()) == {1, 2}
    two = np.flatnonzero(drawn.streams == 2)
    for n in two:
        first = [block for op, block, _ in rows(drawn, n) if op == Op.ERASE and block < 3]
        second = [block for op, block, _ in rows(drawn, n) if op == Op.ERASE and block >= 3]
        assert first == [b % 3 for b in range(len(first))]
        assert second == [3 + b % 2 for b in range(len(second))]


def test_traits_say_what_the_commands_show():
    source = Source(SEED, {"hot_block": 1.0}, 60, 3, 2)
    drawn = source.draw(np.arange(200, dtype=np.uint64), np.full(200, NAMES.index("hot_block")))
    for n in range(200):
        last, cycled, written, found = {}, set(), None, 0
        for op, block, page in rows(drawn, n):
            if op == Op.ERASE:
                cycled = cycled | {block} if last.get(block, -1) >= 0 else cycled - {block}
                last[block] = -1
            elif op == Op.PROGRAM:
                found |= RE_ERASE if page == 0 and block in cycled else 0
                found |= INTERLEAVED if page > 0 and written != block else 0
                last[block], written = page, block
            elif last[block] - page == 4:
                found |= EDGE_READ
        assert drawn.traits[n] == found
    assert np.bitwise_or.reduce(drawn.traits) == sum(TRAITS.values())


def test_late_blocks_begin_written_and_never_fill():
    drawn = draw("seq_write", start_page=1000)
    assert drawn.start.min() >= 1000
    assert drawn.start.max() <= SEED.pages - 120
    assert (draw("seq_write").start == UNKNOWN).all()
    first = drawn.block[:, 0]
    assert (drawn.op[:, 0] == Op.PROGRAM).all()
    np.testing.assert_array_equal(drawn.page[:, 0], drawn.start[np.arange(300), first] + 1)


def test_parameters_replace_the_defaults():
    drawn = draw("seq_write", parameters=(SeqWrite(least=2, most=2, verify=0.0),))
    assert set(drawn.page.ravel().tolist()) == {0, 1}
    assert not (drawn.op == Op.READ).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mixture": {"seq_wriet": 1.0}}, "Did you mean seq_write"),
        ({"mixture": {"gc_loop": 1.0}, "num_blocks": 1}, "gc_loop needs 2 blocks"),
        ({"mixture": {"compat": 0.0}}, "one of them above 0"),
        ({"mixture": {"compat": float("nan")}}, "one of them above 0"),
        ({"mixture": {}}, "one of them above 0"),
        ({"num_blocks": 65}, "num_blocks=65"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"seq_len": 1}, "seq_len=1"),
        ({"max_streams": 0}, "max_streams=0"),
        ({"start_page": 2500}, "at most 2464"),
        ({"profile": Profile.load("generic_slc")}, "base rules only"),
    ],
)
def test_a_source_that_cannot_be_is_refused_in_one_line(change, words):
    settings = {"profile": SEED, "mixture": {"compat": 1.0}, "seq_len": 50, "num_blocks": 3} | change
    with pytest.raises(UserError, match=words) as error:
        Source(**settings)
    assert "\n" not in str(error.value)

"""Each corruption leaves exactly one bad command, at the place and of the rule that it names."""

import numpy as np
import pytest

from nandseq import corruption, reference
from nandseq.codes import Op, Rule
from nandseq.corruption import NAMES, STRATEGIES, corrupt
from nandseq.machines import Drawn
from nandseq.profiles import Profile
from nandseq.scenarios import KINDS, SeqWrite
from nandseq.simulator import Sequences, make_sequences

SEED = Profile.load("seed")
SMALL = SEED.replace(pages=40)
PROFILES = {
    "seed": SEED,
    "realistic": Profile.load("realistic"),
    "both": SEED.replace(min_read_distance=2),
    "small blocks": SMALL,
    "ignore": SEED.replace(on_violation="ignore"),
}
ERASE, PROGRAM, READ = Op.ERASE, Op.PROGRAM, Op.READ
FOUR = [(ERASE, 0, 0), (PROGRAM, 0, 0), (PROGRAM, 0, 1), (READ, 0, 0), (PROGRAM, 0, 2), (READ, 0, 1)]


def made(strategy: str, profile: Profile = SEED, count: int = 200, **settings) -> Sequences:
    return make_sequences(count, profile, class_shares={strategy: 1.0}, **settings)


def bad_commands(sequences: Sequences, n: int, profile: Profile) -> dict[int, Rule]:
    """By the plain-Python reference."""
    verdicts = reference.check(sequences.trace(n), profile)
    return {i: min(verdict.rules) for i, verdict in enumerate(verdicts) if verdict.rules}


def one(commands: list[tuple[int, int, int]], num_blocks: int = 2) -> Drawn:
    op, block, page = (np.array([column]) for column in zip(*commands))
    start = np.full((1, num_blocks), -2, np.int32)
    types = np.int8, np.int32, np.int32
    columns = (column.astype(kind) for column, kind in zip((op, block, page), types))
    return Drawn(*columns, start, np.ones(1, np.int8), np.zeros(1, np.uint8))


def outcomes(commands, strategy: str, hard: bool, profile: Profile = SEED, repair: bool = True, hop_max: int = 3):
    """Pages after the corruption, by target, over many random numbers."""
    found = {}
    for key in range(200):
        drawn = one(commands)
        number = np.array([NAMES.index(strategy)])
        keys = np.array([key], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        result = corrupt(drawn, number, np.array([hard]), keys, profile, hop_max, repair)
        found.setdefault(int(result.target[0]), set()).add(tuple(drawn.page[0].tolist()))
    return found


def test_a_hop_moves_what_follows_in_the_block_along_and_reads_of_skipped_pages_to_the_one_programmed():
    assert outcomes(FOUR, "page_hop", hard=True) == {
        1: {(0, 1, 2, 1, 3, 2)},
        2: {(0, 0, 2, 2, 3, 2)},
        4: {(0, 0, 1, 0, 3, 3)},
    }


def test_a_hop_that_is_not_hard_skips_two_pages_or_more_up_to_the_most():
    assert outcomes(FOUR, "page_hop", hard=False)[4] == {(0, 0, 1, 0, 4, 4), (0, 0, 1, 0, 5, 5)}


def test_without_repair_only_the_bad_command_changes():
    assert outcomes(FOUR, "page_hop", hard=True, repair=False)[2] == {(0, 0, 2, 0, 2, 1)}


def test_a_second_program_takes_the_newest_page_if_hard_and_draws_back_what_follows():
    assert outcomes(FOUR, "reprogram", hard=True)[2] == {(0, 0, 0, 0, 1, 0)}
    assert outcomes(FOUR, "reprogram", hard=False) == {4: {(0, 0, 1, 0, 0, 0)}}


def test_an_unwritten_read_is_of_the_page_after_the_newest_if_hard_else_anywhere_beyond():
    assert outcomes(FOUR, "read_unwritten", hard=True) == {3: {(0, 0, 1, 2, 2, 1)}, 5: {(0, 0, 1, 0, 2, 3)}}
    pages = {pages[3] for pages in outcomes(FOUR, "read_unwritten", hard=False)[3]}
    assert min(pages) == 3
    assert 500 < max(pages) < SEED.pages


def test_a_stale_read_has_an_age_of_the_limit_if_hard_else_up_to_three_more():
    commands = [(ERASE, 0, 0), *((PROGRAM, 0, page) for page in range(12)), (READ, 0, 11)]
    assert {pages[-1] for pages in outcomes(commands, "stale_read", hard=True)[13]} == {6}
    assert {pages[-1] for pages in outcomes(commands, "stale_read", hard=False)[13]} == {3, 4, 5}


def test_the_offset_ends_at_the_end_of_the_block():
    profile = SEED.replace(pages=4)
    assert outcomes(FOUR, "read_unwritten", hard=False, profile=profile) == {3: {(0, 0, 1, 3, 2, 1)}}
    assert set(outcomes(FOUR, "page_hop", hard=False, profile=profile)) == {1, 2}


def test_what_fits_no_command_is_left_as_it_is():
    assert outcomes(FOUR, "stale_read", hard=True) == {-1: {(0, 0, 1, 0, 2, 1)}}


def test_a_missing_erase_becomes_a_read_of_another_block():
    commands = [(ERASE, 0, 0), (PROGRAM, 0, 0), (ERASE, 1, 0), (PROGRAM, 1, 0), (READ, 1, 0)]
    keys = np.array([3], np.uint64)
    targets = set()
    for key in range(50):
        drawn = one(commands)
        result = corrupt(drawn, np.array([5]), np.array([False]), keys + np.uint64(key), SEED, 3, True)
        targets.add(int(result.target[0]))
        if result.target[0] == 3:
            assert (drawn.op[0, 2], drawn.block[0, 2], drawn.page[0, 2]) == (READ, 0, 0)
    assert targets == {-1, 3}  # nothing is readable in place of the first erase


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_reference_finds_one_bad_command_at_the_named_place_and_rule(strategy, name):
    profile = PROFILES[name]
    if strategy == "stale_read" and not profile.read_offset_limit:
        pytest.skip("the profile has no stale reads")
    # blocks long enough for a page 30 behind the newest one
    long = {"mixture": {"seq_write": 1.0}, "parameters": (SeqWrite(least=40, most=60),), "hard_share": 0.0}
    settings = long if (strategy, name) == ("no_erase", "realistic") else {}
    sequences = made(strategy, profile, 30, seq_len=150, **settings)
    for n in range(30):
        bad = bad_commands(sequences, n, profile)
        first = int(sequences.bad_index[n])
        assert min(bad) == first
        assert bad[first] == sequences.rule[n] == STRATEGIES[strategy]
        assert strategy == "no_erase" or len(bad) == 1
        assert {i: int(code) for i, code in enumerate(sequences.codes[n]) if code} == bad


@pytest.mark.parametrize("scenario", KINDS)
def test_every_scenario_takes_every_corruption_and_stays_legal_without_one(scenario):
    names = [name for name in NAMES if not (scenario == "random_read" and name == "stale_read")]
    sequences = make_sequences(
        6 * len(names), "seed", {scenario: 1.0}, dict.fromkeys(names, 1.0), seq_len=80, num_blocks=3, hard_share=0.0
    )
    for n in range(len(sequences)):
        bad = bad_commands(sequences, n, SEED)
        strategy = sequences.names[sequences.label[n]]
        assert len(bad) == (0 if strategy == "valid" else 1) or (strategy == "no_erase" and len(bad) > 1)
        assert all(rule == STRATEGIES.get(strategy) for rule in list(bad.values())[:1])


@pytest.mark.parametrize("strategy", ["page_hop", "reprogram"])
def test_without_repair_the_first_bad_command_is_still_the_named_one(strategy):
    sequences = made(strategy, count=60, repair=False)
    counts = []
    for n in range(60):
        bad = bad_commands(sequences, n, SEED)
        assert min(bad) == sequences.bad_index[n]
        assert bad[min(bad)] == STRATEGIES[strategy]
        counts.append(len(bad))
    assert max(counts) > 1


@pytest.mark.parametrize("strategy", ["page_hop", "read_unwritten", "stale_read", "reprogram"])
def test_hard_faults_are_one_page_off_and_all_others_more(strategy):
    sequences = made(strategy)
    assert (sequences.offset[sequences.hard] == 1).all()
    assert (sequences.offset[~sequences.hard] > 1).all()


def test_half_of_the_unwritten_reads_are_near_and_the_rest_spreads_evenly_over_orders_of_magnitude():
    offset = made("read_unwritten", count=3000).offset
    assert (offset <= 3).mean() == pytest.approx(0.5, abs=0.03)
    far = offset[offset > 3]
    assert 0.35 < (far < 100).mean() < 0.65  # the geometric middle of 4 … 2560 is 101
    assert far.max() > 2000


def test_confirm_wants_the_target_first_the_right_rule_and_nothing_else():
    codes = np.zeros((6, 4), np.uint8)
    codes[1, 2] = codes[2, 1] = codes[4, 2] = codes[4, 3] = codes[5, 2] = Rule.PAGE_ORDER
    codes[3, 2] = Rule.REPROGRAM
    strategy = np.array([0, 1, 1, 1, 1, 0])
    result = corruption.Corruption(np.full(6, 2), np.zeros(6))
    assert corruption.confirm(result, strategy, codes, True).tolist() == [True, True, False, False, False, False]
    assert corruption.confirm(result, strategy, codes, False).tolist() == [True, True, False, False, True, False]


def test_the_older_page_hops_are_legal_in_about_three_of_ten_and_the_names_lie():
    sequences = make_sequences(6000, "compat")
    share = {}
    for number, name in enumerate(sequences.names[1:], 1):
        mine = sequences.label == number
        share[name] = float((sequences.bad_index[mine] < 0).mean())
    assert share["page_hop"] == pytest.approx(0.307, abs=0.04)  # 401 of 1306, nandseq specification, section 4
    assert share["read_unwritten"] < 0.003  # a program whose random page is the next one by luck
    assert share["stale_read"] == 0
    # the coin that chose the command knew nothing of the fault; one in 16 had to be a program, its block being empty
    for name, stated in {"read_unwritten": 0.53, "stale_read": 0.5}.items():
        mine = sequences.label == sequences.names.index(name)
        first = sequences.op[mine, sequences.bad_index[mine]]
        assert (first == Op.PROGRAM).mean() == pytest.approx(stated, abs=0.06)


def test_older_labels_are_judged_by_the_reference_as_well():
    profile = Profile.load("compat")
    sequences = make_sequences(150, profile)
    for n in range(150):
        bad = bad_commands(sequences, n, profile)
        assert min(bad, default=-1) == sequences.bad_index[n]
        assert sequences.label[n] > 0 or not bad

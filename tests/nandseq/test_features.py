from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from nandseq.codes import Op
from nandseq.features import (
    CLIP,
    EXACT_PAGES,
    MAKERS,
    NUM_DELTAS,
    NUM_PAGES,
    block_order,
    compute_features,
    leak,
)
from nandseq.profiles import Profile
from nandseq.simulator import make_sequences

SEED = Profile.load("seed")
E, P, R = Op.ERASE, Op.PROGRAM, Op.READ
# two blocks, interleaved: block 0 is erased, written twice and read; block 1 is erased and written
ROWS = [(E, 0, 0), (E, 1, 0), (P, 0, 0), (P, 1, 0), (P, 0, 1), (R, 0, 1), (R, 0, 0), (P, 1, 2)]


def commands(rows=ROWS, times=None, initial_last=None, repeat=1):
    """`repeat` equal sequences of (op, slot, page) rows."""
    op, slot, page = (np.array([column] * repeat) for column in zip(*rows))
    zero = np.zeros_like(op)
    t_ns = None if times is None else np.array([times] * repeat)
    return SimpleNamespace(
        op=op, slot=slot, page=page, die=zero, plane=zero, block=slot, t_ns=t_ns, initial_last=initial_last
    )


def column(features, name):
    number = features.names.index(name)
    if number < len(features.sizes):
        return features.categories[0, :, number].tolist()
    return features.numbers[0, :, number - len(features.sizes)].tolist()


def test_grouping_by_block_keeps_the_order_in_time_and_can_be_undone():
    slot = np.array([[0, 1, 0, 2, 1, 0]])
    order = block_order(slot)
    assert order.tolist() == [[0, 2, 5, 1, 4, 3]]
    there, back = np.take_along_axis(slot, order, 1), np.empty_like(slot)
    np.put_along_axis(back, order, there, 1)
    assert (back == slot).all()


def test_page_steps_are_taken_within_a_block_with_an_erase_at_minus_one():
    features = compute_features(commands(), ["delta"], SEED)
    first = NUM_DELTAS - CLIP
    assert [step - CLIP for step in column(features, "page_step")] == [first, first, 1, 1, 1, 0, -1, 2]


def test_an_erase_in_between_starts_the_count_of_pages_anew():
    rows = [(E, 0, 0), (P, 0, 0), (P, 0, 1), (E, 0, 0), (P, 0, 0)]
    assert [step - CLIP for step in column(compute_features(commands(rows), ["delta"], SEED), "page_step")][1:] == [
        1, 1, -2, 1,
    ]  # fmt: skip


def test_gaps_within_a_block_are_told_by_powers_of_two():
    assert column(compute_features(commands(), ["delta"], SEED), "ops_since") == [0, 0, 2, 2, 2, 1, 1, 3]


def test_times_are_told_by_powers_of_two_from_one_command_to_the_next():
    times = [0, 0, 1, 3, 7, 1007, 1007, 1008]
    assert column(compute_features(commands(times=times), ["delta"], SEED), "time_step") == [0, 0, 1, 2, 3, 10, 0, 1]


def test_pages_are_exact_near_the_start_of_a_block_and_coarse_beyond():
    pages = [0, EXACT_PAGES - 1, EXACT_PAGES, 2 * EXACT_PAGES - 1, 2 * EXACT_PAGES, 2563]
    ids = column(compute_features(commands([(P, 0, page) for page in pages]), ["abs"], SEED), "page_id")
    assert ids == [0, 127, 128, 128, 129, 132]
    assert max(ids) < NUM_PAGES


def test_the_state_before_each_command_is_told():
    features = compute_features(commands(), ["state"], SEED)
    assert [ahead - CLIP for ahead in column(features, "page_ahead")] == [0, 0, 1, 1, 1, 0, -1, 2]
    assert column(features, "known") == [0, 0, 1, 1, 1, 1, 1, 1]
    assert np.expm1(4 * np.array(column(features, "programs"))).round().tolist() == [0, 0, 0, 0, 1, 2, 2, 1]
    assert np.expm1(4 * np.array(column(features, "reads"))).round().tolist() == [0, 0, 0, 0, 0, 0, 1, 0]
    assert np.expm1(4 * np.array(column(features, "erases"))).round().tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_a_block_that_holds_pages_from_the_start_is_known():
    features = compute_features(commands([(P, 0, 1001)], initial_last=np.array([[1000]])), ["state"], SEED)
    assert (column(features, "page_ahead"), column(features, "known")) == ([CLIP + 1], [1])


def test_the_first_models_bits_hold_the_verdict():
    features = compute_features(commands(), ["oracle"], SEED)
    assert features.names[-4:] == ["block_is_erased", "page_is_written", "is_next_page", "is_read_in_window"]
    bits = features.numbers[0, :, -4:].astype(int).tolist()
    assert bits == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0],
                    [0, 0, 1, 0], [0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]  # fmt: skip


def test_the_verdict_follows_from_oracle_and_state_features_of_simulated_sequences():
    sequences = make_sequences(400, SEED)
    features = compute_features(sequences, ["oracle"], SEED)
    bits = features.numbers[..., -4:] > 0
    legal = (sequences.op == E) | ((sequences.op == P) & bits[..., 2]) | bits[..., 3]
    assert (legal == (sequences.codes == 0)).all()


@pytest.mark.parametrize("sets", [["abs"], ["delta"], ["raw"]])
def test_sets_said_to_leak_nothing_do_not_depend_on_the_rules(sets):
    sequences, other = make_sequences(64, SEED), SEED.replace(read_offset_limit=2, initial_state="erased")
    one, two = (compute_features(sequences, sets, profile) for profile in (SEED, other))
    assert (one.categories == two.categories).all()
    assert (one.numbers == two.numbers).all()
    assert leak(sets) == "nothing"


def test_what_is_given_away_is_the_most_of_all_sets():
    assert leak(["delta", "state"]) == "block state"
    assert leak(["oracle", "delta"]) == "verdict"


@pytest.mark.parametrize("stream", ["train", "wide"])
def test_categories_stay_below_their_sizes_and_columns_come_once(stream):
    sequences = make_sequences(200, SEED, stream=stream, num_blocks=3 if stream == "train" else 24)
    features = compute_features(sequences, list(MAKERS), SEED)
    assert len(set(features.names)) == len(features.names) == len(features.sizes) + features.numbers.shape[-1]
    assert (features.categories >= 0).all()
    assert (features.categories < np.array(features.sizes)).all()
    assert np.abs(features.numbers).max() <= 1.1


def test_features_of_a_sequence_do_not_depend_on_its_neighbours():
    sequences = make_sequences(50, SEED)
    whole = compute_features(sequences, ["delta", "state"], SEED)
    part = compute_features(sequences[10:20], ["delta", "state"], SEED)
    assert (whole.categories[10:20] == part.categories).all()
    assert (whole.numbers[10:20] == part.numbers).all()


def test_features_know_the_past_only():
    long, short = commands(), commands(ROWS[:5])
    for name in MAKERS:
        whole, part = (compute_features(each, [name], SEED) for each in (long, short))
        assert (whole.categories[:, :5] == part.categories).all()
        assert (whole.numbers[:, :5] == part.numbers).all()


@pytest.mark.parametrize("sets", [[], ["detla"]])
def test_an_unknown_set_is_told(sets):
    with pytest.raises(UserError, match="raw, abs, delta, state, oracle"):
        compute_features(commands(), sets, SEED)


@pytest.mark.parametrize("op", [Op.SUSPEND, -1])
def test_commands_beyond_the_base_rules_are_refused(op):
    with pytest.raises(UserError, match=f"op {int(op)} is none of"):
        compute_features(commands([(E, 0, 0), (op, 0, 0)]), ["abs"], SEED)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ChecksFailed, UserError
from kfashion.split import assign_splits, check_splits, group_images, load_splits, near_pairs, save_splits

hashes = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30)
flips = st.lists(st.integers(0, 63), max_size=6, unique=True)


@given(hashes, st.lists(st.tuples(st.integers(0, 29), flips), max_size=20))
def test_all_near_pairs_are_found_and_no_others(base, near):
    for number, bits in near:
        base.append(base[number % len(base)] ^ sum(1 << bit for bit in bits))
    values = np.unique(np.array(base, np.uint64))
    found = {tuple(sorted(pair)) for one, other in near_pairs(values) for pair in zip(one.tolist(), other.tolist())}
    distance = np.bitwise_count(values[:, None] ^ values)
    assert found == {tuple(pair) for pair in np.argwhere(distance <= 4).tolist() if pair[0] < pair[1]}


def test_four_bits_are_near_and_five_are_not():
    far = group_images(np.array([0, 0b1111, 0b11111_0000], np.uint64), [])
    assert far[0] == far[1]
    assert far[2] != far[0]


def test_images_of_one_look_are_one_group_and_links_are_passed_on():
    perceptual = np.array([1, 2**20 - 1, 2**40 - 1, 2**60 - 1, 2**60 - 1], np.uint64)
    group = group_images(perceptual, [["A", "A", None, None, None], [None, "x", "x", None, None]])
    assert group[0] == group[1] == group[2]
    assert group[3] == group[4] != group[0]


def test_images_without_look_are_not_one_group():
    assert len(set(group_images(np.array([0, 2**32 - 1], np.uint64), [[None, None]]))) == 2


def test_the_shares_are_met_in_every_category():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 700, 3000)
    category = np.array(["a", "b", "c"])[group % 3 * (group % 2)]
    split = assign_splits(group, category, (0.8, 0.1, 0.1), 0)
    for name in "abc":
        shares = np.bincount(split[category == name], minlength=3) / (category == name).sum()
        np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.02)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(0, 5))
def test_groups_stay_whole_whatever_they_are(group, seed):
    split = assign_splits(np.array(group), ["x"] * len(group), (0.8, 0.2, 0.0), seed)
    check_splits(np.array(group), split)
    assert not (split == 2).any()


def test_the_split_is_that_of_its_seed():
    group = np.arange(100)
    one, again, other = (assign_splits(group, ["x"] * 100, (0.8, 0.1, 0.1), seed) for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()
    assert np.bincount(one).tolist() == [80, 10, 10]


def test_a_group_in_two_splits_fails_the_check():
    with pytest.raises(ChecksFailed, match="1 of 2 groups"):
        check_splits(np.array([0, 0, 1]), np.array([0, 1, 1]))


def test_saved_splits_are_read_again_in_any_order(tmp_path):
    item_id, split = np.array(["a", "b", "c"]), np.array([0, 2, 1], np.int8)
    save_splits(tmp_path / "splits.json", item_id, split, {"seed": 0})
    assert load_splits(tmp_path / "splits.json", item_id[::-1]).tolist() == [1, 2, 0]


def test_a_garment_in_no_split_is_told(tmp_path):
    save_splits(tmp_path / "splits.json", np.array(["a"]), np.array([0]), {})
    with pytest.raises(UserError, match="example b"):
        load_splits(tmp_path / "splits.json", np.array(["a", "b"]))

from itertools import product

import numpy as np
import pytest

from redheart.surd import discretise, information_bias, joint_counts, specific_information, surd


def joint_of(function, num_sources=2):
    """Joint distribution of T = function(bits) for independent fair bits."""
    values = {bits: function(*bits) for bits in product((0, 1), repeat=num_sources)}
    states = sorted(set(values.values()))
    joint = np.zeros((len(states), *[2] * num_sources))
    for bits, value in values.items():
        joint[(states.index(value), *bits)] = 0.5**num_sources
    return joint


RED = np.array([[[0.5, 0], [0, 0]], [[0, 0], [0, 0.5]]])
NOISY_COPY = np.array([[[0.225, 0.225], [0.025, 0.025]], [[0.025, 0.025], [0.225, 0.225]]])
INDEPENDENT = np.full((2, 2, 2), 0.125)
# fmt: off
KNOWN = {  # redheart specification, section 3.1: R12, U1, U2, S12, I, leak
    "xor": (joint_of(lambda a, b: a ^ b), (0, 0, 0, 1, 1, 0)),
    "copy": (joint_of(lambda a, b: a), (0, 1, 0, 0, 1, 0)),
    "red": (RED, (1, 0, 0, 0, 1, 0)),
    "and": (joint_of(lambda a, b: a & b), (0.311278, 0, 0, 0.5, 0.811278, 0)),
    "or": (joint_of(lambda a, b: a | b), (0.311278, 0, 0, 0.5, 0.811278, 0)),
    "sum": (joint_of(lambda a, b: a + b), (0.5, 0, 0, 1, 1.5, 0)),
    "two-bit copy": (joint_of(lambda a, b: (a, b)), (1, 0, 0, 1, 2, 0)),
    "noisy copy": (NOISY_COPY, (0, 0.531004, 0, 0, 0.531004, 0.468996)),
    "independent": (INDEPENDENT, (0, 0, 0, 0, 0, 1)),
}
# fmt: on


@pytest.mark.parametrize("name", KNOWN)
def test_known_joints_have_their_known_decomposition(name):
    joint, expected = KNOWN[name]
    parts = surd(joint)
    found = (parts.redundant[1, 2], *parts.unique.values(), parts.synergistic[1, 2], parts.information, parts.leak)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_three_way_xor_is_all_synergy_of_the_three():
    parts = surd(joint_of(lambda a, b, c: a ^ b ^ c, 3))
    assert parts.synergistic.pop((1, 2, 3)) == pytest.approx(1)
    rest = [*parts.redundant.values(), *parts.unique.values(), *parts.synergistic.values()]
    np.testing.assert_allclose(rest, 0, atol=1e-12)


def test_two_noisy_copies_together_are_not_synergistic_beside_the_source_itself():
    # T = q1; q2 and q3 copy it with one flip in ten each: together they tell more than one of them, but less than q1
    flip = np.array([[0.9, 0.1], [0.1, 0.9]])
    joint = np.einsum("tq,qa,qb->tqab", np.eye(2) / 2, flip, flip)
    parts = surd(joint)
    assert parts.redundant[1, 2, 3] == pytest.approx(0.531004, abs=1e-6)
    assert parts.unique[1,] == pytest.approx(0.468996, abs=1e-6)
    np.testing.assert_allclose(list(parts.synergistic.values()), 0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_parts_of_any_joint_are_not_negative_and_sum_to_the_information(seed):
    joint = np.random.default_rng(seed).random((3, 2, 3, 2)) ** 3
    parts = surd(joint)
    p = joint / joint.sum()
    target, sources = p.sum((1, 2, 3)), p.sum(0)
    information = np.sum(p * np.log2(p / (target[:, None, None, None] * sources)))
    values = np.array([*parts.redundant.values(), *parts.unique.values(), *parts.synergistic.values()])
    assert (values > -1e-12).all()
    assert values.sum() == pytest.approx(information)
    assert parts.information == pytest.approx(information)
    assert parts.leak == pytest.approx(1 + information / np.sum(target * np.log2(target)))
    assert parts.shares().sum() == pytest.approx(1)


def test_swapping_the_sources_swaps_what_is_unique():
    joint = np.random.default_rng(1).random((2, 3, 3))
    one, other = surd(joint), surd(joint.swapaxes(1, 2))
    assert one.unique[1,] == pytest.approx(other.unique[2,])
    assert one.redundant == pytest.approx(other.redundant)


def test_a_tie_between_a_source_and_the_pair_leaves_the_source_its_information():
    # rounding makes the pair's value differ from the source's in the last digit
    joint = np.array([0.3, 0.7])[None, :, None] * np.array([0.1, 0.2, 0.7])
    joint = np.concatenate([joint * np.array([0.9, 0.2])[None, :, None], joint * np.array([0.1, 0.8])[None, :, None]])
    parts = surd(joint)
    assert parts.synergistic[1, 2] == pytest.approx(0, abs=1e-12)
    assert parts.unique[1,] == pytest.approx(parts.information)


def test_specific_information_is_a_divergence_worked_out_by_hand():
    # p(a | t = 0) = (1, 0), p(a) = (3/4, 1/4): log2(4/3) bits
    joint = np.array([[0.5, 0.0], [0.25, 0.25]])
    expected = [np.log2(4 / 3), 0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)]
    np.testing.assert_allclose(specific_information(joint, (1,)), expected)


def test_a_target_that_never_varies_is_degenerate_without_leak():
    parts = surd([[[0.25, 0.25], [0.25, 0.25]]])
    assert parts.degenerate
    assert parts.leak == 0
    np.testing.assert_array_equal(parts.shares(), np.zeros(4))


def test_the_callers_array_is_left_as_it_is_and_counts_do_as_well_as_probabilities():
    counts = np.array([[[3, 0], [1, 2]], [[0, 4], [2, 1]]])
    before = counts.copy()
    assert surd(counts) == surd(counts / counts.sum())
    np.testing.assert_array_equal(counts, before)


@pytest.mark.parametrize("joint", [[0.5, 0.5], [[-0.1, 1.1]], [[np.nan, 1.0]], [[0.0, 0.0]]])
def test_what_is_no_joint_distribution_is_refused(joint):
    with pytest.raises(ValueError, match="joint"):
        surd(joint)


@pytest.mark.parametrize(("n", "bits"), [(50, 0.049), (200, 0.011), (1000, 0.0023)])
def test_independent_variables_seem_informative_by_the_predicted_bias(n, bits):
    rng = np.random.default_rng(0)
    bags = [joint_counts(rng.integers(2, size=(n, 3)), (2, 2, 2)) for _ in range(200)]
    mean = np.mean([surd(bag).information for bag in bags])
    assert mean == pytest.approx(bits, rel=0.25)
    assert information_bias(bags[0]) == pytest.approx(mean, rel=0.25)


def test_observations_are_counted_by_state():
    counts = joint_counts([[0, 1, 2], [0, 1, 2], [1, 0, 0]], (2, 2, 3))
    assert counts[0, 1, 2] == 2
    assert counts[1, 0, 0] == 1
    assert counts.sum() == 3


def test_continuous_values_fall_into_the_cube_root_of_n_equal_bins():
    bins = discretise(np.random.default_rng(0).normal(size=216))
    np.testing.assert_array_equal(np.bincount(bins), np.full(6, 36))

"""The generated rows follow the distribution that their best predictor is made from."""

import numpy as np
import pytest

from redheart.rows import UNLABELLED
from redheart.surd import surd
from redheart.synthetic import BAG_SIZES, CONCENTRATION, REGRET_NOISE, embed, generate, make_bags, mechanisms, sigmoid


@pytest.fixture(scope="module")
def texts():
    return generate(4000, 64, seed=3, bag_share=0.0)


def test_equal_seeds_give_equal_rows_and_others_other_ones():
    one, same, other = (generate(60, 64, seed=seed).rows for seed in (1, 1, 2))
    assert np.array_equal(one.x, same.x)
    assert np.array_equal(one.emotion, same.emotion)
    assert not np.array_equal(one.x, other.x)


def test_emotions_are_as_uncertain_as_their_probabilities_say(texts):
    logits, emotion = texts.ideal["emotion"][: len(texts.rows)], texts.rows.emotion
    known = emotion != UNLABELLED
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[known]
    assert known.mean() == pytest.approx(0.9, abs=0.02)
    right = p.argmax(1) == emotion[known]
    assert right.mean() == pytest.approx(p.max(1).mean(), abs=4 * right.std() / np.sqrt(len(right)))
    assert np.bincount(emotion[known], minlength=7) / known.sum() == pytest.approx(p.mean(0), abs=0.03)


def test_the_error_of_the_ideal_bentham_is_that_of_its_beta_distribution(texts):
    mean, truth = sigmoid(texts.ideal["bentham"][: len(texts.rows)]), texts.rows.bentham
    known = ~np.isnan(truth)
    expected = np.mean((mean * (1 - mean) / (CONCENTRATION + 1))[known])
    assert np.mean((truth - mean)[known] ** 2) == pytest.approx(expected, rel=0.05)
    assert known.mean() == pytest.approx(0.7, abs=0.01)
    assert truth[known].min() >= 0
    assert truth[known].max() <= 1


def test_the_ideal_regret_is_the_median(texts):
    level, truth = sigmoid(texts.ideal["regret"][: len(texts.rows), 0]), texts.rows.regret
    inside = (truth > 0) & (truth < 1)
    assert (truth > level).mean() == pytest.approx(0.5, abs=0.03)
    middle = inside & (np.abs(level - 0.5) < 0.1)
    assert np.std((truth - level)[middle]) == pytest.approx(REGRET_NOISE, rel=0.15)


def test_votes_follow_the_difference_of_the_regrets(texts):
    score, rows = texts.ideal["regret"][:, 0], texts.rows
    paired = rows.second >= 0
    p = sigmoid(score[rows.first[paired]] - score[rows.second[paired]])
    assert paired.mean() == pytest.approx(0.25)
    assert np.isnan(rows.vote[~paired]).all()
    error = rows.vote[paired] - p
    assert abs(error.mean()) < 0.02
    assert np.mean(error**2) == pytest.approx(np.mean(p * (1 - p) / 5), rel=0.15)


def test_what_is_hidden_can_be_read_from_the_vectors():
    hidden = np.random.default_rng(0).normal(size=(300, 24))
    x = embed(hidden, 64)
    waves = embed(hidden, 64) - embed(np.zeros((1, 24)), 64)
    assert np.linalg.matrix_rank(x) == 56  # 24 hidden and 32 waves, apart
    back = np.linalg.lstsq(waves[:200], hidden[:200], rcond=None)[0]
    assert waves[200:] @ back == pytest.approx(hidden[200:], abs=1e-6)


def test_mechanisms_are_distributions_with_the_decomposition_of_their_name():
    joints = mechanisms()
    assert all(joint.sum() == pytest.approx(1) for joint in joints.values())
    assert all(joint.sum((0, 2)) == pytest.approx([0.5, 0.5]) for joint in joints.values())
    largest = {name: int(surd(joint).shares().argmax()) for name, joint in joints.items() if name != "independent"}
    assert (largest["redundant"], largest["copy"], largest["copy_other"], largest["xor"]) == (0, 1, 2, 3)
    assert surd(joints["independent"]).degenerate
    assert surd(joints["noisy_copy"]).information == pytest.approx(0.531004, abs=1e-6)


def test_bags_are_decomposed_exactly():
    bags = make_bags(40, 64, seed=0)
    assert bags.surd.sum(1) == pytest.approx(np.ones(40), abs=1e-5)
    assert (bags.surd >= 0).all()
    assert (bags.information > 0).all()
    assert (bags.emotion == UNLABELLED).all()
    assert BAG_SIZES[0] >= 200


def test_segments_average_to_their_text():
    one, many = generate(50, 64, seed=1), generate(50, 64, seed=1, num_segments=3)
    assert many.rows.x.shape == (len(one.rows.x), 3, 64)
    assert many.rows.x.mean(1) == pytest.approx(one.rows.x, abs=1e-5)


def test_vectors_too_small_for_what_is_hidden_are_refused():
    with pytest.raises(ValueError, match="dim=55: need at least 56"):
        generate(10, 55, seed=0)

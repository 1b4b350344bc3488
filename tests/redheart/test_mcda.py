import numpy as np
import pytest

from common.errors import UserError
from redheart.mcda import WEIGHTS, mcda, stability, topsis

EPOCHS = np.array([2, 4, 6])


def test_the_score_is_the_weighted_sum_of_scaled_criteria():
    # scaled: loss 0, 0.5, 1 (lower is better); task 1, 0, 0.5
    result = mcda(EPOCHS, {"loss": [3, 2, 1], "task": [0.9, 0.5, 0.7]}, {"loss": 0.6, "task": 0.4})
    np.testing.assert_allclose(result.score, [0.4, 0.3, 0.8])
    assert result.winner == 6


def test_a_constant_or_missing_criterion_has_no_weight_and_the_rest_are_scaled_up():
    criteria = {"loss": [3, 2, 1], "task": [1, 2, 1.5], "stability": [1, 1, 1], "gradient": [np.nan] * 3}
    result = mcda(EPOCHS, criteria)
    assert result.weights == pytest.approx({"loss": 3 / 7, "task": 4 / 7})
    np.testing.assert_allclose(result.score, [0, 3 / 14 + 4 / 7, 3 / 7 + 2 / 7])


def test_a_choice_that_hangs_on_the_weights_abstains():
    # three epochs, each best in one criterion and equally weighted
    criteria = {name: 1.0 * np.eye(3)[k] for k, name in enumerate(("task", "stability", "gradient"))}
    result = mcda(EPOCHS, criteria, {"task": 0.34, "stability": 0.33, "gradient": 0.33})
    assert result.winner == 2
    assert result.epoch is None
    assert "random weights" in result.abstained
    np.testing.assert_allclose(result.wins, 1 / 3, atol=0.05)


def test_an_epoch_that_is_best_in_everything_wins_under_all_weights():
    result = mcda(EPOCHS, {"loss": [3, 1, 2], "task": [0, 1, 0.5]}, {"loss": 0.5, "task": 0.5})
    assert (result.epoch, result.confidence, result.method_conflict) == (4, 1.0, False)
    assert result.topsis[1] == 1


def test_warm_up_epochs_neither_win_nor_stretch_the_scale():
    criteria = {"loss": [100, 3, 1], "task": [9, 0, 1]}
    result = mcda(EPOCHS, criteria, {"loss": 0.5, "task": 0.5}, warmup=4)
    np.testing.assert_array_equal(result.score, [np.nan, 0, 1])
    np.testing.assert_array_equal(result.wins, [0, 0, 1])


def test_a_winner_at_the_end_of_warm_up_is_no_vote():
    criteria = {"loss": [100, 1, 3], "task": [9, 1, 0]}
    assert "warm-up" in mcda(EPOCHS, criteria, {"loss": 0.5, "task": 0.5}, warmup=4).abstained
    assert mcda(EPOCHS[1:], {name: each[1:] for name, each in criteria.items()}, {"loss": 0.5, "task": 0.5}).epoch == 4


def test_topsis_worked_out_by_hand():
    # columns normalised by their length 5: 0.6, 0.8 (higher is better) and 0.8, 0.6 (lower is better)
    np.testing.assert_allclose(
        topsis(np.array([[3.0, 4], [4, 3]]), np.array([0.5, 0.5]), np.array([False, True])), [0, 1]
    )
    closeness = topsis(np.array([[3.0, 3], [4, 4]]), np.array([0.75, 0.25]), np.array([False, True]))
    np.testing.assert_allclose(closeness, [0.25, 0.75])


def test_weighted_sum_and_topsis_may_conflict():
    # min-max stretches a small difference in the task over the whole scale, TOPSIS does not
    criteria = {"loss": [1.0, 2.0, 3.0], "task": [0.50, 0.51, 0.52]}
    result = mcda(EPOCHS, criteria, {"loss": 0.45, "task": 0.55})
    assert result.winner == 6
    assert result.method_conflict


def test_nothing_varies_nothing_is_chosen():
    result = mcda(EPOCHS, {name: [1, 1, 1] for name in WEIGHTS})
    assert result.epoch is None
    assert result.abstained == "no criterion varies"


@pytest.mark.parametrize("weights", [{"loss": 0.5}, {"loss": 1.5, "task": -0.5}, {"loss": 0.5, "speed": 0.5}])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(UserError, match="mcda_weights"):
        mcda(EPOCHS, {"loss": [3, 2, 1], "task": [1, 2, 3]}, weights)


def test_stability_falls_with_the_spread_around_an_epoch():
    steady = stability([1, 1, 1, 1, 1, 3, 1, 1, 1, 1], noise=0.1)
    assert steady[0] == 1
    assert steady[5] == pytest.approx(1 / (1 + np.std([1, 1, 3, 1, 1], ddof=1) / 0.1))

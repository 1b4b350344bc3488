import numpy as np
import pytest

from redheart.voting import Vote, best_set, tally

EPOCHS = np.arange(2, 22, 2)


def test_a_vote_counts_fully_inside_and_fades_over_four_epochs():
    votes = [Vote("a", 8, 12, 1.0), Vote("b", 8, 12, 1.0), Vote("c", 8, 12, 1.0)]
    np.testing.assert_allclose(tally(EPOCHS, votes), [0, 0, 0.5, 1, 1, 1, 0.5, 0, 0, 0])


def test_votes_count_by_weight_and_confidence():
    votes = [Vote("a", 4, 4, 0.5, weight=2), Vote("b", 4, 4, 1.0), Vote("c", 20, 20, 1.0)]
    score = tally(EPOCHS, votes)
    assert score[1] == pytest.approx((2 * 0.5 + 1) / 4)
    assert score[-1] == pytest.approx(1 / 4)


@pytest.mark.parametrize(("voters", "confidence"), [(1, 0.2), (2, 0.4), (3, 1.0)])
def test_few_voters_lend_little_confidence(voters, confidence):
    assert tally(EPOCHS, [Vote(str(k), 4, 4, 1.0) for k in range(voters)])[1] == pytest.approx(confidence)


def test_without_votes_nothing_is_lent():
    np.testing.assert_array_equal(tally(EPOCHS, []), np.zeros(10))


def test_the_set_holds_what_rows_cannot_tell_from_the_best():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 1, 400), rng.normal(0, 0.1, (4, 400))
    own -= own.mean(1, keepdims=True)
    # one paired standard error is 0.1 √2 / √400 = 0.0071, though the rows themselves spread ten times as much
    result = best_set(shared + own + np.array([0.0, 0.005, 0.009, 0.5])[:, None])
    np.testing.assert_array_equal(result.inside, [True, True, False, False])
    assert result.p_best.sum() == pytest.approx(1)
    assert result.p_best[0] > result.p_best[1] > result.p_best[2] > result.p_best[3] == 0
    assert result.n == 400


def test_epochs_with_the_same_losses_are_all_as_good():
    assert best_set(np.tile([0.1, 0.4, 0.3], (5, 1))).inside.all()

import numpy as np
import pytest

from redheart.changepoints import ChangePoint, change_points, cusum, jumps, piecewise_linear
from redheart.planted import EPOCHS, planted_curves, shape_of


def test_cusum_dates_the_change_at_the_first_point_after_the_last_zero():
    # from position 3 on the sum grows by 1.5 a step and passes 5 at the fourth; then it starts afresh
    assert cusum([0, 0, 0, 2, 2, 2, 2], slack=0.5, threshold=5) == [(3, 6, 1)]
    assert cusum([0, 0, -2, -2, -2, -2]) == [(2, 5, -1)]
    assert cusum([0.4, -0.4] * 50) == []


def test_cusum_starts_again_after_an_alarm():
    assert cusum([6, 0, 6, 0, -6]) == [(0, 0, 1), (2, 2, 1), (4, 4, -1)]


def test_a_jump_is_found_where_it_is_and_confirmed():
    for x in planted_curves("step", 10, 0.005):
        assert change_points(EPOCHS, x).jumps == [ChangePoint(32, -1, confirmed=True)]


def test_a_fall_over_two_checkpoints_is_one_jump():
    x = np.where(EPOCHS < 30, 0.5, np.where(EPOCHS == 30, 0.45, 0.4))
    found = [jumps(EPOCHS, x + noise) for noise in np.random.default_rng(0).normal(0, 0.003, (10, 30))]
    assert [{jump.direction for jump in each} for each in found] == [{-1}] * 10
    assert all(28 <= jump.epoch <= 34 for each in found for jump in each)


@pytest.mark.parametrize("shape", ["flat", "declining", "U", "knee"])
def test_smooth_curves_seldom_jump(shape):
    assert np.mean([bool(jumps(EPOCHS, x)) for x in planted_curves(shape, 100, 0.01)]) <= 0.06


def test_exponential_decay_does_not_jump_whatever_its_noise():
    decay = 0.5 + np.exp(-EPOCHS / 8)
    assert jumps(EPOCHS, decay) == []
    noisy = decay + np.random.default_rng(0).normal(0, 0.01, (100, 30))
    assert np.mean([bool(jumps(EPOCHS, x)) for x in noisy]) <= 0.1


def test_the_piecewise_linear_fit_breaks_at_a_knee_and_seldom_on_a_line():
    rng = np.random.default_rng(0)
    bends = piecewise_linear(shape_of("knee") + rng.normal(0, 0.002, 30))
    assert any(abs(EPOCHS[bend] - 30) <= 4 for bend in bends)
    straight = [piecewise_linear(0.01 * np.arange(30) + rng.normal(0, 0.01, 30)) for _ in range(10)]
    assert sum(map(bool, straight)) <= 4  # a quarter of them: the noise of 30 points is not known better


@pytest.mark.parametrize("x", [[], [1.0], [1.0, 2, 3], np.ones(30)])
def test_too_short_or_constant_curves_have_no_change(x):
    assert change_points(EPOCHS[: len(x)], x).jumps == []

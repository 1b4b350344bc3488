import numpy as np
import pymannkendall
import pytest
from scipy.stats import theilslopes

from redheart.trend import (
    block_p,
    detectable_slope,
    lag1,
    mann_kendall,
    noise_sd,
    prominence,
    running_median,
    theil_sen,
)


@pytest.mark.parametrize("seed", range(6))
def test_mann_kendall_agrees_with_pymannkendall_also_with_ties(seed):
    x = np.random.default_rng(seed).normal(size=20) + 0.05 * np.arange(20)
    for series in (x, x.round(0), x[:5]):
        reference = pymannkendall.original_test(series)
        z, p = mann_kendall(series)
        assert z == pytest.approx(reference.z)
        assert p == pytest.approx(reference.p)


def test_mann_kendall_of_short_and_constant_series():
    assert mann_kendall(np.ones(8)) == (0, 1)
    assert mann_kendall([1, 2, 3, 4])[1] == pytest.approx(0.089, abs=5e-4)
    assert mann_kendall([1, 2, 3, 4, 5])[1] == pytest.approx(0.027, abs=5e-4)


def test_mann_kendall_treats_each_row_as_a_series_of_its_own():
    rows = np.random.default_rng(0).normal(size=(4, 10)).round(1)
    z, _ = mann_kendall(rows)
    np.testing.assert_allclose(z, [mann_kendall(row)[0] for row in rows])


@pytest.mark.parametrize("seed", range(4))
def test_theil_sen_agrees_with_scipy(seed):
    x = np.random.default_rng(seed).normal(size=15)
    slope, low, high = theil_sen(x)
    reference = theilslopes(x, alpha=0.9)
    assert slope == pytest.approx(reference.slope)
    assert low == pytest.approx(reference.low_slope, abs=0.02)
    assert high == pytest.approx(reference.high_slope, abs=0.02)


def test_the_interval_of_the_slope_covers_the_truth_as_often_as_it_says():
    x = np.random.default_rng(0).normal(size=(2000, 20)) + 0.1 * np.arange(20)
    _, low, high = theil_sen(x)
    assert np.mean((low <= 0.1) & (high >= 0.1)) == pytest.approx(0.92, abs=0.03)  # ranks are whole: a little too wide


def test_noise_is_told_from_a_trend_and_a_step():
    rng = np.random.default_rng(0)
    curve = np.exp(-np.arange(300) / 50) + (np.arange(300) > 150)
    assert noise_sd(curve + rng.normal(0, 0.01, 300)) == pytest.approx(0.01, rel=0.15)


def test_lag_1_correlation_ignores_the_trend():
    line = 3.0 * np.arange(50)
    assert lag1(line) == 0
    assert lag1(line + (-1.0) ** np.arange(50)) == pytest.approx(-1, abs=0.05)


def test_block_p_finds_a_trend_and_no_trend():
    noise = np.random.default_rng(0).normal(size=20)
    assert block_p(noise) > 0.1
    assert block_p(noise + np.arange(20)) == pytest.approx(0.001)


def test_the_detectable_slope_is_found_in_four_of_five_windows():
    x = np.random.default_rng(1).normal(0, 0.01, (2000, 10)) + 0.01 * detectable_slope(10) * np.arange(10)
    assert np.mean(mann_kendall(x)[1] < 0.05) == pytest.approx(0.8, abs=0.04)


def test_more_points_detect_smaller_slopes():
    assert detectable_slope(20) < 0.5 * detectable_slope(10)


def test_the_running_median_is_cut_off_at_the_ends():
    np.testing.assert_allclose(running_median([5, 1, 9, 2, 4], 3), [3, 5, 2, 4, 3])


def test_prominence_weighs_height_against_noise():
    assert prominence([0, 0, 1], 1.0) == 0.5
    assert prominence([0, 0, 0], 0.0) == 0
    assert prominence([0, 0, 1], 0.0) == 1

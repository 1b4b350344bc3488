import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

import common.stats
from common.stats import (
    Interval,
    bootstrap,
    bootstrap_sums,
    date_blocks,
    group_sums,
    holm,
    mean_spread,
    paired_difference,
    resample_sums,
    seed_interval,
    sign_flip_test,
)

EFFECT = np.array([1.0, 2.0, 1.0, 2.0])


def mean_of_sums(totals: np.ndarray) -> np.ndarray:
    return totals[:, 0] / totals[:, 1]


def test_an_interval_excludes_what_lies_outside_and_not_its_own_ends():
    interval = Interval(0.412, 0.392, 0.446, 0.95, 72, "percentile bootstrap of groups")
    assert str(interval) == "0.412 [0.392, 0.446]"
    assert interval.excludes(1 / 3)
    assert interval.excludes(0.5)
    assert not interval.excludes(0.392)
    assert not interval.excludes(0.446)
    assert json.loads(json.dumps(interval.as_dict()))["n"] == 72


def test_a_narrow_interval_is_printed_with_the_digits_that_tell_its_ends_apart():
    assert str(Interval(-0.00031, -0.00052, -0.0001, 0.95, 9, "t interval")) == "-0.00031 [-0.00052, -0.00010]"
    assert str(Interval(1.0, 1.0, 1.0, 0.95, 9, "t interval")) == "1.000 [1.000, 1.000]"


def test_mean_and_spread_of_2_4_9():
    mean, spread, n = mean_spread([2, 4, 9])
    assert (mean, n) == (5.0, 3)
    assert spread == pytest.approx(math.sqrt(13))
    assert math.isnan(mean_spread([3.0])[1])


def test_the_t_interval_of_1_to_5_by_hand():
    interval = seed_interval([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5 / 5)  # t(0.975; 4) from a table
    assert (interval.estimate, interval.n) == (3.0, 5)
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    assert seed_interval([1, 2, 3, 4, 5], level=0.99).low < interval.low


def test_a_paired_difference_is_candidate_minus_baseline_whatever_the_pairs_share():
    luck = np.array([0.0, 5.0, -3.0, 8.0])
    interval = paired_difference(luck, luck + EFFECT)
    expected = reference.ttest_rel(luck + EFFECT, luck).confidence_interval(0.95)
    assert interval.estimate == 1.5
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_sign_flips_of_five_equal_signs_cannot_reach_five_per_cent():
    assert sign_flip_test([1, 2, 3, 4, 5]) == 2 / 32
    assert sign_flip_test([-1, -2, -3, -4, -5]) == 2 / 32


def test_exact_sign_flip_p_of_known_vectors():
    # |±1 ±2 ±3| reaches the observed 1 − 2 + 3 = 2 in all assignments but those that sum to 0 (two of eight)
    assert sign_flip_test([1, -2, 3]) == 6 / 8
    assert sign_flip_test([0, 0, 0]) == 1.0
    assert sign_flip_test([0.7]) == 1.0


def test_sums_that_differ_by_rounding_only_count_as_equal():
    # added in another order, ten times 0.1 is 1 or 0.9999999999999999
    assert sign_flip_test([0.1] * 10) == 2 / 1024


def test_sign_flips_agree_with_an_independent_implementation():
    differences = np.random.default_rng(0).normal(0.4, 1, 11)
    expected = reference.permutation_test(
        (differences, np.zeros(11)),
        lambda a, b, axis: np.mean(a - b, axis),
        permutation_type="samples",
        n_resamples=1e5,
    )
    assert sign_flip_test(differences) == pytest.approx(expected.pvalue)


def test_random_sign_flips_come_near_the_exact_p(monkeypatch):
    differences = np.random.default_rng(1).normal(0.35, 1, 20)
    exact = sign_flip_test(differences)
    monkeypatch.setattr(common.stats, "EXACT_SIGN_FLIPS", 19)
    sampled = sign_flip_test(differences, num_resamples=5000, seed=3)
    assert 0.001 < exact < 0.5
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact / 5000))
    assert sampled == sign_flip_test(differences, num_resamples=5000, seed=3)


def test_a_sampled_p_is_never_zero():
    assert sign_flip_test(np.ones(30), num_resamples=99) == pytest.approx(1 / 100)


def test_holm_on_a_textbook_family():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; the last is raised to its predecessor
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])


def test_holm_leaves_undefined_tests_out_of_the_family():
    np.testing.assert_allclose(holm([math.nan, 0.01, 0.04]), [math.nan, 0.02, 0.04])
    assert np.isnan(holm([math.nan])).all()
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_values):
    p_values, adjusted = np.array(p_values), holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(1, p_values * len(p_values))).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_date_blocks_count_sessions_not_calendar_days_or_rows():
    dates = ["2024-01-05", "2024-01-02", "2024-01-02", "2024-01-03", "2024-03-01", "2024-01-04", "2024-03-04"]
    assert date_blocks(dates, 2).tolist() == [1, 0, 0, 0, 2, 1, 2]
    assert date_blocks(dates, 5).tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert date_blocks(dates, 1).tolist() == [3, 0, 0, 1, 4, 2, 5]


def test_the_row_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says():
    values = np.random.default_rng(0).normal(2, 3, 900)
    interval = bootstrap(np.mean, values, num_resamples=4000)
    half = 1.96 * values.std() / 30
    assert (interval.estimate, interval.n) == (values.mean(), 900)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.05)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)


def test_arrays_are_resampled_together():
    x = np.random.default_rng(0).normal(size=50)
    interval = bootstrap(lambda a, b: np.abs(a - 2 * b).max(), 2 * x, x, num_resamples=50)
    assert (interval.low, interval.high) == (0, 0)


def test_groups_are_drawn_whole():
    groups = np.array([3, 7, 3, 7, 7, 9])
    seen = []
    bootstrap(lambda g: seen.append(np.bincount(g, minlength=10)) or 0.0, groups, groups=groups, num_resamples=200)
    counts = np.array(seen[:-1])
    assert (counts[:, [3, 7, 9]] % [2, 3, 1] == 0).all()
    assert ((counts[:, [3, 7, 9]] // [2, 3, 1]).sum(1) == 3).all()
    assert (counts[:, 9] > 1).any()


def test_summing_groups_first_gives_the_very_same_interval_as_resampling_rows():
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=300), rng.integers(0, 25, 300)
    sums = group_sums(np.stack([values, np.ones(300)], 1), groups)
    slow = bootstrap(np.mean, values, groups=groups, num_resamples=300, seed=5)
    fast = bootstrap_sums(mean_of_sums, sums, num_resamples=300, seed=5)
    assert (fast.estimate, fast.low, fast.high) == pytest.approx((slow.estimate, slow.low, slow.high), abs=1e-12)
    assert (fast.n, fast.method) == (slow.n, slow.method) == (25, "percentile bootstrap of groups")


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    sums = np.random.default_rng(0).normal(size=(7, 2, 3))
    whole = resample_sums(sums, 100, seed=1)
    assert whole.shape == (100, 2, 3)
    monkeypatch.setattr(common.stats, "DRAWS_AT_ONCE", 20)
    np.testing.assert_allclose(resample_sums(sums, 100, seed=1), whole)


def test_the_estimate_is_that_of_the_sum_over_all_groups():
    assert bootstrap_sums(lambda totals: totals[:, 0], [[1.0], [2.0], [4.0]]).estimate == 7


def test_group_sums_follow_the_sorted_labels():
    np.testing.assert_array_equal(group_sums([[1, 10], [2, 20], [4, 40]], ["b", "a", "b"]), [[2, 20], [5, 50]])


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).normal(size=40)
    assert bootstrap(np.mean, values, seed=1) == bootstrap(np.mean, values, seed=1)
    assert bootstrap(np.mean, values, seed=1) != bootstrap(np.mean, values, seed=2)


@pytest.mark.slow
def test_block_intervals_cover_the_truth_where_row_intervals_do_not():
    rng, blocks, rows = np.random.default_rng(0), 60, 10

    def covers(values: np.ndarray, seed: int) -> bool:
        sums = np.stack([values.sum(1), np.full(len(values), values.shape[1])], 1)
        return not bootstrap_sums(mean_of_sums, sums, num_resamples=400, seed=seed).excludes(0)

    # rows of a block share a shock as large as their own
    samples = rng.normal(size=(1000, blocks, 1)) + rng.normal(size=(1000, blocks, rows))
    by_block = np.mean([covers(sample, seed) for seed, sample in enumerate(samples)])
    by_row = np.mean([covers(sample.reshape(-1, 1), seed) for seed, sample in enumerate(samples[:100])])
    assert by_block == pytest.approx(0.94, abs=0.025)  # a standard error is 0.0075
    assert by_row < 0.75  # 0.6: the interval is √5.5 times too narrow


def test_resamples_without_a_value_are_left_out_if_they_are_few():
    def share(totals: np.ndarray) -> np.ndarray:
        return np.where(totals[:, 1] > 0, totals[:, 0] / np.maximum(totals[:, 1], 1), np.nan)

    few = np.stack([np.ones(30), np.arange(30) < 5], 1)  # no event in (25/30)^30 = 0.4 % of the resamples
    assert math.isfinite(bootstrap_sums(share, few).high)
    with pytest.raises(ValueError, match="finite on"):
        bootstrap_sums(share, np.stack([np.ones(30), np.arange(30) < 1], 1))  # in 36 %


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 0.99))
def test_a_wider_level_contains_a_narrower_one(seed, level):
    values = np.random.default_rng(seed).normal(size=20)
    inner = bootstrap(np.mean, values, num_resamples=60, level=level - 0.1, seed=seed)
    outer = bootstrap(np.mean, values, num_resamples=60, level=level, seed=seed)
    assert outer.low <= inner.low <= inner.high <= outer.high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_spread([]), "non-empty"),
        (lambda: mean_spread([1, math.nan]), "number 1 is nan"),
        (lambda: seed_interval([1.0]), "at least 2"),
        (lambda: seed_interval([1, 2], level=95), "between 0 and 1"),
        (lambda: paired_difference([1, 2], [1, 2, 3]), "2 and 3"),
        (lambda: sign_flip_test([math.inf]), "finite"),
        (lambda: holm([0.5, 1.5]), r"\[0, 1\]"),
        (lambda: date_blocks([]), "non-empty"),
        (lambda: date_blocks(["2024-01-02", "NaT"]), "missing dates"),
        (lambda: date_blocks(["2024-01-02"], 0), "block_sessions"),
        (lambda: bootstrap(np.mean, []), "no rows"),
        (lambda: bootstrap(np.mean, [1, 2], [1, 2, 3]), r"\[2, 3\]"),
        (lambda: bootstrap(np.mean, [1, 2], groups=[0]), "one label for each of the 2 rows"),
        (lambda: bootstrap(np.mean, [1, 2], groups=[4, 4]), "at least 2 groups"),
        (lambda: bootstrap(np.mean, [1, math.nan]), "the statistic is nan"),
        (lambda: bootstrap(np.mean, [1, 2], num_resamples=0), "num_resamples"),
        (lambda: bootstrap_sums(mean_of_sums, [[1, math.inf]]), "finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

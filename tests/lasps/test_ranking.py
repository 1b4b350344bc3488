import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from common.metrics import classification_scores, confusion_matrix
from common.stats import bootstrap, date_blocks
from lasps.ranking import (
    block_permutation,
    daily_rank_ic,
    decile_returns,
    direction_and_volatility,
    direction_auc,
    movement_auc,
    paired_rank_ic,
    rank_ic_summary,
)

FIRST = np.datetime64("2020-01-06")


def market(days: int = 60, issues: int = 20, signal: float = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Scores, forward returns that share a market move each day, and dates, in shuffled order."""
    rng = np.random.default_rng(seed)
    date = np.repeat(FIRST + np.arange(days), issues)
    score = rng.normal(size=len(date))
    returns = 0.02 * (signal * score + rng.normal(size=len(date)) + rng.normal(size=days).repeat(issues))
    order = rng.permutation(len(date))
    return score[order], returns[order], date[order]


def test_the_rank_ic_of_two_days_by_hand():
    date = FIRST + np.array([1, 0, 1, 0, 1, 0, 1])
    score = np.array([1.0, 3.0, 2.0, 2.0, 3.0, 1.0, 4.0])
    returns = np.array([0.1, 0.3, 0.2, 0.2, 0.4, 0.1, 0.3])
    dates, ic = daily_rank_ic(score, returns, date, min_issues=3)
    assert dates.tolist() == [FIRST, FIRST + 1]
    # the first day agrees; on the second ranks 1 2 3 4 meet 1 2 4 3: 1 − 6 · 2 / (4 · 15)
    assert ic == pytest.approx([1.0, 0.8])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_the_rank_ic_of_each_day_agrees_with_scipy_and_days_without_one_are_left_out(rows):
    day, score, returns = np.array(rows).T
    dates, ic = daily_rank_ic(score, returns / 7, FIRST + day, min_issues=4)
    expected = {}
    for number in range(4):
        chosen = day == number
        if chosen.sum() >= 4 and len(set(score[chosen])) > 1 and len(set(returns[chosen])) > 1:
            expected[FIRST + number] = spearmanr(score[chosen], returns[chosen]).statistic
    assert dict(zip(dates, ic, strict=True)) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 1000))
def test_monotone_transforms_and_the_order_of_rows_leave_the_rank_ic_alone(seed):
    score, returns, date = market(days=4, issues=6, seed=seed)
    order = np.random.default_rng(seed).permutation(len(score))
    _, expected = daily_rank_ic(score, returns, date)
    _, transformed = daily_rank_ic(np.exp(3 * score[order]) - 5, np.arctan(returns[order]), date[order])
    np.testing.assert_allclose(transformed, expected, atol=1e-12)
    _, mirrored = daily_rank_ic(-score, returns, date)
    np.testing.assert_allclose(mirrored, -expected, atol=1e-12)


def test_the_summary_is_made_of_the_daily_values():
    score, returns, date = market(days=63, signal=0.3)
    thin = np.isin(date, [FIRST + 3, FIRST + 40]) & (np.cumsum(np.ones(len(date))) > 100)
    score, returns, date = score[~thin], returns[~thin], date[~thin]
    summary = rank_ic_summary(score, returns, date, num_resamples=300, seed=2)
    dates, ic = daily_rank_ic(score, returns, date)
    assert (summary["num_days"], summary["num_days_left_out"]) == (len(ic), 63 - len(ic))
    assert summary["num_days_left_out"] > 0
    assert summary["rank_ic"] == pytest.approx(np.mean(ic))
    assert summary["icir"] == pytest.approx(np.mean(ic) / np.std(ic, ddof=1))
    assert summary["positive_share"] == np.mean(ic > 0)
    slow = bootstrap(np.mean, ic, groups=date_blocks(dates), num_resamples=300, seed=2)
    interval = summary["interval"]
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((slow.estimate, slow.low, slow.high))
    assert interval.low > 0
    assert interval.n == 13


def test_fewer_than_ten_blocks_give_no_interval_and_no_day_gives_no_figure():
    score, returns, date = market(days=46)
    assert rank_ic_summary(score, returns, date)["interval"].n == 10
    early = date < FIRST + 45
    few = rank_ic_summary(score[early], returns[early], date[early])
    assert few["interval"] is None
    assert np.isfinite(few["rank_ic"])
    for rows in ([], [True] * 3):
        none = rank_ic_summary(score[: len(rows)], returns[: len(rows)], date[: len(rows)])
        assert np.isnan([none["rank_ic"], none["icir"], none["positive_share"]]).all()
        assert none["num_days"] == 0
        assert decile_returns(score[: len(rows)], returns[: len(rows)], date[: len(rows)])["num_days"] == 0


@pytest.mark.slow
def test_intervals_of_scores_without_signal_cover_zero_about_as_often_as_they_say():
    covered = {"rank_ic": 0, "deciles": 0, "paired": 0}
    for seed in range(40):
        score, returns, date = market(days=150, seed=seed)
        other = np.random.default_rng(seed + 1000).normal(size=len(score))
        covered["rank_ic"] += not rank_ic_summary(score, returns, date, num_resamples=300)["interval"].excludes(0)
        spread = decile_returns(score, returns, date, num_resamples=300)["top_minus_bottom_interval"]
        covered["deciles"] += not spread.excludes(0)
        covered["paired"] += not paired_rank_ic(score, other, returns, date, num_resamples=300).excludes(0)
    # 30 blocks give a little less than 95 %; 32 or fewer of 40 would happen less than once in a hundred
    assert min(covered.values()) > 32


def test_a_paired_rank_ic_is_second_minus_first_on_common_days():
    score, returns, date = market(days=80, signal=0.5)
    noise = score + 3 * np.random.default_rng(1).normal(size=len(score))
    noise[date == FIRST + 7] = 1.0  # no IC of this day
    interval = paired_rank_ic(noise, score, returns, date)
    own, other = (dict(zip(*daily_rank_ic(each, returns, date), strict=True)) for each in (noise, score))
    assert interval.estimate == pytest.approx(np.mean([other[day] - own[day] for day in own]))
    assert interval.low > 0
    mirrored = paired_rank_ic(score, noise, returns, date)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))
    itself = paired_rank_ic(score, score, returns, date)
    assert (itself.estimate, itself.low, itself.high) == (0, 0, 0)
    assert paired_rank_ic(score, np.zeros(len(score)), returns, date) is None


def test_returns_of_two_groups_by_hand():
    date = FIRST + np.array([0, 0, 0, 0, 1, 1, 2])
    score = np.array([4.0, 1.0, 2.0, 3.0, 5.0, 6.0, 1.0])
    returns = np.array([0.08, 0.01, 0.03, 0.04, 0.05, 0.01, 9.0])
    found = decile_returns(score, returns, date, num=2)
    # day 0: (0.01, 0.03) and (0.04, 0.08), all 0.04; day 1: 0.05 and 0.01, all 0.03; day 2 has one issue only
    assert found["mean_return"] == pytest.approx([(0.02 + 0.05) / 2, (0.06 + 0.01) / 2])
    assert found["excess"] == pytest.approx([(-0.02 + 0.02) / 2, (0.02 - 0.02) / 2])
    assert found["top_minus_bottom"] == pytest.approx((0.04 - 0.04) / 2)
    assert found["top_minus_universe"] == pytest.approx((0.02 - 0.02) / 2)
    assert (found["num_days"], found["num_days_left_out"]) == (2, 1)
    assert found["top_minus_bottom_interval"] is None


def test_issues_of_equal_score_share_their_mean_return_between_groups():
    # 1 | 2 2 | 2: the three that tie earn their mean 0.3 on either side of the cut
    found = decile_returns([1.0, 2.0, 2.0, 2.0], [0.1, 0.6, 0.3, 0.0], np.full(4, FIRST), num=2)
    assert found["mean_return"] == pytest.approx([(0.1 + 0.3) / 2, 0.3])


def test_groups_of_a_day_differ_by_at_most_one_issue():
    issues = 23
    found = decile_returns(np.arange(issues), np.arange(issues), np.full(issues, FIRST), num=10)
    sizes = np.bincount(np.arange(issues) * 10 // issues)
    assert set(sizes) == {2, 3}
    assert found["mean_return"] == pytest.approx([part.mean() for part in np.split(np.arange(23), sizes.cumsum()[:-1])])


def test_days_with_fewer_issues_than_groups_are_left_out():
    score, returns, date = np.arange(19.0), np.arange(19.0), FIRST + np.repeat([0, 1], [9, 10])
    found = decile_returns(score, returns, date)
    assert (found["num_days"], found["num_days_left_out"]) == (1, 1)
    assert found["mean_return"] == pytest.approx(range(9, 19))


def test_a_constant_score_earns_the_universe_everywhere():
    _, returns, date = market(issues=35)
    found = decile_returns(np.zeros(len(date)), returns, date)
    assert found["excess"] == pytest.approx([0] * 10, abs=1e-12)
    assert found["top_minus_bottom"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(found["monotonicity"])


def test_a_planted_signal_rises_through_the_deciles():
    score, returns, date = market(days=120, issues=50, signal=1.0)
    found = decile_returns(score, returns, date)
    assert found["monotonicity"] == pytest.approx(spearmanr(np.arange(10), found["mean_return"]).statistic)
    assert found["monotonicity"] > 0.95
    assert found["top_minus_bottom_interval"].low > 0
    assert found["top_minus_universe"] == pytest.approx(found["excess"][-1])
    assert found["top_minus_universe_interval"].estimate == pytest.approx(found["excess"][-1])
    assert decile_returns(-score, returns, date)["monotonicity"] < -0.95


def forecast_of_moves(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that know which rows move and not which way, their labels and 60 dates."""
    rng = np.random.default_rng(seed)
    move = rng.beta(2, 2, n)
    label = np.where(rng.random(n) < move, rng.choice([0, 2], n), 1)
    up = rng.uniform(0.3, 0.7, n)
    return np.stack([move * (1 - up), 1 - move, move * up], 1), label, FIRST + rng.integers(0, 60, n)


def test_knowing_the_volatility_is_no_skill_of_direction():
    probabilities, label, date = forecast_of_moves()
    found = direction_and_volatility(probabilities, label, date)
    movers, ratio = label != 1, probabilities[:, 2] / probabilities[:, 0]
    assert found["direction"].estimate == pytest.approx(roc_auc_score(label[movers] == 2, ratio[movers]))
    assert found["movement"].estimate == pytest.approx(roc_auc_score(movers, 1 - probabilities[:, 1]))
    assert not found["direction"].excludes(0.5)
    assert found["movement"].low > 0.6
    assert found["movement"].n == 12


def test_direction_and_movement_are_judged_by_scores_too():
    probabilities, label, date = forecast_of_moves()
    found = direction_and_volatility(probabilities, label, date)
    assert direction_auc(probabilities[:, 2] / probabilities[:, 0], label, date).low == found["direction"].low
    assert movement_auc(probabilities[:, [0, 2]].sum(1), label, date).high == found["movement"].high
    assert direction_auc(label.astype(float), label, date).estimate == 1
    assert direction_auc(-label.astype(float), label, date).estimate == 0


def test_too_few_blocks_with_either_class_give_no_interval():
    probabilities, label, date = forecast_of_moves()
    label[(label == 2) & (date >= FIRST + 45)] = 1
    found = direction_and_volatility(probabilities, label, date)
    assert found["direction"] is None
    assert found["movement"].n == 12
    certain = np.tile([0.0, 0.0, 1.0], (len(label), 1))
    assert direction_and_volatility(certain, label, date)["movement"].estimate == 0.5


def grid(issues: int, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and dates of every issue on every day."""
    return np.tile([f"{number:06d}" for number in range(issues)], days), np.repeat(FIRST + np.arange(days), issues)


def test_two_blocks_change_their_labels_issue_by_issue_and_place_by_place():
    code, date = grid(issues=2, days=4)  # blocks of 2 days
    label = np.array([0, 1, 2, 0, 1, 2, 2, 2])
    found = block_permutation(code, date, label, label, num_permutations=200, block_sessions=2)
    swapped = label[[4, 5, 6, 7, 0, 1, 2, 3]]
    other = classification_scores(confusion_matrix(swapped, label, 3))["balanced_accuracy"]
    # either of the two orders, about as often
    share = (found["permuted_mean"] - other) / (1 - other)
    assert 0.4 < share < 0.6
    assert found["p_value"] == pytest.approx((1 + 200 * share) / 201)
    assert found["observed"] == 1
    assert found["mean_share_judged"] == 1


def test_rows_are_matched_whatever_their_order():
    code, date = grid(issues=5, days=40)
    label, predicted = np.random.default_rng(0).integers(0, 3, (2, 200))
    order = np.random.default_rng(1).permutation(200)
    expected = block_permutation(code, date, label, predicted, num_permutations=50)
    assert expected == block_permutation(code[order], date[order], label[order], predicted[order], num_permutations=50)


def test_rows_without_a_counterpart_are_left_out():
    code, date = grid(issues=2, days=4)
    kept = np.array([True, True, True, True, True, True, True, False])  # "000001" lacks the last day
    label, predicted = np.array([0, 1, 2, 0, 1, 2, 2, 2])[kept], np.array([0, 0, 2, 1, 1, 2, 0, 0])[kept]
    found = block_permutation(code[kept], date[kept], label, predicted, num_permutations=200, block_sessions=2)
    # swapped, row 3 has no counterpart: six of seven rows are judged
    order = [4, 5, 6, 0, 1, 2]
    rows = [0, 1, 2, 4, 5, 6]
    other = classification_scores(confusion_matrix(label[order], predicted[rows], 3))["balanced_accuracy"]
    share = (found["permuted_mean"] - other) / (found["observed"] - other)
    assert found["mean_share_judged"] == pytest.approx(share + (1 - share) * 6 / 7)
    assert 0.4 < share < 0.6


def test_skill_is_told_from_none():
    code, date = grid(issues=20, days=100)
    rng = np.random.default_rng(0)
    label, chance = rng.integers(0, 3, (2, 2000))
    skilled = np.where(rng.random(2000) < 0.2, label, chance)
    assert block_permutation(code, date, label, skilled, num_permutations=200)["p_value"] == 1 / 201
    without = block_permutation(code, date, label, chance, num_permutations=200)
    assert without["p_value"] > 0.05
    assert without["permuted_mean"] == pytest.approx(1 / 3, abs=0.01)


def test_p_values_are_uniform_where_all_issues_of_a_block_move_together():
    # permuted by row, labels that a whole block shares would look like skill half of the time
    code, date = grid(issues=10, days=100)
    rng = np.random.default_rng(0)
    small = 0
    for _ in range(60):
        label, predicted = (rng.integers(0, 3, 20).repeat(50) for _ in range(2))
        small += block_permutation(code, date, label, predicted, num_permutations=99)["p_value"] <= 0.1
    assert 1 <= small <= 13  # binomial(60, 0.1): more once in two hundred


def test_knowing_which_issues_move_survives_the_permutation():
    code, date = grid(issues=30, days=50)
    label = np.tile(np.arange(30) % 3, 50)
    found = block_permutation(code, date, label, label, num_permutations=20)
    assert found == {"observed": 1, "permuted_mean": 1, "p_value": 1, "mean_share_judged": 1}


def permute(codes: str, days: list[int], block_sessions: int) -> dict[str, float]:
    zeros = np.zeros(len(codes), dtype=int)
    return block_permutation(list(codes), FIRST + np.array(days), zeros, zeros, 5, block_sessions=block_sessions)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: daily_rank_ic([1.0, np.nan], [0.0, 0.0], [FIRST, FIRST]), "finite"),
        (lambda: daily_rank_ic([1.0], [0.0, 0.0], [FIRST, FIRST]), "need N scores"),
        (lambda: decile_returns([1.0, 2.0], [0.0, np.inf], [FIRST, FIRST]), "finite"),
        (lambda: permute("aaaaa", [0, 1, 2, 3, 4], 5), "more than 5 sessions; got 5"),
        (lambda: permute("aaaaaaa", [0, 0, 1, 2, 3, 4, 5], 5), "two rows share"),
        (lambda: permute("abc", [0, 1, 3], 2), "same place of two blocks"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

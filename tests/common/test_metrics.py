import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata
from sklearn import metrics as reference

from common.metrics import (
    SCORES,
    auc,
    auc_interval,
    average_ranks,
    brier,
    classification_report,
    classification_scores,
    compare_classifiers,
    confusion_matrix,
    constant_predictor,
    log_loss,
    one_vs_rest_auc,
    precision_at_coverage,
)
from common.stats import bootstrap

NAMES = ("SELL", "HOLD", "BUY")
TARGETS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
PREDICTIONS = np.array([0, 1, 1, 1, 1, 1, 0, 2, 1, 0])


def noisy_market(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, informative probabilities and group labels of n rows."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(3, n, p=[0.25, 0.5, 0.25])
    weights = rng.gamma(1.0, size=(n, 3)) + 0.7 * np.eye(3)[targets]
    return targets, weights / weights.sum(1, keepdims=True), rng.integers(0, 40, n)


def report(targets, probabilities, **options):
    return classification_report(targets, probabilities, class_names=NAMES, prior=[1, 2, 1], **options)


def test_the_rows_of_a_confusion_matrix_are_the_actual_classes():
    expected = [[1, 2, 0], [1, 3, 0], [1, 1, 1]]
    confusion = confusion_matrix(TARGETS, PREDICTIONS, 3)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == expected
    assert confusion.tolist() == reference.confusion_matrix(TARGETS, PREDICTIONS).tolist()
    assert confusion_matrix([0], [0], 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_confusion_matrices_by_group_add_up_to_the_whole():
    groups = np.array([5, 5, 5, 5, 2, 2, 2, 2, 2, 2])
    parts = confusion_matrix(TARGETS, PREDICTIONS, 3, groups)
    assert parts.shape == (2, 3, 3)
    np.testing.assert_array_equal(parts[1], confusion_matrix(TARGETS[:4], PREDICTIONS[:4], 3))
    np.testing.assert_array_equal(parts.sum(0), confusion_matrix(TARGETS, PREDICTIONS, 3))


def test_scores_worked_out_by_hand():
    scores = classification_scores([[1, 2, 0], [1, 3, 0], [1, 1, 1]])
    assert scores["accuracy"] == pytest.approx(5 / 10)
    np.testing.assert_allclose(scores["recall"], [1 / 3, 3 / 4, 1 / 3])
    np.testing.assert_allclose(scores["precision"], [1 / 3, 1 / 2, 1])
    np.testing.assert_allclose(scores["f1"], [1 / 3, 3 / 5, 1 / 2])
    assert scores["balanced_accuracy"] == pytest.approx((1 / 3 + 3 / 4 + 1 / 3) / 3)
    assert scores["macro_f1"] == pytest.approx((1 / 3 + 3 / 5 + 1 / 2) / 3)
    # (10·5 − (3·3 + 4·6 + 3·1)) / √((100 − 9 − 36 − 1)(100 − 9 − 16 − 9))
    assert scores["mcc"] == pytest.approx(14 / math.sqrt(54 * 66))


def test_always_hold_scores_as_the_specification_measured():
    # lasps specification, section 15: test shares 25.6, 48.8, 25.7 %, always HOLD
    scores = classification_scores([[0, 256, 0], [0, 488, 0], [0, 257, 0]])
    assert round(float(scores["accuracy"]), 2) == 0.49
    assert round(float(scores["balanced_accuracy"]), 3) == 0.333
    assert round(float(scores["macro_f1"]), 3) == 0.218
    assert scores["mcc"] == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(arrays(np.int64, (40, 2), elements=st.integers(0, 3)))
def test_scores_agree_with_scikit_learn(rows):
    targets, predictions = rows.T
    scores = classification_scores(confusion_matrix(targets, predictions, 4))
    occurring = np.unique(targets)
    recalls = reference.recall_score(targets, predictions, labels=occurring, average="macro", zero_division=0)
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(targets, predictions))
    assert scores["balanced_accuracy"] == pytest.approx(recalls)
    assert scores["macro_f1"] == pytest.approx(
        reference.f1_score(targets, predictions, average="macro", zero_division=0)
    )
    assert scores["mcc"] == pytest.approx(reference.matthews_corrcoef(targets, predictions), abs=1e-12)
    expected = reference.precision_recall_fscore_support(targets, predictions, labels=range(4), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(scores[name], values)


def test_scores_of_many_matrices_at_once_are_those_of_each():
    confusions = np.random.default_rng(0).integers(0, 50, (2, 5, 3, 3))
    confusions[0, 0] = 0
    scores = classification_scores(confusions)
    assert scores["mcc"].shape == (2, 5)
    assert scores["f1"].shape == (2, 5, 3)
    for index in np.ndindex(2, 5):
        for name, value in classification_scores(confusions[index]).items():
            np.testing.assert_array_equal(scores[name][index], value)
    assert all(not scores[name][0, 0].any() for name in scores)


def test_a_class_that_never_occurs_takes_no_part_in_the_means():
    scores = classification_scores([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert scores["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx((6 / 7 + 8 / 9) / 2)


def test_a_billion_rows_do_not_round_the_correlation():
    confusion = np.array([[400_000_000, 100_000_000], [100_000_000, 400_000_000]])
    assert classification_scores(confusion)["mcc"] == pytest.approx(0.6, abs=1e-12)


def test_log_loss_and_brier_score_by_hand():
    probabilities = [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]
    assert log_loss(probabilities, [0, 1]) == pytest.approx((math.log(2) + math.log(10)) / 2)
    assert brier(probabilities, [0, 1]) == pytest.approx((0.375 + (0.01 + 0.81 + 0.64)) / 2)
    assert log_loss([[1.0, 0.0]], [1]) == pytest.approx(-math.log(1e-15))
    assert brier([[1.0, 0.0]], [1]) == 2


def test_losses_agree_with_scikit_learn():
    targets, probabilities, _ = noisy_market()
    assert log_loss(probabilities, targets) == pytest.approx(reference.log_loss(targets, probabilities))
    assert brier(probabilities, targets) == pytest.approx(
        reference.brier_score_loss(targets, probabilities, scale_by_half=False)
    )


def test_the_constant_predictor_takes_its_class_from_training_and_its_score_from_the_test():
    # HOLD is the favourite in training and the rarest in the test
    constant = constant_predictor([20, 60, 20], [0, 0, 0, 1, 2, 2, 2, 2])
    assert constant["class"] == 1
    assert constant["accuracy"] == 1 / 8
    assert constant["balanced_accuracy"] == pytest.approx(1 / 3)
    assert constant["mcc"] == 0
    assert constant["log_loss"] == pytest.approx(-(7 * math.log(0.2) + math.log(0.6)) / 8)
    assert constant == constant_predictor([0.2, 0.6, 0.2], [0, 0, 0, 1, 2, 2, 2, 2])


def test_a_report_holds_what_its_parts_say():
    targets, probabilities, groups = noisy_market()
    result = report(targets, probabilities, groups=groups)
    predictions = probabilities.argmax(1)
    assert result["n"] == 600
    assert result["confusion"] == confusion_matrix(targets, predictions, 3).tolist()
    assert result["class_counts"] == dict(zip(NAMES, np.bincount(targets).tolist(), strict=True))
    assert result["class_accuracy"] == result["recall"]
    assert result["recall"]["BUY"] == pytest.approx(np.mean(predictions[targets == 2] == 2))
    assert result["precision"]["SELL"] == pytest.approx(np.mean(targets[predictions == 0] == 0))
    assert result["log_loss"] == pytest.approx(log_loss(probabilities, targets))
    assert result["brier"] == pytest.approx(brier(probabilities, targets))
    assert result["constant_predictor"]["class"] == "HOLD"
    gain = result["constant_predictor"]["log_loss"] - result["log_loss"]
    assert result["log_loss_gain"] == pytest.approx(gain)
    for name, interval in result["intervals"].items():
        assert interval["estimate"] == pytest.approx(result[name])
        assert interval["low"] < result[name] < interval["high"]
        assert interval["n"] == 40
    assert result["intervals"].keys() == {*SCORES, "log_loss", "log_loss_gain", "brier"}


def test_a_report_is_strict_json_of_plain_values():
    result = report(*noisy_market()[:2])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_intervals_need_two_groups():
    targets, probabilities, _ = noisy_market()
    assert report(targets, probabilities)["intervals"] == {}
    assert report(targets, probabilities, groups=np.zeros(600))["intervals"] == {}


@pytest.mark.slow
def test_report_intervals_are_those_of_resampling_rows_by_group():
    targets, probabilities, groups = noisy_market()
    result = report(targets, probabilities, groups=groups, seed=4, num_resamples=200)

    def macro_f1(targets, predictions):
        return reference.f1_score(targets, predictions, average="macro")

    for name, slow in {
        "macro_f1": bootstrap(macro_f1, targets, probabilities.argmax(1), groups=groups, num_resamples=200, seed=4),
        "log_loss": bootstrap(log_loss, probabilities, targets, groups=groups, num_resamples=200, seed=4),
    }.items():
        fast = result["intervals"][name]
        assert (fast["low"], fast["high"]) == pytest.approx((slow.low, slow.high), abs=1e-12)


def test_a_classifier_does_not_differ_from_itself():
    targets, probabilities, groups = noisy_market()
    for interval in compare_classifiers(targets, probabilities, probabilities, groups).values():
        assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)
        assert not interval.excludes(0)


def test_a_comparison_is_second_minus_first_and_paired():
    targets, good, groups = noisy_market(seed=1)
    poor = 0.5 * good + 0.5 * np.roll(good, 1, axis=0)
    better = compare_classifiers(targets, poor, good, groups, num_resamples=500)
    worse = compare_classifiers(targets, good, poor, groups, num_resamples=500)
    accuracy = np.mean(good.argmax(1) == targets) - np.mean(poor.argmax(1) == targets)
    assert better.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss"}
    assert better["accuracy"].estimate == pytest.approx(accuracy)
    assert better["accuracy"].low > 0
    assert better["log_loss"].estimate == pytest.approx(log_loss(good, targets) - log_loss(poor, targets))
    for name, interval in better.items():
        assert worse[name].low == pytest.approx(-interval.high)
        assert interval.n == 40


def test_pairing_removes_what_both_classifiers_share():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 20)
    hard = rng.random(50)[groups] < 0.5  # in hard blocks both are wrong half the time
    hit = rng.random(1000) < np.where(hard, 0.5, 0.95)
    targets = np.zeros(1000, dtype=int)
    first = np.eye(3)[np.where(hit, 0, 1)]
    second = first.copy()
    second[::100] = [1.0, 0.0, 0.0]
    paired = compare_classifiers(targets, first, second, groups)["accuracy"]
    alone = report(targets, first, groups=groups)["intervals"]["accuracy"]
    assert paired.high - paired.low < 0.2 * (alone["high"] - alone["low"])


# scores on a coarse grid, so that most examples have ties
scored_rows = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=40)


@given(scored_rows)
def test_ranks_agree_with_scipy(rows):
    values = [value for value, _ in rows]
    np.testing.assert_array_equal(average_ranks(values), rankdata(values))


def test_the_auc_is_the_share_of_won_pairs_and_ties_are_half_won():
    # positives 3 and 1 against negatives 2, 1, 0: 3 wins three, 1 wins one and ties one
    assert auc([3, 1, 2, 1, 0], np.array([True, True, False, False, False])) == (3 + 1.5) / 6
    assert auc([1.0, 1.0, 1.0], np.array([True, False, False])) == 0.5


@pytest.mark.slow
@given(scored_rows)
def test_the_auc_agrees_with_scikit_learn_and_is_undefined_without_both_classes(rows):
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    if positive.all() or not positive.any():
        assert math.isnan(auc(scores, positive))
    else:
        assert auc(scores, positive) == pytest.approx(reference.roc_auc_score(positive, scores))
        assert auc(scores, positive) == pytest.approx(1 - auc(scores, ~positive))


@given(scored_rows)
def test_the_auc_sees_the_order_of_the_scores_only(rows):
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    np.testing.assert_equal(auc(np.exp(scores) * 3 - 7, positive), auc(scores, positive))


def test_each_class_has_an_auc_against_the_rest():
    targets, probabilities, _ = noisy_market()
    areas = one_vs_rest_auc(probabilities, targets)
    macro = reference.roc_auc_score(targets, probabilities, multi_class="ovr", average=None)
    np.testing.assert_allclose(areas, macro)
    assert np.isnan(one_vs_rest_auc(probabilities, np.full(600, 1))).all()


@pytest.mark.slow
@given(st.integers(0, 1000), st.integers(2, 12), st.sampled_from([0, 1, 8]))
def test_the_interval_of_the_auc_is_that_of_resampling_rows_by_group(seed, num_groups, decimals):
    rng = np.random.default_rng(seed)
    groups = np.append(rng.integers(0, num_groups, 80), np.arange(num_groups)) * 7
    scores, positive = rng.normal(size=len(groups)).round(decimals), rng.random(len(groups)) < 0.4
    # every group with both classes, so that no resample is undefined
    scores, groups = np.append(scores, np.zeros(2 * num_groups)), np.append(groups, np.tile(np.unique(groups), 2))
    positive = np.append(positive, np.repeat([True, False], num_groups))
    fast = auc_interval(scores, positive, groups, num_resamples=30, level=0.9, seed=seed)
    slow = bootstrap(auc, scores, positive, groups=groups, num_resamples=30, level=0.9, seed=seed)
    assert fast.estimate == pytest.approx(auc(scores, positive), abs=1e-12)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=1e-12)
    assert (fast.n, fast.level, fast.method) == (slow.n, slow.level, slow.method)


def test_resamples_without_a_positive_are_left_out_of_the_interval_of_the_auc():
    # 4 of 8 groups have positives: some resamples have none
    groups = np.repeat(np.arange(8), 2)
    positive = (groups < 4) & (np.arange(16) % 2 == 0)
    scores = np.random.default_rng(0).normal(size=16)
    fast = auc_interval(scores, positive, groups, num_resamples=500)
    slow = bootstrap(auc, scores, positive, groups=groups, num_resamples=500)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high))


def test_scores_without_skill_have_an_interval_around_one_half():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(60), 10)
    intervals = [auc_interval(rng.normal(size=600), rng.random(600) < 0.3, groups, 300) for _ in range(40)]
    # 95 % cover it; 34 or fewer of 40 would happen once in a hundred
    assert sum(not interval.excludes(0.5) for interval in intervals) > 34
    assert max(interval.high - interval.low for interval in intervals) < 0.15


def test_precision_at_coverage_by_hand():
    scores = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    positive = np.array([1, 0, 1, 1, 0, 0, 0, 0, 0, 1], dtype=bool)
    found = precision_at_coverage(scores, positive, [0.01, 0.16, 0.4, 1.0])
    assert [row["n"] for row in found] == [1, 2, 4, 10]
    assert [row["precision"] for row in found] == pytest.approx([1, 1 / 2, 3 / 4, 4 / 10])
    assert [row["coverage"] for row in found] == [0.01, 0.16, 0.4, 1.0]


def test_rows_that_tie_at_the_cut_count_with_their_common_share():
    # one row above the cut, hit; two more wanted of four that tie, one of which is positive
    scores, positive = np.array([5, 2, 2, 2, 2, 1]), np.array([True, True, False, False, False, True])
    (found,) = precision_at_coverage(scores, positive, [0.5])
    assert found["precision"] == pytest.approx((1 + 2 * 1 / 4) / 3)
    assert precision_at_coverage(scores[::-1], positive[::-1], [0.5]) == [found]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix([0, 3], [0, 1], 3), "row 1 holds 3"),
        (lambda: confusion_matrix([0, -1], [0, 1], 3), "row 1 holds -1"),
        (lambda: confusion_matrix([0, 1], [0], 3), "2 targets and 1 predictions"),
        (lambda: confusion_matrix([0.0, 1.0], [0, 1], 3), "class numbers"),
        (lambda: confusion_matrix([0, 1], [0, 1], 3, [0]), "one label per target"),
        (lambda: classification_scores(np.ones((2, 3))), "square"),
        (lambda: log_loss([[0.5, 0.5], [2.0, -1.0]], [0, 1]), "row 1 .* softmax"),
        (lambda: log_loss([[math.nan, 1.0]], [0]), "row 0"),
        (lambda: log_loss([[1.0, 0.0]], [0, 1]), "2 targets and 1 rows"),
        (lambda: brier(np.zeros((0, 3)), []), "n ≥ 1"),
        (lambda: constant_predictor([0, 0], [0]), "not all 0"),
        (lambda: report([0], [[0.5, 0.5]]), "3 class names for 2"),
        (lambda: compare_classifiers([0, 1], np.eye(2), np.eye(3)[:2], [0, 1]), "shapes"),
        (lambda: compare_classifiers([0, 1], np.eye(2), np.eye(2), [0, 0]), "at least 2 groups"),
        (lambda: auc([1.0, math.nan], np.array([True, False])), "finite"),
        (lambda: auc([1.0, 2.0], [1, 0]), "2 bools; got int64"),
        (lambda: auc([1.0, 2.0], np.array([True])), "2 bools"),
        (lambda: auc_interval([1.0, 2.0], np.array([True, True]), [0, 1]), "statistic is nan"),
        (lambda: auc_interval([1.0, 2.0], np.array([True, False]), [0, 0]), "at least 2 groups"),
        (lambda: auc_interval([1.0, 2.0], np.array([True, False]), [0]), "one label for each"),
        (lambda: precision_at_coverage([1.0], np.array([True]), [1.5]), "coverages"),
        (lambda: precision_at_coverage([], np.array([], dtype=bool)), "at least one row"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

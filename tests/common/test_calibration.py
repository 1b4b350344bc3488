import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from common.calibration import (
    Calibration,
    expected_calibration_error,
    fit_temperature,
    fit_vector,
    reliability,
)
from common.metrics import log_loss


def drawn(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Targets that follow softmax(logits)."""
    uniform = np.random.default_rng(seed).random((len(logits), 1))
    return (softmax(logits, axis=1).cumsum(1)[:, :-1] < uniform).sum(1)


def test_a_calibration_is_the_softmax_of_scaled_and_shifted_logits():
    calibration = Calibration(0.5, (math.log(2), 0.0, -math.log(2)))
    np.testing.assert_allclose(calibration([[0.0, math.log(4), 0.0]]), [[4 / 9, 4 / 9, 1 / 9]])
    np.testing.assert_allclose(Calibration(0.0, (0.0, 0.0))([[800.0, -800.0]]), [[0.5, 0.5]])
    assert calibration(np.zeros((2, 3), np.float32)).dtype == np.float64


def test_a_calibration_survives_json():
    calibration = Calibration(0.7, (0.25, -0.25))
    assert Calibration.from_dict(json.loads(json.dumps(calibration.as_dict()))) == calibration


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0, 300.0])
def test_a_known_temperature_is_found_again(factor):
    logits = np.random.default_rng(1).normal(size=(20_000, 3))
    found = fit_temperature(logits * factor, drawn(logits))
    assert 1 / found.inverse_temperature == pytest.approx(factor, rel=0.03)
    assert found.bias == (0, 0, 0)


def test_the_temperature_of_two_outcomes_by_hand():
    # three of four rows of logit difference 1 are right: softmax gives 3/4 at log 3
    assert fit_temperature([[1.0, 0.0]] * 4, np.array([0, 0, 0, 1])).inverse_temperature == pytest.approx(math.log(3))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_temperature_agrees_with_a_search_along_the_loss(seed):
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(60, 4)) * rng.uniform(0.3, 3), rng.integers(0, 4, 60)
    found = fit_temperature(logits, targets)
    searched = minimize_scalar(
        lambda inverse: log_loss(softmax(inverse * logits, axis=1), targets),
        bounds=(0, 100), method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    assert log_loss(found(logits), targets) <= searched.fun + 1e-9
    assert found.inverse_temperature == pytest.approx(searched.x, abs=1e-3)


def test_known_temperature_and_biases_are_found_again():
    truth = np.random.default_rng(2).normal(size=(30_000, 3))
    bias = np.array([0.6, -1.0, 0.4])
    found = fit_vector((truth - bias) * 4, drawn(truth))
    assert found.inverse_temperature == pytest.approx(1 / 4, rel=0.03)
    np.testing.assert_allclose(found.bias, bias, atol=0.04)
    assert sum(found.bias) == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 1.0, 100.0]))
def test_biases_never_cost_log_loss_on_the_rows_of_the_fit(seed, scale):
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(50, 3)) * scale, rng.choice(3, 50, p=[0.2, 0.5, 0.3])
    temperature_only, vector = fit_temperature(logits, targets), fit_vector(logits, targets)
    assert log_loss(vector(logits), targets) <= log_loss(temperature_only(logits), targets) + 1e-9
    assert log_loss(temperature_only(logits), targets) <= math.log(3) + 1e-9
    # at the optimum the mean probabilities are the class shares
    np.testing.assert_allclose(vector(logits).mean(0), np.bincount(targets, minlength=3) / 50, atol=1e-4)


def test_the_unit_of_the_logits_does_not_matter():
    rng = np.random.default_rng(4)
    logits, targets = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    for fit in (fit_temperature, fit_vector):
        expected = fit(logits, targets)
        for unit in (1e-6, 1e6):
            found = fit(logits * unit, targets)
            assert found.inverse_temperature * unit == pytest.approx(expected.inverse_temperature, rel=1e-4)
            assert found.bias == pytest.approx(expected.bias, abs=1e-4)


def test_adding_the_same_number_to_all_logits_of_a_row_changes_no_probability():
    rng = np.random.default_rng(3)
    logits, targets = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    shifted = logits + rng.normal(size=(200, 1))
    np.testing.assert_allclose(fit_vector(shifted, targets)(shifted), fit_vector(logits, targets)(logits), atol=1e-5)


def test_logits_that_point_the_wrong_way_are_silenced():
    targets = np.tile([0, 1, 2, 1], 50)
    logits = -np.eye(3)[targets]
    assert fit_temperature(logits, targets).inverse_temperature == 0
    np.testing.assert_allclose(fit_temperature(logits, targets)(logits), 1 / 3)


def test_separable_rows_and_absent_classes_give_finite_calibrations():
    targets = np.tile([0, 1], 20)
    for logits in (np.eye(3)[targets], 1e-3 * np.eye(3)[targets], np.zeros((40, 3))):
        for fit in (fit_temperature, fit_vector):
            found = fit(logits, targets)
            assert 0 <= found.inverse_temperature <= 100 / (logits.std() or 1)
            assert max(map(abs, found.bias)) <= 20
            assert sum(found.bias) == pytest.approx(0, abs=1e-12)
            assert np.isfinite(found(logits)).all()
            assert fit(logits, targets) == found


def test_a_reliability_table_by_hand():
    probabilities = [[0.7, 0.3], [0.65, 0.35], [0.05, 0.95], [0.0, 1.0], [0.5, 0.5]]
    table = reliability(probabilities, [0, 1, 1, 1, 1], num_bins=5)
    assert [(row["low"], row["high"], row["n"]) for row in table] == [
        (0.0, 0.2, 0), (0.2, 0.4, 0), (0.4, 0.6, 1), (0.6, 0.8, 2), (0.8, 1.0, 2)
    ]  # fmt: skip
    assert [row["confidence"] for row in table[2:]] == pytest.approx([0.5, 0.675, 0.975])
    assert [row["frequency"] for row in table[2:]] == [0, 0.5, 1]
    assert math.isnan(table[0]["confidence"])
    assert math.isnan(table[0]["frequency"])
    # 1 · |0 − 0.5| + 2 · |0.5 − 0.675| + 2 · |1 − 0.975|, over 5 rows
    assert expected_calibration_error(table) == pytest.approx((0.5 + 0.35 + 0.05) / 5)


def test_a_reliability_table_of_one_class_judges_that_class_against_the_rest():
    probabilities = [[0.7, 0.3, 0.0], [0.65, 0.25, 0.1], [0.0, 0.95, 0.05]]
    table = reliability(probabilities, [1, 0, 1], target_class=1)
    filled = {round(row["high"], 1): (row["n"], row["confidence"], row["frequency"]) for row in table if row["n"]}
    assert filled == {0.3: (2, pytest.approx(0.275), 0.5), 1.0: (1, 0.95, 1.0)}


def test_bins_are_closed_above_at_the_decimal_number():
    confidences = np.arange(11) / 10
    table = reliability(np.stack([confidences, 1 - confidences], 1), np.zeros(11, int), target_class=0)
    assert [row["n"] for row in table] == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_probabilities_that_come_true_have_no_calibration_error():
    # among rows of probability k/10, k of 10 are of class 0
    probability = np.repeat(np.arange(11) / 10, 10)
    targets = 1 - (np.tile(np.arange(10), 11) < np.repeat(np.arange(11), 10)).astype(int)
    probabilities = np.stack([probability, 1 - probability], 1)
    for number in (0, 1):
        table = reliability(probabilities, targets, num_bins=20, target_class=number)
        assert expected_calibration_error(table) == pytest.approx(0, abs=1e-12)
    confident = probability > 0.5  # the predicted class is 0
    table = reliability(probabilities[confident], targets[confident])
    assert expected_calibration_error(table) == pytest.approx(0, abs=1e-12)


def test_calibration_lowers_the_error_of_a_model_that_is_too_sure_on_new_rows():
    truth = np.random.default_rng(5).normal(size=(8000, 3))
    logits, targets = 3 * truth, drawn(truth, seed=6)
    calibrated = fit_temperature(logits[:4000], targets[:4000])(logits[4000:])
    before = expected_calibration_error(reliability(softmax(logits[4000:], axis=1), targets[4000:]))
    after = expected_calibration_error(reliability(calibrated, targets[4000:]))
    assert after < 0.04 < 0.2 < before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_temperature([[0.0, math.inf]], [0]), "finite"),
        (lambda: fit_vector(np.zeros((0, 3)), []), "n ≥ 1"),
        (lambda: fit_vector(np.zeros((2, 3)), [0]), "2 class numbers"),
        (lambda: fit_vector(np.zeros((1, 3)), [3]), "0 … 2"),
        (lambda: fit_vector(np.zeros((1, 3)), [-1]), "0 … 2"),
        (lambda: fit_vector(np.zeros((1, 3)), [0.0]), "float64"),
        (lambda: reliability([[2.0, -1.0]], [0]), "softmax"),
        (lambda: Calibration(1.0, (0.0, 0.0))(np.zeros((1, 3))), "as fitted"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

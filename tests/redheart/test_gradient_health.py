import numpy as np
import pytest

from redheart.gradient_health import gradient_health

EPOCHS = np.arange(2, 22, 2)
GOOD = {
    "grad_norm": np.ones(10),
    "update_ratio": np.full(10, 1e-3),
    "dead_fraction": np.zeros(10),
    "nan_count": np.zeros(10),
}


def health(**changed):
    return gradient_health(EPOCHS, **(GOOD | changed))


def at(position, value, rest):
    values = np.full(10, float(rest))
    values[position] = value
    return values


def test_healthy_gradients_score_1_and_recommend_nothing():
    result = health()
    np.testing.assert_array_equal(result.score, np.ones(10))
    assert result.epoch is None
    assert "0.05" in result.abstained


@pytest.mark.parametrize(
    ("name", "value", "rest", "score"),
    [
        ("grad_norm", 20, 1, 0.5),  # 20 times the median
        ("grad_norm", 5e-4, 1, 0.5),
        ("grad_norm", np.nan, 1, 0),
        ("update_ratio", 1e-1, 1e-3, 0.5),  # one decade outside
        ("update_ratio", 1e-5, 1e-3, 0.5),
        ("update_ratio", 1e-7, 1e-3, 0),
        ("update_ratio", 0, 1e-3, 0),
        ("dead_fraction", 0.3, 0, 0.7),
        ("nan_count", 1, 0, 0),
    ],
)
def test_one_bad_epoch_has_the_score_of_its_fault(name, value, rest, score):
    result = health(**{name: at(4, value, rest)})
    np.testing.assert_allclose(result.score, at(4, score, 1))


def test_the_worst_fault_counts():
    result = health(dead_fraction=at(4, 0.3, 0), update_ratio=at(4, 0.1, 1e-3))
    assert result.score[4] == pytest.approx(0.5)


def test_the_norm_counts_in_units_of_the_runs_median():
    norms = at(4, 20, 1)
    np.testing.assert_array_equal(health(grad_norm=1e-6 * norms).score, health(grad_norm=norms).score)


@pytest.mark.parametrize("norm", [0.0, np.nan])
def test_a_zero_or_missing_gradient_is_no_signal(norm):
    result = health(grad_norm=np.full(10, norm))
    assert result.epoch is None
    assert result.abstained.startswith("no_signal")
    assert np.isnan(result.score).all()


def test_what_was_not_recorded_sets_no_bound():
    assert health(update_ratio=np.full(10, np.nan)).score.min() == 1


def test_the_epoch_of_the_highest_median_is_recommended():
    result = health(dead_fraction=np.r_[np.full(6, 0.5), np.zeros(4)])
    assert result.epoch == 14  # the first whose neighbours are healthy too
    assert 0 < result.confidence < 1

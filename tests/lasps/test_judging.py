"""Scores of forecasts on rows, and what decides their regime."""

import numpy as np
import pytest

from lasps.judged import Forecast, Rows, from_probabilities
from lasps.judging import _regime, differences, scores

ISSUES, SESSIONS = 12, 60


@pytest.fixture
def rows() -> Rows:
    """Sixty sessions of twelve issues, shuffled; returns around the bounds of the labels."""
    rng = np.random.default_rng(0)
    days = np.busday_offset("2024-01-01", np.arange(SESSIONS), roll="forward")
    count = ISSUES * SESSIONS
    move = rng.normal(0, 0.04, count)
    every = Rows(
        code=np.tile([f"{number:06d}" for number in range(ISSUES)], SESSIONS),
        date=np.repeat(days, ISSUES),
        label_end=np.repeat(days, ISSUES) + 7,
        label=1 + (move >= 0.03).astype(np.int64) - (move <= -0.03),
        forward_return=move,
        sector=np.zeros(count, np.int64),
        volatility=np.repeat(np.linspace(0.01, 0.04, SESSIONS), ISSUES),
    )
    return every[rng.permutation(count)]


def uniform(rows: Rows) -> np.ndarray:
    return np.full((len(rows), 3), 1 / 3)


def test_one_who_knows_the_outcome_scores_perfectly(rows):
    odds = 0.001 + 0.997 * np.eye(3)[rows.label]
    found = scores(rows, Forecast("oracle", rows.forward_return, rows.label, odds), uniform(rows))
    assert found["balanced_accuracy"] == found["accuracy"] == found["mcc"] == 1
    assert found["rank_ic"] == pytest.approx(1)
    assert found["auc"] == [1, 1, 1]
    assert found["direction"] == found["movement"] == 1
    assert found["log_loss"] == pytest.approx(-np.log(0.998), rel=1e-3)
    assert found["log_loss_gain"] == pytest.approx(np.log(3) + np.log(0.998), rel=1e-3)
    assert found["intervals"]["balanced_accuracy"].low == 1


def test_a_forecast_without_probabilities_is_judged_by_its_classes_and_its_ranking_only(rows):
    found = scores(rows, Forecast("rule", -rows.forward_return, np.ones(len(rows), np.int64)), uniform(rows))
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["rank_ic"] == pytest.approx(-1)
    assert "log_loss" not in found


def test_a_forecast_does_not_differ_from_itself_and_beats_its_opposite(rows):
    odds = np.random.default_rng(1).dirichlet(np.ones(3), len(rows))
    same, oracle = from_probabilities("some", odds), Forecast("oracle", rows.forward_return, rows.label)
    itself = differences(rows, same, same)
    assert (itself["balanced_accuracy"].low, itself["balanced_accuracy"].high) == (0, 0)
    assert (itself["rank_ic"].low, itself["rank_ic"].high) == (0, 0)
    better = differences(rows, oracle, same)
    assert better["balanced_accuracy"].low > 0.3
    assert better["rank_ic"].low > 0.5


def test_few_sessions_give_figures_without_intervals(rows):
    few = rows[rows.date < np.datetime64("2024-02-01")]
    found = scores(few, from_probabilities("some", uniform(few)), uniform(few))
    assert set(found["intervals"].values()) == {None}
    assert found["accuracy"] == pytest.approx((few.label == 0).mean())


def test_a_session_is_calm_or_turbulent_by_the_thirds_of_the_training_sessions(rows):
    early, late = rows[rows.date < np.datetime64("2024-02-12")], rows[rows.date >= np.datetime64("2024-02-12")]
    assert set(_regime(late, early).tolist()) == {2}
    assert np.bincount(_regime(rows, rows)).tolist() == [ISSUES * 20] * 3

import numpy as np
import pytest

from redheart.task_score import task_score

EPOCHS = np.arange(2, 12, 2)


def test_a_regression_counts_its_gain_over_the_constant_predictor():
    metrics = {"rmse": [0.3, 0.2, 0.15, 0.15, 0.45], "rmse_constant": [0.3] * 5, "pearson": [0, 0.5, 0.9, 0.8, 0.1]}
    result = task_score(EPOCHS, metrics)
    np.testing.assert_allclose(result.score, [0, 1 / 3, 0.5, 0.5, 0])
    assert result.metrics == ["rmse"]


def test_a_unit_of_several_tasks_counts_the_mean_over_its_tasks():
    metrics = {"emotion/macro_f1": [0.2] * 5, "emotion/accuracy": [1.0] * 5, "surd/pid_accuracy": [0.6] * 5}
    result = task_score(EPOCHS, metrics)
    np.testing.assert_allclose(result.score, 0.4)
    assert result.metrics == ["emotion/macro_f1", "surd/pid_accuracy"]
    assert result.abstained == "the task score never changes"


def test_the_running_median_passes_over_a_single_peak_and_ties_go_to_the_earlier():
    assert task_score(EPOCHS, {"macro_f1": [0.1, 0.1, 0.9, 0.1, 0.2]}).epoch == 8  # medians .1 .1 .1 .2 .15
    assert task_score(EPOCHS, {"macro_f1": [0.1, 0.2, 0.5, 0.5, 0.5]}).epoch == 6


@pytest.mark.parametrize("metrics", [{}, {"accuracy": [1.0] * 5}, {"macro_f1": [0.1, np.nan, 0.2, 0.3, 0.4]}])
def test_without_a_complete_task_metric_it_abstains(metrics):
    result = task_score(EPOCHS, metrics)
    assert result.epoch is None
    assert result.abstained

"""One score in [0, 1] per epoch for a unit's tasks, by fixed anchors: nothing depends on the run's own range."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from redheart.trend import noise_sd, prominence, running_median

# the first that is recorded for a task counts
SCORES = ("macro_f1", "pid_accuracy", "counterfactual_accuracy", "pairwise_accuracy")


@dataclass(frozen=True)
class TaskScore:
    """A unit's task score.

    Attributes:
        score: (E,) mean over the unit's tasks; NaN where none is recorded.
        metrics: the recorded metrics it is made of.
        epoch: the earliest maximum of its 3-point running median, None if it abstains.
        confidence: in [0, 1], how far that stands out.
        abstained: why nothing is recommended, or None.
    """

    score: np.ndarray
    metrics: list[str]
    epoch: int | None
    confidence: float
    abstained: str | None


def task_score(epochs: ArrayLike, metrics: Mapping[str, ArrayLike]) -> TaskScore:
    """The task score of metrics named `macro_f1` or, for a unit of several tasks, `emotion/macro_f1`.

    Emotion counts macro-F1; bentham 1 − RMSE / RMSE of the constant predictor (`rmse` and `rmse_constant`), or its
    pairwise accuracy where the data hold pairs; surd PID accuracy; regret counterfactual accuracy.
    """
    epochs = np.asarray(epochs)
    used, scores = [], []
    for prefix in dict.fromkeys(name.rpartition("/")[0] for name in metrics):
        of_task = {name.rpartition("/")[2]: name for name in metrics if name.rpartition("/")[0] == prefix}
        name = next((name for name in SCORES if name in of_task), None)
        if {"rmse", "rmse_constant"} <= of_task.keys():
            rmse, constant = (np.asarray(metrics[of_task[each]], np.float64) for each in ("rmse", "rmse_constant"))
            scores.append(np.clip(1 - rmse / constant, 0, 1))
            used.append(of_task["rmse"])
        elif name is not None:
            scores.append(np.asarray(metrics[of_task[name]], np.float64))
            used.append(of_task[name])
    score = np.mean(scores, axis=0) if scores else np.full(len(epochs), np.nan)
    if not np.isfinite(score).all():
        why = "no task metric recorded" if not scores else "task metrics are missing at some epochs"
        return TaskScore(score, used, None, 0.0, why)
    smooth = running_median(score, 3)
    best = int(np.argmax(smooth))
    if smooth[best] == smooth.min():
        return TaskScore(score, used, None, 0.0, "the task score never changes")
    return TaskScore(score, used, int(epochs[best]), prominence(smooth, noise_sd(score)), None)

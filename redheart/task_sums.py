"""Task scores as functions of sums over rows, so that resampling the rows costs one product of matrices."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from common.metrics import classification_scores, confusion_matrix
from redheart.rows import NUM_OUTPUTS, UNLABELLED, Task
from redheart.tasks import Answer, Targets, has_target, task_metrics

Score = Callable[[np.ndarray], np.ndarray]  # (…, K) sums → (…) scores
CLASSES = NUM_OUTPUTS["emotion"]


def score_sums(task: Task, said: Answer, targets: Targets) -> tuple[np.ndarray, Score]:
    """(B, K) parts by row of a task's score as `redheart.task_score` defines it, and what makes it of their sums.

    The error of the constant predictor, by which that of bentham is divided, stays that of all rows.
    """
    if task == "emotion":
        return _confusions(said, targets), _macro_f1
    if task == "surd":
        return _shares(said.logits.argmax(-1) == targets.surd.argmax(-1), has_target(task, targets)), _ratio
    if task == "bentham" and (known := ~targets.bentham.isnan()).any():
        errors = ((said.logits.sigmoid() - targets.bentham.nan_to_num()).square() * known).sum(1)
        constant = task_metrics(task, said, targets)["rmse_constant"]
        parts = np.stack([errors.double().numpy(), known.sum(1).double().numpy()], 1)
        return parts, lambda sums: np.clip(1 - np.sqrt(_ratio(sums)) / constant, 0, 1)
    share = targets.vote if task == "regret" else targets.preference
    right = (said.margin.sign() * (share - 0.5).sign() + 1) / 2
    return _shares(right, ~share.isnan() & (share != 0.5)), _ratio


def _confusions(said: Answer, targets: Targets) -> np.ndarray:
    known, label = targets.emotion != UNLABELLED, targets.emotion.clamp(min=0)
    cells = confusion_matrix(label, said.logits.argmax(-1), CLASSES, groups=np.arange(len(label)))
    return (cells * known.numpy()[:, None, None]).reshape(len(label), -1).astype(np.float64)


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    return classification_scores(sums.reshape(*sums.shape[:-1], CLASSES, CLASSES))["macro_f1"]


def _shares(right: Tensor, known: Tensor) -> np.ndarray:
    return np.stack([(right.double().nan_to_num() * known).numpy(), known.double().numpy()], 1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)

"""The four tasks: targets, losses and metrics. Every definition is the same at every epoch of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.losses import FocalLoss
from common.metrics import average_ranks, classification_scores, confusion_matrix
from redheart.rows import NUM_OUTPUTS, TASKS, UNLABELLED, Task

Positive = Annotated[float, Field(ge=0)]


@dataclass
class Targets:
    """What B rows should be answered, as in `redheart.rows.Rows`; floats are NaN where missing."""

    emotion: Tensor
    bentham: Tensor
    regret: Tensor
    vote: Tensor
    preference: Tensor
    surd: Tensor
    information: Tensor

    def __len__(self) -> int:
        return len(self.emotion)

    @classmethod
    def join(cls, parts: Sequence["Targets"]) -> "Targets":
        """All rows one after another, on the CPU."""
        names = [each.name for each in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in names})


@dataclass
class TaskBatch:
    """B rows, P of which are compared with a second text.

    Attributes:
        x: (B + P, …) vectors, the second texts last.
        paired: (P,) int64 rows that those belong to.
        targets: of the B rows.
    """

    x: Tensor
    paired: Tensor
    targets: Targets

    def __len__(self) -> int:
        return len(self.targets)


@dataclass
class Answer:
    """What was said of B rows for one task.

    Attributes:
        logits: (B, C).
        margin: (B,) by how much the first text's mean logit exceeds the second's; 0 for rows without one.
    """

    logits: Tensor
    margin: Tensor

    @classmethod
    def join(cls, parts: Sequence["Answer"]) -> "Answer":
        """All rows one after another, on the CPU."""
        return cls(torch.cat([part.logits.cpu() for part in parts]), torch.cat([part.margin.cpu() for part in parts]))

    @classmethod
    def fuse(cls, parts: Sequence["Answer"]) -> "Answer":
        """The mean of several answers to the same rows: without parameters, so that groups stay separable."""
        logits, margins = ([getattr(part, name) for part in parts] for name in ("logits", "margin"))
        return cls(torch.stack(logits).mean(0), torch.stack(margins).mean(0))


def answer(logits: Tensor, batch: TaskBatch) -> Answer:
    """A batch's answer, from the logits (B + P, C) of all of its vectors."""
    count, score = len(batch), logits.mean(-1)
    difference = score[batch.paired] - score[count:]
    return Answer(logits[:count], score.new_zeros(count).index_put((batch.paired,), difference))


def has_target(task: Task, targets: Targets) -> Tensor:
    """(B,) bool, whether anything is known of a row for that task."""
    if task == "emotion":
        return targets.emotion != UNLABELLED
    if task == "bentham":
        return ~targets.bentham.isnan().all(1) | ~targets.preference.isnan()
    if task == "regret":
        return ~targets.regret.isnan() | ~targets.vote.isnan()
    return ~targets.surd.isnan().any(1)


def target_spread(task: Task, targets: Targets) -> float | None:
    """Smallest range (highest less lowest) of the known values of a task's targets; None where none is known.

    0 says that one of them is the same for all rows: no metric of it means anything.
    """
    columns = {
        "emotion": [targets.emotion.double().where(has_target(task, targets), math.nan)],
        "bentham": [*targets.bentham.double().unbind(1), targets.preference.double()],
        "regret": [targets.regret.double(), targets.vote.double()],
        "surd": targets.surd.double().unbind(1),
    }[task]
    known = [column[~column.isnan()] for column in columns]
    return min(((each.max() - each.min()).item() for each in known if len(each)), default=None)


class TaskLosses(nn.Module):
    """Loss per row of each task, and the weights of tasks and units in the whole.

    Args:
        gamma: of the focal cross-entropy of the emotion; 0 is plain cross-entropy.
        label_smoothing: share of an emotion's target that is spread over all classes.
        bentham: of the annotated dimensions, averaged over them.
        surd: squared error of the shares, or Kullback-Leibler divergence from them.
        ranking_weight: of the pairwise ranking of the utility (mean logit of the bentham dimensions).
        task_weights: by task.
        unit_weights: by unit, 1 where not named.
        r_drop: weight of the difference between two passes with different dropout, which doubles the passes.
    """

    def __init__(
        self,
        gamma: Positive,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)],
        bentham: Literal["mse", "huber"],
        surd: Literal["mse", "kl"],
        ranking_weight: Positive,
        task_weights: dict[Task, Annotated[float, Field(gt=0)]],
        unit_weights: dict[str, Positive],
        r_drop: Positive = 0.0,
    ):
        super().__init__()
        if set(task_weights) != set(TASKS):
            raise UserError(f"loss.task_weights={task_weights}: need a weight for each of {', '.join(TASKS)}.")
        self.focal, self.label_smoothing = FocalLoss(gamma), label_smoothing
        self.bentham, self.surd, self.ranking_weight = bentham, surd, ranking_weight
        self.task_weights, self.unit_weights, self.r_drop = task_weights, unit_weights, r_drop

    def per_row(self, task: Task, said: Answer, targets: Targets) -> Tensor:
        """(B,) losses, 0 for rows without a target."""
        return getattr(self, f"_{task}")(said, targets)

    def disagreement(self, task: Task, one: Answer, other: Answer) -> Tensor:
        """(B,) symmetric Kullback-Leibler divergences of two answers, averaged over the values of a regression.

        Source: Liang et al. 2021, R-Drop, arXiv:2106.14448.
        """
        shared = task in ("emotion", "surd")
        first, second = (each.logits.softmax(-1) if shared else each.logits.sigmoid() for each in (one, other))
        parts = (first - second) * (one.logits - other.logits) / 2  # the normalisers cancel, as both sum to 1
        return parts.sum(-1) if shared else parts.mean(-1)

    def _emotion(self, said: Answer, targets: Targets) -> Tensor:
        losses = self.focal.per_sample(said.logits, targets.emotion.clamp(min=0))
        if self.training and self.label_smoothing:
            spread = -said.logits.log_softmax(-1).mean(-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * spread
        return losses * (targets.emotion != UNLABELLED)

    def _bentham(self, said: Answer, targets: Targets) -> Tensor:
        known = ~targets.bentham.isnan()
        error = functional.mse_loss if self.bentham == "mse" else functional.smooth_l1_loss
        each = error(said.logits.sigmoid(), targets.bentham.nan_to_num(), reduction="none") * known
        return each.sum(1) / known.sum(1).clamp(min=1) + self.ranking_weight * _pairwise(said, targets.preference)

    def _regret(self, said: Answer, targets: Targets) -> Tensor:
        value = said.logits[:, 0].sigmoid()
        huber = functional.smooth_l1_loss(value, targets.regret.nan_to_num(), reduction="none", beta=0.1)
        return huber * ~targets.regret.isnan() + _pairwise(said, targets.vote)

    def _surd(self, said: Answer, targets: Targets) -> Tensor:
        shares, known = targets.surd.nan_to_num(), has_target("surd", targets)
        if self.surd == "mse":
            return (said.logits.softmax(-1) - shares).square().mean(1) * known
        return functional.kl_div(said.logits.log_softmax(-1), shares, reduction="none").sum(1) * known


def _pairwise(said: Answer, share: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(margin) against a share in [0, 1], 0 where that is missing."""
    losses = functional.binary_cross_entropy_with_logits(said.margin, share.nan_to_num(), reduction="none")
    return losses * ~share.isnan()


def confusion(said: Answer, targets: Targets) -> np.ndarray:
    """(7, 7) counts of emotions, rows actual, over the labelled rows."""
    known = targets.emotion != UNLABELLED
    return confusion_matrix(targets.emotion[known], said.logits[known].argmax(-1), NUM_OUTPUTS["emotion"])


def task_metrics(task: Task, said: Answer, targets: Targets) -> dict[str, float]:
    """The metrics of one task that its targets define, by name, on the CPU.

    emotion: macro_f1, accuracy. bentham: rmse over the annotated values, rmse_constant of their means, pearson and
    spearman averaged over dimensions, pairwise_accuracy. regret: mae; counterfactual_accuracy (the side most voted for;
    ties are left out) and brier against the share of votes. surd: pid_accuracy (largest component right), mae, and
    error_bits, the mean error of a component in bits.
    """
    if not has_target(task, targets).any():
        return {}
    scored = {
        "emotion": _emotion_metrics,
        "bentham": _bentham_metrics,
        "regret": _regret_metrics,
        "surd": _surd_metrics,
    }
    return {name: float(value) for name, value in scored[task](said, targets).items()}


def _emotion_metrics(said: Answer, targets: Targets) -> dict[str, float]:
    scores = classification_scores(confusion(said, targets))
    return {"macro_f1": scores["macro_f1"], "accuracy": scores["accuracy"]}


def _bentham_metrics(said: Answer, targets: Targets) -> dict[str, float]:
    truth, predicted = targets.bentham.double().numpy(), said.logits.double().sigmoid().numpy()
    known = ~np.isnan(truth)
    metrics = {}
    if known.any():
        columns = [(truth[rows, k], predicted[rows, k]) for k, rows in enumerate(known.T) if rows.any()]
        metrics["rmse"] = np.sqrt(np.mean((truth - predicted)[known] ** 2))
        metrics["rmse_constant"] = np.sqrt(sum(((t - t.mean()) ** 2).sum() for t, _ in columns) / known.sum())
        metrics["pearson"] = np.mean([_correlation(*pair) for pair in columns])
        metrics["spearman"] = np.mean([_correlation(*map(average_ranks, pair)) for pair in columns])
    compared = ~targets.preference.isnan()
    if compared.any():
        metrics["pairwise_accuracy"] = _side_accuracy(said.margin[compared], targets.preference[compared])
    return metrics


def _regret_metrics(said: Answer, targets: Targets) -> dict[str, float]:
    metrics, known, voted = {}, ~targets.regret.isnan(), ~targets.vote.isnan()
    if known.any():
        metrics["mae"] = (said.logits[known, 0].sigmoid() - targets.regret[known]).abs().mean()
    if voted.any():
        margin, vote = said.margin[voted], targets.vote[voted]
        metrics["counterfactual_accuracy"] = _side_accuracy(margin, vote)
        metrics["brier"] = (margin.sigmoid() - vote).square().mean()
    return metrics


def _surd_metrics(said: Answer, targets: Targets) -> dict[str, float]:
    known = has_target("surd", targets)
    predicted, truth = said.logits[known].softmax(-1), targets.surd[known]
    error = (predicted - truth).abs().mean(1)
    return {
        "pid_accuracy": (predicted.argmax(1) == truth.argmax(1)).double().mean(),
        "mae": error.mean(),
        "error_bits": (error * targets.information[known]).mean(),
    }


def _side_accuracy(margin: Tensor, share: Tensor) -> Tensor:
    """Share of the decided pairs whose side is right; an undecided answer counts half."""
    decided = share != 0.5
    right = (margin.sign() * (share - 0.5).sign() + 1) / 2
    return right[decided].double().mean()


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, 0 where either is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])

"""The four tasks as adapters: what an element is, its losses, and the metric (ssmo specification, sections 1 and 4)."""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

IGNORE = 255


class Answer(NamedTuple):
    """A model's output, and what its losses and distances are made of: log-probabilities of classes, else the output.

    A pair step needs a model's log-probabilities in its own loss, in its distance to the peer and in the peer's to it.
    """

    output: Tensor
    logs: Tensor

    def detach(self) -> "Answer":
        return Answer(self.output.detach(), self.logs.detach())


class Task:
    """What the training of a pair has to know of its task.

    `statistics` of batches add up, over batches of any size and over processes; `scores` turns the sum into metrics,
    the first of which decides.

    Attributes:
        metric: name of the deciding metric.
        mode: whether more or less of it is better.
        distances: names of imitation losses, the first is the default.
        temperature: default temperature of the distances.
        selector: what else than the loss may tell that the peer is better.
    """

    metric: str
    mode: Literal["min", "max"]
    distances: tuple[str, ...]
    temperature = 1.0
    selector: str

    def output_shape(self, target: Tensor) -> tuple[int, ...]:
        """Shape that the output for these targets must have."""
        raise NotImplementedError

    def answer(self, output: Tensor) -> Answer:
        raise NotImplementedError

    def losses(self, answer: Answer, target: Tensor) -> Tensor:
        raise NotImplementedError

    def distance(self, answer: Answer, peer: Answer, kind: str, temperature: float) -> Tensor:
        raise NotImplementedError

    def valid(self, target: Tensor) -> Tensor:
        raise NotImplementedError

    def right(self, output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def mean(self, first: Tensor, second: Tensor) -> Tensor:
        """The output of the ensemble of two models."""
        raise NotImplementedError

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def scores(self, statistics: Tensor) -> dict[str, float]:
        raise NotImplementedError

    def error(self, score: float) -> float:
        """The deciding metric turned so that less is better."""
        return score if self.mode == "min" else 1 - score


class _Classes(Task):
    """Logits (B, K, *E) against labels (B, *E).

    Attributes:
        ignored: label of elements that do not count.
    """

    distances = ("kl", "js", "mse_logits")
    selector = "correctness"
    num_classes: int
    ignored: int

    def output_shape(self, target: Tensor) -> tuple[int, ...]:
        return (target.shape[0], self.num_classes, *target.shape[1:])

    def answer(self, output: Tensor) -> Answer:
        return Answer(output, functional.log_softmax(output, 1))

    def losses(self, answer: Answer, target: Tensor) -> Tensor:
        return functional.nll_loss(answer.logs, target, ignore_index=self.ignored, reduction="none")

    def distance(self, answer: Answer, peer: Answer, kind: str, temperature: float) -> Tensor:
        """Peer as target: KL(q ‖ p) T², Jensen-Shannon in nats times T², or the mean squared difference of logits."""
        if kind == "mse_logits":
            return ((answer.output - peer.output) ** 2).mean(1)
        log_p, log_q = answer.logs, peer.logs
        if temperature != 1:
            log_p, log_q = (functional.log_softmax(each.output / temperature, 1) for each in (answer, peer))
        if kind == "kl":
            return (log_q.exp() * (log_q - log_p)).sum(1) * temperature**2
        # the mixture's part of the teacher is constant, as the teacher is
        log_m = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
        each = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
        return each.sum(1) * temperature**2 / 2

    def valid(self, target: Tensor) -> Tensor:
        return target != self.ignored

    def right(self, output: Tensor, target: Tensor) -> Tensor:
        return output.max(1).indices == target  # argmax over an inner axis takes seven times as long

    def mean(self, first: Tensor, second: Tensor) -> Tensor:
        """Log of the mean probability."""
        return torch.logaddexp(functional.log_softmax(first, 1), functional.log_softmax(second, 1))


class Classification(_Classes):
    """Logits (B, K) against labels (B,); an element is a sample; accuracy decides."""

    metric, mode, temperature = "accuracy", "max", 2.0
    ignored = -1  # none: 255 is a class like any other

    def __init__(self, num_classes: Annotated[int, Field(ge=2)]):
        self.num_classes = num_classes

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        losses = self.losses(self.answer(output), target)
        return torch.stack([self.valid(target).sum(), self.right(output, target).sum(), losses.double().sum()])

    def scores(self, statistics: Tensor) -> dict[str, float]:
        count, right, loss = statistics.tolist()
        return {"accuracy": right / count, "log_loss": loss / count}


class Segmentation(_Classes):
    """Logits (B, K, H, W) against labels (B, H, W), 255 ignored; mean intersection over union decides."""

    metric, mode, ignored = "mean_iou", "max", IGNORE

    def __init__(self, num_classes: Annotated[int, Field(ge=2)]):
        self.num_classes = num_classes

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(K, K) confusion matrix, rows actual."""
        valid = self.valid(target)
        cells = target[valid] * self.num_classes + output.max(1).indices[valid]
        return torch.bincount(cells, minlength=self.num_classes**2).view(self.num_classes, -1).double()

    def scores(self, statistics: Tensor) -> dict[str, float]:
        """Classes in neither prediction nor label of the whole set do not count."""
        both = statistics.diagonal()
        union = statistics.sum(0) + statistics.sum(1) - both
        present = union > 0
        return {
            "mean_iou": (both[present] / union[present]).mean().item(),
            "pixel_accuracy": (both.sum() / statistics.sum()).item(),
        }


class _Values(Task):
    """Real outputs against targets of the same shape; every value is an element, NaN targets do not count."""

    distances = ("mse", "mae", "huber")
    selector = "opposite_side"

    def output_shape(self, target: Tensor) -> tuple[int, ...]:
        return tuple(target.shape)

    def answer(self, output: Tensor) -> Answer:
        return Answer(output, output)

    def losses(self, answer: Answer, target: Tensor) -> Tensor:
        return (answer.output - target.nan_to_num(0.0)) ** 2

    def distance(self, answer: Answer, peer: Answer, kind: str, temperature: float) -> Tensor:
        if kind == "huber":
            return functional.huber_loss(answer.output, peer.output, reduction="none")
        error = answer.output - peer.output
        return error.abs() if kind == "mae" else error**2

    def valid(self, target: Tensor) -> Tensor:
        return ~target.isnan()

    def right(self, output: Tensor, target: Tensor) -> Tensor:
        """The sign of the residual, as bool: two models agree where they err to the same side."""
        return output > target

    def mean(self, first: Tensor, second: Tensor) -> Tensor:
        return (first + second) / 2


class Operator(_Values):
    """Fields (B, C, *grid), standardised; the relative L2 error of fields in their own units decides.

    Args:
        mean, std: of the target's channels over the training samples, to undo the standardisation.
    """

    metric, mode = "relative_l2", "min"

    def __init__(self, mean: list[float], std: list[float]):
        self.target_mean, self.target_std = mean, std

    def fields(self, values: Tensor) -> Tensor:
        """Standardised values as fields in their own units."""
        shape = (1, -1) + (1,) * (values.dim() - 2)
        return values * values.new_tensor(self.target_std).view(shape) + values.new_tensor(self.target_mean).view(shape)

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        valid = self.valid(target).flatten(1)
        output, target = (torch.where(valid, self.fields(each).flatten(1), 0).double() for each in (output, target))
        error = (output - target).norm(dim=1) / target.norm(dim=1)
        squares = ((output - target) ** 2).sum(1) / valid.sum(1)
        return torch.stack([error.new_tensor(len(error)), error.sum(), squares.sum()])

    def scores(self, statistics: Tensor) -> dict[str, float]:
        count, error, squares = statistics.tolist()
        return {"relative_l2": error / count, "mse": squares / count}


class Series(_Values):
    """Forecasts (B, H, C) of standardised series; their mean squared error over everything decides."""

    metric, mode = "mse", "min"

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        valid = self.valid(target)
        error = torch.where(valid, output - target, 0).double()
        return torch.stack([valid.sum(), (error**2).sum(), error.abs().sum()])

    def scores(self, statistics: Tensor) -> dict[str, float]:
        count, squares, absolute = statistics.tolist()
        return {"mse": squares / count, "mae": absolute / count}

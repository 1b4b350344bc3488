"""What each of two models learns from the other: where it imitates, how strongly, and the loss that follows.

Notation of the ssmo specification, section 1: on every element i of a batch (a sample, a grid point, a pixel) a model
has the supervised loss s, its peer has t on the same labels, d measures how far their outputs are apart, v says whether
the element counts and w, in [0, 1], how much the model imitates there.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from common.errors import UserError
from ssmo.tasks import Task

Weighting = Literal["none", "all", "hard", "soft", "random"]
Selector = Literal["loss", "correctness", "opposite_side", "auto"]


class Elements(NamedTuple):
    """One model's view of a batch; all but `losses` and `distances` carry no gradient.

    Attributes:
        losses: (B, *E) supervised loss s.
        peer_losses: (B, *E) t, the teacher's loss on this model's labels.
        distances: (B, *E) imitation loss d.
        valid: (B, *E) whether an element counts.
        taught: (B, *E) whether this model is told the truth there; a weak peer is not everywhere.
        right, peer_right: (B, *E) whether an answer is right (classes) or too high (regression).
    """

    losses: Tensor
    peer_losses: Tensor
    distances: Tensor
    valid: Tensor
    taught: Tensor
    right: Tensor
    peer_right: Tensor


class PairLoss(NamedTuple):
    """A model's loss on a batch; scalars.

    Attributes:
        total: what is minimised.
        supervised, imitation: the two parts it consists of.
        active: sum of the weights over valid elements.
        truth: mean loss on the truths it is told, whatever the method makes of them: what methods compare by.
    """

    total: Tensor
    supervised: Tensor
    imitation: Tensor
    active: Tensor
    truth: Tensor


class Method:
    """A way of mutual learning (ssmo specification, section 1).

    Args:
        name: what the method is called in results.
        weighting: w = 0; w = 1; w = 1 where t + margin < s, else 0 (`hard`, strict); w = sigmoid(sharpness (s - t -
            margin)) (`soft`); or the hard weights at random positions (`random`), the control for selection itself.
        teacher: whom to imitate: the other model, or an exponential moving average of oneself.
        ema_decay: of that average, per step.
        selector: what makes the teacher better: its loss; being right where self is wrong; or lying on the other side
            of the truth, and nearer; `auto` is the one of the last two that the task has.
        granularity: whether w is decided per element or per sample (by its mean loss).
        combine: `add` supervision and imitation; `replace` the one by the other where w = 1; or `subset_means`, the
            original notebooks: mean d where the teacher is better plus mean s where neither is.
        normalise: imitation is divided by the number of valid elements, or by the sum of their weights.
        imitation: distance of two outputs; `auto` is kl for classes and mse for fields.
        temperature: of kl and js.
        strength: λ, factor of the imitation.
        ramp: λ over the epochs: constant, linear up to `warmup_epochs`, or zero before them.
        margin: τ >= 0.
        sharpness: α > 0.
        soft_scale: divide s - t by its standard deviation over the batch, so that α means the same for every loss.
        loss_scale: factor on the whole loss; 2 is a control, because Adam with coupled weight decay is not invariant.
        ensemble: judge the mean of both models in either place; training is untouched.
        probe_every: steps between measurements of both gradients, 0 for none; training is untouched.

    Raises:
        UserError: if two of these contradict each other.
    """

    def __init__(
        self,
        name: str,
        weighting: Weighting,
        teacher: Literal["peer", "ema"] = "peer",
        ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        selector: Selector = "loss",
        granularity: Literal["element", "sample"] = "element",
        combine: Literal["add", "replace", "subset_means"] = "add",
        normalise: Literal["valid", "active"] = "valid",
        imitation: Literal["auto", "kl", "js", "mse_logits", "mse", "mae", "huber"] = "auto",
        temperature: Annotated[float, Field(gt=0)] | None = None,
        strength: Annotated[float, Field(ge=0)] = 1.0,
        ramp: Literal["constant", "linear", "step"] = "constant",
        warmup_epochs: Annotated[int, Field(ge=0)] = 0,
        margin: Annotated[float, Field(ge=0)] = 0.0,
        sharpness: Annotated[float, Field(gt=0)] = 5.0,
        soft_scale: Literal["none", "batch_std"] = "none",
        loss_scale: Annotated[float, Field(gt=0)] = 1.0,
        ensemble: bool = False,
        probe_every: Annotated[int, Field(ge=0)] = 10,
    ):
        if selector != "loss" and (weighting in ("soft", "random") or granularity == "sample"):
            raise UserError(f"loss.selector={selector}: only with weighting=hard and granularity=element.")
        if combine == "subset_means" and weighting != "hard":
            raise UserError(f"loss.combine=subset_means: only with weighting=hard, not {weighting}.")
        self.name, self.weighting, self.teacher, self.ema_decay = name, weighting, teacher, ema_decay
        self.selector, self.granularity, self.combine, self.normalise = selector, granularity, combine, normalise
        self.imitation, self.temperature = imitation, temperature
        self.strength, self.ramp, self.warmup_epochs = strength, ramp, warmup_epochs
        self.margin, self.sharpness, self.soft_scale = margin, sharpness, soft_scale
        self.loss_scale, self.ensemble, self.probe_every = loss_scale, ensemble, probe_every

    def adapt(self, task: Task) -> None:
        """Settle what depends on the task.

        Raises:
            UserError: if the task has no such imitation loss or selector.
        """
        self.imitation = _choose("imitation", self.imitation, task.distances, task)
        self.temperature = self.temperature or task.temperature
        if self.selector != "loss":
            self.selector = _choose("selector", self.selector, (task.selector,), task)

    @property
    def imitates(self) -> bool:
        return self.weighting != "none" and self.strength > 0

    def strength_at(self, epoch: int) -> float:
        """λ in an epoch, counted from 0."""
        if epoch >= self.warmup_epochs or self.ramp == "constant":
            return self.strength
        return self.strength * epoch / self.warmup_epochs if self.ramp == "linear" else 0.0

    def weights(self, elements: Elements) -> Tensor:
        """(B, *E) w, without gradient; NaN losses give 0."""
        with torch.no_grad():
            losses, peer_losses = elements.losses, elements.peer_losses
            if self.weighting == "none":
                return torch.zeros_like(losses)
            if self.weighting == "all":
                return torch.ones_like(losses)
            if self.granularity == "sample" and losses.dim() > 1:
                valid = elements.valid
                mean, peer_mean = sample_mean(losses, valid), sample_mean(peer_losses, valid)
                counts = valid.flatten(1).any(1).view_as(mean)
                sample = elements._replace(losses=mean, peer_losses=peer_mean, valid=counts)
                return self._decide(sample, peer_better(sample, "loss", self.margin)).expand(losses.shape)
            return self._decide(elements, peer_better(elements, self.selector, self.margin))

    def _decide(self, elements: Elements, better: Tensor) -> Tensor:
        gap = elements.losses - elements.peer_losses
        if self.weighting == "soft":
            if self.soft_scale == "batch_std":
                gap = gap / (_std(gap, elements.valid) + 1e-12)
            return torch.sigmoid(self.sharpness * (gap - self.margin)).nan_to_num(0.0)
        weights = better.to(gap)
        if self.weighting == "random":
            weights = shuffle_valid(weights, elements.valid.expand(weights.shape))
        return weights

    def loss(self, elements: Elements, strength: float) -> PairLoss:
        """A model's loss on a batch; a scalar that stays finite and differentiable where nothing is selected.

        Args:
            strength: λ of this epoch.
        """
        valid = elements.valid.to(elements.losses)
        taught = valid * elements.taught
        weights = self.weights(elements)
        count, active = valid.sum().clamp_min(1), (valid * weights).sum()
        truth = _mean(elements.losses, taught)
        if self.combine == "subset_means":
            supervised, imitation = self._subset_means(elements, taught)
        else:
            supervised = truth
            if self.combine == "replace":
                supervised = (taught * (1 - weights) * elements.losses).sum() / taught.sum().clamp_min(1)
            total = count if self.normalise == "valid" else torch.where(active > 0, active, 1)
            imitation = (valid * weights * elements.distances).sum() / total
        supervised, imitation = self.loss_scale * supervised, self.loss_scale * strength * imitation
        loss = supervised + imitation if self.imitates else supervised
        return PairLoss(loss, supervised, imitation, active, truth)

    def _subset_means(self, elements: Elements, taught: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            worse = peer_better(elements, self.selector, self.margin) & elements.valid
            swapped = elements._replace(
                losses=elements.peer_losses, peer_losses=elements.losses,
                right=elements.peer_right, peer_right=elements.right,
            )  # fmt: skip
            better = peer_better(swapped, self.selector, self.margin)
            rest = taught * ~(worse | better)
        return _mean(elements.losses, rest), _mean(elements.distances, worse.to(rest))


def _choose(key: str, value: str, known: tuple[str, ...], task: Task) -> str:
    if value != "auto" and value not in known:
        raise UserError(f"loss.{key}={value}: not for {type(task).__name__.lower()}; choose {', '.join(known)}.")
    return known[0] if value == "auto" else value


def peer_better(elements: Elements, selector: Selector, margin: float) -> Tensor:
    """Where the teacher is better, bool; ties and NaN are not."""
    if selector == "correctness":
        return elements.peer_right & ~elements.right
    lower = elements.peer_losses + margin < elements.losses
    return lower & (elements.right != elements.peer_right) if selector == "opposite_side" else lower


def sample_mean(values: Tensor, valid: Tensor) -> Tensor:
    """(B, 1, …) mean of a sample's valid elements."""
    dims = tuple(range(1, values.dim()))
    valid = valid.to(values)
    return (torch.where(valid > 0, values, 0) * valid).sum(dims, True) / valid.sum(dims, True).clamp_min(1)


def shuffle_valid(weights: Tensor, valid: Tensor) -> Tensor:
    """The same weights at random positions among the valid ones; random numbers of torch's global generator."""
    positions = valid.flatten().nonzero().squeeze(1)
    shuffled = torch.zeros_like(weights).flatten()
    order = torch.randperm(len(positions)).to(positions.device)
    shuffled[positions] = weights.flatten()[positions[order]]
    return shuffled.view_as(weights)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1)


def _std(values: Tensor, valid: Tensor) -> Tensor:
    weights = valid.to(values).expand(values.shape)
    mean = _mean(values, weights)
    return _mean((values - mean) ** 2, weights).sqrt()

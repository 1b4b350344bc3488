"""Losses that more than one programme uses."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn


class FocalLoss(nn.Module):
    """Class-weighted cross-entropy that counts well-classified samples less: w_y (1 − p_y)^γ (−log p_y).

    Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv 1708.02002. γ = 0 is weighted cross-entropy.

    Args:
        gamma: γ, how strongly samples that are already right are discounted.
        class_weights: one per class; None weighs all alike.
        reduction: `mean` divides by the number of samples, `weighted_mean` by the sum of their class weights.
        variant: `original` takes p_y = exp(−weighted cross-entropy) instead of the probability, for comparison with
            results of the first lasps (its specification, section 7).
    """

    def __init__(
        self,
        gamma: Annotated[float, Field(ge=0)] = 2.0,
        class_weights: Sequence[Annotated[float, Field(ge=0)]] | None = None,
        reduction: Literal["mean", "weighted_mean"] = "mean",
        variant: Literal["correct", "original"] = "correct",
    ):
        super().__init__()
        self.gamma, self.reduction, self.variant = gamma, reduction, variant
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float64)
        # not in checkpoints: the weights belong to the config
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """The reduced loss: a scalar, or one value per leading index.

        Args:
            logits: (…, B, C).
            targets: (…, B) int64 in [0, C).
            mask: (…, B) bool, False where a sample does not count; each leading index needs one that does.

        Raises:
            ValueError: if the logits have another number of classes than there are weights.
        """
        losses = self.per_sample(logits, targets)
        share = self._weights(logits)[targets] if self.reduction == "weighted_mean" else torch.ones_like(losses)
        if mask is not None:
            losses, share = losses * mask, share * mask
        return losses.sum(-1) / share.sum(-1)

    def per_sample(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(…, B) losses before any reduction, class weights included."""
        log_p = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        cross_entropy = -log_p * self._weights(logits)[targets]
        miss = -torch.expm1(-cross_entropy if self.variant == "original" else log_p)
        # the slope of x^γ at 0 is infinite for γ < 1; a sample classified with certainty must not give NaN
        return miss.clamp(min=torch.finfo(miss.dtype).tiny) ** self.gamma * cross_entropy

    def _weights(self, logits: Tensor) -> Tensor:
        if self.class_weights is None:
            return logits.new_ones(logits.shape[-1])
        if len(self.class_weights) != logits.shape[-1]:
            raise ValueError(f"class_weights: {len(self.class_weights)} given for {logits.shape[-1]} classes.")
        return self.class_weights.to(logits.dtype)


def inverse_share_weights(counts: Sequence[int]) -> list[float]:
    """Class weights 0.5 / share, so that every class contributes equally to a weighted sum.

    The factor 0.5 is the one that turns the shares 24.4, 53.6 and 21.9 % into the weights (2.05, 0.93, 2.28) of the
    lasps specification, section 7. A class without a sample gets 0: nothing can be learnt about it.

    Args:
        counts: samples per class.
    """
    total = sum(counts)
    return [0.5 * total / count if count else 0.0 for count in counts]

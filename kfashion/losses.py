"""Contrastive losses between attribute vectors and image vectors, for batches in which records occur more than once.

Source: kfashion specification, section 4; van den Oord et al. 2018, "Representation Learning with Contrastive
Predictive Coding", arXiv 1807.03748; Khosla et al. 2020, "Supervised Contrastive Learning", arXiv 2004.11362.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

MIN_TEMPERATURE = 0.01


class ContrastiveLoss(nn.Module):
    """InfoNCE in both directions, which may know that equal records are no negatives of each other.

    With P(i) the rows of the batch whose record equals that of row i (i among them) and S the cosines divided by the
    temperature, the loss of row i is, averaged over both directions:

    - `supcon_out`: the mean over p ∈ P(i) of −log softmax(S_i)[p]
    - `supcon_in`: −log of the mean over p ∈ P(i) of softmax(S_i)[p]
    - `infonce`: −log softmax(S_i)[i]; m equal records cannot get below ln m
    - `mask_duplicates`: the same, the other rows of P(i) left out of the softmax

    All four are the same number where no two records are equal. At chance it is ln B.

    Args:
        form: one of the four.
        temperature: divides the cosines.
        learnable: whether the temperature trains, from this value on and never below 0.01.
    """

    def __init__(
        self,
        form: Literal["supcon_out", "supcon_in", "infonce", "mask_duplicates"] = "supcon_out",
        temperature: Annotated[float, Field(ge=MIN_TEMPERATURE)] = 0.07,
        learnable: bool = False,
    ):
        super().__init__()
        self.form = form
        log_temperature = torch.tensor(math.log(temperature))
        if learnable:
            self.log_temperature = nn.Parameter(log_temperature)
        else:  # the config's, not the checkpoint's
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp().clamp(min=MIN_TEMPERATURE)

    def forward(self, attribute: Tensor, image: Tensor, attr_key: Tensor, mixing: Tensor | None = None) -> Tensor:
        """The mean loss, a scalar in nats.

        Args:
            attribute, image: (B, D) of length 1.
            attr_key: (B,) equal where the records are.
            mixing: (B, B), row i the shares of the B images in image i, where images were mixed; their targets are
                mixed alike. Only `supcon_out` and `infonce` can.
        """
        logits = attribute.float() @ image.float().T / self.temperature
        same = attr_key[:, None] == attr_key[None, :]
        if self.form == "supcon_in":
            return sum(_inside(logits, same, dim) for dim in (0, 1)) / 2
        weights = self._weights(same.to(logits.dtype), mixing)
        everything = logits
        if self.form == "mask_duplicates":
            own = torch.eye(len(same), dtype=torch.bool, device=same.device)
            everything = logits.masked_fill(same & ~own, -torch.inf)
        weighted = weights * logits
        losses = [everything.logsumexp(dim) - weighted.sum(dim) / weights.sum(dim) for dim in (0, 1)]
        return (losses[0] + losses[1]).mean() / 2

    def _weights(self, same: Tensor, mixing: Tensor | None) -> Tensor:
        """(B, B) how much image j is what record i should find."""
        targets = same if self.form == "supcon_out" else torch.eye(len(same), device=same.device)
        return targets if mixing is None else targets @ mixing.to(same.dtype).T


def _inside(logits: Tensor, same: Tensor, dim: int) -> Tensor:
    """The mean of −log of the mean share of the positives, over the other dimension."""
    positives = logits.masked_fill(~same, -torch.inf).logsumexp(dim)
    return (logits.logsumexp(dim) - positives + same.sum(dim).to(logits.dtype).log()).mean()

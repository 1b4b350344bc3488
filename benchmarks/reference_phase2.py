"""Phase 2 as the founding document has it: one sector after the other, one optimiser per head. Slow and plain.

The measure for `lasps.heads`, which must give the same heads: tests compare results, `lasps_phase2.py` compares time.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import FocalLoss
from lasps.heads import dropout_masks, epoch_order
from lasps.networks import SectorHeads


def train_one_by_one(
    heads: SectorHeads,
    inputs: Tensor | tuple[Tensor, ...],
    targets: Tensor,
    sector_ids: Tensor,
    trained: Iterable[int],
    loss: FocalLoss,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    max_norm: float,
    seed: int,
    backbone: Callable[..., Tensor] | None = None,
    halve_every: int = 5,
) -> None:
    """Train the heads of `trained` in place.

    Args:
        inputs: (N, D) shared features; with `backbone`, one or more tensors of N rows that it turns into features.
        targets, sector_ids: (N,) int64.
        backbone: evaluated on every batch in every epoch, as the original does; must be frozen, in evaluation mode.
        halve_every: epochs after which the learning rate is halved.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    for sector in trained:
        head = [nn.Parameter(stacked[sector].detach().clone()) for stacked in heads.parameters()]
        optimizer = torch.optim.AdamW(head, lr=lr, weight_decay=weight_decay)
        rows = (sector_ids == sector).nonzero().squeeze(1)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * 0.5 ** (epoch // halve_every)
            order = rows[epoch_order(seed, sector, epoch, len(rows))]
            for step, chosen in enumerate(order.split(batch_size)):
                batch = tuple(values[chosen] for values in inputs)
                with torch.no_grad():
                    features = batch[0] if backbone is None else backbone(*batch)
                shape = (batch_size, head[0].shape[1])
                mask = dropout_masks(seed, [sector], epoch, step, shape, heads.dropout)[0, : len(chosen)]
                optimizer.zero_grad()
                loss(head_logits(head, features, mask), targets[chosen]).backward()
                nn.utils.clip_grad_norm_(head, max_norm)
                optimizer.step()
        with torch.no_grad():
            for stacked, parameter in zip(heads.parameters(), head):
                stacked[sector] = parameter


def head_logits(head: list[nn.Parameter], features: Tensor, dropout_mask: Tensor) -> Tensor:
    """(b, 3) logits of one head."""
    weight1, bias1, weight2, bias2 = head
    hidden = F.linear(features, weight1.T, bias1).relu() * dropout_mask
    return F.linear(hidden, weight2.T, bias2)

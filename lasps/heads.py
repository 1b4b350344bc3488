"""All sector heads trained at once on cached features, each exactly as if it were trained alone.

Lasps specification, sections 7 (rules of phase 2) and 8. The order of a sector's samples and its dropout depend on
(seed, sector, epoch, step) alone, clipping and step counts are kept per sector; so neither which other sectors are
trained nor how many changes a head.

    for batch in SectorBatches(features, targets, sector_ids, sectors, batch_size, seed):
        mask = dropout_masks(seed, batch.sectors, batch.epoch, batch.step, (batch_size, hidden), heads.dropout)
        losses = loss(heads.stacked(batch.features, batch.sectors, mask), batch.targets, batch.mask)
        losses.sum().backward()
        optimizer.step(active=batch.active)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

ORDER, DROPOUT = 0, 1  # independent streams of random numbers


@dataclass
class SectorBatch:
    """One step of the A sectors that still have samples in this epoch, b = batch size.

    Sectors that are done are left out instead of padded: where one sector is far larger than the others, most steps
    are its alone.

    Attributes:
        sectors: (A,) int64, ascending.
        features: (A, b, D). A sector's last batch is filled up with samples that `mask` excludes.
        targets: (A, b) int64.
        mask: (A, b) bool, at least one True per row.
        active: (S,) bool, True for `sectors`.
        epoch, step: where in training this is; `step` counts within the epoch.
    """

    sectors: Tensor
    features: Tensor
    targets: Tensor
    mask: Tensor
    active: Tensor
    epoch: int
    step: int


class SectorBatches:
    """The steps of one epoch; every sector goes through its samples once, in an order of its own.

    Args:
        features: (N, D) shared features; may be memory-mapped.
        targets: (N,) int64.
        sector_ids: (N,) int64 in [0, num_sectors).
        num_sectors: S.
        trained: sectors to train; each needs a sample. The others are never active.
        batch_size: b, samples per sector and step.
        seed: of the orders.

    Raises:
        ValueError: if a sector to train has no sample.
    """

    def __init__(
        self, features: Tensor, targets: Tensor, sector_ids: Tensor, num_sectors: int, trained: Iterable[int],
        batch_size: int, seed: int,
    ):  # fmt: skip
        self.features, self.targets, self.num_sectors = features, targets, num_sectors
        self.batch_size, self.seed = batch_size, seed
        self.start_at(0, 0)
        self.trained = torch.tensor(sorted(trained), dtype=torch.int64)
        self._rows = [(sector_ids.cpu() == sector).nonzero().squeeze(1) for sector in self.trained]
        self._sizes = torch.tensor([len(rows) for rows in self._rows])
        if len(self.trained) == 0 or not self._sizes.all():
            raise ValueError(f"sectors to train: {self.trained.tolist()}, with {self._sizes.tolist()} samples each.")

    @property
    def sampler(self) -> "SectorBatches":
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def start_at(self, epoch: int, skip: int) -> None:
        """Begin with `epoch` and leave out its first `skip` steps, which were made before the run was resumed."""
        self.epoch, self.resumed_epoch, self.skip = epoch, epoch, skip

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-int(self._sizes.max()) // self.batch_size)

    def __iter__(self) -> Iterator[SectorBatch]:
        epoch, numbered = self.epoch, zip(self.trained.tolist(), self._rows)
        order = torch.cat([rows[epoch_order(self.seed, sector, epoch, len(rows))] for sector, rows in numbered])
        first = self._sizes.cumsum(0) - self._sizes
        for step in range(self.skip if epoch == self.resumed_epoch else 0, len(self)):
            busy = self._sizes > step * self.batch_size
            position = step * self.batch_size + torch.arange(self.batch_size).expand(int(busy.sum()), -1)
            sizes = self._sizes[busy].unsqueeze(1)
            rows = order[first[busy].unsqueeze(1) + position.minimum(sizes - 1)]
            yield self._batch(self.trained[busy], rows, position < sizes, epoch, step)

    def _batch(self, sectors: Tensor, rows: Tensor, mask: Tensor, epoch: int, step: int) -> SectorBatch:
        active = torch.zeros(self.num_sectors, dtype=torch.bool).index_fill(0, sectors, True)
        return SectorBatch(sectors, self.features[rows], self.targets[rows], mask, active, epoch, step)


def epoch_order(seed: int, sector: int, epoch: int, count: int) -> Tensor:
    """(count,) int64 permutation in which a sector goes through its samples in an epoch."""
    return torch.from_numpy(_generator(seed, sector, ORDER, epoch, 0).permutation(count))


def dropout_masks(
    seed: int, sectors: Sequence[int] | Tensor, epoch: int, step: int, shape: tuple[int, ...], dropout: float
) -> Tensor:
    """(A, *shape) float32 factors of hidden units, on the CPU: 0 with probability `dropout`, else 1 / (1 − dropout)."""
    numbers = torch.as_tensor(sectors).tolist()  # at once: each element read from a GPU would wait for it
    draws = [_generator(seed, sector, DROPOUT, epoch, step).random(shape, dtype=np.float32) for sector in numbers]
    return torch.from_numpy((np.stack(draws) >= dropout) / np.float32(1 - dropout))


def _generator(seed: int, sector: int, stream: int, epoch: int, step: int) -> np.random.Generator:
    # counter-based: streams of different keys or counters are disjoint; the lowest word counts the numbers drawn
    key, counter = np.array([seed, sector], dtype=np.uint64), np.array([0, step, epoch, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class StackedAdamW(torch.optim.Optimizer):
    """AdamW for parameters whose first axis is the sector: S optimisers in one, each with its own step count.

    Equals `torch.optim.AdamW` with `clip_grad_norm_` run for every sector by itself. Loshchilov and Hutter 2019,
    "Decoupled Weight Decay Regularization", arXiv 1711.05101.

    Args:
        max_norm: bound on the norm of one sector's gradient over all parameters; None does not clip.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Annotated[float, Field(ge=0)] = 1e-3,
        weight_decay: Annotated[float, Field(ge=0)] = 1e-2,
        max_norm: Annotated[float, Field(gt=0)] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Annotated[float, Field(gt=0)] = 1e-8,
    ):
        self.max_norm = max_norm
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None, *, active: Tensor) -> Tensor | None:
        """Update the sectors of `active` (S,) bool; weights and state of the others stay as they are, bit for bit."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rows = active.cpu().nonzero().squeeze(1)
        entries = [(group, parameter) for group in self.param_groups for parameter in group["params"]]
        gradients = [parameter.grad[rows] for _, parameter in entries]
        if self.max_norm is not None:
            gradients = _clip(gradients, self.max_norm)
        for (group, parameter), gradient in zip(entries, gradients):
            self._update(group, parameter, gradient, rows)
        return loss

    def _update(self, group: dict, parameter: Tensor, gradient: Tensor, rows: Tensor) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            # the name that torch leaves on the CPU and in its own type when a state is loaded
            state["step"] = torch.zeros(len(parameter), dtype=torch.int64)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"][rows] += 1
        mean = state["exp_avg"][rows].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # float64: in float32 these powers alone shift weights by up to 4e-4 (specification, section 8)
        count = state["step"][rows].double()
        rate = _column(group["lr"] / (1 - beta1**count), parameter)
        root = _column((1 - beta2**count).sqrt(), parameter)
        weight = parameter[rows].mul_(1 - group["lr"] * group["weight_decay"])
        parameter[rows] = weight.sub_(rate * mean / (square.sqrt() / root).add_(group["eps"]))
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square


def _clip(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """(A, …) gradients scaled so that no sector's norm over all of them exceeds `max_norm`."""
    norm = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]).norm(dim=0)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # 1e-6 as in torch.nn.utils.clip_grad_norm_
    return [gradient * _column(factor, gradient) for gradient in gradients]


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(A,) values as (A, 1, …) with the type, device and rank of `like`."""
    return values.to(like).reshape(-1, *[1] * (like.dim() - 1))

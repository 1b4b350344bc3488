"""What the trunk asks of every programme's data, and the loaders that make a run exactly resumable."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler


class EpochOrder(Sampler):
    """Batches of indices whose order is a function of (seed, epoch) alone.

    Nothing of it has to be saved: a resumed run skips the batches it has seen. With several processes each takes its
    part of every global batch, so that the union is what one process would have seen.

    Args:
        num_samples: size of the data set.
        batch_size: indices per batch and process.
        rank, world_size: this process and how many there are.
        weights: (num_samples,) chance of every sample, which is then drawn with replacement; None takes each once.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1,
        weights: np.ndarray | None = None,
    ):  # fmt: skip
        self.num_samples, self.batch_size, self.seed, self.weights = num_samples, batch_size, seed, weights
        self.rank, self.world_size = rank, world_size
        self.start_at(0, 0)

    def start_at(self, epoch: int, skip: int) -> None:
        """Begin with `epoch` and leave out its first `skip` batches, which were seen before the run was resumed."""
        self.epoch, self.resumed_epoch, self.skip = epoch, epoch, skip

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_samples // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[np.ndarray]:
        rng, count = np.random.default_rng([self.seed, self.epoch]), self.num_samples
        order = rng.permutation(count) if self.weights is None else rng.choice(count, count, p=self.weights)
        if self.world_size > 1:  # equal parts for all processes, as collective operations need them
            order = np.resize(order, -(-self.num_samples // self.world_size) * self.world_size)
        start = self.skip if self.epoch == self.resumed_epoch else 0
        for batch in range(start, len(self)):
            whole = order[batch * self.batch_size * self.world_size : (batch + 1) * self.batch_size * self.world_size]
            yield np.sort(whole[self.rank :: self.world_size])


class InOrder(Sampler):
    """All indices in order, in batches."""

    def __init__(self, num_samples: int, batch_size: int):
        self.num_samples, self.batch_size = num_samples, batch_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.num_samples, self.batch_size):
            yield np.arange(start, min(start + self.batch_size, self.num_samples))


class TrunkDataModule(LightningDataModule):
    """Base of all data modules.

    Subclasses load in `setup`, which may be called several times, and then offer:

    Attributes:
        data_source: "real" or "synthetic".
        fingerprint: hash of everything the tensors depend on; two runs with equal fingerprints saw the same data.
        facts: what the model has to know of the data (sizes, class counts), as plain values. The config refers to
            them as `${facts.…}`.
    """

    data_source: Literal["real", "synthetic"]
    fingerprint: str
    facts: Mapping[str, Any]

    def __init__(self, seed: int, batch_size: int, num_workers: int = 0):
        super().__init__()
        self.seed, self.batch_size, self.num_workers = seed, batch_size, num_workers

    def shuffled(self, dataset: Dataset, weights: np.ndarray | None = None) -> DataLoader:
        """Batches of a map-style data set that takes an array of indices; continues where a resumed run was."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        order = EpochOrder(len(dataset), self.batch_size, self.seed, rank, world, weights)
        order.start_at(*self.position(len(order)))
        return self._loader(dataset, order)

    def position(self, num_batches: int) -> tuple[int, int]:
        """Epoch, and batches of it that have been seen, where a fit begins: (0, 0) unless it is resumed."""
        loop = self.trainer.fit_loop
        # `processed`: in a checkpoint written at a batch's end, `completed` is one behind
        return loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.processed % num_batches

    def in_order(self, dataset: Dataset) -> DataLoader:
        """Batches of all samples, each once."""
        return self._loader(dataset, InOrder(len(dataset), self.batch_size))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _loader(self, dataset: Dataset, sampler: Sampler) -> DataLoader:
        return DataLoader(
            dataset, sampler=sampler, batch_size=None, collate_fn=_as_is, num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )  # fmt: skip


def _as_is(batch: Any) -> Any:
    return batch

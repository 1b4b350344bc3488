"""What the data of all four tasks share: three splits, a condition, and labels of its own for a weak peer."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data import InOrder, TrunkDataModule
from common.files import hash_arrays, hash_record

SPLITS = ("train", "val", "test")
Strength = Annotated[float, Field(gt=0)]


class Rows(Protocol):
    """An array, or whatever gives the arrays of samples on demand: `rows[index] -> (B, ...)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray) -> np.ndarray: ...


@dataclass
class PairBatch:
    """B samples for two models.

    Attributes:
        index: (B,) int64 number of each sample in its split.
        x: (B, *input) float32.
        targets: what each model takes for the truth; one tensor twice unless a peer's labels are noisy.
        taught: two (B,) bool, whether a model is told the truth of a sample; where not, it may still imitate.
    """

    index: Tensor
    x: Tensor
    targets: tuple[Tensor, Tensor]
    taught: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "PairBatch":
        targets, taught = (tuple(each.to(device) for each in pair) for pair in (self.targets, self.taught))
        return PairBatch(self.index.to(device), self.x.to(device), targets, taught)


@dataclass
class Samples:
    """One split.

    Attributes:
        x, y: inputs and targets; targets are float32 fields or int64 labels.
        y_weak: what the model of slot 2 takes for the truth, where that differs.
        taught_weak: (N,) bool, samples whose truth it is told; None for all.
    """

    x: Rows
    y: Rows
    y_weak: Rows | None = None
    taught_weak: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def arrays(self) -> list[np.ndarray]:
        """Everything as arrays."""
        every = np.arange(len(self))
        rows = [each[every] for each in (self.x, self.y, self.y_weak) if each is not None]
        return rows if self.taught_weak is None else [*rows, self.taught_weak]


class PairSet(Dataset):
    """Samples as batches: an array of indices gives a `PairBatch`.

    Args:
        prepare: stored inputs → float32 inputs of the models, for one batch.
    """

    def __init__(self, samples: Samples, prepare: Callable[[np.ndarray], np.ndarray]):
        self.samples, self.prepare = samples, prepare

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: np.ndarray) -> PairBatch:
        samples = self.samples
        x, y = _tensor(self.prepare(samples.x[index])), _tensor(samples.y[index])
        y_weak = y if samples.y_weak is None else _tensor(samples.y_weak[index])
        taught = torch.ones(len(index), dtype=torch.bool)
        weak = taught if samples.taught_weak is None else _tensor(samples.taught_weak[index])
        return PairBatch(_tensor(index), x, (y, y_weak), (taught, weak))


class PairData(TrunkDataModule):
    """Data of one task under one condition; the training loss, the choice and the curves come from its three splits.

    Conditions `weak_data` and `weak_labels` make slot 2 a weak peer: it is told the truth of `strength` of the training
    samples, or noisy labels of that `strength`; all others change what their class says. Validation is never touched.

    Args:
        condition: what is made harder.
        strength: how much, in the unit of the condition; None for the default of the class.
        data_seed: seed of the data and of the condition; the run's seed leaves them as they are.

    Attributes:
        task: name of the task.
        strengths: default strength of every condition.
        dataset: name of the data in results.
        evaluation_batch: samples per batch of validation and test.
    """

    task: ClassVar[str]
    strengths: ClassVar[dict[str, float]] = {"weak_data": 0.25}
    dataset: str
    evaluation_batch = 256
    data_source = "synthetic"

    def __init__(
        self, seed: int, batch_size: int, num_workers: int, condition: str, strength: float | None, data_seed: int
    ):
        super().__init__(seed, batch_size, num_workers)
        self.condition, self.data_seed = condition, data_seed
        self.strength = self.strengths.get(condition) if strength is None else strength
        self.splits: dict[str, Samples] = {}

    @abstractmethod
    def load(self) -> dict[str, Samples]:
        """The three splits under the condition, but for weak peers; sets what `describe` needs."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Facts of the data, among them `task`, the config of the task's adapter."""

    @abstractmethod
    def noisy(self, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Targets with label noise of `strength`."""

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Stored inputs as float32 inputs of the models."""
        return x

    def augment(self, batch: PairBatch, draws: Tensor) -> PairBatch:
        """A training batch, changed at random; draws: (B, 4) uniform numbers, a function of (seed, epoch, sample)."""
        return batch

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.splits = self.load()
        self._weaken()
        self.facts = {
            **self.describe(),
            "dataset": self.dataset,
            "num_samples": {split: len(samples) for split, samples in self.splits.items()},
        }
        content = [hash_arrays(*samples.arrays()) for samples in self.splits.values()]
        self.fingerprint = hash_record([content, self.facts])

    def _weaken(self) -> None:
        rng, train = np.random.default_rng([self.data_seed, 99]), self.splits["train"]
        if self.condition == "weak_data":
            told = np.zeros(len(train), bool)
            told[rng.permutation(len(train))[: max(1, round(self.strength * len(train)))]] = True
            self.splits["train"] = replace(train, taught_weak=told)
        elif self.condition == "weak_labels":
            self.splits["train"] = replace(train, y_weak=self.noisy(train.y[np.arange(len(train))], rng))

    def dataset_of(self, split: str) -> PairSet:
        return PairSet(self.splits[split], self.prepare)

    def example(self) -> PairBatch:
        """Two training samples."""
        return self.dataset_of("train")[np.arange(min(2, len(self.splits["train"])))]

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.dataset_of("train"))

    def val_dataloader(self) -> list[DataLoader]:
        """Validation, which selects, and test, whose curve is recorded and read by nothing."""
        return [self.whole(split) for split in SPLITS[1:]]

    def whole(self, split: str) -> DataLoader:
        data = self.dataset_of(split)
        return self._loader(data, InOrder(len(data), self.evaluation_batch))

    def on_after_batch_transfer(self, batch: PairBatch, dataloader_idx: int) -> PairBatch:
        if self.trainer is None or not self.trainer.training:
            return batch
        return self.augment(batch, self.draws(self.trainer.current_epoch)[batch.index.cpu()].to(batch.x.device))

    def draws(self, epoch: int) -> Tensor:
        """(N, 4) uniform numbers for every training sample, a function of (seed, epoch)."""
        if getattr(self, "_drawn", (None,))[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 7])
            self._drawn = epoch, torch.from_numpy(rng.random((len(self.splits["train"]), 4), np.float32))
        return self._drawn[1]


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))

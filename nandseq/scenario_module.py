"""Training of the scenario classifier: legal sequences of one scenario each, seen by their features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from common.data import TrunkDataModule
from common.files import hash_arrays
from common.module import TrunkModule
from nandseq.machines import MAX_BLOCKS, NAMES
from nandseq.profiles import Profile
from nandseq.simulator import make_sequences
from nandseq.trace_features import NAMES as FEATURES
from nandseq.trace_features import trace_features

EXTRA_SETS = {"long": {"seq_len": 400}, "wide": {"num_blocks": [12, 32]}}


@dataclass
class ScenarioBatch:
    """B sequences.

    Attributes:
        features: (B, D) float32.
        label: (B,) int64 scenario.
    """

    features: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)


class ScenarioSet(Dataset):
    """Features (N, D) and scenarios (N,) of sequences; an array of indices gives a batch."""

    def __init__(self, features: np.ndarray, label: np.ndarray):
        self.features, self.label = features, label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: np.ndarray) -> ScenarioBatch:
        return ScenarioBatch(torch.from_numpy(self.features[index]), torch.from_numpy(self.label[index]))


class ScenarioData(TrunkDataModule):
    """Legal sequences with the scenario that made them, equally many of each, in three splits.

    Args:
        profile: name or file of the device profile whose rules hold.
        scenarios: those told apart.
        num_train, num_val, num_test: sequences per split; the extra sets have as many as the test split.
        seq_len: commands of a sequence.
        num_blocks: an equal part of the sequences has each of these numbers of blocks.
        max_streams: with 2, half of the sequences have another scenario beside the one they are named after.
        data_seed: seed of the sequences; the run's seed leaves them as they are.
    """

    data_source = "synthetic"

    def __init__(
        self,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        profile: str,
        scenarios: list[str],
        num_train: Annotated[int, Field(ge=1)],
        num_val: Annotated[int, Field(ge=1)],
        num_test: Annotated[int, Field(ge=1)],
        seq_len: Annotated[int, Field(ge=2)],
        num_blocks: list[Annotated[int, Field(ge=1, le=MAX_BLOCKS)]],
        max_streams: Annotated[int, Field(ge=1)],
        data_seed: Annotated[int, Field(ge=0)],
    ):
        super().__init__(seed, batch_size, num_workers)
        self.profile, self.scenarios, self.data_seed = Profile.load(profile), scenarios, data_seed
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.settings = {"seq_len": seq_len, "num_blocks": num_blocks, "max_streams": max_streams}
        self.datasets: dict[str, ScenarioSet] = {}

    def setup(self, stage: str | None = None) -> None:
        if self.datasets:
            return
        self.datasets = {split: self.make(split) for split in self.sizes}
        sets = self.datasets.values()
        self.fingerprint = hash_arrays(*(part for data in sets for part in (data.features, data.label)))
        self.facts = {
            "num_samples": self.sizes,
            "scenarios": self.scenarios,
            "num_scenarios": len(self.scenarios),
            "num_features": len(FEATURES),
            "class_counts": np.bincount(self.datasets["train"].label, minlength=len(self.scenarios)).tolist(),
        }

    def make(self, name: str) -> ScenarioSet:
        """The split or extra set of that name: a stream of random numbers of its own."""
        settings = self.settings | EXTRA_SETS.get(name, {})
        count, widths = self.sizes.get(name, self.sizes["test"]), settings.pop("num_blocks")
        parts = [self._part(part, name, width, settings) for part, width in zip(_parts(count, len(widths)), widths)]
        return ScenarioSet(*(np.concatenate(columns) for columns in zip(*parts)))

    def _part(self, count: int, name: str, width: int, settings: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        made = make_sequences(
            count, self.profile, dict.fromkeys(self.scenarios, 1.0), {"valid": 1.0}, num_blocks=width,
            seed=self.data_seed, stream=name, hard_share=0.0, **settings,
        )  # fmt: skip
        label = np.array([self.scenarios.index(NAMES[number]) for number in made.scenario])
        return trace_features(made.op, made.slot, made.page), label

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.datasets["train"])

    def val_dataloader(self) -> DataLoader:
        return self.in_order(self.datasets["val"])


def _parts(count: int, num_parts: int) -> list[int]:
    """Whole numbers that add up to `count` and differ by 1 at most."""
    return [count // num_parts + (part < count % num_parts) for part in range(num_parts)]


class ScenarioModule(TrunkModule):
    """Trains the network to name the scenario."""

    def __init__(
        self,
        network: nn.Module,
        loss: nn.CrossEntropyLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
    ):
        super().__init__(network, optimizer, schedule, trainable)
        self.loss = loss
        self.val_sums = torch.zeros(3, dtype=torch.float64)

    def training_step(self, batch: ScenarioBatch, batch_idx: int) -> Tensor:
        return self.record_train_loss(self.loss(self.network(batch.features), batch.label), len(batch), batch_idx)

    def validation_step(self, batch: ScenarioBatch, batch_idx: int) -> None:
        logits = self.network(batch.features)
        nats = functional.cross_entropy(logits, batch.label, reduction="sum")
        right = (logits.argmax(1) == batch.label).sum()
        self.val_sums += torch.tensor([nats, right, len(batch)], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        nats, right, count = self.val_sums.tolist()
        self.val_sums.zero_()
        self.log("val/loss", nats / count)
        self.log("val/accuracy", right / count)

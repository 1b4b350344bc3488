"""What classification and segmentation share: standardised pictures, corruptions of the test split, crops and flips."""

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssmo.data.augment import crop_flip
from ssmo.data.base import PairBatch, PairData, Samples
from ssmo.data.corruptions import STRENGTHS, check_strength, corrupt
from ssmo.tasks import IGNORE

Count = Annotated[int, Field(ge=1)]
Workers = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=0)]


class PictureData(PairData):
    """Base of picture sets: uint8 or float pictures, standardised by mean and deviation of the training split.

    The conditions named for corruptions lower the quality of the test pictures; `strength` is the severity, 1 to 5.
    `corrupted` spreads all corruptions evenly over the test split.

    Args:
        crop_pad: training pictures move by up to so many pixels; what comes in is black, and ignored where every pixel
            has a label.
        flip: half of the training pictures are mirrored.

    Attributes:
        adapter: the task.
        class_names: what the labels mean.
    """

    strengths = PairData.strengths | STRENGTHS
    adapter: ClassVar[str]
    class_names: list[str]

    def __init__(
        self, seed: int, batch_size: int, num_workers: int, condition: str, strength: float | None, data_seed: int,
        crop_pad: int = 0, flip: bool = False,
    ):  # fmt: skip
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed)
        check_strength(condition, self.strength)
        self.crop_pad, self.flip = crop_pad, flip

    @abstractmethod
    def clean(self) -> dict[str, Samples]:
        """The three splits without any condition."""

    @abstractmethod
    def worsen(self, splits: dict[str, Samples]) -> dict[str, Samples]:
        """The splits under a condition that is no corruption."""

    def load(self) -> dict[str, Samples]:
        splits = self.clean()
        if self.condition in STRENGTHS:
            return splits | {"test": self.corrupted(splits["test"])}
        return self.worsen(splits)

    def corrupted(self, test: Samples) -> Samples:
        """The test split under the corruption that is the condition."""
        return replace(test, x=corrupt(test.x, self.condition, int(self.strength), self.data_seed))

    def describe(self) -> dict[str, Any]:
        x = self.splits["train"].x
        self.mean, self.std = channel_moments(x)
        return {
            "task": {"_target_": self.adapter, "num_classes": len(self.class_names)},
            "num_classes": len(self.class_names),
            "class_names": self.class_names,
            "in_channels": x.shape[1],
            "size": x.shape[2],
        }

    def prepare(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.std

    def augment(self, batch: PairBatch, draws: Tensor) -> PairBatch:
        if not self.crop_pad and not self.flip:
            return batch
        black = torch.from_numpy(-self.mean / self.std).to(batch.x)
        x = crop_flip(batch.x, draws, self.crop_pad, self.flip, black)
        targets = tuple(
            each if each.dim() == 1 else crop_flip(each[:, None], draws, self.crop_pad, self.flip, IGNORE)[:, 0]
            for each in batch.targets
        )
        return replace(batch, x=x, targets=targets)


def channel_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over samples and pixels, (1, C, 1, 1) float32."""
    sums, count = np.zeros((2, x.shape[1])), x.size / x.shape[1]
    for start in range(0, len(x), 256):  # a copy of everything in float64 would be eight times the data
        part = x[start : start + 256].astype(np.float64)
        sums += part.sum((0, 2, 3)), (part**2).sum((0, 2, 3))
    mean = sums[0] / count
    std = np.sqrt(np.maximum(sums[1] / count - mean**2, 0))
    return mean.astype(np.float32)[None, :, None, None], (std + 1e-6).astype(np.float32)[None, :, None, None]

"""The smallest pairs: two layers with dropout on four numbers per sample, of each kind of task."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import nn

from common.recorder import Recorder, StepSeed
from common.schedules import constant
from ssmo.curves import Curves
from ssmo.data.base import PairBatch, PairData, Samples
from ssmo.methods import Method
from ssmo.module import PairModule
from ssmo.networks.pair import Pair
from ssmo.tasks import Classification

SIZES = {"train": 50, "val": 30, "test": 20}


class PointData(PairData):
    """Classes of points in four dimensions, or with `num_classes=None` two sums of their numbers."""

    task = "classification"
    strengths = PairData.strengths | {"weak_labels": 0.5}
    dataset = "points"

    def __init__(
        self,
        seed: int = 0,
        batch_size: int = 16,
        condition: str = "clean",
        strength: float | None = None,
        num_classes: int | None = 3,
        jitter: float = 0.0,
        spoilt: float = 0.0,
        num_workers: int = 0,
        data_seed: int = 0,
    ):
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed)
        self.num_classes, self.jitter, self.spoilt = num_classes, jitter, spoilt

    def load(self) -> dict[str, Samples]:
        return {split: self._draw(number, size) for number, (split, size) in enumerate(SIZES.items())}

    def _draw(self, number: int, size: int) -> Samples:
        rng = np.random.default_rng([self.data_seed, number])
        x = rng.normal(size=(size, 4)).astype(np.float32)
        if self.num_classes is None:
            y = np.stack([x[:, :2].sum(1), x[:, 2:].sum(1)], 1)[:, None]
            return Samples(x, np.where(rng.random(y.shape) < self.spoilt, np.nan, y).astype(np.float32))
        return Samples(x, np.where(rng.random(size) < self.spoilt, -1, x[:, : self.num_classes].argmax(1)))

    def describe(self) -> dict[str, Any]:
        return {"num_inputs": 4, "num_outputs": self.num_classes or 2}

    def noisy(self, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(len(y)) < self.strength, (y + 1) % self.num_classes, y)

    def augment(self, batch: PairBatch, draws: torch.Tensor) -> PairBatch:
        batch.x = batch.x + self.jitter * (draws - 0.5)
        return batch


class Net(nn.Sequential):
    """Hidden layer of `width`; with `field` the outputs are one step of a series."""

    def __init__(self, width: int = 8, num_outputs: int = 3, dropout: float = 0.3, field: bool = False):
        layers = nn.Linear(4, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, num_outputs)
        super().__init__(*layers, *([nn.Unflatten(1, (1, num_outputs))] if field else []))


class Normed(nn.Sequential):
    """The same with batch normalisation."""

    def __init__(self, width: int = 8, num_outputs: int = 3):
        super().__init__(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, num_outputs))


METHODS = {
    "independent": {"weighting": "none"},
    "naive_mutual": {"weighting": "all"},
    "ssmo_hard": {"weighting": "hard"},
    "ssmo_soft": {"weighting": "soft"},
    "random_mask": {"weighting": "random"},
    "notebook_parity": {"weighting": "hard", "selector": "auto", "combine": "subset_means"},
    "ema_self": {"weighting": "all", "teacher": "ema"},
    "ensemble": {"weighting": "none", "ensemble": True},
    "loss_x2": {"weighting": "none", "loss_scale": 2.0},
}


def method_of(name: str, **changes: Any) -> Method:
    return Method(name, **{"probe_every": 2} | METHODS[name] | changes)


def module_for(method: Method, first=Net, second=Net, seed=0, task=None, lr=0.05, clip=None) -> PairModule:
    network = Pair(partial(first), partial(second), seed) if isinstance(first, type) else Pair(first, second, seed)
    optimizer = partial(torch.optim.AdamW, lr=lr)
    module = PairModule(network, method, task or Classification(3), optimizer, constant, ["network.*"], seed, clip)
    module.freeze()
    return module


class Rows(Recorder):
    """Keeps the rows and writes no checkpoints, which take most of the time of so small a run."""

    def _save(self, *_: Any) -> None:
        pass


def fit(folder: Path, module: PairModule, data: PointData, epochs: int = 2, plugins=None) -> list[dict[str, float]]:
    """Train on the CPU; what metrics.csv says."""
    recorder = Rows(str(folder), "val/error", "min")
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[recorder, StepSeed(data.seed), Curves(str(folder))],
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=folder, plugins=plugins,
    )  # fmt: skip
    data.setup("fit")
    trainer.fit(module, datamodule=data)
    return recorder.rows


SERIES_NET = partial(Net, num_outputs=2, field=True)
SERIES_DATA = partial(PointData, num_classes=None)

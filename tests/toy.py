"""The smallest programme: what the trunk's own tests train. Sixty numbers, one hidden layer, dropout."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import Dataset

from common.config import CONF
from common.data import TrunkDataModule
from common.files import hash_arrays
from common.module import TrunkModule

SIZE = 60


@dataclass
class ToyBatch:
    x: torch.Tensor
    y: torch.Tensor


class ToyDataset(Dataset):
    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(SIZE, 4)).astype(np.float32)
        self.y = (self.x.sum(1, keepdims=True) + 0.1 * rng.normal(size=(SIZE, 1))).astype(np.float32)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: np.ndarray) -> ToyBatch:
        return ToyBatch(torch.from_numpy(self.x[index]), torch.from_numpy(self.y[index]))


class ToyData(TrunkDataModule):
    data_source = "synthetic"

    def __init__(self, seed: int, batch_size: int, data_seed: int = 0):
        super().__init__(seed, batch_size)
        self.data_seed = data_seed

    def setup(self, stage: str | None = None) -> None:
        self.train_set, self.val_set = ToyDataset(self.data_seed), ToyDataset(self.data_seed + 1)
        self.fingerprint = hash_arrays(self.train_set.x, self.train_set.y)
        self.facts = {"num_inputs": 4, "num_samples": {"train": SIZE, "val": SIZE}}

    def train_dataloader(self):
        return self.shuffled(self.train_set)

    def val_dataloader(self):
        return self.in_order(self.val_set)


class ToyNetwork(nn.Sequential):
    def __init__(self, num_inputs: int, hidden_dim: int = 8, dropout: float = 0.5):
        super().__init__(nn.Linear(num_inputs, hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, 1))


class ToyModule(TrunkModule):
    """Sends its process the signal that TOY_SIGNAL=step:name asks for, as an impatient user or a scheduler would."""

    def __init__(self, network, optimizer, schedule, trainable, loss_scale: float = 1.0):
        super().__init__(network, optimizer, schedule, trainable)
        self.loss_scale = loss_scale

    def training_step(self, batch: ToyBatch, batch_idx: int) -> torch.Tensor:
        step, _, name = os.environ.get("TOY_SIGNAL", "").partition(":")
        if name and self.global_step == int(step):
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(0.01)
        loss = self.loss_scale * nn.functional.mse_loss(self.network(batch.x), batch.y)
        return self.record_train_loss(loss, len(batch.y), batch_idx)

    def on_validation_epoch_start(self) -> None:
        self.errors = []

    def validation_step(self, batch: ToyBatch, batch_idx: int) -> None:
        self.errors.append(nn.functional.mse_loss(self.network(batch.x), batch.y, reduction="none"))

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", torch.cat(self.errors).mean())


def toy_config(output_dir: Path, **changes: object) -> DictConfig:
    """The config of a toy run: the trunk's own groups from conf/, the rest from here. Keys of `changes` are dotted."""
    shared = {group: OmegaConf.load(CONF / group / f"{option}.yaml") for group, option in
              (("trainer", "auto"), ("optim", "adamw"), ("callbacks", "default"))}  # fmt: skip
    config = OmegaConf.create(
        {
            "name": "toy", "seed": 0, "monitor": "val/loss", "mode": "min", "parents": "auto", "analysis": "none",
            "init_from": "${phase.init_from}", "resume": None, "run_dir": "nowhere", "logger": {},
            "paths": {"data_dir": None, "output_dir": str(output_dir)},
            "phase": {
                "epochs": 3, "patience": None, "gradient_clip": 1.0, "init_from": None, "trainable": ["*"],
                "schedule": {"_target_": "common.schedules.cosine", "_partial_": True, "warmup_epochs": 1},
            },
            "data": {"_target_": "tests.toy.ToyData", "seed": "${seed}", "batch_size": 7, "data_seed": 0},
            "model": {"_target_": "tests.toy.ToyNetwork", "num_inputs": "${facts.num_inputs}", "hidden_dim": 8},
            "loss": {},
            "module": {
                "_target_": "tests.toy.ToyModule", "network": "${model}", "optimizer": "${optim}",
                "schedule": "${phase.schedule}", "trainable": "${phase.trainable}", "loss_scale": 1.0,
            },
            **shared,
        }
    )  # fmt: skip
    config.optim.lr = 0.05
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config

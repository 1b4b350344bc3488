"""The result files of the founding plan, made from the same rows as metrics.csv: curves.npz and metrics.jsonl."""

import json
import time
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from common.files import plain, write_atomic, write_text
from common.recorder import Recorder
from common.rundir import Run
from ssmo.data.base import SPLITS

SLOTS = (1, 2)
CURVES = {
    "train_curve": "train/truth_loss", "total_curve": "train/loss",
    "val_curve": "val/metric", "test_curve": "test/metric",
}  # fmt: skip
PLAIN = {"lr": "train/lr", "lambda": "train/strength", "probes": "train/probes", "agree_rate": "train/agree_rate_1"}
PER_SLOT = {
    "sup_loss": "train/sup_loss", "im_loss": "train/im_loss", "total_loss": "train/loss", "val_metric": "val/metric",
    "test_metric": "test/metric", "mask_ratio": "train/mask_ratio", "conflict_rate": "train/conflict_rate",
    "cos_mean": "train/cos_mean", "cos_std": "train/cos_std", "gnorm_ratio": "train/gnorm_ratio",
    "gnorm_ratio_median": "train/gnorm_ratio_median", "probes_empty": "train/probes_empty",
}  # fmt: skip
FIGURES = PLAIN | {f"{key}_{slot}": f"{name}_{slot}" for key, name in PER_SLOT.items() for slot in SLOTS}


class Curves(Checkpoint):
    """Writes curves.npz and metrics.jsonl after every epoch, whole; a resumed run leaves those of an uninterrupted one.

    It is a Lightning `Checkpoint` so that it runs after the recorder, whose rows it reads.

    Attributes:
        seconds: of work until the end of every epoch, before interruptions too.
        num_runs: trained at once; each has its share of the time.
    """

    def __init__(self, run_dir: str):
        self.run = Run(run_dir)
        self.seconds: list[float] = []
        self.num_runs = 1
        self.began = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "elapsed": time.monotonic() - self.began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        self.began = time.monotonic() - state_dict["elapsed"]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        elapsed = time.monotonic() - self.began
        self.seconds.append(round(elapsed / self.num_runs, 3))  # before the epoch's checkpoint is written

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)  # a run stopped in its last epoch has none left when it is resumed

    def _write(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        rows = next(each for each in trainer.callbacks if isinstance(each, Recorder)).rows
        curves = curves_of(rows) | {"params": np.array([num_parameters(slot) for slot in pl_module.network.slots])}
        write_atomic(self.run.path / "curves.npz", lambda file: np.savez(file, **curves))
        lines = (
            json.dumps(line(self.run.path.name, split, row, seconds), allow_nan=False)
            for row, seconds in zip(rows, self.seconds, strict=True)
            for split in SPLITS
        )
        write_text(self.run.path / "metrics.jsonl", "\n".join(lines) + "\n")


def curves_of(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """float64 arrays of one value per epoch: losses, validation and test metric of both slots, and batches seen."""
    names = {f"{curve}_{slot}": f"{name}_{slot}" for slot in SLOTS for curve, name in CURVES.items()}
    curves = {curve: np.array([row[name] for row in rows], np.float64) for curve, name in names.items()}
    steps = np.array([batches(row) for row in rows], np.float64)
    return curves | {"epoch": np.array([row["epoch"] for row in rows], np.float64), "step": steps}


def batches(row: dict[str, float]) -> int:
    """Batches seen so far; Lightning counts a step for each of the two optimisers."""
    return int(row["step"]) // 2


def num_parameters(network: nn.Module) -> int:
    """Real numbers that train; a complex parameter is two."""
    return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in network.parameters())


def line(run_id: str, split: str, row: dict[str, float], seconds: float) -> dict[str, Any]:
    """An epoch's figures of one split by the names of the specification, section 6; what is undefined there is None."""
    record = {"run_id": run_id, "epoch": int(row["epoch"]), "split": split, "step": batches(row), "time_sec": seconds}
    return plain(record | {key: row[name] if name.startswith(split) else None for key, name in FIGURES.items()})


def lines_of(run: Run, split: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that are of one split, one per epoch."""
    text = (run.path / "metrics.jsonl").read_text(encoding="utf-8")
    return [each for each in map(json.loads, text.splitlines()) if each["split"] == split]

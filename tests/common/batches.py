"""A matrix of toy runs, and what its config calls."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from common import matrix
from common.rundir import Run
from common.training import train
from tests.toy import ToyData, toy_config

HERE = "tests.common.batches"
SEEDS = {"experiment": ["toy"], "seed": [0, 1]}


def identify(config: DictConfig) -> str:
    return f"toy-s{config.seed}-x{config.module.loss_scale:g}"


def without_seed_1(cells: list[matrix.Cell]) -> list[matrix.Cell]:
    return [cell for cell in cells if cell.config.seed != 1]


def count(folder: Path) -> None:
    """Write down how many runs are done."""
    done = sum(Run(path.parent).finished for path in folder.glob("*/config.yaml"))
    with open(folder / "counts", "a") as file:
        file.write(f"{done}\n")


def interrupt(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def wait_for_the_other(folder: Path) -> None:
    """Let another process finish a run."""
    while not _others(folder, "done"):
        time.sleep(0.05)


def end_beside_the_other(folder: Path) -> None:
    """While another process is amid a run, send the first one the signal that TOY_END names."""
    if os.environ["FIRST"] == str(os.getpid()):
        while not any(status.get("epoch") for status in _others(folder, "running")):
            time.sleep(0.05)
        os.kill(os.getpid(), getattr(signal, os.environ["TOY_END"]))


def _others(folder: Path, status: str) -> list[dict[str, Any]]:
    found = [Run(path.parent).status for path in folder.glob("*/status.json")]
    return [each for each in found if each["status"] == status and each["pid"] != os.getpid()]


class LoadedToy(ToyData):
    """Toy data that comes through a process of its own."""

    def __init__(self, seed: int, batch_size: int, data_seed: int = 0):
        super().__init__(seed, batch_size, data_seed)
        self.num_workers = 1


def matrix_config(output_dir: Path, *blocks: dict[str, list], **settings: Any) -> DictConfig:
    """What train.py gets for an experiment with a matrix; `collect` and `select` name a function of this file."""
    targets = {key: {"_target_": f"{HERE}.{settings.pop(key)}", "_partial_": True} for key in ("collect", "select")
               if key in settings}  # fmt: skip
    node = {"blocks": list(blocks), "identify": {"_target_": f"{HERE}.identify", "_partial_": True}}
    paths = {"output_dir": str(output_dir), "data_dir": None}
    return OmegaConf.create({"name": "batch", "resume": None, "paths": paths, "matrix": node | targets | settings})


def work(config: DictConfig, epochs: int = 1, typed: tuple[str, ...] = ()) -> float:
    """Do the matrix; its experiment `toy` is not one of conf/."""
    os.environ["FIRST"] = str(os.getpid())
    matrix.options = lambda group: ["toy"]
    matrix.compose = lambda experiment, words: toy_config(Path("elsewhere"), phase__epochs=epochs)
    return train(config) if not typed else matrix.run_matrix(config, list(typed))

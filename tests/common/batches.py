"""A matrix of toy runs, and what its config calls."""

import os
import signal
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from common import matrix
from common.rundir import Run
from common.training import train
from tests.toy import toy_config

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


def matrix_config(output_dir: Path, *blocks: dict[str, list], **settings: Any) -> DictConfig:
    """What train.py gets for an experiment with a matrix; `collect` and `select` name a function of this file."""
    targets = {key: {"_target_": f"{HERE}.{settings.pop(key)}", "_partial_": True} for key in ("collect", "select")
               if key in settings}  # fmt: skip
    node = {"blocks": list(blocks), "identify": {"_target_": f"{HERE}.identify", "_partial_": True}}
    paths = {"output_dir": str(output_dir), "data_dir": None}
    return OmegaConf.create({"name": "batch", "resume": None, "paths": paths, "matrix": node | targets | settings})


def work(config: DictConfig, epochs: int = 1, typed: tuple[str, ...] = ()) -> float:
    """Do the matrix; its experiment `toy` is not one of conf/."""
    matrix.options = lambda group: ["toy"]
    matrix.compose = lambda experiment, words: toy_config(Path("elsewhere"), phase__epochs=epochs)
    return train(config) if not typed else matrix.run_matrix(config, list(typed))

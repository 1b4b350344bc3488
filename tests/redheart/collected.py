"""A collected run in miniature: the smoke model on few rows, its epochs random perturbations of one another."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from common.config import compose
from common.schedules import constant
from common.unit_files import write_units
from redheart.contributions import Contributions, Units
from redheart.data import SyntheticData
from redheart.module import MultiTaskModule

EPOCHS = (2, 4, 6)
composed = cache(lambda: compose("redheart_smoke"))


@cache
def small_data() -> SyntheticData:
    data = SyntheticData(0, 32, 0, [0.6, 0.2, 0.2], 300, 64, 1, 0.3, 0.5, 0)
    data.setup()
    return data


def small_module(**changes) -> MultiTaskModule:
    config = composed().copy()
    OmegaConf.update(config, "facts", {"dim": 64}, force_add=True)
    config.model.update(changes)
    torch.manual_seed(0)
    network, loss = instantiate(config.model, _convert_="all"), instantiate(config.loss, _convert_="all")
    return MultiTaskModule(network, loss, partial(torch.optim.AdamW, lr=0.01), constant, ["network.*"]).eval()


def collect(folder: Path, module: MultiTaskModule, epochs: tuple[int, ...] = EPOCHS) -> Path:
    """Write checkpoints of the module's units, each with noise of its own."""
    for epoch in epochs:
        torch.manual_seed(epoch)
        states = [
            (name, {key: value + 0.2 * torch.randn_like(value) for key, value in unit.state_dict().items()})
            for name, unit in module.units.items()
        ]
        write_units(folder / f"epoch_{epoch:04d}", states, module.groups, "float32", epoch=epoch, config_hash="aa")
    return folder


def batches(split: str = "select") -> list:
    """The split in two batches."""
    data = small_data().datasets[split]
    return [data[index] for index in np.array_split(np.arange(len(data)), 2)]


def contributions(folder: Path, cache: dict[str, str] | None = None, split: str = "select", **changes) -> Contributions:
    """Of the folder's units, which are written first if it is empty."""
    module = small_module(**changes)
    if not any(folder.glob("epoch_*")):
        collect(folder, module)
    return Contributions(Units(module, folder), batches(split), cache)

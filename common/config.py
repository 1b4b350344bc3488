"""Composing and reading configs. Imports nothing heavy: the command line starts with it."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"

# our conf/hydra/launcher/ray.yaml replaces the plugin's of that name
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/ray' is validated")

DIRECTIONS = {"min": "minimize", "max": "maximize"}  # Lightning's word, and Optuna's

OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("direction_of", DIRECTIONS.__getitem__, replace=True)
# for optim.fused: under mixed precision Lightning clips no gradients of a fused optimiser
OmegaConf.register_new_resolver("is_full", lambda precision: "mixed" not in str(precision), replace=True)


def options(group: str) -> list[str]:
    """Names of the options of a config group, for example `lasps/krx` for `data`, sorted."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def summary_line(path: Path) -> str:
    """What a config file says of itself: its first comment that is no directive."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


def check_experiment(name: str) -> None:
    """Raises UserError if there is no such experiment, with the nearest name."""
    known = options("experiment")
    if name not in known:
        raise UserError(f"experiment={name}: no such experiment.{nearest(name, known)} There are {', '.join(known)}.")


@contextmanager
def initialised() -> Iterator[None]:
    """Hydra knows our config folder, whether or not it runs this process."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            yield


def compose(experiment: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of an experiment, as `python train.py experiment=… overrides` composes it."""
    check_experiment(experiment)
    with initialised():
        return hydra.compose("train", [f"experiment={experiment}", *overrides])


def plain_node(config: DictConfig, key: str) -> Any:
    """The node at `key` with all references resolved, as plain dicts, lists and values."""
    node = config[key]
    return OmegaConf.to_container(node, resolve=True, enum_to_str=True) if OmegaConf.is_config(node) else node

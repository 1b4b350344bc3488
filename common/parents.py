"""Which weights a run starts from: `init_from`, which the phase sets.

`null` is random weights; a run directory or a checkpoint is taken as it is; `run:<experiment>` is the newest finished
run of that experiment on the same data, model and seed, which is trained first where there is none.
"""

import copy
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from common.config import compose, plain_node
from common.errors import UserError
from common.files import hash_record
from common.rundir import Run, display, find_runs, same_model, same_run

log = logging.getLogger(__name__)

INHERITED = ("data", "model", "seed", "trainer", "paths", "facts", "parents")  # a parent takes these from its child


@dataclass
class Parent:
    """Where a run's first weights come from.

    Attributes:
        checkpoint: the file.
        run: its run directory, or None for a bare checkpoint.
        experiment: the experiment that made it, or None.
        weights: hash of the weights, filled in when they are loaded.
    """

    checkpoint: Path
    run: str | None = None
    experiment: str | None = None
    weights: str | None = None

    def as_dict(self) -> dict:
        return {key: None if value is None else str(value) for key, value in asdict(self).items()}


def find_parent(config: DictConfig, train_run: Callable[[DictConfig, Run | None], Run]) -> Parent | None:
    """The checkpoint that `init_from` names; trains a missing parent with `train_run(config, unfinished run)`.

    Raises:
        UserError: if there is no such run or checkpoint, or if training it is not allowed (`parents=never`).
    """
    source = config.init_from
    if source is None:
        return None
    if not source.startswith("run:"):
        return _explicit(source, config)
    experiment = source.removeprefix("run:")
    parent_config = _parent_config(experiment, config)
    identity = hash_record([parent_config.facts.fingerprint, plain_node(parent_config, "model")])
    folder = Path(config.paths.output_dir) / experiment
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".parent-{identity}-{config.seed}.lock"):  # two jobs must not train one parent twice
        runs = [run for run in find_runs(config.paths.output_dir, experiment) if _matches(run, parent_config)]
        finished = next((run for run in runs if run.finished), None)
        if finished is None:
            _refuse_if_never(config, experiment)
            log.info(f"init_from={source}: no finished run on this data and model; training {experiment} first")
            finished = train_run(
                parent_config, next((run for run in runs if same_run(run.config, parent_config)), None)
            )
    log.info(f"starting from {finished}")
    return Parent(finished.best, str(finished.path), experiment)


def _explicit(source: str, config: DictConfig) -> Parent:
    path = Path(source)
    if path.is_file():
        run = Run(path.parent.parent)
        known = run if (run.path / "config.yaml").is_file() else None
    elif path.is_dir():
        known = Run(path)
        path = known.best
    else:
        raise UserError(f"init_from={source}: no such run directory or checkpoint; use run:<experiment> or a path.")
    if known is None:
        return Parent(path)
    if not same_model(known.config, config):
        difference = _difference(known.config.model, config.model)
        raise UserError(f"init_from={source}: a run of another model ({difference}); use the same model=….")
    return Parent(path, str(known.path), known.config.name)


def _parent_config(experiment: str, child: DictConfig) -> DictConfig:
    parent = compose(experiment)
    own_trainer = OmegaConf.to_container(parent.trainer, resolve=False)
    for key in INHERITED:
        OmegaConf.update(parent, key, copy.deepcopy(child[key]), merge=False, force_add=True)
    for key, value in own_trainer.items():
        if "${phase." in str(value):  # what a phase decides of the trainer is the parent's own
            parent.trainer[key] = value
    return parent


def _matches(run: Run, config: DictConfig) -> bool:
    theirs = run.config
    if "facts" not in theirs:  # it was stopped before it had read its data
        return False
    same_data = theirs.facts.fingerprint == config.facts.fingerprint
    return same_data and theirs.seed == config.seed and same_model(theirs, config)


def _refuse_if_never(config: DictConfig, experiment: str) -> None:
    if config.parents == "never":
        raise UserError(
            f"init_from=run:{experiment}: no finished run of it on this data (fingerprint "
            f"{config.facts.fingerprint}), model and seed below {display(Path(config.paths.output_dir))}, and "
            f"parents=never. Train one with `python train.py experiment={experiment}` and the same data and model, "
            "pass init_from=PATH, or init_from=null for random weights."
        )


def _difference(theirs: DictConfig, ours: DictConfig) -> str:
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            return f"model.{key} is {theirs.get(key)} there, {ours.get(key)} here"
    return "other values"

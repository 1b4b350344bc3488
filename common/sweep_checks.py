"""Before the first trial of a study: is every point of the space a valid config, and is the objective logged?"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from common.config import initialised
from common.errors import UserError, nearest
from common.recorder import GracefulStop
from common.rundir import Run, find_runs
from common.schema import validate
from common.search_space import Space, as_words, corners

Compose = Callable[[Sequence[str]], DictConfig]  # words that set the values of a trial → its config


def check_sweep(compose: Compose, space: Space, objectives: Sequence[str], words: Iterable[str]) -> None:
    """Find the mistakes that would show in every trial.

    Args:
        words: of the command line, among them the experiment.

    Raises:
        UserError, HydraException: for a key or value that may not be, or an objective that is not logged.
    """
    check_space(compose, space)
    with initialised():
        own = [word for word in words if word.startswith(("experiment=", "hydra.searchpath="))]
        experiment = hydra.compose("train", own)
    if list(objectives) != [experiment.monitor]:  # what the experiment itself decides by is there
        check_objectives(compose, space, objectives)


def check_space(compose: Compose, space: Space) -> None:
    """Check every choice and both ends of every range against the schema.

    Raises:
        UserError, HydraException: for a key that does not exist, or a value that it may not have.
    """
    first, *others = corners(space)
    config = compose(as_words(first))
    validate(config)
    for point in others:
        (key,) = (key for key in space if point[key] != first[key])
        if isinstance(point[key], str):  # an option of a group, null, or a list in Hydra's words
            validate(compose(as_words(point)))
        else:
            own = config.copy()
            OmegaConf.update(own, key.lstrip("+"), point[key])
            validate(own)


def check_objectives(compose: Compose, space: Space, names: Sequence[str]) -> None:
    """Check that runs log what is to be optimised: by a finished run where there is one, else by a few steps.

    Raises:
        UserError: for a name that is not logged, with the names that are.
    """
    config = compose(as_words(corners(space)[0]))
    finished = (run for run in find_runs(config.paths.output_dir, config.name) if run.finished)
    run = next(finished, None)
    if run is not None and _named(run) >= set(names):
        return
    known = _few_steps(config)
    for name in names:
        if name not in known:
            raise UserError(
                f"objective {name}: no run logs it.{nearest(name, known)} Logged: {', '.join(sorted(known))}."
            )


def _few_steps(config: DictConfig) -> set[str]:
    """Names of what a run of this config logs, after two steps and a validation in a temporary directory."""
    from common.training import quiet_libraries, train_run

    quiet_libraries()
    config = config.copy()
    with tempfile.TemporaryDirectory() as folder:
        # random weights: a parent would inherit these limits
        short = {"phase": {"epochs": 1}, "init_from": None, "logger": {}, "monitor": "train/loss", "mode": "min"}
        config.merge_with(short)
        OmegaConf.update(config, "trainer.limit_train_batches", 2, force_add=True)  # validation may need all rows
        with GracefulStop() as stop:
            return _named(train_run(config, Run.create(Path(folder)), stop, typed=[]))


def _named(run: Run) -> set[str]:
    """What of a run's summary can be an objective."""
    numbers = {name for name, value in run.summary.items() if isinstance(value, int | float)}
    return {*run.summary["metrics"], *numbers - {"schema_version", "seed", "best_epoch"}}

"""Ray Tune over our search spaces and our runs, for what a study of ours cannot do: populations (PBT).

`python -m common.ray_tune experiment=kfashion_stage2 sweep=kfashion_1 scheduler=pbt [key=value …]`

Words are those of train.py. `hydra.sweeper.n_trials` is the size of the population; its values are drawn at random, or
in order with `hydra/sweeper/sampler=grid`. `hydra.launcher.ray` says where Ray is and what a trial asks of it. Trials
are runs in `outputs/studies/<study>/<n>/`, and `evaluate.py study=…` reads them.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
from annotated_types import Ge, Gt, Le
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from common.cli import command_line
from common.config import DIRECTIONS, ROOT, options
from common.errors import ChecksFailed, UserError
from common.rundir import Run, first_line
from common.schema import validate_part
from common.search_space import Space, compose_trial, corners, grid, read_sweep
from common.studies import open_storage, open_study, print_outcome
from common.sweep import GRID, signals_exit

if TYPE_CHECKING:
    from ray.tune import Result, ResultGrid

# what may change while a run goes on; all else is drawn once and goes with the weights
CHANGEABLE = ("optim.", "loss.", "module.", "phase.gradient_clip", "phase.schedule")


def search(words: Sequence[str]) -> None:
    """Run a search with Ray Tune to its end and enter its trials into the study that `study=` names.

    Raises:
        UserError, HydraException: for a mistake in the words, before the first trial.
        ChecksFailed: if trials failed, after the others.
        SystemExit: with 130 or 143 after a signal, when the trials that were begun have ended after their epoch.
    """
    if find_spec("ray") is None:
        raise UserError("ray: not installed; docs/sweeps.md says how.")
    from common.sweep_checks import check_sweep  # imports what the trials need: slow

    words = ["+" + word if word.startswith("scheduler=") else word for word in words]
    config, space, shared = read_sweep(["hydra/launcher=ray", *words])
    if "+scheduler" not in shared:
        raise UserError(f"scheduler: which one? There are {', '.join(options('scheduler'))}.")
    validate_part(config.scheduler, "scheduler")
    if config.objectives:
        raise UserError("objectives: Ray's schedulers decide by one metric; leave them out.")
    typed = [word for key, word in shared.items() if not key.startswith(("+scheduler", "scheduler.", "study"))]
    typed.append(f"study='{config.study}'")
    check_sweep(lambda point: compose_trial([*typed, *point]), space, [config.monitor], typed)
    max_epochs = max(point.get("phase.epochs", config.phase.epochs) for point in corners(space))
    scheduler = instantiate(config.scheduler)(space, max_epochs)
    folder = Path(config.hydra.sweep.dir)
    study = _new_study(config, folder)
    with signals_exit():
        results, stopped = _fit(config, space, typed, folder, scheduler)
    for number, result in enumerate(results):
        run = Run(folder / str(number))
        if run.status or result.error:  # it was begun
            study.add_trial(_as_trial(run, result, space, config.monitor))
    print_outcome(study, [config.monitor])
    if stopped:
        raise SystemExit(128 + stopped[0])
    failed = [trial for trial in study.trials if trial.state is TrialState.FAIL]
    if failed:
        raise ChecksFailed(f"{len(failed)} trials failed; trial {failed[0].number}: {failed[0].user_attrs['error']}")


def halving(
    space: Space, max_epochs: int, first_epochs: Annotated[int, Ge(1)], reduction: Annotated[float, Gt(1)]
) -> Any:
    """The scheduler of `scheduler=asha`."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler("epoch", max_t=max_epochs, grace_period=first_epochs, reduction_factor=reduction)


def population(
    space: Space, max_epochs: int, every_epochs: Annotated[int, Ge(1)], share: Annotated[float, Gt(0), Le(0.5)],
    resample: Annotated[float, Ge(0), Le(1)],
) -> Any:  # fmt: skip
    """The scheduler of `scheduler=pbt`.

    Raises:
        UserError: if no key of the space may change while a run goes on.
    """
    from ray.tune.schedulers import PopulationBasedTraining

    changing = {key: each for key, each in space.items() if key.startswith(CHANGEABLE)}
    if not changing:
        raise UserError(f"scheduler=pbt: of {', '.join(space)} nothing may change while a run goes on; search a key "
                        f"that begins with {', '.join(CHANGEABLE)}.")  # fmt: skip

    def within(values: dict[str, Any]) -> dict[str, Any]:
        bounded = {key: each for key, each in changing.items() if not isinstance(each, CategoricalDistribution)}
        return values | {key: min(max(values[key], each.low), each.high) for key, each in bounded.items()}

    domains = {key: _domain(key, each) for key, each in changing.items()}
    # lists are steps for Ray, from which it goes to the neighbour
    mutations = {key: getattr(domain, "categories", domain) for key, domain in domains.items()}
    return PopulationBasedTraining(
        "epoch", perturbation_interval=every_epochs, quantile_fraction=share, resample_probability=resample,
        hyperparam_mutations=mutations, custom_explore_fn=within,
    )  # fmt: skip


def _domain(key: str, distribution: BaseDistribution) -> Any:
    from ray import tune

    match distribution:
        case FloatDistribution(step=None, low=low, high=high, log=log):
            return tune.loguniform(low, high) if log else tune.uniform(low, high)
        case IntDistribution(low=low, high=high, log=True):
            return tune.lograndint(low, high + 1)
    return tune.choice([point[key] for point in grid({key: distribution})])


def _new_study(config: DictConfig, folder: Path) -> Study:
    direction = DIRECTIONS[config.mode]
    definition = {"engine": f"Ray Tune, {config.scheduler._target_}", "objectives": f"{direction} {config.monitor}"}
    storage = open_storage(config.hydra.sweeper.storage)
    study = open_study(storage, config.study, [direction], RandomSampler(), NopPruner(), definition)
    if folder.exists() or study.get_trials(deepcopy=False):
        raise UserError(
            f"study={config.study}: is there already, and Ray Tune cannot go on with it; choose another name."
        )
    return study


def _fit(
    config: DictConfig, space: Space, words: list[str], folder: Path, scheduler: Any
) -> tuple["ResultGrid", list[int]]:
    """What Ray says of the trials, and the signals that ended the search early."""
    import ray
    from ray import tune
    from ray.tune.search import BasicVariantGenerator

    from common.ray_trial import RayTrial

    settings = OmegaConf.to_container(config.hydra.launcher.ray, resolve=True)
    num_cpus, num_gpus = settings["remote"]["num_cpus"], settings["remote"]["num_gpus"]
    sampler, count = config.hydra.sweeper.sampler, config.hydra.sweeper.n_trials
    points = grid(space)[:count] if sampler._target_ == GRID else []
    environment = {"PYTHONPATH": str(ROOT), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    try:
        ray.init(**settings["init"], runtime_env={"env_vars": environment}, log_to_driver=False)
    except ConnectionError as error:
        address = settings["init"]["address"]
        raise UserError(f"hydra.launcher.ray.init.address={address}: no Ray answers ({first_line(error)})") from None
    trainable = tune.with_parameters(RayTrial, words=words, folder=str(folder), num_threads=num_cpus)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": num_cpus, "gpu": num_gpus}),
        param_space={key: _domain(key, each) for key, each in space.items()},
        tune_config=tune.TuneConfig(
            metric=config.monitor, mode=config.mode, scheduler=scheduler, num_samples=len(points) or count,
            search_alg=BasicVariantGenerator(points_to_evaluate=points, random_state=sampler.get("seed")),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(folder), verbose=1),
    )  # fmt: skip
    with _signals_end_a_search() as stopped:
        results = tuner.fit()
    for copy in folder.glob("ray/*/checkpoint_*"):  # the runs have their own
        shutil.rmtree(copy)
    return results, stopped


@contextmanager
def _signals_end_a_search() -> Iterator[list[int]]:
    """A context in which the first Ctrl-C or SIGTERM has Ray end its trials, and the second ends the process."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    arrived: list[int] = []

    def handle(number: int, frame: Any) -> None:
        end = signal.getsignal(signal.SIGUSR1)  # Ray Tune's, once it is at work
        arrived.append(number)
        if len(arrived) > 1 or not callable(end):
            raise SystemExit(128 + number)
        end(number, frame)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_trial(run: Run, result: "Result", space: Space, monitor: str) -> FrozenTrial:
    """What became of a run, as a trial of a study; of a population's run the values are those at its end."""
    trial = partial(create_trial, params={key: result.config[key] for key in space}, distributions=space)
    reason = run.status.get("error") or first_line(result.error or RuntimeError("its worker ended before the epoch"))
    if run.status.get("status") == "diverged":
        return trial(state=TrialState.PRUNED, user_attrs={"diverged": reason})
    if not run.finished:
        return trial(state=TrialState.FAIL, user_attrs={"error": reason})
    summary, rows = run.summary, pd.read_csv(run.path / "metrics.csv")
    ended = trial(
        state=TrialState.PRUNED if summary.get("pruned") else TrialState.COMPLETE, value=summary["objective"],
        intermediate_values=dict(enumerate(rows[monitor].tolist(), 1)),
    )  # fmt: skip
    ended.datetime_start -= timedelta(seconds=summary["fit_time_s"])
    return ended


if __name__ == "__main__":
    command_line(lambda: search(sys.argv[1:]), list)

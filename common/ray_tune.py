"""Ray Tune over our search spaces and our runs, for what a study of ours cannot do: populations (PBT).

`python -m common.ray_tune experiment=kfashion_stage2 sweep=kfashion_1 scheduler=pbt [key=value …]`

Words are those of train.py. `hydra.sweeper.n_trials` is the size of the population, `hydra/launcher=ray` says where Ray
is and what a trial asks of it. Trials are runs in `outputs/studies/<study>/<n>/`, and `evaluate.py study=…` reads them.
"""

import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
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
from common.rundir import Run
from common.search_space import Space, compose_trial, corners, grid, read_sweep
from common.studies import open_storage, open_study, print_outcome

if TYPE_CHECKING:
    from ray.tune import ResultGrid
    from ray.tune.schedulers import TrialScheduler

# what may change while a run goes on; all else is drawn once and goes with the weights
CHANGEABLE = ("optim.", "loss.", "module.", "phase.gradient_clip", "phase.schedule")


def search(words: Sequence[str]) -> None:
    """Run a search with Ray Tune to its end and enter its trials into the study that `study=` names.

    Raises:
        UserError, HydraException: for a mistake in the words, before the first trial.
        ChecksFailed: if trials failed, after the others.
    """
    if find_spec("ray") is None:
        raise UserError("ray: not installed; docs/sweeps.md says how.")
    from common.sweep_checks import check_space  # imports what the trials need: slow

    words = ["+" + word if word.startswith("scheduler=") else word for word in words]
    config, space, shared = read_sweep(["hydra/launcher=ray", *words])
    if "+scheduler" not in shared:
        raise UserError(f"scheduler: which one? There are {', '.join(options('scheduler'))}.")
    if config.objectives:
        raise UserError("objectives: Ray's schedulers decide by one metric; leave them out.")
    shared = [word for key, word in shared.items() if not key.startswith(("+scheduler", "scheduler.", "study"))]
    shared.append(f"study='{config.study}'")
    check_space(lambda point: compose_trial([*shared, *point]), space)
    folder = Path(config.hydra.sweep.dir)
    study = _new_study(config, folder)
    results = _fit(config, space, shared, folder)
    for number, result in enumerate(results):
        values = {key: result.config[key] for key in space}
        study.add_trial(_as_trial(Run(folder / str(number)), values, space, config.monitor))
    print_outcome(study, [config.monitor])
    failed = [trial for trial in study.trials if trial.state is TrialState.FAIL]
    if failed:
        raise ChecksFailed(f"{len(failed)} trials failed; trial {failed[0].number}: {failed[0].user_attrs['error']}")


def halving(space: Space, max_epochs: int, first_epochs: int, reduction: float) -> "TrialScheduler":
    """The scheduler of `scheduler=asha`."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler("epoch", max_t=max_epochs, grace_period=first_epochs, reduction_factor=reduction)


def population(space: Space, max_epochs: int, every_epochs: int, share: float, resample: float) -> "TrialScheduler":
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


def _fit(config: DictConfig, space: Space, words: list[str], folder: Path) -> "ResultGrid":
    import ray
    from ray import tune

    from common.ray_trial import RayTrial

    settings = OmegaConf.to_container(config.hydra.launcher.ray, resolve=True)
    num_cpus, num_gpus = settings["remote"]["num_cpus"], settings["remote"]["num_gpus"]
    max_epochs = max(point.get("phase.epochs", config.phase.epochs) for point in corners(space))
    scheduler = instantiate(config.scheduler)(space, max_epochs)
    environment = {"PYTHONPATH": str(ROOT), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    ray.init(**settings["init"], runtime_env={"env_vars": environment}, log_to_driver=False)
    trainable = tune.with_parameters(RayTrial, words=words, folder=str(folder), num_threads=num_cpus)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": num_cpus, "gpu": num_gpus}),
        param_space={key: _domain(key, each) for key, each in space.items()},
        tune_config=tune.TuneConfig(
            metric=config.monitor, mode=config.mode, scheduler=scheduler, num_samples=config.hydra.sweeper.n_trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(folder), verbose=1),
    )  # fmt: skip
    results = tuner.fit()
    for copy in folder.glob("ray/*/checkpoint_*"):  # the runs have their own
        shutil.rmtree(copy)
    return results


def _as_trial(run: Run, values: dict[str, Any], space: Space, monitor: str) -> FrozenTrial:
    """What became of a run, as a trial of a study; of a population's run the values are those at its end."""
    if not run.finished:
        reason = run.status.get("error", "unknown")
        if run.status.get("status") == "diverged":
            return create_trial(
                state=TrialState.PRUNED, params=values, distributions=space, user_attrs={"diverged": reason}
            )
        return create_trial(state=TrialState.FAIL, params=values, distributions=space, user_attrs={"error": reason})
    summary, rows = run.summary, pd.read_csv(run.path / "metrics.csv")
    trial = create_trial(
        state=TrialState.PRUNED if summary.get("pruned") else TrialState.COMPLETE, value=summary["objective"],
        params=values, distributions=space, intermediate_values=dict(enumerate(rows[monitor].tolist(), 1)),
    )  # fmt: skip
    trial.datetime_start -= timedelta(seconds=summary["fit_time_s"])
    return trial


if __name__ == "__main__":
    command_line(lambda: search(sys.argv[1:]), list)

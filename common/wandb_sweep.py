"""Our search spaces as W&B sweeps, whose agents run train.py.

`python -m common.wandb_sweep experiment=kfashion_stage2 sweep=kfashion_1 [key=value …] > sweep.yaml`; `wandb sweep
sweep.yaml` registers it and prints the `wandb agent …` that is to run, in this folder, on every host.
"""

import sys
from collections.abc import Sequence
from typing import Any

import yaml
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from common.cli import command_line
from common.config import DIRECTIONS
from common.errors import UserError
from common.search_space import as_word, compose_trial, grid, read_sweep

OURS = ("study", "logger", "hydra/", "hydra.sweeper", "hydra.launcher")  # words that are not handed on to the runs
METHODS = {"optuna.samplers.GridSampler": "grid", "optuna.samplers.RandomSampler": "random"}  # all others: bayes


def definition(words: Sequence[str]) -> dict[str, Any]:
    """The definition of a W&B sweep, as `wandb sweep` reads it.

    Raises:
        UserError, HydraException: for a mistake in the words, or what W&B cannot search.
    """
    from common.sweep_checks import check_sweep  # imports what the trials need: slow

    config, space, shared = read_sweep(words)
    if config.objectives:
        raise UserError("objectives: a W&B sweep has one metric; leave them out.")
    method = METHODS.get(config.hydra.sweeper.sampler._target_, "bayes")
    if method == "grid":
        grid(space)  # refuses intervals
    typed = [word for key, word in shared.items() if not key.startswith(OURS)]
    check_sweep(lambda point: compose_trial([*typed, "study=x", *point]), space, [config.monitor], typed)
    # one run, with the settings of the sweep file; runs of one study lie together
    own = [f"study='{config.study}'", "hydra.mode=RUN", "logger=wandb", "logger.wandb.offline=false"]
    return {
        "name": config.study,
        "project": config.name,
        "program": "train.py",
        "command": ["${env}", "${interpreter}", "${program}", *typed, *own, "${args_no_hyphens}"],
        "method": method,
        "metric": {"name": config.monitor, "goal": DIRECTIONS[config.mode]},
        "parameters": {key: _parameter(key, each) for key, each in space.items()},
        "run_cap": config.hydra.sweeper.n_trials,
        **_early_end(config),
    }


def _parameter(key: str, distribution: BaseDistribution) -> dict[str, Any]:
    match distribution:
        case FloatDistribution(step=None, low=low, high=high, log=log):
            return {"distribution": "log_uniform_values" if log else "uniform", "min": low, "max": high}
        case IntDistribution(step=1, low=low, high=high, log=False):
            return {"distribution": "int_uniform", "min": low, "max": high}
        case IntDistribution(log=True):
            raise UserError(f"{key}: W&B draws no whole numbers in the logarithm; write choice(…).")
    values = [point[key] for point in grid({key: distribution})]
    return {"values": [each if type(each) in (int, float) else as_word(each) for each in values]}


def _early_end(config: DictConfig) -> dict[str, Any]:
    """W&B knows Hyperband only, which is ours of `pruner=asha` as well."""
    pruner = config.pruner
    if "reduction_factor" not in pruner:
        return {}
    return {"early_terminate": {"type": "hyperband", "min_iter": pruner.min_resource, "eta": pruner.reduction_factor}}


def main() -> None:
    print(yaml.safe_dump(definition(sys.argv[1:]), sort_keys=False, allow_unicode=True), end="")


if __name__ == "__main__":
    command_line(main, list)

"""Hydra's door to `common.sweep`. Hydra imports every plugin at every start, so nothing heavy may be imported here."""

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Draws the trials of an Optuna study and has a launcher run them; `common.sweep` has the whole of it.

    The keys are those of hydra-optuna-sweeper, so that a sweep file serves both.

    Args:
        sampler: config of an Optuna sampler.
        direction: `minimize` or `maximize`, or a list of these, one for each of `objectives`.
        storage: `sqlite:///PATH`, `postgresql+psycopg://…` or `journal:PATH`.
        study_name: workers that name the same study share it.
        n_trials: how many trials the study is to have, all workers and all starts together.
        n_jobs: trials handed to the launcher at once.
        max_failure_rate: share of `n_trials` that may fail before the sweep ends.
        params: the search space, key → text in Hydra's sweep syntax.
        heartbeat_s: seconds between two signs of life; after three missed ones a worker is held to be dead.
    """

    def __init__(
        self, sampler: DictConfig, direction: Any, storage: str, study_name: str, n_trials: Annotated[int, Ge(1)],
        n_jobs: Annotated[int, Ge(1)], max_failure_rate: Annotated[float, Ge(0), Le(1)], params: Mapping[str, Any],
        heartbeat_s: Annotated[float, Gt(0)],
    ):  # fmt: skip
        self.sampler, self.direction, self.storage, self.study_name = sampler, direction, storage, study_name
        self.n_trials, self.n_jobs, self.max_failure_rate = n_trials, n_jobs, max_failure_rate
        self.params, self.heartbeat_s = params, heartbeat_s

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.loader = config, hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        from common.sweep import Sweep

        Sweep(self, arguments).run()

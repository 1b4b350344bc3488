"""A sweep: this process draws trials of a study and has them run, beside any number of others that do the same."""

import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from common.config import DIRECTIONS, ROOT
from common.errors import ChecksFailed, UserError
from common.rundir import Busy, Run, first_line, flat_config, objectives_of
from common.schema import validate_part
from common.search_space import as_words, grid, parse_space
from common.studies import TooManyFailures, TrialQueue, open_storage, open_study, print_outcome

# these may differ between the workers of a study: where files lie, what runs them
FREE = ("hydra", "study", "paths", "run_dir", "trainer", "logger", "callbacks", "parents", "resume")
GRID = "optuna.samplers.GridSampler"


class Sweep:
    """One worker of a study.

    Args:
        sweeper: the settings, a `hydra_plugins.study_sweeper.StudySweeper`.
        arguments: words of the command line, less Hydra's own.
    """

    def __init__(self, sweeper: Any, arguments: list[str]):
        self.sweeper, self.config = sweeper, sweeper.config
        self.space, self.shared = parse_space(sweeper.params, arguments)
        self.shared.pop("study", None)
        self.folder = Path(self.config.hydra.sweep.dir)
        self.objectives = list(self.config.objectives or [self.config.monitor])
        self.directions = self._directions()
        self._check_settings()
        storage, points = open_storage(sweeper.storage), self._points()
        self.study = self._open(storage)
        self.num_trials = min(sweeper.n_trials, len(points)) if points else sweeper.n_trials
        most = sweeper.max_failure_rate * self.num_trials
        self.queue = TrialQueue(self.study, self.space, self.num_trials, most, sweeper.heartbeat_s, self._settle)
        self.queue.fill(points)

    def run(self) -> None:
        """Run trials until the study has all of its own.

        Raises:
            ChecksFailed: if too many of them failed.
            SystemExit: with 130 or 143, after a signal; what was running goes back into the queue.
        """
        # for the processes of launchers, which may begin elsewhere
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        keys = ", ".join(self.space)
        print(f"study {self.study.study_name}: {self.num_trials} trials of {keys}  → {Run(self.folder)}", flush=True)
        with signals_exit():
            try:
                while trials := self.queue.take(self.sweeper.n_jobs):
                    self._launch(trials)
            except TooManyFailures as error:
                self._report_failures(error)
        print_outcome(self.study, self.objectives)

    def _launch(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._take_over(trial)
        jobs = [self._words(trial) for trial in trials]
        try:
            with self.queue.alive(trials):
                returns = self.sweeper.launcher.launch(jobs, initial_job_idx=trials[0].number)
        except BaseException:  # a signal, or a launcher that lost its workers
            for trial in trials:
                if not self._settle(trial.number):
                    self.queue.give_back(trial.number)
            raise
        for trial, returned in zip(trials, returns, strict=True):
            self._tell(trial.number, returned)

    def _take_over(self, trial: Trial) -> None:
        """Let a trial that is run again go on from the checkpoint of the run that was given up, where there is one."""
        given_up = Run(self.folder / str(trial.user_attrs.get("copy_of")))
        if given_up.last.is_file():
            with suppress(Busy), given_up.held():  # its process may live, after all
                if not given_up.finished:
                    given_up.path.rename(self.folder / str(trial.number))

    def _words(self, trial: Trial) -> list[str]:
        own = [f"++study='{self.study.study_name}'", f"+trial.number={trial.number}"]
        return [*self.shared.values(), *as_words(trial.params), *own, f"+trial.storage='{self.sweeper.storage}'"]

    def _tell(self, number: int, returned: JobReturn) -> None:
        run = Run(self.folder / str(number))
        if self._settle(number):
            return
        if run.status.get("status") == "interrupted":
            self.queue.give_back(number)
            return
        error = returned._return_value  # `return_value` would raise it, and print where a trial is no error
        if isinstance(error, Busy):  # it was given to another worker, who works in its directory
            return
        error = error if isinstance(error, Exception) else RuntimeError("the job ended without a result")
        self._say(number, self.queue.tell(number, TrialState.FAIL, error=first_line(error)), f"failed: {error}")
        if not isinstance(error, UserError) and not (run.path / "run.log").exists():
            traceback.print_exception(error)

    def _settle(self, number: int) -> bool:
        """Tell what came out of a trial, if its run directory says that it ended."""
        run = Run(self.folder / str(number))
        if run.finished:
            values = objectives_of(run.summary, self.objectives)
            if None in values:  # JSON's NaN
                name = self.objectives[values.index(None)]
                told = self.queue.tell(number, TrialState.FAIL, error=f"{name} is not finite")
                self._say(number, told, f"failed: {name} is not finite")
                return True
            outcome = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.objectives, values, strict=True))
            if run.summary.get("pruned"):
                told = self.queue.tell(number, TrialState.PRUNED)
                outcome = f"pruned after epoch {run.summary['epochs']}, {outcome}"
            else:
                told = self.queue.tell(number, TrialState.COMPLETE, values)
        elif run.status.get("status") == "diverged":
            outcome = f"diverged: {run.status['error']}"
            told = self.queue.tell(number, TrialState.PRUNED, diverged=run.status["error"])
        else:
            return False
        self._say(number, told, outcome)
        return True

    def _say(self, number: int, told: bool, outcome: str) -> None:
        if not told:
            outcome = f"another worker was given it in the meantime ({outcome})"
        ended = sum(trial.state.is_finished() for trial in self.queue.counted())
        values = " ".join(as_words(self.study.get_trials(deepcopy=False)[number].params))
        print(f"[{ended}/{self.num_trials}] trial {number}: {outcome}   {values}", flush=True)

    def _report_failures(self, error: TooManyFailures) -> None:
        reason = error.last.user_attrs.get("error", "unknown")
        log = self.folder / str(error.last.number) / "run.log"
        where = f"; see {Run(log)}" if log.exists() else ""
        raise ChecksFailed(
            f"study {self.study.study_name}: {error.count} of {self.num_trials} trials failed, more than "
            f"hydra.sweeper.max_failure_rate={self.sweeper.max_failure_rate} allows; trial {error.last.number}: "
            f"{reason}{where}"
        ) from None

    def _open(self, storage: optuna.storages.BaseStorage) -> optuna.Study:
        name = self.sweeper.study_name
        known = {study.study_name: study for study in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        if name not in known:
            if any(self.folder.glob("*/status.json")):
                raise UserError(f"study={name}: {Run(self.folder)} holds runs of another study of that name; "
                                "choose another name, or remove them.")  # fmt: skip
            from common.sweep_checks import check_sweep  # imports what the trials need: slow

            words = [*self.config.hydra.overrides.hydra, self.shared["experiment"]]
            check_sweep(self._compose, self.space, self.objectives, words)
        number_there = known[name].n_trials if name in known else 0
        pruner = instantiate(self.config.pruner) or optuna.pruners.NopPruner()
        return open_study(storage, name, self.directions, self._sampler(number_there), pruner, self._definition())

    def _compose(self, words: Sequence[str]) -> DictConfig:
        """The config of a trial, as its job composes it."""
        words = [*self.shared.values(), *words, f"++study='{self.sweeper.study_name}'"]
        config = self.sweeper.loader.load_sweep_config(self.config, words)
        with read_write(config), open_dict(config):
            del config["hydra"]
        return config

    def _sampler(self, number_there: int) -> BaseSampler:
        node = self.sweeper.sampler
        if node._target_ == GRID:
            return optuna.samplers.RandomSampler()  # draws nothing: the points wait in the queue
        if node.get("seed") is not None and not node._target_.endswith("QMCSampler"):
            # a worker that goes on with a study must not draw again what the one before drew
            node = OmegaConf.merge(node, {"seed": int(node.seed) + number_there})
        return instantiate(node)

    def _points(self) -> list[dict[str, Any]]:
        return grid(self.space) if self.sweeper.sampler._target_ == GRID else []

    def _directions(self) -> list[str]:
        directions = self.sweeper.direction
        return [directions] if isinstance(directions, str) else list(directions)

    def _check_settings(self) -> None:
        validate_part(self.config.hydra.sweeper, "hydra.sweeper")
        name, direction = self.sweeper.study_name, self.directions[0]
        if "/" in name:
            raise UserError(f"study={name}: the name of a study is one of a folder, without '/'.")
        if "experiment" not in self.shared:
            raise UserError("experiment: a study is of one experiment; sweep over several with hydra/sweeper=basic.")
        if not self.space:
            raise UserError("sweep: nothing to search; choose a sweep=… or write for example 'optim.lr=1e-3,1e-2'.")
        if "matrix" in self.config:
            raise UserError(f"{self.config.name}: a matrix is a list of runs, not one that a study could try out.")
        if len(self.directions) != len(self.objectives):
            raise UserError(f"hydra.sweeper.direction: {len(self.directions)} for {len(self.objectives)} objectives "
                            f"({', '.join(self.objectives)}).")  # fmt: skip
        if len(self.objectives) > 1 and self.config.pruner:
            raise UserError("pruner: several objectives cannot be pruned; use pruner=none or one objective.")
        if not self.config.objectives and direction != DIRECTIONS[self.config.mode]:
            raise UserError(f"hydra.sweeper.direction={direction}: {self.config.monitor} has mode={self.config.mode}.")

    def _definition(self) -> dict[str, str]:
        """What all trials of the study share, by name."""
        values = flat_config(self.config, resolve=False)
        shared = {key: str(value) for key, value in values.items() if key.split(".")[0] not in FREE}
        objectives = [f"{direction} {name}" for direction, name in zip(self.directions, self.objectives, strict=True)]
        space = {f"space of {key}": str(distribution) for key, distribution in self.space.items()}
        return shared | space | {"objectives": ", ".join(objectives)}


@contextmanager
def signals_exit() -> Iterator[None]:
    """A context in which Ctrl-C and SIGTERM end the process with 130 and 143; within a trial, the run obeys them."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

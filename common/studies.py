"""A study that any number of workers on any hosts share: who runs which trial, and what happens to those that die.

The storage is where workers meet; nothing else is between them. A worker takes trials, says every `heartbeat_s` that
it is alive, and tells what came out. A trial whose worker has been silent for three heartbeats goes back into the
queue. So does one that was interrupted. Trials that went back, and those that were one too many, do not count: a study
ends with exactly as many as it was to have.
"""

import functools
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError

from common.errors import UserError
from common.search_space import Space, as_words

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=FutureWarning, module="optuna")
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

log = logging.getLogger(__name__)

JOURNAL = "journal:"
MISSED_HEARTBEATS = 3  # after which a worker is held to be dead
MAX_DEATHS = 5  # of workers over one set of values, before these are held to be the cause


@functools.cache
def open_storage(address: str) -> BaseStorage:
    """The storage at `sqlite:///PATH`, `postgresql+psycopg://…` or `journal:PATH`, made where it does not exist.

    Raises:
        UserError: if it cannot be reached, naming it without its password.
    """
    known = f"use sqlite:///PATH, postgresql+psycopg://… or {JOURNAL}PATH"
    url: Any = address
    try:
        if address.startswith(JOURNAL):
            path = Path(address.removeprefix(JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        url = make_url(address)
        if url.get_backend_name() == "sqlite":
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
            return _serialised(_open_database(address, {"timeout": 60}))
        return _open_database(address, {})
    except ArgumentError:
        raise UserError(f"storage={address}: {known}.") from None
    except ImportError as error:
        raise UserError(f"storage={url}: its driver is not installed ({error}); {known}.") from None
    except (OperationalError, OSError) as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        raise UserError(f"storage={url}: cannot be opened ({reason}).") from None


def _open_database(address: str, connect_args: dict[str, Any]) -> RDBStorage:
    for attempt in range(20):
        try:
            return RDBStorage(address, engine_kwargs={"connect_args": connect_args})
        except (IntegrityError, ProgrammingError, OperationalError) as error:  # another worker is making the tables
            made_twice = "exists" in str(error) or isinstance(error, IntegrityError)
            if not made_twice or attempt == 19:
                raise
            time.sleep(0.1 * (attempt + 1))


def _serialised(storage: RDBStorage) -> RDBStorage:
    """Let transactions of SQLite begin with the lock for writing.

    Otherwise Python begins them at the first write, after Optuna has looked whether it may write, and two workers are
    given the same trial (measured: 4 workers took 10 of 120 enqueued trials twice).
    """

    @event.listens_for(storage.engine, "connect")
    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(storage.engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections that were opened before
    return storage


def open_study(
    storage: BaseStorage, name: str, directions: Sequence[str], sampler: BaseSampler, pruner: BasePruner,
    definition: dict[str, str],
) -> Study:  # fmt: skip
    """The study of that name, made where there is none.

    Args:
        definition: what all trials share, by name; a study goes on only as it was begun.

    Raises:
        UserError: if the study is of another definition, naming the first difference.
    """
    study = optuna.create_study(
        study_name=name, storage=storage, directions=directions, sampler=sampler, pruner=pruner, load_if_exists=True
    )
    has_trials = bool(study.get_trials(deepcopy=False))  # asked first: a definition comes before the first trial
    begun = study.user_attrs.get("definition")
    if begun is None and has_trials:
        raise UserError(f"study={name}: its trials are not of this sweeper; choose another name.")
    if begun is None:
        study.set_user_attr("definition", definition)
        return study
    for key in sorted({*begun, *definition}):
        if begun.get(key) != definition.get(key):
            there, here = (each.get(key, "nothing") for each in (begun, definition))
            raise UserError(f"study={name}: was begun with {key}: {there}, not {here}; choose another name for it.")
    return study


class TrialQueue:
    """What one worker sees of a study: it takes trials and tells how they ended.

    Args:
        num_trials: how many the study is to have, all workers together.
        max_failures: how many of them may fail.
        heartbeat_s: seconds between two signs of life.
        settle: tells what came out of a trial that ended before its worker died, by its number; False if it did not.
    """

    def __init__(
        self, study: Study, space: Space, num_trials: int, max_failures: float, heartbeat_s: float,
        settle: Callable[[int], bool],
    ):  # fmt: skip
        self.study, self.space, self.settle = study, space, settle
        self.num_trials, self.max_failures, self.heartbeat_s = num_trials, max_failures, heartbeat_s

    def fill(self, points: list[dict[str, Any]]) -> None:
        """Enqueue as many points as there are trials to be, by their numbers, less those that are there: a grid."""
        known = {trial.user_attrs.get("point") for trial in self._trials()}
        for number, point in enumerate(points[: self.num_trials]):
            if number not in known:
                self.study.enqueue_trial(point, user_attrs={"point": number})

    def take(self, count: int) -> list[Trial]:
        """Up to `count` trials to run; waits while there is none but others run theirs, which may die; [] at the end.

        Raises:
            TooManyFailures: if more trials of the study failed than may.
        """
        while True:
            self._reclaim()
            self._check_failures()
            taken = []
            while len(taken) < count and (trial := self._next()):
                taken.append(trial)
            if taken or not any(trial.state is TrialState.RUNNING for trial in self.counted()):
                return taken
            time.sleep(min(5.0, self.heartbeat_s / 4))

    @contextmanager
    def alive(self, trials: Sequence[Trial]) -> Iterator[None]:
        """A context in which the trials' worker gives signs of life."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.heartbeat_s):
                for trial in trials:
                    try:
                        trial.set_user_attr("heartbeat", time.time())
                    except UpdateFinishedTrialError:
                        continue
                    except Exception as error:  # the next one may get through
                        log.warning(f"trial {trial.number}: no heartbeat ({error})")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def tell(self, number: int, state: TrialState, values: Sequence[float] | None = None, **attributes: Any) -> bool:
        """Tell how a trial ended; False if another worker, who thought this one dead, told already."""
        trial = self._trials()[number]
        if trial.state.is_finished():
            return False
        try:
            for name, value in attributes.items():
                self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
            self.study.tell(number, values, state)
        except (UpdateFinishedTrialError, ValueError):  # told in this moment
            if self._trials()[number].state.is_finished():
                return False
            raise
        return True

    def give_back(self, number: int, deaths: int = 0) -> None:
        """Put the values of a trial that did not end into the queue again.

        Args:
            deaths: of workers over these values so far.
        """
        trials = self._trials()
        if trials[number].state.is_finished():
            return
        # first the copy: a worker that dies between the two leaves a trial that the next one only has to close
        if number not in _replaced(trials):
            values = {**trials[number].system_attrs.get("fixed_params", {}), **trials[number].params}
            self.study.enqueue_trial(values, user_attrs={"copy_of": number, "deaths": deaths})
        self.tell(number, TrialState.FAIL)

    def counted(self) -> list[FrozenTrial]:
        """The trials that count towards `num_trials`, whatever their state."""
        return counted_trials(self._trials())

    def _next(self) -> Trial | None:
        while self._has_place():
            trial = self.study.ask(self.space)
            places = [each.number for each in self.counted() if each.number <= trial.number]
            if trial.number in places and len(places) <= self.num_trials:
                with suppress(UpdateFinishedTrialError):  # this process slept so long that another thinks it dead
                    trial.set_user_attr("heartbeat", time.time())
                    return trial
            else:
                self.tell(trial.number, TrialState.FAIL, surplus=True)  # another worker was faster
        return None

    def _has_place(self) -> bool:
        counted = self.counted()
        return len(counted) < self.num_trials or any(trial.state is TrialState.WAITING for trial in counted)

    def _reclaim(self) -> None:
        """Give back the trials of workers that are dead."""
        latest = time.time() - MISSED_HEARTBEATS * self.heartbeat_s
        for trial in self._trials():
            if trial.state is not TrialState.RUNNING or _last_sign(trial) > latest or self.settle(trial.number):
                continue
            deaths = trial.user_attrs.get("deaths", 0) + 1
            if deaths < MAX_DEATHS:
                log.warning(f"trial {trial.number}: its worker is silent; it is run again")
                self.give_back(trial.number, deaths)
            else:
                self.tell(trial.number, TrialState.FAIL, error=f"{deaths} workers died over it")

    def _check_failures(self) -> None:
        failed = [trial for trial in self.counted() if trial.state is TrialState.FAIL]
        if len(failed) > self.max_failures:
            raise TooManyFailures(len(failed), failed[-1])

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def counted_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of all trials of a study those that count: not what was given back, one too many, or enqueued twice."""
    ended = {trial.number for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)}
    replaced, origins, counted = _replaced(trials) - ended, set(), []
    for trial in trials:
        copy_of, point = trial.user_attrs.get("copy_of"), trial.user_attrs.get("point")
        # by two workers at once; or its first worker was not dead, and ended in the moment it was replaced
        twice = (copy_of, point) in origins or copy_of in ended
        if copy_of is not None or point is not None:
            origins.add((copy_of, point))
        if not (twice or trial.user_attrs.get("surplus") or trial.number in replaced):
            counted.append(trial)
    return counted


def print_outcome(study: Study, objectives: Sequence[str]) -> None:
    """Print how many trials ended how, and the best of them."""
    states = [trial.state for trial in counted_trials(study.get_trials(deepcopy=False))]
    counts = [f"{states.count(state)} {state.name.lower()}" for state in TrialState if state in states]
    print(f"study {study.study_name}: {', '.join(counts)}")
    for trial in study.best_trials if TrialState.COMPLETE in states else ():
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(objectives, trial.values, strict=True))
        print(f"best: trial {trial.number}, {values}   {' '.join(as_words(trial.params))}")
    print(f"read it: python evaluate.py study={study.study_name}")


class TooManyFailures(Exception):
    """More trials failed than may: how many, and the last of them."""

    def __init__(self, count: int, last: FrozenTrial):
        super().__init__(f"{count} trials failed, trial {last.number} the last")
        self.count, self.last = count, last


def _replaced(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials of which there is a copy in the queue, or was."""
    return {trial.user_attrs["copy_of"] for trial in trials if "copy_of" in trial.user_attrs}


def _last_sign(trial: FrozenTrial) -> float:
    return max(trial.datetime_start.timestamp(), trial.user_attrs.get("heartbeat", 0.0))

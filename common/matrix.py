"""A matrix: runs that differ in a few settings, each in a directory named by what it is, done by any number of workers.

An experiment with a `matrix` node is no run but a list of runs. Every process that is given the experiment works
through the same list: it skips what is finished or held by another, continues what was interrupted, and begins the
rest. So the processes may be those of one machine (`matrix.workers`), of a launcher (`-m matrix.worker=0,1,2
hydra/launcher=…`), or be started by hand on several hosts with one output folder.
"""

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from common.config import compose, options
from common.errors import ChecksFailed, UserError, nearest
from common.files import write_text
from common.recorder import GracefulStop
from common.rundir import Busy, Run, first_line
from common.schema import STRICT, Target, validate

log = logging.getLogger(__name__)

GROUPS = ("experiment", "data", "model", "loss", "phase", "optim")
Tasks = list[list[tuple[str, dict]]]  # groups of runs that are trained at once, each by name and config


@checked(config=STRICT)
class MatrixConfig:
    """The `matrix` node of an experiment.

    Attributes:
        blocks: each a product of lists of values by key: config groups (`loss`) or plain keys (`seed`).
        overrides: words for every run, as on the command line: `phase.epochs=2`.
        workers: processes on this machine, which share its cores.
        worker: number of this process among those that a launcher starts; it changes nothing.
        identify: `(config) -> name` of a run.
        select: `(cells) -> cells` that have to be run; None for all.
        collect: `(folder) -> None`, called after every run to put the results so far together.
        seeds_batched: train runs that differ by their seed only at once, where `stack` can and it pays.
        stack: makes what knows how: `groups(cells) -> lists of cells`, `train(configs, runs, stop)` for such a list.
    """

    blocks: Annotated[list[dict[str, Annotated[list[Any], Field(min_length=1)]]], Field(min_length=1)]
    identify: Target
    overrides: list[str] = Field(default_factory=list)
    workers: Annotated[int, Field(ge=1)] = 1
    worker: int = 0
    select: Target | None = None
    collect: Target | None = None
    seeds_batched: bool = False
    stack: Target | None = None


@dataclass
class Cell:
    """One run of a matrix.

    Attributes:
        name: of its directory.
        settings: key → value of the axes.
        config: composed.
    """

    name: str
    settings: dict[str, Any]
    config: DictConfig


def run_matrix(config: DictConfig, typed: list[str]) -> float:
    """Do what is left of the matrix; returns the number of runs that are not there at the end.

    Args:
        typed: words of the command line.

    Raises:
        UserError: for a mistake in the matrix or in any of its runs' configs, before the first of them begins.
        ChecksFailed: at the end, if runs failed or a worker died; the others are done. A run that diverged is a result,
            not a failure.
        SystemExit: with code 143 after SIGTERM and 130 after Ctrl-C.
    """
    matrix = checked_matrix(config, typed)
    folder = Path(config.paths.output_dir) / config.name
    cells = plan(matrix, config)
    lines = (json.dumps({"run_id": cell.name, **cell.settings}) for cell in cells)
    write_text(folder / "manifest.jsonl", "\n".join(lines) + "\n")
    left = [cell for cell in cells if not _ended(Run(folder / cell.name))]
    log.info(f"{config.name}: {len(cells)} runs, {len(cells) - len(left)} of them done  → {Run(folder)}")
    groups = _groups(matrix, left, folder)
    tasks = [[(cell.name, OmegaConf.to_container(cell.config)) for cell in group] for group in groups]
    exit_codes = _share(folder, tasks, matrix)
    _collect(matrix.collect, folder)
    return _missing([Run(folder / cell.name) for cell in cells], exit_codes)


def _share(folder: Path, tasks: Tasks, matrix: MatrixConfig) -> list[int]:
    """Work through the runs with as many processes as the matrix wants, this one included; exit codes of the others.

    They are no daemons, which could have no loaders of their own. They end with this process, however it ends: each
    watches a pipe, where a word or the end tells it to stop after its step, so that its run can be continued.
    """
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    work, others = (folder, tasks, matrix, time.time()), []
    try:
        for _ in range(min(matrix.workers, len(tasks)) - 1):
            others.append(context.Process(target=_work, args=(*work, watched)))
            others[-1].start()
        _work(*work)
        for process in others:
            process.join()
    finally:
        held.send("stop")  # closing it would not do: a loader of this process, still alive, may hold it too
        for process in others:
            process.join()
    return [process.exitcode for process in others]


def _missing(runs: list[Run], exit_codes: list[int]) -> float:
    """Number of runs that have not ended; raises ChecksFailed where some failed or a worker died."""
    failed = [run.path.name for run in runs if run.status.get("status") == "failed"]
    if failed:
        raise ChecksFailed(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; see their run.log")
    missing = sum(not _ended(run) for run in runs)
    died = [code for code in exit_codes if code]
    if died:
        raise ChecksFailed(f"{len(died)} workers died (exit codes {died}); {missing} runs are missing, begin again")
    return float(missing)


def plan(matrix: MatrixConfig, config: DictConfig) -> list[Cell]:
    """The runs of a matrix in order: blocks as written, within each the last key fastest.

    Raises:
        UserError: for an unknown option or key, an invalid config, or a run that is listed twice.
    """
    identify = instantiate(matrix.identify)
    cells: dict[str, Cell] = {}
    composed: dict[tuple[str, ...], DictConfig] = {}
    right: set[str] = set()
    for settings in _settings(matrix.blocks):
        words = tuple(f"{key}={value}" for key, value in settings.items() if key in GROUPS and key != "experiment")
        key = (settings["experiment"], *words)
        if key not in composed:
            _check_options(settings)
            composed[key] = compose(settings["experiment"], [*words, *matrix.overrides])
            composed[key].paths = config.paths
        own = composed[key].copy()
        for name, value in settings.items():
            if name not in GROUPS:
                _set(own, name, value)
        # a seed that was right for one run is right for all, and so is the rest for all seeds
        parts = {f"seed={own.seed!r}", repr({name: value for name, value in settings.items() if name != "seed"})}
        if not parts <= right:
            validate(own)
            right |= parts
        cell = Cell(identify(own), settings, own)
        if cell.name in cells:
            raise UserError(f"matrix.blocks: {settings} and {cells[cell.name].settings} are one and the same run.")
        cells[cell.name] = cell
    select = instantiate(matrix.select) if matrix.select else list
    return select(list(cells.values()))


def _set(config: DictConfig, key: str, value: Any) -> None:
    owner, _, name = key.rpartition(".")
    known = OmegaConf.select(config, owner) if owner else config
    if not isinstance(known, DictConfig) or name not in known:
        names = list(known) if isinstance(known, DictConfig) else list(config)
        raise UserError(f"matrix.blocks: {key}: unknown key.{nearest(name, names)} Known: {', '.join(names)}.")
    OmegaConf.update(config, key, value)


def checked_matrix(config: DictConfig, typed: list[str]) -> MatrixConfig:
    for word in typed:
        key = word.lstrip("+~").partition("=")[0]
        if key.split(".")[0] not in ("experiment", "matrix", "name", "paths", "hydra"):
            raise UserError(f"{word}: not for a matrix; to set it in every run use \"matrix.overrides=['{word}']\".")
    node = OmegaConf.to_container(config.matrix, resolve=True)
    try:
        matrix = TypeAdapter(MatrixConfig).validate_python(node)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("matrix", *first["loc"]))
        raise UserError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None
    if matrix.seeds_batched and matrix.stack is None:
        raise UserError("matrix.seeds_batched=true: nothing here can train seeds at once; set matrix.stack too.")
    for number, block in enumerate(matrix.blocks):
        if "experiment" not in block:
            raise UserError(f"matrix.blocks.{number}: name the experiments under `experiment`.")
    return matrix


def _settings(blocks: list[dict[str, list]]) -> Iterator[dict[str, Any]]:
    for block in blocks:
        for values in product(*block.values()):
            yield dict(zip(block, values, strict=True))


def _check_options(settings: dict[str, Any]) -> None:
    for group in GROUPS:
        if group in settings and settings[group] not in options(group):
            known = options(group)
            hint = f"{nearest(settings[group], known)} There are {', '.join(known)}."
            raise UserError(f"{group}={settings[group]}: no such option.{hint}")


def _groups(matrix: MatrixConfig, cells: list[Cell], folder: Path) -> list[list[Cell]]:
    """Cells to be trained at once; a run that was begun by itself is continued by itself."""
    if not matrix.seeds_batched:
        return [[cell] for cell in cells]
    begun = [cell for cell in cells if Run(folder / cell.name).last.is_file()]
    return [*([cell] for cell in begun), *instantiate(matrix.stack).groups([c for c in cells if c not in begun])]


def _ended(run: Run) -> bool:
    return run.finished or run.status.get("status") == "diverged"


def _work(folder: Path, tasks: Tasks, matrix: MatrixConfig, began: float, parent: Connection | None = None) -> None:
    """Go through the runs once, group by group; what fails is left behind with its status."""
    import torch

    from common.training import quiet_libraries

    quiet_libraries()
    # also where there are fewer runs than workers: with other threads a resumed run may round otherwise
    torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) // matrix.workers)))
    with GracefulStop() as stop, _quiet_console():
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent, stop), daemon=True).start()
        for number, group in enumerate(tasks, 1):
            runs = {Run(folder / name): OmegaConf.create(config) for name, config in group}
            runs = {run: config for run, config in runs.items() if not _ended(run) and not _failed_since(run, began)}
            outcomes = _outcomes(runs, stop, matrix)
            for name, outcome in outcomes.items():
                print(f"[{number}/{len(tasks)}] {name}: {outcome}", flush=True)
            if outcomes:
                _collect(matrix.collect, folder)


def _end_with(parent: Connection, stop: GracefulStop) -> None:
    """Wait for a word or the end of the pipe, then do as on SIGTERM, unless a signal came here as well."""
    parent.poll(None)
    if stop.signal is None:
        os.kill(os.getpid(), signal.SIGTERM)


def _outcomes(runs: dict[Run, DictConfig], stop: GracefulStop, matrix: MatrixConfig) -> dict[str, str]:
    """Train what is left of a group; name → how it ended, of those runs that this process trained."""
    unwritten = None
    try:
        if runs:
            _train(runs, stop, matrix)
    except Busy:
        return {}
    except Exception as error:
        unwritten = f"failed: {first_line(error)}"
    mine = [run for run in runs if unwritten or run.status.get("pid") == os.getpid()]
    return {run.path.name: _outcome(run) or unwritten for run in mine}


def _outcome(run: Run) -> str:
    """How a run ended, in words; empty if it never began."""
    if run.finished:
        return f"{run.config.monitor} {run.summary['objective']:.4f}"
    status = run.status
    return f"{status['status']}: {status.get('error', '')}" if status else ""


@contextmanager
def _quiet_console() -> Iterator[None]:
    """What runs log goes to their run.log; the console has one line per run."""
    root = logging.getLogger()
    levels = {handler: handler.level for handler in root.handlers}
    for handler in levels:
        handler.setLevel(logging.WARNING)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)


def _failed_since(run: Run, began: float) -> bool:
    status = run.status
    return status.get("status") == "failed" and datetime.fromisoformat(status["time"]).timestamp() >= began


def _train(runs: dict[Run, DictConfig], stop: GracefulStop, matrix: MatrixConfig) -> None:
    from common.training import train_run

    if len(runs) > 1:
        instantiate(matrix.stack).train(list(runs.values()), list(runs), stop)
        return
    ((run, config),) = runs.items()
    # a run continues as it was begun, and only on the data with which it was
    train_run(run.config if run.last.is_file() else config, run, stop, typed=[])


def _collect(collect: Target | None, folder: Path) -> None:
    if collect is not None:
        function: Callable[[Path], None] = instantiate(collect)
        function(folder)

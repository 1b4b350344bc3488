"""The run directory: all that is needed to understand, resume, evaluate and reproduce one run."""

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.config import ROOT, plain_node
from common.errors import UserError, nearest
from common.files import hash_record, read_json, write_json, write_text

RECORDED_PACKAGES = ("torch", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy", "pandas")

log = logging.getLogger(__name__)


class Busy(UserError):
    """Another process is working in a run directory."""


class Run:
    """One run directory and the files in it (docs/architecture.md has the table).

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path).absolute()

    def __str__(self) -> str:
        return display(self.path)

    @classmethod
    def create(cls, parent: Path) -> "Run":
        """A new directory below `parent`, named by the time, and by a number where two start in one second."""
        stem = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        for attempt in range(1000):
            path = parent / (f"{stem}_{attempt}" if attempt else stem)
            try:
                path.mkdir(parents=True)
                return cls(path)
            except FileExistsError:
                continue
        raise UserError(f"{parent}: 1000 directories named {stem} exist already.")

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def finished(self) -> bool:
        """Whether the run ended as planned: its summary is written last."""
        return (self.path / "summary.json").is_file()

    @property
    def config(self) -> DictConfig:
        """The resolved config.

        Raises:
            UserError: if the directory holds none or it cannot be read.
        """
        path = self.path / "config.yaml"
        try:
            return OmegaConf.load(path)
        except FileNotFoundError:
            raise UserError(f"{display(self.path)}: not a run directory (it has no config.yaml).") from None
        except Exception as error:
            raise UserError(f"{display(path)}: unreadable ({first_line(error)}).") from None

    @property
    def environment(self) -> dict:
        return read_json(self.path / "environment.json")

    @property
    def summary(self) -> dict:
        return read_json(self.path / "summary.json")

    @property
    def status(self) -> dict:
        path = self.path / "status.json"
        return read_json(path) if path.is_file() else {}

    def write_config(self, config: DictConfig, typed: list[str]) -> None:
        """Write config.yaml, resolved once the facts of the data are in it, and overrides.yaml with what was typed."""
        text = OmegaConf.to_yaml(config, resolve="facts" in config)
        write_text(self.path / "config.yaml", text)
        write_text(self.path / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(typed)))

    def write_status(self, status: str, **details: Any) -> None:
        """Record `running`, `done`, `failed`, `diverged` or `interrupted`, with epoch or error line."""
        now = datetime.now().astimezone().isoformat(timespec="microseconds")
        write_json(self.path / "status.json", {"status": status, "time": now, "pid": os.getpid(), **details})

    def write_environment(self, **details: Any) -> None:
        """Record what the config does not say: code, versions, machine, command line and `details`."""
        versions = {name: metadata.version(name) for name in RECORDED_PACKAGES}
        record = {
            **git_state(),
            "python": platform.python_version(),
            "versions": versions,
            "platform": platform.platform(),
            "command": sys.argv,
            "choices": group_choices(),
            **details,
        }
        write_json(self.path / "environment.json", record)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory against other processes, and copy the console into run.log.

        Raises:
            Busy: if another process is working in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise Busy(f"{self}: another process (pid {self.status.get('pid')}) is working in it.") from None
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logging.getLogger().addHandler(handler)
        try:
            yield
        except Exception as error:  # the console shows it too, but not that of a worker
            record = log.makeRecord(log.name, logging.ERROR, __file__, 0, first_line(error), (), sys.exc_info())
            handler.handle(record)
            raise
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
            lock.release()


def display(path: Path) -> str:
    """`path` relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def git_state() -> dict:
    """Commit and whether the tree differs from it; None for both outside a repository."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:
        commit = changes = None
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def find_runs(output_dir: Path | str, experiment: str) -> list[Run]:
    """All runs of an experiment, the one begun last first; those of sweeps lie one level deeper."""
    folder = Path(output_dir) / experiment
    configs = [*folder.glob("*/config.yaml"), *folder.glob("*/*/config.yaml")]
    return [Run(path.parent) for path in sorted(configs, reverse=True)]  # directories are named by time


def resolve_run(spec: str, output_dir: Path | str) -> Run:
    """The run that `spec` names: a run directory, or `latest:<experiment>` for the newest finished run.

    Raises:
        UserError: if there is no such run; it names what there is.
    """
    if not spec.startswith("latest:"):
        run = Run(spec)
        _ = run.config
        return run
    experiment = spec.removeprefix("latest:")
    runs = find_runs(output_dir, experiment)
    for run in runs:
        if run.finished:
            return run
    known = sorted(path.name for path in Path(output_dir).glob("*") if path.is_dir())
    hint = f" {len(runs)} unfinished." if runs else nearest(experiment, known)
    raise UserError(
        f"run={spec}: no finished run below {display(Path(output_dir) / experiment)}.{hint} "
        f"Train one with `python train.py experiment={experiment}`."
    )


def group_choices() -> dict[str, str]:
    """The option of every config group of ours that this process was started with."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {key: value for key, value in chosen.items() if value is not None and not key.startswith("hydra/")}


def flat_config(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """The values of a config by dotted key; lists are values."""

    def flat(path: str, node: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from flat(f"{path}.{key}" if path else str(key), value)
        else:
            yield path, node

    return dict(flat("", OmegaConf.to_container(config, resolve=resolve)))


def objectives_of(summary: dict, names: list[str]) -> list[float]:
    """What a study is told of a run with this summary: the monitored metric's best value, or others at that epoch."""
    metrics = summary["metrics"]
    return [metrics[name]["value"] if name in metrics else summary[name] for name in names]


def same_model(one: DictConfig, other: DictConfig) -> bool:
    """Whether weights of a run with config `one` fit a run with config `other`."""
    return hash_record(plain_node(one, "model")) == hash_record(plain_node(other, "model"))


def same_run(one: DictConfig, other: DictConfig) -> bool:
    """Whether two configs ask for one and the same training, wherever its files lie."""
    elsewhere = ("run_dir", "paths", "callbacks", "logger", "resume", "parents", "study", "trial", "pruner",
                 "objectives")  # fmt: skip
    records = [{key: plain_node(config, key) for key in config if key not in elsewhere} for config in (one, other)]
    return hash_record(records[0]) == hash_record(records[1])

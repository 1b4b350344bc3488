"""Runs in processes of their own, so that they can be killed. They fork from a server that has Lightning imported."""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "common.training",
        "common.evaluation",
        "common.sweep_checks",
        "common.trials",
        "lasps.analysis",
        "lasps.phase2",
        "nandseq.roadmap",
        "tests.toy",
    ]
)


def run(function: Callable[..., Any], *args: Any, env: dict[str, str] | None = None, timeout: float = 240) -> int:
    """Exit code of `function(*args)` in its own process; −9 means that it was killed."""
    process = _context.Process(target=_call, args=(function, args, env or {}))
    process.start()
    process.join(timeout)
    assert process.exitcode is not None, f"{function.__name__} still runs after {timeout} s"
    return process.exitcode


@dataclass
class Finished:
    """Exit code and what a command printed."""

    code: int
    out: str
    err: str


def command(*words: str, cwd: Path | None = None, env: dict[str, str] | None = None, at: str = "") -> Finished:
    """Run `train.py …` or `evaluate.py …` as a user does.

    Args:
        at: "step:SIGNAL" sends the process that signal at the end of that step.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = run(_command, words, cwd or ROOT, folder, at, env=env)
        out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
    return Finished(code, out, err)


def _command(words: tuple[str, ...], cwd: Path, folder: str, at: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(cwd)
    sys.argv = [str(ROOT / words[0]), *words[1:]]
    if at:
        _signal_at(*at.split(":"))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _signal_at(step: str, name: str) -> None:
    from common.recorder import Recorder

    original = Recorder.on_train_batch_end

    def on_train_batch_end(self: Recorder, trainer: Any, *args: Any) -> None:
        if trainer.global_step == int(step):
            os.kill(os.getpid(), getattr(signal, name))
        original(self, trainer, *args)

    Recorder.on_train_batch_end = on_train_batch_end


def _call(function: Callable[..., Any], args: tuple, env: dict[str, str]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    function(*args)


def train(config: DictConfig) -> None:
    from common.training import train

    train(config)


def train_and_die_writing(config: DictConfig, write: int) -> None:
    """Train, but be killed in the middle of writing checkpoint number `write`."""
    from common import checkpoints

    saves = iter(range(write + 1))
    whole = torch.save

    def save(checkpoint: Any, file: Any) -> None:
        if next(saves) < write:
            whole(checkpoint, file)
        else:
            file.write(b"half a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.torch.save = save
    train(config)


def train_and_die_between(config: DictConfig) -> None:
    """Train, but be killed when a parent has been trained and its weights are about to be loaded."""
    from common import training

    training.load_network = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    train(config)

"""Runs in processes of their own, so that they can be killed. They fork from a server that has Lightning imported."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["common.training", "tests.toy"])


def run(function: Callable[..., Any], *args: Any, env: dict[str, str] | None = None, timeout: float = 120) -> int:
    """Exit code of `function(*args)` in its own process; −9 means that it was killed."""
    process = _context.Process(target=_call, args=(function, args, env or {}))
    process.start()
    process.join(timeout)
    assert process.exitcode is not None, f"{function.__name__} still runs after {timeout} s"
    return process.exitcode


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

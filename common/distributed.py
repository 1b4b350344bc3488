"""One run in several processes (`trainer=ddp`): the first keeps the run directory, the others only help it fit."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
import torch
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only

from common.config import ROOT
from common.errors import UserError
from common.rundir import Run

SET_BY_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def is_first_process() -> bool:
    """Whether this process keeps the run directory."""
    return rank_zero_only.rank == 0


@contextmanager
def helpers_resume(trainer: lightning.Trainer, run: Run) -> Iterator[None]:
    """A context for a fit in which processes that Lightning starts join this run, and which none of them outlives.

    Lightning starts them with the command line of this process, which would begin a run of its own.

    Raises:
        UserError: if the processes were started from outside, where each would have a directory of its own.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher) or not is_first_process():
        if trainer.world_size > 1 and is_first_process():
            raise UserError(f"trainer.devices={trainer.world_size}: start one process and let it start the others.")
        yield
        return
    command, sys.argv = sys.argv, [str(ROOT / "train.py"), f"resume='{run.path}'"]
    try:
        yield
    except BaseException:
        launcher.kill(signal.SIGKILL)  # they may wait for this one
        raise
    finally:
        sys.argv = command
        for process in launcher.procs:
            process.wait()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name in SET_BY_LIGHTNING:  # or the next fit of this process would take them over
            os.environ.pop(name, None)

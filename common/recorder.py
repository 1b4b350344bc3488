"""The callback that keeps a run directory true while the run goes on."""

import csv
import io
import logging
import math
import random
import signal
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from pydantic import Field

from common.files import write_text
from common.rundir import Run

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """The loss or the monitored metric stopped being finite."""


class Recorder(Checkpoint):
    """Writes checkpoints, metrics.csv and status.json, and stops early.

    After every epoch: one row of metrics, `last.ckpt`, and `best.ckpt` where the monitored metric improved. Within an
    epoch `last.ckpt` is renewed every `every_n_steps` steps and when the run is asked to stop. The rows travel in the
    checkpoint, so that a resumed run leaves the metrics.csv of an uninterrupted one.

    It is a Lightning `Checkpoint` because those run last at an epoch's end, when all metrics are there.

    Args:
        run_dir: the run directory.
        monitor: name of the metric that decides which epoch is best, for example `val/loss`.
        mode: whether a lower (`min`) or a higher (`max`) value is better.
        patience: epochs without improvement after which training stops; None trains to the end.
        every_n_steps: steps between checkpoints within an epoch.

    Attributes:
        stop: says whether the user wants the run to stop; the trunk shares its own.
        pruned: whether a study ended the run early.
    """

    def __init__(
        self,
        run_dir: str,
        monitor: str,
        mode: Literal["min", "max"],
        patience: Annotated[int, Field(ge=1)] | None = None,
        every_n_steps: Annotated[int, Field(ge=1)] = 1000,
    ):
        self.run = Run(run_dir)
        self.monitor, self.mode, self.patience, self.every_n_steps = monitor, mode, patience, every_n_steps
        self.rows: list[dict[str, float]] = []
        self.best_epoch: int | None = None
        self.stop, self.pruned = GracefulStop(), False
        self.between_epochs = False
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.best_epoch = state_dict["rows"], state_dict["best_epoch"]

    @property
    def best_row(self) -> dict[str, float] | None:
        return None if self.best_epoch is None else self.rows[self.best_epoch]

    @property
    def out_of_patience(self) -> bool:
        return self.patience is not None and bool(self.rows) and len(self.rows) - 1 - self.best_epoch >= self.patience

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.stop.install()  # Lightning has just put its own handlers in place
        self._write_rows(trainer)
        trainer.should_stop = self.out_of_patience  # a run may be resumed after its last epoch

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return  # the epoch's end follows, or gradients are half accumulated
        stopping = self._asked_to_stop(trainer)
        if stopping or trainer.global_step % self.every_n_steps == 0:
            self._check_finite(outputs)
            self._save(trainer, self.run.last)
        if stopping:
            raise Stopped

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
        if self.monitor not in row:
            names = ", ".join(sorted(row.keys() - {"epoch", "step"}))
            raise ValueError(f"monitor: no metric {self.monitor!r} was logged; there are {names}.")
        self._check_finite(row)
        self.rows.append(row)
        self.between_epochs = True
        if self._improved():
            self.best_epoch = len(self.rows) - 1
            self._save(trainer, self.run.best)
        self._write_rows(trainer)
        self._save(trainer, self.run.last)
        self.between_epochs = False
        self._report(trainer)
        trainer.should_stop = self.out_of_patience
        if self._asked_to_stop(trainer):
            raise Stopped

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # Lightning saves "almost at the end of this epoch" and on resuming ends it a second time, without its
        # validation scores; saved as the start of the next epoch there is nothing left to repeat
        if self.between_epochs:
            progress = checkpoint["loops"]["fit_loop"]
            for span in progress["epoch_progress"].values():
                span["completed"] = span["processed"]
            _start_over([value for name, value in progress.items() if name.startswith("epoch_loop.")])

    def _asked_to_stop(self, trainer: lightning.Trainer) -> bool:
        """Whether this process was asked to stop, or another of the same run."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.stop.signal is not None, all=False):
            self.stop.signal = self.stop.signal or signal.SIGTERM
        return self.stop.signal is not None

    def _improved(self) -> bool:
        if self.best_epoch is None:
            return True
        new, best = self.rows[-1][self.monitor], self.rows[self.best_epoch][self.monitor]
        return new < best if self.mode == "min" else new > best

    def _check_finite(self, values: Any) -> None:
        values = values if isinstance(values, dict) else {"loss": values}
        for name, value in values.items():
            if name in ("loss", "train/loss", self.monitor) and value is not None and not math.isfinite(value):
                raise Diverged(f"{name} is {float(value)}")

    def _save(self, trainer: lightning.Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)

    def _write_rows(self, trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        table = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.run.path / "metrics.csv", table.getvalue() if self.rows else "")
        self.run.write_status("running", epoch=len(self.rows), epochs=trainer.max_epochs)

    def _report(self, trainer: lightning.Trainer) -> None:
        row, best = self.rows[-1], self.best_row
        elapsed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self.started))
        log.info(
            f"epoch {len(self.rows)}/{trainer.max_epochs}  {elapsed}  train/loss {row['train/loss']:.4f}  "
            f"{self.monitor} {row[self.monitor]:.4f} (best {best[self.monitor]:.4f}, epoch {best['epoch'] + 1})"
        )


def _start_over(progress: Any) -> None:
    """Set the counters of the current epoch, at any depth, to zero; totals stay."""
    for value in progress if isinstance(progress, list) else progress.values():
        if isinstance(value, dict):
            if "current" in value:
                value["current"] = dict.fromkeys(value["current"], 0)
            if "is_last_batch" in value:
                value["is_last_batch"] = False
            _start_over(value)


class StepSeed(Callback):
    """Makes every random number of a step a function of (seed, epoch, batch, process): dropout needs no history."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        key = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(state)  # torch.manual_seed formats a stack trace for every absent device
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(state)
        np.random.seed(state % 2**32)  # noqa: NPY002  (libraries draw from it)
        random.seed(state)


class Stopped(BaseException):
    """The run was asked to stop and its state is saved."""


class GracefulStop:
    """Context in which Ctrl-C and SIGTERM end a fit after the current step, and a second one ends it at once.

    What was not fitting ends as SystemExit, with code 130 or 143.

    Attributes:
        signal: the first signal that arrived, or None.
        fitting: whether a fit is going on; outside one a signal ends the run at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.fitting = False

    def __enter__(self) -> "GracefulStop":
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is Stopped:
            raise SystemExit(128 + self.signal) from None

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def check(self) -> None:
        """Raises Stopped if a signal arrived."""
        if self.signal is not None:
            raise Stopped

    def _handle(self, number: int, _: Any) -> None:
        again, self.signal = self.signal is not None, signal.Signals(number)
        if again or not self.fitting:
            raise Stopped
        log.warning(f"{self.signal.name}: stopping after this step; once more to stop at once")

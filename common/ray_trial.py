"""A run as a trial of Ray Tune: an epoch is a step, and its checkpoints can be taken over by another. Needs Ray."""

import logging
import math
import queue
import shutil
import threading
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from ray import tune

from common.recorder import Diverged, GracefulStop, Recorder
from common.rundir import Run
from common.search_space import as_words, compose_trial
from common.training import quiet_libraries, train_run


class RayTrial(tune.Trainable):
    """Lightning's loop cannot be left and entered again, so it lives in a thread that waits after every epoch."""

    def setup(self, config: dict[str, Any], words: list[str], folder: str, num_threads: int) -> None:
        """Begin a run.

        Args:
            config: the values of the trial, by key.
            words: what all trials share.
            folder: of the study; the run is in it, named by the trial's number.
            num_threads: of PyTorch.
        """
        quiet_libraries()
        logging.getLogger().setLevel(logging.INFO)  # for run.log
        torch.set_num_threads(num_threads)
        self.words, self.folder, self.thread = words, Path(folder), None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.run = Run(self.folder / str(int(self.trial_id.rsplit("_")[-1])))
        self.reporter = Reporter()
        typed = [*self.words, *as_words(new_config)]
        self.thread = threading.Thread(target=self._train, args=(typed, self.reporter), daemon=True)
        return True

    def step(self) -> dict[str, Any]:
        if self.thread.ident is None:
            self.thread.start()
        else:
            self.reporter.go_on.put(True)
        report = self.reporter.reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def cleanup(self) -> None:
        if self.thread is not None and self.thread.ident is not None:
            self.reporter.go_on.put(False)
            self.thread.join()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        shutil.copytree(self.run.last.parent, checkpoint_dir, dirs_exist_ok=True)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        (self.run.path / "summary.json").unlink(missing_ok=True)  # the run goes on
        shutil.copytree(checkpoint_dir, self.run.last.parent, dirs_exist_ok=True)

    def _train(self, typed: list[str], reporter: "Reporter") -> None:
        try:
            config = compose_trial(typed)
            summary = train_run(config, self.run, NoSignals(), typed, reporter=reporter).summary
            # asked for only where there was no epoch left to report, as of a checkpoint whose patience is at its end
            reporter.reports.put({config.monitor: summary["objective"], "epoch": summary["epochs"], "done": True})
        except Diverged:
            worst = math.inf if config.mode == "min" else -math.inf
            reporter.reports.put({config.monitor: worst, "epoch": config.phase.epochs, "done": True})
        except BaseException as error:
            reporter.reports.put(error)


class NoSignals(GracefulStop):
    """Ray stops its workers; only the main thread of a process could be told by a signal."""

    def install(self) -> None:
        pass


class Reporter(Checkpoint):
    """After every epoch puts the monitored value into `reports`, and ends the run early if `go_on` then says False.

    Where the run goes on from another's checkpoint, rates and their like are those of its own config again, which the
    checkpoint's would replace.

    It is a Lightning `Checkpoint`, placed behind the recorder, because that puts an epoch's values together.
    """

    def __init__(self) -> None:
        self.reports: queue.Queue = queue.Queue()
        self.go_on: queue.Queue = queue.Queue()

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # before the checkpoint is read; its own `lr` follows from `initial_lr` and the schedule
        self.own = [
            [{key: value for key, value in group.items() if key not in ("params", "lr")} for group in each.param_groups]
            for each in trainer.optimizers
        ]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for optimizer, groups in zip(trainer.optimizers, self.own, strict=True):
            for group, own in zip(optimizer.param_groups, groups, strict=True):
                group.update(own)
        for scheduler in (each.scheduler for each in trainer.lr_scheduler_configs):
            groups = scheduler.optimizer.param_groups
            scheduler.base_lrs = [group["initial_lr"] for group in groups]
            for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
                group["lr"] = base * factor(scheduler.last_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        recorder = next(each for each in trainer.callbacks if isinstance(each, Recorder))
        epoch, value = len(recorder.rows), recorder.rows[-1][recorder.monitor]
        done = trainer.should_stop or epoch >= trainer.max_epochs
        self.reports.put({recorder.monitor: value, "epoch": epoch, "done": done})
        if not done and not self.go_on.get():
            recorder.pruned = trainer.should_stop = True

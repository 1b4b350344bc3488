"""The progress bar: epoch, elapsed and remaining time, the monitored metric."""

import sys
from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """A bar on a terminal; nothing elsewhere, where the line that the recorder logs per epoch is the progress.

    Args:
        monitor: the metric shown beside the training loss.
    """

    def __init__(self, monitor: str):
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0)
        self.monitor = monitor

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        shown = ("train/loss", self.monitor)
        return {name: trainer.callback_metrics[name].item() for name in shown if name in trainer.callback_metrics}

    def on_train_epoch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

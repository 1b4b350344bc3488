"""The LightningModule that every programme's module builds on: network, loss, optimiser, schedule, frozen parts."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from common.errors import UserError


class TrunkModule(LightningModule):
    """Trains `network`; subclasses say what a step is.

    Args:
        network: the model; its weights are what later runs and evaluations load.
        optimizer: makes the optimiser from a list of parameters.
        schedule: (epochs done, epochs in all) → factor on the learning rate; applied before every step.
        trainable: name patterns (`*`, `network.heads.*`) of the parameters that train, less those named by patterns
            with `!` before them. All others are frozen, and modules without a trainable parameter stay in evaluation
            mode.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
    ):
        super().__init__()
        self.network = network
        self.optimizer_factory = optimizer
        # Hydra's partial checks its target at every call, which is a tenth of a small network's step
        self.schedule = (
            partial(schedule.func, *schedule.args, **schedule.keywords) if isinstance(schedule, partial) else schedule
        )
        self.trainable = list(trainable)
        # part of every checkpoint, so that an epoch that was interrupted reports the mean over all of its steps
        self.register_buffer("train_loss_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("train_samples", torch.zeros((), dtype=torch.float64))

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes its hooks here, fifty times a step; nn.Module would look each time what kind of thing it is
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def freeze(self) -> None:
        """Freeze what `trainable` does not name; call before the optimiser exists.

        Raises:
            UserError: if a pattern names no parameter.
        """
        names = [name for name, _ in self.named_parameters()]
        for pattern in self.trainable:
            if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
                top = sorted({".".join(name.split(".")[:2]) for name in names})
                raise UserError(f"phase.trainable: {pattern!r} names no parameter; there are {', '.join(top)}.")
        for name, parameter in self.named_parameters():
            taken = any(fnmatchcase(name, pattern) for pattern in self.trainable)
            kept_out = any(fnmatchcase(name, pattern[1:]) for pattern in self.trainable if pattern.startswith("!"))
            parameter.requires_grad_(taken and not kept_out)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TrunkModule":
        """Training mode for all but the frozen parts."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer_factory([parameter for parameter in self.parameters() if parameter.requires_grad])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate_factor(self, step: int) -> float:
        # asked anew for every step: how long an epoch is becomes known only after the optimiser exists
        if step == 0:
            return self.schedule(0.0, self.trainer.max_epochs)
        steps_per_epoch = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
        return self.schedule(step / steps_per_epoch, self.trainer.max_epochs)

    def record_train_loss(self, loss: Tensor, num_samples: int, batch_idx: int) -> Tensor:
        """Add a step's mean loss to the epoch's mean; returns what to differentiate.

        Lightning divides by the accumulation length; in an epoch's last, shorter group the true count is restored.
        """
        self.train_loss_sum.add_(loss.detach(), alpha=num_samples)
        self.train_samples.add_(num_samples)
        accumulate, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if accumulate == 1:
            return loss
        group_start = batch_idx - batch_idx % accumulate
        return loss * (accumulate / min(accumulate, batches - group_start))

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", self.train_loss_sum / self.train_samples, sync_dist=True)
        self.train_loss_sum.zero_()
        self.train_samples.zero_()

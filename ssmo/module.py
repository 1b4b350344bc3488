"""Training of a pair of models on any task by any method."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from common.errors import UserError
from common.module import TrunkModule
from common.rundir import first_line
from ssmo.data.base import SPLITS, PairBatch
from ssmo.dynamics import gradients, probe, summarise
from ssmo.methods import Elements, Method, PairLoss
from ssmo.networks.pair import Pair
from ssmo.tasks import Answer, Task

SUMS = ("loss", "sup_loss", "im_loss", "truth_loss", "active", "agreed", "valid")


class PairModule(TrunkModule):
    """Both models see the same batches; both losses come from one pair of forward passes, then both optimisers step.

    After every epoch the metric of both models on validation and test is logged. Validation selects; the test curve is
    for the record (founding schema) and nothing reads it during training.

    Args:
        loss: the method.
        task: what an element, its losses and the metric are.
        seed: of the random numbers within the models; each has its own, so that neither depends on the other.
        gradient_clip: largest norm of each model's gradient; None for no limit.

    Attributes:
        averages: moving averages of both models, where the method asks for them.
    """

    def __init__(
        self,
        network: Pair,
        loss: Method,
        task: Task,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        seed: int,
        gradient_clip: Annotated[float, Field(gt=0)] | None = None,
    ):
        super().__init__(network, optimizer, schedule, trainable)
        self.automatic_optimization = False
        self.method, self.task, self.seed, self.gradient_clip = loss, task, seed, gradient_clip
        loss.adapt(task)
        self.averages = deepcopy(network.slots).requires_grad_(False) if loss.teacher == "ema" else None
        self.register_buffer("sums", torch.zeros(2, len(SUMS), dtype=torch.float64))
        self.probes: tuple[list, list] = ([], [])
        self.statistics: dict[str, Tensor] = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["probes"] = [[list(each) for each in probes] for probes in self.probes]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.probes = tuple([tuple(each) for each in probes] for probes in checkpoint["probes"])

    def configure_optimizers(self) -> tuple[list, list]:
        optimizers = [self.optimizer_factory(trainable(slot)) for slot in self.network.slots]
        schedulers = [torch.optim.lr_scheduler.LambdaLR(each, self._rate_factor) for each in optimizers]
        return optimizers, schedulers

    def on_fit_start(self) -> None:
        self.check_outputs(self.trainer.datamodule.example().to(self.device))

    @torch.no_grad()
    def check_outputs(self, batch: PairBatch) -> None:
        """Raises UserError if a model cannot answer a batch, or its outputs do not fit the task."""
        self.eval()
        expected = self.task.output_shape(batch.targets[0])
        for name, slot in zip(self.network.names, self.network.slots, strict=True):
            of = f"an input of {tuple(batch.x.shape)}"
            try:
                with torch.random.fork_rng(devices=[]):
                    output = slot(batch.x)
            except RuntimeError as error:
                raise UserError(f"model {name}: cannot answer {of} ({first_line(error)}).") from error
            if output.shape != expected:
                task, shape = type(self.task).__name__.lower(), tuple(output.shape)
                raise UserError(f"model {name}: gives {shape} for {of}; {task} needs {tuple(expected)}.")
        self.train()

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        outputs = [self._forward(number, batch.x, batch_idx) for number in (0, 1)]
        strength = self.method.strength_at(self.current_epoch)
        views = self.elements(batch, outputs)
        losses = [self.method.loss(elements, strength) for elements in views]
        total = losses[0].total + losses[1].total
        probing = self.method.probe_every and batch_idx % self.method.probe_every == 0
        imitation = self._imitation_gradients(losses) if probing else []
        for optimizer in self.optimizers():
            optimizer.zero_grad(set_to_none=True)
        self.manual_backward(total)
        if probing:
            self._probe(imitation)
        self._step()
        self.sums += self.figures(batch, outputs, views, losses) * len(batch)
        return self.record_train_loss(total.detach(), len(batch), batch_idx)

    def _forward(self, number: int, x: Tensor, batch_idx: int) -> Tensor:
        key = [self.seed, self.current_epoch, batch_idx, number]
        state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(state)  # torch.manual_seed: 130 µs more, a tenth of a small model's step
        if x.is_cuda:
            torch.cuda.manual_seed(state)
        return self.network.slots[number](x)

    def elements(self, batch: PairBatch, outputs: Sequence[Tensor]) -> list[Elements]:
        """Both models' views of a batch, from one output of each.

        Gradients do not cross: what a model learns from is detached.
        """
        answers = [self.task.answer(output) for output in outputs]
        own = [self._judge(*each) for each in zip(answers, batch.targets, strict=True)]
        if self.averages is not None:
            with torch.no_grad():
                teachers = [self.task.answer(average(batch.x)) for average in self.averages]
        else:
            teachers = [answers[1].detach(), answers[0].detach()]
        if self.averages is None and batch.targets[0] is batch.targets[1]:
            theirs = own[::-1]  # the peer was judged by the same labels already
        else:
            theirs = [self._judge(*each) for each in zip(teachers, batch.targets, strict=True)]
        views = zip(answers, teachers, batch.targets, batch.taught, own, theirs, strict=True)
        return [self._view(*each) for each in views]

    def _judge(self, answer: Answer, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of every element, and whether it is right."""
        return self.task.losses(answer, target), self.task.right(answer.output.detach(), target)

    def _view(
        self, answer: Answer, teacher: Answer, target: Tensor, taught: Tensor, own: tuple[Tensor, Tensor],
        theirs: tuple[Tensor, Tensor],
    ) -> Elements:  # fmt: skip
        losses, right = own
        distances = (
            self.task.distance(answer, teacher, self.method.imitation, self.method.temperature)
            if self.method.imitates
            else torch.zeros_like(losses)
        )
        taught = taught.view(-1, *[1] * (losses.dim() - 1))
        return Elements(losses, theirs[0].detach(), distances, self.task.valid(target), taught, right, theirs[1])

    def _imitation_gradients(self, losses: Sequence[PairLoss]) -> list[list[Tensor]]:
        """Of both models, as `manual_backward` makes those of the whole loss: scaled, and averaged over processes."""
        return [
            [self._averaged(each) for each in gradients(self._gradient_scale() * loss.imitation, trainable(slot))]
            for slot, loss in zip(self.network.slots, losses, strict=True)
        ]

    def _probe(self, imitation: Sequence[list[Tensor]]) -> None:
        for slot, theirs, probes in zip(self.network.slots, imitation, self.probes, strict=True):
            total = [torch.zeros_like(each) if each.grad is None else each.grad for each in trainable(slot)]
            probes += probe([each[None] for each in total], [each[None] for each in theirs])

    def _averaged(self, gradient: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(gradient, reduce_op="mean")

    def _gradient_scale(self) -> float:
        """By what half precision multiplies gradients until the optimiser steps, so that they do not vanish."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else scaler.get_scale()

    def _step(self) -> None:
        for slot, optimizer, scheduler in zip(self.network.slots, self.optimizers(), self.lr_schedulers(), strict=True):
            if self.gradient_clip is not None:
                nn.utils.clip_grad_norm_(slot.parameters(), self.gradient_clip * self._gradient_scale())
            optimizer.step()
            scheduler.step()
        if self.averages is not None:
            self._update_averages()

    @torch.no_grad()
    def _update_averages(self) -> None:
        for average, slot in zip(self.averages, self.network.slots, strict=True):
            for old, new in zip(average.parameters(), slot.parameters(), strict=True):
                old.lerp_(new, 1 - self.method.ema_decay)
            for old, new in zip(average.buffers(), slot.buffers(), strict=True):
                old.copy_(new)

    @torch.no_grad()
    def figures(
        self, batch: PairBatch, outputs: Sequence[Tensor], views: Sequence[Elements], losses: Sequence[PairLoss]
    ) -> Tensor:
        """(2, 7) of both models, in the order of `SUMS`: mean losses, and counts of elements per sample."""
        target = batch.targets[0]
        right = [view.right if own is target else self.task.right(output, target)
                 for view, own, output in zip(views, batch.targets, outputs, strict=True)]  # fmt: skip
        same = right[0] & right[1] if self.task.mode == "max" else right[0] == right[1]
        valid = views[0].valid
        agreed, count = (same & valid).sum(), valid.sum()
        means = torch.stack([torch.stack([loss.total, loss.supervised, loss.imitation, loss.truth]) for loss in losses])
        counts = torch.stack([torch.stack([loss.active, agreed, count]) for loss in losses])
        return torch.cat([means.double(), counts.double() / len(batch)], 1)

    def on_train_epoch_end(self) -> None:
        means, rate = self.sums / self.train_samples, self.optimizers()[0].param_groups[0]["lr"]
        for name, value in self.epoch_figures(means, self.probes, rate, self.current_epoch).items():
            self._log(name, value)
        super().on_train_epoch_end()
        self.sums.zero_()
        self.probes = ([], [])

    def epoch_figures(self, means: Tensor, probes: Sequence, rate: float, epoch: int) -> dict[str, float]:
        """What is logged of an epoch's training.

        Args:
            means: (2, 7) of its `figures`.
            probes: those of both models.
            rate: the learning rate at its end.
        """
        found = {"train/probes": len(probes[0]), "train/lr": rate, "train/strength": self.method.strength_at(epoch)}
        rows = torch.cat([means[:, :4], means[:, 4:6] / means[:, 6:]], 1).tolist()
        for number, (row, own) in enumerate(zip(rows, probes, strict=True), 1):
            named = dict(zip((*SUMS[:4], "mask_ratio", "agree_rate"), row, strict=True)) | summarise(own)
            found |= {f"train/{name}_{number}": value for name, value in named.items()}
        return found

    def validation_step(self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        split = SPLITS[1 + dataloader_idx]
        found = self.statistics_of(self.network(batch.x), batch)
        self.statistics[split] = self.statistics.get(split, 0) + found

    def statistics_of(self, outputs: Sequence[Tensor], batch: PairBatch) -> Tensor:
        """(2, …) the task's statistics of both models on a batch."""
        if self.method.ensemble:
            outputs = [self.task.mean(*outputs)] * 2
        return torch.stack([self.task.statistics(output, batch.targets[0]) for output in outputs])

    def on_validation_epoch_end(self) -> None:
        for name, value in self.score_figures(self.statistics).items():
            self._log(name, value)
        self.statistics.clear()

    def score_figures(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """The metric of both models on every split, and the error on validation, which selects."""
        found = {}
        for split, both in statistics.items():
            scores = [self.task.scores(each)[self.task.metric] for each in both]
            found |= {f"{split}/metric_{number}": score for number, score in enumerate(scores, 1)}
            if split == "val":
                found["val/error"] = sum(map(self.task.error, scores)) / 2
        return found

    def _log(self, name: str, value: float) -> None:
        self.log(name, torch.tensor(value, dtype=torch.float64))  # of a plain number Lightning keeps seven digits


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]

"""Training of a classifier of command sequences."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.losses import FocalLoss
from common.module import TrunkModule
from nandseq.data import SequenceBatch
from nandseq.metrics import VALID, Answers, Truth, scores, worst_f1

LOGGED = ("accuracy", "balanced_accuracy", "f1_invalid", "auroc", "accuracy_strategy", "macro_f1", "locate_at_1")


class NandseqModule(TrunkModule):
    """Trains every head that the network has: validity, strategy, and validity of each command.

    Args:
        loss: of the validity, over two classes of which the second is invalid.
        class_names: names of the classes, `valid` first.
        num_train: training sequences.
        strategy_weight, op_weight: weights of the cross-entropies of the strategy and of the commands.
        bad_op_weight: how much a bad command counts against a legal one; one in fifty is bad.
        mining_weight: what the loss of an invalid sequence gains when the network took it for valid the last time it
            saw it: hard-negative mining without an extra step, as if such sequences were drawn again. 0: none.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: FocalLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        class_names: list[str],
        num_train: Annotated[int, Field(ge=1)],
        strategy_weight: Annotated[float, Field(ge=0)] = 1.0,
        op_weight: Annotated[float, Field(ge=0)] = 1.0,
        bad_op_weight: Annotated[float, Field(gt=0)] = 10.0,
        mining_weight: Annotated[float, Field(ge=0)] = 0.0,
    ):
        super().__init__(network, optimizer, schedule, trainable)
        self.loss, self.class_names = loss, class_names
        self.strategy_weight, self.op_weight, self.bad_op_weight = strategy_weight, op_weight, bad_op_weight
        self.mining_weight = mining_weight
        # part of every checkpoint, so that a resumed run mines what it would have mined
        self.register_buffer("missed", torch.zeros(num_train, dtype=torch.bool))
        self.val_batches: list[tuple[SequenceBatch, dict[str, Tensor]]] = []

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        logits = self.logits(batch)
        losses = self.losses(batch, logits)
        if self.mining_weight:
            losses = losses * (1 + self.mining_weight * self.missed[batch.index])
            self.missed[batch.index] = (batch.label != VALID) & (logits["validity"].detach() < 0)
        return self.record_train_loss(losses.mean(), len(batch), batch_idx)

    def logits(self, batch: SequenceBatch) -> dict[str, Tensor]:
        return self.network(batch.categories, batch.numbers, batch.slot)

    def losses(self, batch: SequenceBatch, logits: dict[str, Tensor]) -> Tensor:
        """(B,) losses of the sequences, summed over the heads there are."""
        verdict = torch.stack([torch.zeros_like(logits["validity"]), logits["validity"]], -1)
        losses = self.loss.per_sample(verdict, (batch.label != VALID).long())
        if "strategy" in logits:
            strategy = functional.cross_entropy(logits["strategy"], batch.label, reduction="none")
            losses = losses + self.strategy_weight * strategy
        if "ops" in logits:
            weight = logits["ops"].new_tensor(self.bad_op_weight)
            each = functional.binary_cross_entropy_with_logits(
                logits["ops"], batch.bad.to(logits["ops"]), pos_weight=weight, reduction="none"
            )
            losses = losses + self.op_weight * each.mean(1)
        return losses

    def answers(self, logits: dict[str, Tensor]) -> Answers:
        """The logits of a batch, or of several put together, as probabilities on the CPU."""
        logits = {name: value.double().cpu() for name, value in logits.items()}
        return Answers(
            logits["validity"].sigmoid().numpy(),
            logits["strategy"].softmax(-1).numpy() if "strategy" in logits else None,
            logits["ops"].sigmoid().numpy() if "ops" in logits else None,
        )

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        self.val_batches.append((batch, self.logits(batch)))

    def on_validation_epoch_end(self) -> None:
        losses = torch.cat([self.losses(batch, logits) for batch, logits in self.val_batches])
        self.log("val/loss", losses.double().mean(), sync_dist=True)
        logits = {name: torch.cat([each[name] for _, each in self.val_batches]) for name in self.val_batches[0][1]}
        label, bad_index = (
            torch.cat([getattr(batch, name) for batch, _ in self.val_batches]).cpu().numpy()
            for name in ("label", "bad_index")
        )
        figures = scores(Truth(label, bad_index, self.class_names), self.answers(logits))
        for name in LOGGED:
            if name in figures:
                self.log(f"val/{name}", figures[name])
        worst = worst_f1(figures)
        if worst is not None:
            self.log("val/worst_f1", worst)
        self.val_batches.clear()

"""Training of all units at once, each branch by a loss of its own."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.collect import UnitScore
from common.errors import UserError, nearest
from common.module import TrunkModule
from redheart.groups import dependency_groups
from redheart.networks import MultiModule
from redheart.rows import TASKS, Task
from redheart.tasks import (
    Answer,
    Targets,
    TaskBatch,
    TaskLosses,
    answer,
    confusion,
    has_target,
    target_spread,
    task_metrics,
)

PROBE_ROWS = 512
Branch = tuple[str, Task]


class MultiTaskModule(TrunkModule):
    """Trains every unit by the sum of the losses of all branches: one for each unit and task it answers.

    On the select split it logs `select/loss` and the metrics of the fused prediction, which no loss trains as such.
    """

    network: MultiModule

    def __init__(
        self,
        network: MultiModule,
        loss: TaskLosses,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
    ):
        super().__init__(network, optimizer, schedule, trainable)
        unknown = next((name for name in loss.unit_weights if name not in network.graph), None)
        if unknown is not None:
            raise UserError(f"loss.unit_weights.{unknown}: no such unit.{nearest(unknown, network.graph)}")
        self.loss = loss
        self.branches = network.branches
        # part of every checkpoint: loss and rows of every branch in the epoch so far, and the confusions at the last
        # collected epoch, NaN before the first
        self.register_buffer("branch_sums", torch.zeros(2, len(self.branches), dtype=torch.float64))
        self.register_buffer("confusions", torch.full((len(self.branches), 7, 7), torch.nan, dtype=torch.float64))
        self.answered: list[tuple[dict[Branch, Answer], Targets]] = []
        self.probe_rows: Tensor | None = None

    @property
    def units(self) -> dict[str, nn.Module]:
        return self.network.units

    @property
    def groups(self) -> dict[str, list[str]]:
        return dependency_groups(self.network.graph.values())

    def answers(self, batch: TaskBatch) -> dict[Branch, Answer]:
        return {branch: answer(logits.float(), batch) for branch, logits in self.network(batch.x).items()}

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        said, targets = self.answers(batch), batch.targets
        counts = {task: has_target(task, targets).sum() for task in TASKS}
        sums = self.branch_losses(said, targets)
        rows = torch.stack([counts[task] for _, task in self.branches])
        self.branch_sums += torch.stack([sums.detach(), rows]).double()
        if self.loss.r_drop:
            sums = self._with_second_pass(said, sums, batch)
        total = (self.weights(sums) * sums / rows.clamp(min=1)).sum()
        return self.record_train_loss(total, len(batch), batch_idx)

    def branch_losses(self, said: dict[Branch, Answer], targets: Targets) -> Tensor:
        """(branches,) sums of losses over rows."""
        return torch.stack([self.loss.per_row(task, said[unit, task], targets).sum() for unit, task in self.branches])

    def _with_second_pass(self, said: dict[Branch, Answer], sums: Tensor, batch: TaskBatch) -> Tensor:
        """The mean of the losses of two passes, with the weighted disagreement of both where there is a target."""
        again = self.answers(batch)
        apart = [
            (self.loss.disagreement(task, said[unit, task], again[unit, task]) * has_target(task, batch.targets)).sum()
            for unit, task in self.branches
        ]
        return (sums + self.branch_losses(again, batch.targets)) / 2 + self.loss.r_drop * torch.stack(apart)

    def weights(self, like: Tensor) -> Tensor:
        """(branches,) weights of the branches in the whole."""
        of_task, of_unit = self.loss.task_weights, self.loss.unit_weights
        return like.new_tensor([of_task[task] * of_unit.get(unit, 1.0) for unit, task in self.branches])

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.branch_sums.zero_()

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        if batch_idx == 0:
            self.answered, self.probe_rows = [], batch.x[: min(PROBE_ROWS, len(batch))]
        self.answered.append((self.answers(batch), batch.targets))

    def on_validation_epoch_end(self) -> None:
        said, targets = self.select_answers()
        fused = {task: Answer.fuse([each for branch, each in said.items() if branch[1] == task]) for task in TASKS}
        self.log("select/loss", self.row_losses(fused, targets).mean())
        for task, each in fused.items():
            for name, value in task_metrics(task, each, targets).items():
                self.log(f"select/{task}/{name}", value)

    def select_answers(self) -> tuple[dict[Branch, Answer], Targets]:
        """What every branch said of the select split at its last validation, on the CPU."""
        answers, targets = zip(*self.answered)
        said = {branch: Answer.join([each[branch] for each in answers]) for branch in self.branches}
        return said, Targets.join(targets)

    def row_losses(self, said: dict[Task, Answer], targets: Targets) -> Tensor:
        """(n,) float64 losses of the rows that have a target for any of the tasks.

        Their mean is the mean over the tasks, by weight, of each task's own mean; a row counts for a task by how rare
        its targets are.
        """
        known = {task: has_target(task, targets) for task in said}
        weights = {task: self.loss.task_weights[task] for task in said if known[task].any()}
        rows = torch.stack(list(known.values())).any(0)
        losses = targets.regret.new_zeros(len(targets), dtype=torch.float64)
        for task, weight in weights.items():
            share = weight / sum(weights.values()) * rows.sum() / known[task].sum()
            losses += share * self.loss.per_row(task, said[task], targets) * known[task]
        return losses[rows]

    def unit_scores(self) -> dict[str, list[UnitScore]]:
        """Scores of every unit in the epoch that ends; the backbone, which answers nothing, is given the heads'."""
        said, targets = self.select_answers()
        metrics = {branch: task_metrics(branch[1], each, targets) for branch, each in said.items()}
        stability = self._confusion_stability(said, targets)
        scores = {}
        for unit in self.network.graph:
            own = [branch for branch in self.branches if branch[0] == unit] or self.branches[: len(TASKS)]
            named = {
                f"{branch[1]}/{name}" if len(own) > 1 else name: value
                for branch in own
                for name, value in (metrics[branch] | stability.get(branch, {})).items()
            }
            source = "heads" if unit == "backbone" else None
            losses = self.row_losses({branch[1]: said[branch] for branch in own}, targets).numpy()
            mean = float(losses.mean()) if len(losses) else None
            spreads = [spread for _, task in own if (spread := target_spread(task, targets)) is not None]
            scores[unit] = [
                UnitScore("train", *self._train_loss(own), loss_source=source),
                UnitScore("select", len(losses), mean, named, source, losses, min(spreads, default=None)),
            ]
        return scores

    def _train_loss(self, own: list[Branch]) -> tuple[int, float | None]:
        """Rows of the epoch so far and the mean loss of some branches over them, as in `row_losses`."""
        at = [self.branches.index(branch) for branch in own]
        sums, rows = self.branch_sums[:, at].cpu()
        weights = torch.tensor([self.loss.task_weights[task] for _, task in own]) * (rows > 0)
        if not weights.any():
            return 0, None
        mean = (weights * sums / rows.clamp(min=1)).sum() / weights.sum()
        return int(rows.max() if len(own) == 1 else self.train_samples), mean.item()

    def _confusion_stability(
        self, said: dict[Branch, Answer], targets: Targets
    ) -> dict[Branch, dict[str, float | None]]:
        """1 − mean absolute change of the row-normalised confusion matrix since the last call; None at the first."""
        stability = {}
        for k, (unit, task) in enumerate(self.branches):
            if task == "emotion" and has_target(task, targets).any():
                counts = torch.from_numpy(confusion(said[unit, task], targets)).to(self.confusions)
                shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
                change = (shares - self.confusions[k]).abs().mean().item()
                stability[unit, task] = {"confusion_stability": None if math.isnan(change) else 1 - change}
                self.confusions[k] = shares
        return stability

    def probe(self) -> None:
        self.network(self.probe_rows)

"""CPU time of a pair's training step against the sum of both models' own supervised steps, on one thread.

The pair step is `PairModule.training_step` with ssmo_hard: both forward passes, masks, one backward pass, two optimiser
steps and the sums that are logged. Every round takes all steps, forwards and backwards in turn, and has a ratio of its
own; their median counts, their quartiles are shown. (The best time of each kind would favour the single steps: a short
step falls more often between two disturbances than a long one.) Bars: 1.03, and 1.15 with gradients probed every 10
steps. Run with `python benchmarks/ssmo_pair_step.py`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from common.schedules import constant
from ssmo.data.base import PairBatch
from ssmo.methods import Method
from ssmo.module import PairModule
from ssmo.networks.operator import FNO, DeepONet
from ssmo.networks.pair import Pair
from ssmo.networks.segmentation import UNet
from ssmo.networks.vision import CNN, MLP
from ssmo.tasks import Classification, Operator, Segmentation, Task

BAR, PROBING_BAR, PROBE_EVERY = 1.03, 1.15, 10
ADAM = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4)


class BareModule(PairModule):
    """Steps without a Trainer: what Lightning adds is in both kinds of training and measured in neither."""

    current_epoch = 0

    def optimizers(self) -> list[torch.optim.Optimizer]:
        if not hasattr(self, "_optimizers"):
            self._optimizers = [self.optimizer_factory(list(slot.parameters())) for slot in self.network.slots]
        return self._optimizers

    def lr_schedulers(self) -> list:
        if not hasattr(self, "_schedulers"):
            self._schedulers = [torch.optim.lr_scheduler.LambdaLR(each, lambda _: 1.0) for each in self.optimizers()]
        return self._schedulers

    def manual_backward(self, loss: Tensor) -> None:
        loss.backward()

    def _averaged(self, gradient: Tensor) -> Tensor:
        return gradient

    def _gradient_scale(self) -> float:
        return 1.0

    def record_train_loss(self, loss: Tensor, num_samples: int, batch_idx: int) -> Tensor:
        return loss


def classification() -> tuple[Pair, Task, PairBatch]:
    first = partial(CNN, in_channels=1, num_classes=10, image_size=28)
    second = partial(MLP, in_channels=1, num_classes=10, image_size=28)
    x, y = torch.randn(128, 1, 28, 28), torch.randint(10, (128,))
    return Pair(first, second, 0), Classification(10), batch_of(x, y)


def operator() -> tuple[Pair, Task, PairBatch]:
    first = partial(FNO, in_channels=1, out_channels=1, num_dims=1)
    second = partial(DeepONet, in_channels=1, out_channels=1, grid=[256], periodic=True)
    x, y = torch.randn(2, 32, 1, 256)
    return Pair(first, second, 0), Operator([0.0], [1.0]), batch_of(x, y)


def segmentation() -> tuple[Pair, Task, PairBatch]:
    first = partial(UNet, in_channels=3, num_classes=5)
    second = partial(UNet, in_channels=3, num_classes=5, width=8)
    x, y = torch.randn(16, 3, 64, 64), torch.randint(5, (16, 64, 64))
    return Pair(first, second, 0), Segmentation(5), batch_of(x, y)


PAIRS = {
    "CNN × MLP, 128 × 28²": (classification, 200),
    "FNO × DeepONet, 32 × 256": (operator, 60),
    "U-Net × U-Net, 16 × 64²": (segmentation, 20),
}


def batch_of(x: Tensor, y: Tensor) -> PairBatch:
    taught = torch.ones(len(x), dtype=torch.bool)
    return PairBatch(torch.arange(len(x)), x, (y, y), (taught, taught))


def module_of(pair: Pair, task: Task, probe_every: int) -> PairModule:
    method = Method("ssmo_hard", "hard", probe_every=probe_every)
    return BareModule(pair, method, task, ADAM, constant, ["*"], seed=0).train()


def single_step(model: nn.Module, task: Task, batch: PairBatch) -> Callable[[], None]:
    """One supervised step of one model, as plain as it gets."""
    optimizer, target = ADAM(model.parameters()), batch.targets[0]

    def step() -> None:
        loss = task.losses(task.answer(model(batch.x)), target).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def measure(make: Callable[[], tuple[Pair, Task, PairBatch]], rounds: int) -> np.ndarray:
    """(rounds, 3) CPU seconds of both single steps, of a pair step without a probe, and of one with."""
    pair, task, batch = make()
    singles = [single_step(model, task, batch) for model in make()[0].slots]
    module = module_of(pair, task, PROBE_EVERY)
    steps = [*singles, lambda: module.training_step(batch, 1), lambda: module.training_step(batch, 0)]
    seconds = np.empty((rounds, len(steps)))
    for number, turn in enumerate(seconds):
        for which in range(len(steps))[:: 1 if number % 2 else -1]:
            start = time.process_time()
            steps[which]()
            turn[which] = time.process_time() - start
    first, second, plain, probing = seconds[max(2, rounds // 10) :].T
    return np.stack([first + second, plain, probing], 1)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    missed = False
    for name, (make, rounds) in PAIRS.items():
        both, plain, probing = measure(make, rounds).T
        step, probed = plain / both, ((PROBE_EVERY - 1) * plain + probing) / (PROBE_EVERY * both)
        missed |= np.median(step) > BAR or np.median(probed) > PROBING_BAR
        print(
            f"{name:<26} both single steps {1000 * np.median(both):7.2f} ms, pair {spread(step)} (bar {BAR}), "
            f"probed every {PROBE_EVERY} steps {spread(probed)} (bar {PROBING_BAR})",
            flush=True,
        )
    sys.exit(missed)


def spread(ratios: np.ndarray) -> str:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()

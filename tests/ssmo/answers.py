"""Runs that were never trained: models whose answers are written down, on samples that are given."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ssmo.data.base import PairData, Samples
from ssmo.tasks import Task


class Given(PairData):
    """The same samples in every split but `train`, whose targets may differ."""

    dataset, task = "given", "none"
    evaluation_batch = 3

    def __init__(self, x: Tensor, y: Tensor, train_y: Tensor, facts: dict[str, Any]):
        super().__init__(0, 4, 0, "clean", None, 0)
        self.x, self.y, self.train_y, self.given = x.numpy(), y.numpy(), train_y.numpy(), facts
        self.setup()

    def load(self) -> dict[str, Samples]:
        return {"train": Samples(self.x, self.train_y), "val": Samples(self.x, self.y), "test": Samples(self.x, self.y)}

    def describe(self) -> dict[str, Any]:
        return self.given

    def noisy(self, y: Any, rng: Any) -> Any:
        return y


class Written:
    """A pair of functions in place of models."""

    names = ("left", "right")

    def __init__(self, *functions: Callable[[Tensor], Tensor]):
        self.functions = functions

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(function(x) for function in self.functions)


def loaded_run(
    task: Task,
    x: Tensor,
    y: Tensor,
    *functions: Callable[[Tensor], Tensor],
    train_y: Tensor | None = None,
    **facts: Any,
) -> SimpleNamespace:
    """What `load_run` gives, as far as an analysis of one run reads it."""
    data = Given(x, y, y if train_y is None else train_y, facts)
    method, device = SimpleNamespace(name="ssmo_hard"), torch.device("cpu")
    module = SimpleNamespace(network=Written(*functions), task=task, device=device, method=method)
    return SimpleNamespace(data=data, module=module)

"""Two models side by side, each with initial weights of its own."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

WIDTHS = ("width", "channels", "hidden_dim", "hidden_dims", "num_modes")  # what a quarter of a model has a quarter of


class Pair(nn.Module):
    """Models of slots 1 and 2; the weights of each depend on (seed, slot, its own name) and on nothing else.

    Args:
        first, second: make the models.
        quarter: slot whose model has a quarter of the width and modes, a weak peer; None for neither.

    Attributes:
        slots: the two models.
        names: of the models, as results call them: their classes.
    """

    def __init__(
        self,
        first: partial,
        second: partial,
        seed: int,
        quarter: Literal[1, 2] | None = None,
    ):
        super().__init__()
        makers = [first, second]
        self.names = [make.func.__name__.lower() for make in makers]
        if quarter is not None:
            makers[quarter - 1] = _quarter(makers[quarter - 1])
        self.slots = nn.ModuleList(
            make_model(make, name, slot, seed)
            for slot, (make, name) in enumerate(zip(makers, self.names, strict=True), 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of both."""
        return self.slots[0](x), self.slots[1](x)


def make_model(make: Callable[[], nn.Module], name: str, slot: int, seed: int) -> nn.Module:
    """A model whose initial weights leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1000 + slot * 100 + zlib.crc32(name.encode()) % 97)
        return make()


def _quarter(make: partial) -> partial:
    def smaller(value: int | list[int] | None) -> int | list[int] | None:
        if value is None:
            return None
        return [smaller(each) for each in value] if isinstance(value, list) else max(1, value // 4)

    return partial(make, **{key: smaller(value) for key, value in make.keywords.items() if key in WIDTHS})

"""CPU seconds that collecting units adds to `redheart_tiny`, hook by hook, and what an epoch takes. Bar: at most 10 %.

Run with `python benchmarks/redheart_collect.py [epochs]`; one thread.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightning
import torch

from common.collect import Collect
from common.config import compose
from common.training import train

HOOKS = ("on_train_start", "on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end", "state_dict")


def timed(spent: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - began

    return call


def main(epochs: int) -> None:
    torch.set_num_threads(1)
    spent: dict[str, float] = {}
    for name in HOOKS:
        setattr(Collect, name, timed(spent, name, getattr(Collect, name)))
    lightning.Trainer.fit = timed(spent, "fit", lightning.Trainer.fit)
    with tempfile.TemporaryDirectory() as folder:
        train(compose("redheart_tiny", [f"phase.epochs={epochs}", f"paths.output_dir={folder}"]))
    fit = spent.pop("fit")
    collecting = sum(spent.values())
    for name, seconds in spent.items():
        print(f"{name:<26} {seconds:7.2f} s")
    print(f"collecting {collecting:.2f} s on top of {fit - collecting:.2f} s: {collecting / (fit - collecting):.1%}")
    print(f"an epoch takes {fit / epochs:.2f} CPU s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)

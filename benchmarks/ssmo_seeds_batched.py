"""CPU time of several seeds of one small pair trained at once against one after another, on one thread.

Whole runs are compared, run directories included. Bars: at least 2 times cheaper and curves that agree to 1e-5, for
MLPs and DeepONets. Where convolutions or attention are summed in another order, a mask or a prediction that is almost a
tie may fall otherwise and the curves part from there on: those pairs are printed without a bar.
Run with `python benchmarks/ssmo_seeds_batched.py`.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from omegaconf import DictConfig

from common.config import compose
from common.recorder import GracefulStop
from common.rundir import Run
from common.training import quiet_libraries, train_run
from ssmo.stacked import train_seeds

SEEDS, BAR, TOLERANCE = 8, 2.0, 1e-5
PAIRS = {
    "MLP × MLP, shapes10": ("ssmo_classification", ["net@model.first=ssmo/mlp", "phase.epochs=4"]),
    "CNN × MLP, shapes10": ("ssmo_classification", ["loss=ssmo/ssmo_soft", "phase.epochs=2"]),
    "DeepONet × DeepONet, Burgers": (
        "ssmo_operator",
        ["model=ssmo/deeponet_deeponet", "loss=ssmo/ssmo_soft", "phase.epochs=6"],
    ),
    "latent attention × DeepONet": (
        "ssmo_operator",
        ["model=ssmo/latent_attention_deeponet", "loss=ssmo/ssmo_soft", "phase.epochs=1"],
    ),
}


def configs_of(experiment: str, words: Sequence[str], folder: Path) -> list[DictConfig]:
    base = compose(experiment, [*words, f"paths.output_dir={folder}", "trainer.accelerator=cpu"])
    configs = [base.copy() for _ in range(SEEDS)]
    for seed, config in enumerate(configs):
        config.seed = seed
    return configs


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def difference(one: Run, other: Run) -> float:
    """Largest difference of two runs' curves."""
    ours, theirs = (np.load(run.path / "curves.npz") for run in (one, other))
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def measure(experiment: str, words: Sequence[str]) -> tuple[float, float, float]:
    """CPU time of all seeds one after another and at once, and the largest difference of their curves."""
    with tempfile.TemporaryDirectory() as place, GracefulStop() as stop:
        folder = Path(place)
        configs = configs_of(experiment, words, folder)
        alone, at_once = ([Run(folder / f"{kind}{seed}") for seed in range(SEEDS)] for kind in ("alone", "once"))
        train_run(configs[0], Run(folder / "warm-up"), stop, [])
        together = cpu_seconds(lambda: train_seeds(configs, at_once, stop))
        one_by_one = cpu_seconds(lambda: [train_run(*each, stop, []) for each in zip(configs, alone)])
        return one_by_one, together, max(map(difference, alone, at_once))


def main() -> None:
    torch.set_num_threads(1)
    quiet_libraries()
    logging.disable(logging.CRITICAL)
    missed = False
    for name, (experiment, words) in PAIRS.items():
        one_by_one, together, error = measure(experiment, words)
        ratio = one_by_one / together
        print(
            f"{name:<30} {SEEDS} seeds: one after another {one_by_one:6.2f} s of CPU, at once {together:6.2f} s, "
            f"{ratio:.2f} times cheaper (bar {BAR:g}); curves differ by {error:.1e} at most",
            flush=True,
        )
        if name.startswith(("MLP", "DeepONet")):
            missed |= ratio < BAR or error > TOLERANCE
    sys.exit(missed)


if __name__ == "__main__":
    main()

"""Cold time of one unit out of a 350 MB checkpoint against torch.load of the whole, and the memory of combining.

Bars: heads at least 8 times as fast; combining peaks at most 200 MB above the largest unit. Run with
`python benchmarks/redheart_checkpoints.py [folder]`, where the folder lies on the disk to be measured; it needs 1.5 GB.
"""

import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from common.unit_files import read_unit, unit_file, write_units
from redheart.combine import combine, soup

MEGABYTES, REPEATS, EPOCHS = 350, 5, (2, 4)
SHARES = {
    "backbone": 0.13, "heads": 0.21, "neural_analyzers": 0.49, "dsp_kalman": 0.02, "adv_emotion": 0.055,
    "adv_bentham": 0.005, "adv_regret": 0.055, "adv_surd": 0.035,
}  # fmt: skip
GROUPS = {unit: [unit] for unit in SHARES}


def states() -> dict[str, dict[str, Tensor]]:
    """Matrices of at most 4 MB."""
    made = {}
    for unit, share in SHARES.items():
        parts = torch.randn(round(share * MEGABYTES * 1e6 / 4096), 1024).split(1024)
        made[unit] = {f"{k}.weight": part for k, part in enumerate(parts)}
    return made


def cold(folder: Path, reads: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds of each in turn, with no byte below the folder in the page cache."""
    times: dict[str, list[float]] = {name: [] for name in reads}
    for name in [*reads] * REPEATS:
        for path in folder.rglob("*.*"):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        reads[name]()
        times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(each) for name, each in times.items()}


def touch(state: dict[str, Tensor]) -> None:
    """Read a value of every page."""
    for value in state.values():
        value.view(-1)[::1024].sum()


def largest_size() -> float:
    """MB that this process has held at most. Unlike getrusage, it forgets what the parent held."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1e3


def peak(sent: Any, folder: Path, checkpoints: list[int]) -> None:
    """Send by how many MB combining raises this process's largest size."""
    before = largest_size()
    combine(folder, soup(SHARES, checkpoints), folder / f"combined_{len(checkpoints)}")
    sent.send(largest_size() - before)


def measured_peak(folder: Path, checkpoints: list[int]) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peak, args=(there, folder, checkpoints))
    process.start()
    process.join()
    return here.recv()


def main(folder: Path) -> None:
    for epoch in EPOCHS:
        made = states()
        write_units(folder / f"epoch_{epoch:04d}", made.items(), GROUPS, "float32", epoch=epoch, config_hash="")
    whole, epoch = folder / "whole.pt", folder / f"epoch_{EPOCHS[-1]:04d}"
    torch.save({f"{unit}.{key}": value for unit, state in made.items() for key, value in state.items()}, whole)
    sizes = {unit: sum(value.nbytes for value in state.values()) / 1e6 for unit, state in made.items()}
    del made
    print(f"cold, medians of {REPEATS}; {sum(sizes.values()):.0f} MB in all")
    reads: dict[str, Callable[[], Any]] = {"torch.load of the whole": lambda: torch.load(whole, weights_only=True)}
    for unit in ("heads", "backbone", "neural_analyzers"):
        reads[f"{unit}, {sizes[unit]:.0f} MB, mapped"] = lambda unit=unit: read_unit(epoch, unit)
        reads[f"{unit}, every page read"] = lambda unit=unit: touch(read_unit(epoch, unit))
        reads[f"{unit}, hashed as well"] = lambda unit=unit: (
            unit_file(epoch, unit, rehash=True), touch(read_unit(epoch, unit))
        )  # fmt: skip
    times = cold(folder, reads)
    full = times["torch.load of the whole"]
    for name, taken in times.items():
        print(f"{name:<34} {taken:8.1f} ms   {full / taken:6.1f} times as fast as the whole")
    largest = max(sizes.values())
    for checkpoints in ([EPOCHS[0]], list(EPOCHS)):
        added = measured_peak(folder, checkpoints)
        print(f"combining of {len(checkpoints)}: {added:.0f} MB, the largest unit {added - largest:+.0f} MB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        main(Path(place))

"""The sweet-spot analysis: its cost, and what it finds and invents on planted curves.

Cost of 30 checkpoints × 8 units with all figures: seconds and peak memory of the command in a process of its own. Bars:
30 s and 400 MB. Then, over 200 curves of each shape, how often a plateau is found, beside the original's rule (windows
of 5 points, |Z| < 0.5). Bar: at most 10 % on the curve that never flattens, at noise 0.01.
Run with `python benchmarks/redheart_analysis.py`.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from redheart.changepoints import jumps
from redheart.planted import EPOCHS, SHAPES, planted_curves, write_recording
from redheart.plateau import plateaus
from redheart.trend import mann_kendall

UNITS = dict(zip(
    ("backbone", "heads", "neural_analyzers", "dsp_kalman", "adv_emotion", "adv_bentham", "adv_regret", "adv_surd"),
    ("knee", "U", "step", "declining", "flat", "knee", "U", "knee"),
))  # fmt: skip
CURVES = 200


def cost() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_recording(Path(folder), UNITS)
        command = [sys.executable, "-m", "redheart.analyze_sweetspots", "--checkpoint-dir", folder]
        begin = time.perf_counter()
        subprocess.run(
            [*command, "--output", f"{folder}/out"],
            cwd=Path(__file__).resolve().parents[1],
            check=True,
            capture_output=True,
        )
        wall = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"30 checkpoints × 8 units with figures: {wall:.1f} s ({seconds:.1f} CPU s), {megabytes:.0f} MB at most\n")


def rates() -> None:
    print(f"{'share of curves with':<28} {'':>9} " + " ".join(f"{shape:>9}" for shape in SHAPES))
    for phi in (0.0, 0.3, 0.6):
        for noise in (0.002, 0.01, 0.03):
            curves = [planted_curves(shape, CURVES, noise, phi) for shape in SHAPES]
            for name, found in (("plateau", plateau), ("plateau, original's rule", original), ("jump", jump)):
                shares = " ".join(f"{np.mean([found(x) for x in each]):>9.1%}" for each in curves)
                print(f"{name:<28} {f'{noise} φ {phi}':>9} {shares}")


def plateau(x: np.ndarray) -> bool:
    return plateaus(EPOCHS, x).detected


def original(x: np.ndarray) -> bool:
    return bool((np.abs(mann_kendall(sliding_window_view(x, 5))[0]) < 0.5).any())


def jump(x: np.ndarray) -> bool:
    return bool(jumps(EPOCHS, x))


if __name__ == "__main__":
    cost()
    rates()

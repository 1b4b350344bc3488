"""Time and memory of windows, cached features and phase 2 as the data grow to a tenth of the full set.

The clean full set has 810,014 windows. Each size runs in a process of its own on random walks; a line per size shows
seconds and memory per window, which should not grow. Run with `python benchmarks/lasps_scale.py`, or with more
windows: `python benchmarks/lasps_scale.py 81000 162000`.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SESSIONS, WINDOWS_PER_ISSUE = 1350, 233  # a window on every fifth weekday, less the warm-up
SIZES, FULL = (10_000, 20_000, 40_000, 81_000), 810_014
EPOCHS = 2


def main(sizes: list[int]) -> None:
    print(f"phase 2 of {EPOCHS} epochs, model=lasps/small, charts of 64 pixels; CPU seconds, all threads")
    print(f"{'windows':>9} {'load':>8} {'features':>9} {'heads':>8} {'total/1k':>9} {'memory':>9} {'per window':>11}")
    figures = []
    for size in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        figures.append(row := json.loads(done.stdout.splitlines()[-1]))
        total = row["load_s"] + row["embed_s"] + row["heads_s"]
        print(f"{row['windows']:>9,} {row['load_s']:>7.1f}s {row['embed_s']:>8.1f}s {row['heads_s']:>7.1f}s "
              f"{1000 * total / row['windows']:>8.2f}s {row['memory_mib']:>5.0f} MiB "
              f"{1024 * row['memory_mib'] / row['windows']:>6.1f} KiB")  # fmt: skip
    first, last = figures[0], figures[-1]
    grown = last["windows"] - first["windows"]

    def projected(name: str) -> float:
        slope = (last[name] - first[name]) / grown
        return last[name] + slope * (FULL - last["windows"])

    print(f"projected to {FULL:,} windows on the line through first and last: load {projected('load_s'):.0f} s, "
          f"features {projected('embed_s'):.0f} s, heads {projected('heads_s'):.0f} s of CPU for {EPOCHS} epochs, "
          f"{projected('memory_mib') / 1024:.1f} GiB beyond what the libraries take")  # fmt: skip


def measure(size: int) -> None:
    """Print one JSON line: windows, CPU seconds of loading, of the backbone and of the heads, and memory added."""
    from hydra.utils import instantiate

    from benchmarks.lasps_features import random_bars
    from common.config import compose
    from common.recorder import GracefulStop
    from common.rundir import Run
    from common.training import quiet_libraries, train_run
    from lasps.data.module import BarsDataModule

    class RandomWalks:
        def load(self, data_dir: str | None):
            return random_bars(-(-size // WINDOWS_PER_ISSUE), SESSIONS)

    with tempfile.TemporaryDirectory() as folder:
        quiet_libraries()
        words = ["init_from=null", f"phase.epochs={EPOCHS}", f"paths.output_dir={folder}",
                 "data.split.val_start=null", "data.split.test_start=null", "data.windowing.stride=5",
                 "data.windowing.test_stride=null"]  # fmt: skip
        config = compose("lasps_phase2", words)
        parts = {name: instantiate(config.data[name], _convert_="all") for name in ("windowing", "split", "view")}
        before = _memory_mib()
        started = time.process_time()
        data = BarsDataModule(RandomWalks(), **parts, seed=0, batch_size=256, num_workers=0, data_dir=None)
        data.setup("fit")
        loaded = time.process_time()
        for name in ("first", "second"):  # the second run finds the features in the cache
            train_run(config, Run.create(Path(folder) / name), GracefulStop(), [], data)
            if name == "first":
                embedded = time.process_time()
        ended = time.process_time()
    heads = ended - embedded
    print(json.dumps({
        "windows": data.facts["counts"]["windows"], "load_s": loaded - started, "embed_s": embedded - loaded - heads,
        "heads_s": heads, "memory_mib": _memory_mib() - before,
    }))  # fmt: skip


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        main([int(word) for word in sys.argv[1:]] or list(SIZES))

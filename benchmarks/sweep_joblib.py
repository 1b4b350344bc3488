"""16 trials on two cores: hydra/launcher=joblib against one after the other. Bar: 1.7 ×. Wants an idle machine.

    .venv/bin/python benchmarks/sweep_joblib.py [epochs]

The trials are the toy of tests/conf; with fewer epochs the import of the libraries, once per process, weighs more.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = {
    "sequential": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=16"],
}


def seconds(launcher: list[str], epochs: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "train.py", "--config-dir", "tests/conf", "experiment=toy", "sweep=toy", "study=s",
                 "hydra.sweeper.n_trials=16", f"phase.epochs={epochs}", *launcher]  # fmt: skip
        environment = {**os.environ, "OUTPUT_DIR": folder, "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        subprocess.run(words, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - began


def main(epochs: int) -> None:
    taken = {name: round(seconds(words, epochs), 1) for name, words in LAUNCHERS.items()}
    print(json.dumps({"seconds": taken, "ratio": round(taken["sequential"] / taken["joblib"], 2),
                      "load": os.getloadavg()[0]}))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

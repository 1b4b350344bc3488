"""What a trial of a sweep costs beyond the run it is: lasps_phase2 on a warm cache, one after the other. Bar: 1 s.

    .venv/bin/python benchmarks/sweep_overhead.py [trials]

Runs the study, then the same configs by `train()` in the same process; CPU seconds, one thread. Outputs go to
OUTPUT_DIR, where the parents are trained first if they are missing (minutes).
"""

import json
import runpy
import sys
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hydra
import torch

from common.config import ROOT, initialised
from common.rundir import Run

WORDS = ["experiment=lasps_phase2", "loss.gamma=0,1,2,3", "optim.lr=0.0005,0.001,0.002"]


def sweep(study: str, trials: int) -> float:
    """CPU seconds from the first trial's question to the last one's answer."""
    from common.sweep import Sweep

    spent = []

    def timed(self: Sweep) -> None:
        began = time.process_time()
        run(self)
        spent.append(time.process_time() - began)

    run, words = Sweep.run, [*WORDS, "sweep=base", f"study={study}", f"hydra.sweeper.n_trials={trials}"]
    with mock.patch.object(Sweep, "run", timed), mock.patch.object(sys, "argv", ["train.py", *words]):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return spent[0]


def directly(configs: list) -> float:
    from common.training import train

    began = time.process_time()
    for config in configs:
        train(config)
    return time.process_time() - began


def main(trials: int) -> None:
    torch.set_num_threads(1)
    with initialised():
        first = hydra.compose("train", [WORDS[0]])
    directly([first])  # parents, cache, imports
    study = f"overhead-{time.time():.0f}"
    swept = sweep(study, trials)
    runs = [Run(Path(first.paths.output_dir) / "studies" / study / str(number)) for number in range(trials)]
    with initialised():
        configs = [hydra.compose("train", [WORDS[0], f"loss.gamma={run.config.loss.gamma}",
                                           f"optim.lr={run.config.optim.lr}"]) for run in runs]  # fmt: skip
    alone = directly(configs)
    fit = sum(run.summary["fit_time_s"] for run in runs)
    print(json.dumps({"trials": trials, "cpu_s_per_trial": round(swept / trials, 3),
                      "cpu_s_per_run": round(alone / trials, 3), "overhead_s": round((swept - alone) / trials, 3),
                      "wall_s_of_fit_per_trial": round(fit / trials, 3)}))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)

"""Training that pruning saves on the network of nandseq's step 0: the same 18 points to their end, and under ASHA.

    .venv/bin/python benchmarks/sweep_pruning.py [asha|hyperband|median] [WORDS of the pruned study]

Counts epochs and seconds of fitting. Bar: the same best value with at most half the training.
"""

import json
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import ROOT
from common.files import read_json

WORDS = [
    "experiment=nandseq_step0", "sweep=base", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0",
    "hydra.sweeper.n_trials=18", "optim.lr=tag(log,interval(1e-4,1e-1))", "model.hidden_dim=16,32,64",
    "phase.epochs=9", "phase.patience=null", "data.num_train=1600", "data.num_val=600", "data.num_test=100",
    "data.num_extra=50", "trainer.limit_train_batches=40",
]  # fmt: skip


def study(folder: str, pruner: str, *own: str) -> dict:
    words = [*WORDS, f"pruner={pruner}", f"study={pruner}", f"paths.output_dir={folder}", *own]
    with mock.patch.object(sys, "argv", ["train.py", *words]):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    summaries = [read_json(path) for path in Path(folder).glob(f"studies/{pruner}/*/summary.json")]
    complete = [summary["objective"] for summary in summaries if not summary.get("pruned")]
    return {"trials": len(summaries), "complete": len(complete), "best": round(min(complete), 5),
            "epochs": sum(summary["epochs"] for summary in summaries),
            "fit_s": round(sum(summary["fit_time_s"] for summary in summaries), 1)}  # fmt: skip


def main(pruner: str, *own: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = {"none": study(folder, "none"), pruner: study(folder, pruner, *own)}
    whole, pruned = records.values()
    records["ratio"] = {name: round(whole[name] / pruned[name], 2) for name in ("epochs", "fit_s")}
    print(json.dumps(records))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["asha"]))

"""`trainer=ddp`: two processes, one run directory, the result of one process at the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.checkpoints import network_weights
from tests.processes import ROOT, command

CONF = ("train.py", "--config-dir", str(ROOT / "tests" / "conf"))
TOY = (*CONF, "experiment=toy", "+model.dropout=0.0", "phase.epochs=2", "trainer.accelerator=cpu")
GARMENTS = (  # 52 in training: an odd one would be seen twice by two processes
    "train.py", "experiment=kfashion_stage2", "init_from=null", "data.num_images=61", "data.num_designs=15",
    "encoder@data.encoder=kfashion/pixels", "model.dropout=0", "optim._target_=torch.optim.SGD", "optim.lr=1",
    "phase.epochs=2", "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    two, one = twice(tmp_path, *TOY, batch_size=10)
    weights, expected = (network_weights(run / "checkpoints" / "best.ckpt") for run in (two, one))
    assert all((weights[name] - expected[name]).abs().max() < 1e-5 for name in expected)
    assert rows(two) == [pytest.approx(row, abs=1e-5) for row in rows(one)]
    assert json.loads((two / "status.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_records_are_told_from_those_of_all_processes(tmp_path):
    """The loss of kfashion is no mean over samples: all vectors and keys are gathered, with gradient into each."""
    two, one = twice(tmp_path, *GARMENTS, batch_size=8)
    weights, expected = (network_weights(run / "checkpoints" / "best.ckpt") for run in (two, one))
    assert all((weights[name] - expected[name]).abs().max() < 1e-6 for name in expected)
    assert rows(two) == [pytest.approx(row, abs=1e-6) for row in rows(one)]


def twice(folder: Path, *words: str, batch_size: int) -> tuple[Path, Path]:
    """The same run by two processes and by one, at the same global batch."""
    env = {**os.environ, "OUTPUT_DIR": str(folder / "two"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, *words, "trainer=ddp", f"data.batch_size={batch_size}"]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    done = command(*words, f"data.batch_size={2 * batch_size}", env={"OUTPUT_DIR": str(folder / "one")})
    assert done.code == 0, done.err
    (two,), (one,) = ((path.parent for path in (folder / name).glob("*/*/summary.json")) for name in ("two", "one"))
    return two, one


def rows(run: Path) -> list[list[float]]:
    return [[float(cell) for cell in line.split(",")] for line in (run / "metrics.csv").read_text().splitlines()[1:]]

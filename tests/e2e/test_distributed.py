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


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    env = {**os.environ, "OUTPUT_DIR": str(tmp_path / "two"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *TOY, "trainer=ddp", "data.batch_size=10"]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert command(*TOY, "data.batch_size=20", env={"OUTPUT_DIR": str(tmp_path / "one")}).code == 0
    (two,), (one,) = ((tmp_path / name / "toy").iterdir() for name in ("two", "one"))
    weights, expected = (network_weights(run / "checkpoints" / "best.ckpt") for run in (two, one))
    assert all((weights[name] - expected[name]).abs().max() < 1e-5 for name in expected)
    assert rows(two) == [pytest.approx(row, abs=1e-5) for row in rows(one)]
    assert json.loads((two / "status.json").read_text())["status"] == "done"


def rows(run: Path) -> list[list[float]]:
    return [[float(cell) for cell in line.split(",")] for line in (run / "metrics.csv").read_text().splitlines()[1:]]

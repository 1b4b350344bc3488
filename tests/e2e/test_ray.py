"""Ray: its launcher, and Ray Tune's schedulers over our runs. Skipped where Ray is not installed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from common.schedules import cosine
from common.studies import open_storage
from tests.processes import ROOT

ray = pytest.importorskip("ray", reason="an optional extra")
pytestmark = pytest.mark.slow

TOY = (f"hydra.searchpath=[file://{ROOT}/tests/conf]", "experiment=toy", "sweep=toy", "study=s")
TUNE = ("-m", "common.ray_tune", *TOY, "hydra.launcher.ray.init.num_cpus=2", "hydra.sweeper.n_trials=4")
GRID = ("hydra/sweeper/sampler=grid",)


def start(folder: Path, *words: str) -> subprocess.Popen:
    """Ray starts processes by its parent's command line, so ours must be an ordinary one."""
    ours = {
        "OUTPUT_DIR": str(folder),
        "OMP_NUM_THREADS": "4",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",  # the machine may be busy
    }
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=os.environ | ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def python(folder: Path, *words: str) -> subprocess.CompletedProcess:
    process = start(folder, *words)
    out, err = process.communicate(timeout=400)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def trials(folder: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="s", storage=open_storage(f"sqlite:///{folder}/studies.db")).trials


def read(folder: Path, number: int, name: str) -> dict:
    return json.loads((folder / "studies" / "s" / str(number) / f"{name}.json").read_text())


def test_the_launcher_runs_a_study_and_each_trial_has_the_threads_it_asked_for(tmp_path):
    done = python(tmp_path, "train.py", *TOY, "hydra/launcher=ray", "hydra.sweeper.n_trials=3",
                  "hydra.sweeper.n_jobs=2", "phase.epochs=4", "pruner=median", "pruner.n_startup_trials=1",
                  *GRID, "optim.lr=0.1,0.01,0.0001", "model.hidden_dim=8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [trial.state for trial in trials(tmp_path)][::2] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert read(tmp_path, 0, "environment")["num_threads"] == 1
    assert read(tmp_path, 0, "status")["status"] == "done"


def test_halving_ends_bad_trials_early_and_leaves_a_study(tmp_path):
    words = (*TUNE, *GRID, "optim.lr=0.1,1e-5", "model.hidden_dim=8", "hydra.launcher.ray.init.num_cpus=1")
    done = python(tmp_path, *words, "scheduler=asha", "phase.epochs=4")
    assert done.returncode == 0, done.stderr
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert [trial.params["optim.lr"] for trial in trials(tmp_path)] == [0.1, 1e-5]
    for number, trial in enumerate(trials(tmp_path)):
        summary = read(tmp_path, number, "summary")
        assert trial.value == summary["objective"] == min(trial.intermediate_values.values())
        assert trial.last_step == summary["epochs"] == (4, 1)[number]
        assert read(tmp_path, number, "status")["status"] == ("done", "pruned")[number]
    again = python(tmp_path, *words, "scheduler=asha")
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("error: study=s: is there already")


def test_a_population_goes_on_from_the_weights_of_its_best(tmp_path):
    done = python(tmp_path, *TUNE, *GRID, "scheduler=pbt", "scheduler.share=0.5", "phase.epochs=6",
                  "optim.lr=1e-5,0.1", "model.hidden_dim=4,8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [trial.state for trial in trials(tmp_path)] == 4 * [TrialState.COMPLETE]
    lineages = [(tmp_path / "studies" / "s" / str(n) / "metrics.csv").read_text().splitlines()[1] for n in range(4)]
    assert len(set(lineages)) < 4  # each began with other values
    assert not list(tmp_path.rglob("checkpoint_*"))


def test_a_signal_ends_a_search_and_what_ended_by_then_is_in_the_study(tmp_path):
    words = (*TUNE, *GRID, "optim.lr=0.1,0.05,0.02", "model.hidden_dim=8", "hydra.launcher.ray.init.num_cpus=1")
    process = start(tmp_path, *words, "scheduler=asha", "scheduler.first_epochs=60", "phase.epochs=60")
    while not (tmp_path / "studies" / "s" / "1" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert not (tmp_path / "studies" / "s" / "2").exists()


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """Makes trials that step when they are told to, without a cluster."""
    from common.ray_trial import RayTrial

    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path))
    monkeypatch.setattr(RayTrial, "trial_id", property(lambda self: self.given_id))
    made = []

    def make(number: int, **values: float) -> RayTrial:
        one = RayTrial.__new__(RayTrial)  # its own constructor makes folders in the user's home
        one.given_id = f"abc_{number:05d}"
        words = [*TOY[:-1], "study=s", "phase.epochs=6", "model.hidden_dim=4"]
        one.setup({f"optim.{key}": value for key, value in values.items()}, words, str(tmp_path), 1)
        made.append(one)
        return one

    yield make
    for one in made:
        one.cleanup()


def test_new_values_take_effect_on_weights_that_were_taken_over(trial, tmp_path):
    donor, heir = trial(0, lr=0.05, weight_decay=0.0), trial(1, lr=1e-6, weight_decay=0.0)
    theirs = [donor.step()["val/loss"] for _ in range(3)]
    heir.step()
    donor.save_checkpoint(str(tmp_path / "taken"))
    heir.reset_config({"optim.lr": 0.02, "optim.weight_decay": 0.3})
    heir.load_checkpoint(str(tmp_path / "taken"))
    report = heir.step()
    assert report["epoch"] == 4
    rows = (tmp_path / "1" / "metrics.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[-1]) for row in rows[:3]] == theirs
    state = torch.load(tmp_path / "1" / "checkpoints" / "last.ckpt")
    (group,) = state["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == 0.3
    assert group["lr"] == pytest.approx(0.02 * cosine(4, 6, warmup_epochs=1))
    donor.step()
    weights = torch.load(tmp_path / "0" / "checkpoints" / "last.ckpt")["state_dict"]
    moved = [(state["state_dict"][name] - weights[name]).abs().max() for name in weights if "weight" in name]
    assert max(moved) > 1e-3


def test_a_trial_that_is_ended_leaves_a_pruned_run_and_one_that_goes_on_an_ordinary_one(trial, tmp_path):
    whole, halted = trial(0, lr=0.05), trial(1, lr=0.05)
    ours = [whole.step() for _ in range(6)]
    assert [report["done"] for report in ours] == 5 * [False] + [True]
    whole.cleanup()
    halted.step()
    halted.save_checkpoint(str(tmp_path / "own"))
    halted.cleanup()
    status = tmp_path / "1" / "status.json"
    assert json.loads(status.read_text())["status"] == "pruned"
    halted.reset_config({"optim.lr": 0.05})
    halted.load_checkpoint(str(tmp_path / "own"))
    assert [halted.step()["val/loss"] for _ in range(5)] == [report["val/loss"] for report in ours[1:]]
    halted.cleanup()
    assert json.loads(status.read_text())["status"] == "done"
    assert (tmp_path / "1" / "metrics.csv").read_text() == (tmp_path / "0" / "metrics.csv").read_text()

"""Sweeps as a user starts, stops, kills and continues them: the toy of tests/conf."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from common.studies import open_storage
from tests.processes import ROOT, Finished, command

pytestmark = pytest.mark.slow

TOY = ("train.py", "--config-dir", str(ROOT / "tests" / "conf"), "experiment=toy", "sweep=toy", "study=s")


def sweep(folder: Path, *words: str, at: str = "") -> Finished:
    return command(*TOY, *words, env={"OUTPUT_DIR": str(folder), "TOY_SIGNAL": at})


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="s", storage=open_storage(f"sqlite:///{folder}/studies.db")).trials


def status(folder: Path, number: int) -> str:
    return json.loads((folder / "studies" / "s" / str(number) / "status.json").read_text())["status"]


def test_a_study_goes_on_to_its_total_and_folders_are_trial_numbers(tmp_path):
    assert sweep(tmp_path, "hydra.sweeper.n_trials=2", "phase.epochs=1").code == 0
    done = sweep(tmp_path, "hydra.sweeper.n_trials=3", "phase.epochs=1")
    assert done.code == 0, done.err
    assert [trial.number for trial in trials(tmp_path)] == [0, 1, 2]
    for trial in trials(tmp_path):
        summary = json.loads((tmp_path / "studies" / "s" / str(trial.number) / "summary.json").read_text())
        assert summary["objective"] == trial.value == trial.intermediate_values[1]
    assert "[3/3] trial 2: val/loss" in done.out
    assert "epoch 1/1" not in done.err  # that is for run.log


def test_pruned_trials_look_like_results(tmp_path):
    words = ("pruner=median", "pruner.n_startup_trials=1", "phase.epochs=4", "hydra/sweeper/sampler=grid")
    done = sweep(tmp_path, *words, "optim.lr=0.1,0.0001", "model.hidden_dim=8")
    assert done.code == 0
    good, bad = trials(tmp_path)
    assert (good.state, bad.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert len(good.intermediate_values) == 4
    assert len(bad.intermediate_values) == 1
    assert status(tmp_path, 1) == "pruned"
    assert json.loads((tmp_path / "studies" / "s" / "1" / "summary.json").read_text())["epochs"] == 1
    assert "trial 1: pruned after epoch 1" in done.out
    assert "rror" not in done.err


def test_a_stopped_sweep_puts_its_trial_back_and_the_next_goes_on_from_its_checkpoint(tmp_path):
    assert sweep(tmp_path, "hydra.sweeper.n_trials=2", at="12:SIGTERM").code == 143
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.FAIL, TrialState.WAITING]
    assert status(tmp_path, 0) == "interrupted"
    assert sweep(tmp_path, "hydra.sweeper.n_trials=2").code == 0
    lost, again, new = trials(tmp_path)
    assert (again.state, new.state) == (TrialState.COMPLETE, TrialState.COMPLETE)
    assert again.params == lost.params
    assert list(again.intermediate_values) == [1, 2, 3]
    runs = tmp_path / "studies" / "s"
    assert not (runs / "0").exists()
    assert (runs / "1" / "run.log").read_text().count("epoch 1/3") == 1


def test_a_killed_workers_trial_is_run_again_by_the_next(tmp_path):
    words = ("hydra.sweeper.n_trials=2", "hydra.sweeper.heartbeat_s=0.2")
    assert sweep(tmp_path, *words, at="3:SIGKILL").code == -signal.SIGKILL
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.RUNNING]
    assert sweep(tmp_path, *words).code == 0
    complete = [trial for trial in trials(tmp_path) if trial.state is TrialState.COMPLETE]
    assert len(complete) == 2
    assert trials(tmp_path)[0].params in [trial.params for trial in complete]


def test_a_diverging_trial_is_a_result_and_a_failing_one_ends_the_sweep_with_one_line(tmp_path):
    done = sweep(tmp_path, "module.loss_scale=1,inf,-1", "hydra/sweeper/sampler=grid", "optim.lr=0.1",
                 "model.hidden_dim=4", "phase.epochs=1")  # fmt: skip
    assert done.code == 0
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert trials(tmp_path)[1].user_attrs["diverged"] == "train/loss is nan"
    done = sweep(tmp_path, "study=t", "hydra/sweeper/sampler=grid", "model.hidden_dim=8,-8", "optim.lr=0.1")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("failed: ")]
    assert "1 of 2 trials failed, more than hydra.sweeper.max_failure_rate=0.0 allows; trial 1: " in line
    assert "Traceback" not in done.err


def test_several_objectives_are_told_at_the_best_epoch(tmp_path):
    done = sweep(tmp_path, "objectives=[val/loss,num_parameters]", "hydra.sweeper.direction=[minimize,minimize]",
                 "hydra.sweeper.n_trials=1", "model.hidden_dim=8")  # fmt: skip
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "studies" / "s" / "0" / "summary.json").read_text())
    assert trials(tmp_path)[0].values == [summary["objective"], 49]


def test_a_study_is_read_and_its_best_trial_runs_again(tmp_path):
    conf, env = ("--config-dir", str(ROOT / "tests" / "conf")), {"OUTPUT_DIR": str(tmp_path)}
    grid = ("hydra/sweeper/sampler=grid", "optim=adam,adamw", "model.hidden_dim=4,8", "optim.lr=0.02", "phase.epochs=1")
    assert sweep(tmp_path, *grid).code == 0
    done = command("evaluate.py", *conf, "run=[]", "analysis=sweep", "study=s", env=env)
    assert done.code == 0, done.err
    (output,) = (tmp_path / "sweep").iterdir()
    summary = json.loads((output / "summary.json").read_text())
    best = min(trials(tmp_path), key=lambda trial: trial.value)
    assert summary["best"] == [{"trial": best.number, "values": [best.value], "params": best.params}]
    assert len((output / "trials.csv").read_text().splitlines()) == 5
    assert (output / "figures" / "parallel.png").stat().st_size > 10_000
    words = ("train.py", *conf, f"hydra.searchpath=[file://{output}]", "experiment=best")
    assert command(*words, env=env).code == 0
    (again,) = (tmp_path / "toy_best").glob("*/summary.json")
    assert json.loads(again.read_text())["objective"] == best.value
    missing = command("evaluate.py", "study=r", env=env)
    assert missing.code == 2
    assert "study=r: no such study" in missing.err


def test_launchers_share_a_study(tmp_path):
    words = (*TOY, "phase.epochs=1", "hydra.sweeper.n_jobs=2")
    env = {"OUTPUT_DIR": str(tmp_path)}
    joblib = ("hydra.sweeper.n_trials=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    # joblib keeps its workers until Python exits, which a forked process does not do
    done = subprocess.run([sys.executable, *words, *joblib], cwd=ROOT, env=os.environ | env, timeout=240)
    assert done.returncode == 0
    assert command(*words, "hydra.sweeper.n_trials=3", "hydra/launcher=local", env=env).code == 0
    assert [trial.state for trial in trials(tmp_path)] == 3 * [TrialState.COMPLETE]
    environment = json.loads((tmp_path / "studies" / "s" / "2" / "environment.json").read_text())
    assert environment["num_threads"] == 1


LASPS = (
    "data.stocks_per_sector=1", "data.start=2022-01-03", "data.end=2024-06-28", "data.split.val_start=2023-08-01",
    "data.split.test_start=2024-01-02", "model.hidden_dim=8", "model.num_heads=2", "model.feedforward_dim=8",
    "model.cnn_channels=[2,2]", "data.view.charts.size=60", "module.min_samples=20",
)  # fmt: skip
NANDSEQ = ("data.num_train=96", "data.num_val=32", "data.num_test=48", "data.num_extra=16", "data.seq_len=24")
SSMO = ("data.num_train=96", "data.num_val=32", "data.num_test=32", "data.batch_size=16")


@pytest.mark.parametrize(
    ("name", "experiment", "words"),
    [
        ("lasps_heads", "lasps_phase2", LASPS),
        ("nandseq_step4", "nandseq_step4", NANDSEQ),
        ("ssmo_soft", "ssmo_classification", SSMO),
        ("redheart_units", "redheart_smoke", ()),
    ],
)
def test_the_sweep_of_a_programme_runs_with_nothing_there_before(tmp_path, name, experiment, words):
    done = command("train.py", f"experiment={experiment}", f"sweep={name}", "study=s", "hydra.sweeper.n_trials=1",
                   "phase.epochs=1", *words, env={"OUTPUT_DIR": str(tmp_path)})  # fmt: skip
    assert done.code == 0, done.err
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE]


def test_the_stock_sweeper_runs_the_same_file(tmp_path):
    done = sweep(tmp_path, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1")
    assert done.code == 0, done.err
    assert trials(tmp_path)[0].state is TrialState.COMPLETE
    assert status(tmp_path, 0) == "done"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.hiden_dim=1,2"], "error: model.hiden_dim: unknown key."),
        (["seed=choice(1,-1)"], "error: seed=-1: input should be greater than or equal to 0"),
        (["monitor=val/los"], "error: objective val/los: no run logs it. Did you mean val/loss?"),
        (["hydra.sweeper.direction=maximize"], "error: hydra.sweeper.direction=maximize: val/loss has mode=min."),
        (["hydra.sweeper.storage='postgresql+psycopg://me@127.0.0.1:1/x'"], "cannot be opened (connection failed"),
        (["sweep=tyo"], "error: sweep=tyo: no such option."),
        (["pruner=asah"], "error: pruner=asah: no such option. Did you mean asha?"),
        (["hydra.sweeper.n_trials=0"], "error: hydra.sweeper.n_trials=0: input should be greater than or equal to 1"),
        (["hydra.sweeper.max_failure_rate=2"], "max_failure_rate=2: input should be less than or equal to 1"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_trial(tmp_path, words, message):
    done = sweep(tmp_path, *words)
    assert done.code == 2, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in done.err
    assert not (tmp_path / "studies").exists()

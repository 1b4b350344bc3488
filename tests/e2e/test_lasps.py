"""train.py and evaluate.py as a user of lasps runs them, on tiny settings."""

import json
import subprocess
import sys

import numpy as np
import pytest

from common.checkpoints import network_weights
from common.rundir import find_runs, resolve_run
from tests.processes import ROOT, command

pytestmark = pytest.mark.slow

TINY = [
    "data.stocks_per_sector=1", "data.start=2022-01-03", "data.end=2024-06-28", "data.split.val_start=2023-08-01",
    "data.split.test_start=2024-01-02", "model.hidden_dim=8", "model.num_heads=2", "model.feedforward_dim=8",
    "model.cnn_channels=[2,2]", "data.view.charts.size=60",
]  # fmt: skip
HEADS = ["module.min_samples=20", "phase.epochs=3"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """An output directory with one finished phase 2 and its parents."""
    folder = tmp_path_factory.mktemp("outputs")
    done = command("train.py", "experiment=lasps_phase2", *TINY, *HEADS, env={"OUTPUT_DIR": str(folder)})
    assert done.code == 0, done.err
    return folder


def env(folder):
    return {"OUTPUT_DIR": str(folder)}


def test_phase_2_trains_its_missing_parents_in_order(outputs):
    runs = {phase: find_runs(outputs, f"lasps_phase{phase}") for phase in (1, 3, 2)}
    assert {phase: len(found) for phase, found in runs.items()} == {1: 1, 3: 1, 2: 1}
    (first,), (third,), (second,) = runs.values()
    assert second.environment["parent"]["run"] == str(third.path)
    assert third.environment["parent"]["run"] == str(first.path)
    assert third.config.module.head == "sector"
    assert first.config.trainer.gradient_clip_val == 1.0


def test_phase_2_leaves_everything_but_the_heads_bit_identical(outputs):
    before, after = (network_weights(resolve_run(f"latest:lasps_phase{phase}", outputs).best) for phase in (3, 2))
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert changed
    assert all(name.startswith("network.sector_heads.") or name == "network.heads_trained" for name in changed)


def test_phase_2_prints_a_line_per_sector_and_epoch(outputs):
    log = (resolve_run("latest:lasps_phase2", outputs).path / "run.log").read_text()
    assert "Phase2 Sector 0 [1/3] loss=" in log
    assert "Phase2 Sector 0 [3/3] loss=" in log


def test_a_second_run_reuses_parents_and_cached_features(outputs):
    again = command("train.py", "experiment=lasps_phase2", *TINY, *HEADS, "optim.lr=1e-3", env=env(outputs))
    assert again.code == 0, again.err
    assert "running the frozen backbone" not in again.err
    assert len(find_runs(outputs, "lasps_phase3")) == 1


def test_the_report_has_every_figure_and_logs_the_look(outputs):
    done = command("evaluate.py", "run=latest:lasps_phase2", env=env(outputs))
    assert done.code == 0, done.err
    run = resolve_run("latest:lasps_phase2", outputs)
    (folder,) = (run.path / "evaluations").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "loss", "mcc", "confusion", "constant_predictor"):
        assert key in summary
    assert set(summary["class_accuracy"]) == set(summary["class_counts"]) == {"SELL", "HOLD", "BUY"}
    assert sum(summary["class_counts"].values()) == summary["n"] == np.sum(summary["confusion"])
    assert summary["before_after"]["difference"]["balanced_accuracy"]["low"] is not None
    assert len(summary["sectors"]) == 13
    assert {path.name for path in (folder / "figures").glob("*.png")} >= {"learning_curves.png", "confusion.png"}
    assert "# lasps_phase2 on the test split" in done.out
    assert len((run.path / "test_looks.jsonl").read_text().splitlines()) == 1


def test_validation_can_be_looked_at_without_touching_the_test_split(outputs):
    done = command("evaluate.py", "run=latest:lasps_phase1", "split=val", env=env(outputs))
    assert done.code == 0, done.err
    run = resolve_run("latest:lasps_phase1", outputs)
    assert not (run.path / "test_looks.jsonl").exists()
    (folder,) = (run.path / "evaluations").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["head"] == "common"
    value = run.summary["metrics"]["val/balanced_accuracy"]["value"]
    assert summary["balanced_accuracy"] == pytest.approx(value, abs=1e-6)


def test_phases_are_compared_over_runs_with_both_intervals(outputs):
    runs = [str(run.path) for run in find_runs(outputs, "lasps_phase2")]
    done = command("evaluate.py", f"run=[{','.join(runs)}]", "analysis=lasps/phase_gain", env=env(outputs))
    assert done.code == 0, done.err
    (folder,) = (outputs / "lasps_phase_gain").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["runs"] == runs
    gain = np.mean([row["after/accuracy"] - row["before/accuracy"] for row in summary["seeds"]])
    assert summary["gain_over_seeds"]["accuracy"]["estimate"] == pytest.approx(gain)
    assert summary["gain_over_sessions"]["accuracy"]["estimate"] == pytest.approx(gain)
    assert set(summary["skill"]) == {"balanced_accuracy − 1/3", "mcc"}
    assert "over chance" in done.out


@pytest.mark.parametrize(("phase", "step", "name"), [(1, 7, "SIGKILL"), (1, 12, "SIGTERM"), (2, 4, "SIGTERM")])
def test_a_stopped_run_resumes_to_the_same_bits(outputs, tmp_path, phase, step, name):
    parent = [f"init_from={resolve_run('latest:lasps_phase3', outputs).path}"] if phase == 2 else []
    words = [f"experiment=lasps_phase{phase}", *TINY, "phase.epochs=3", "callbacks.recorder.every_n_steps=2", *parent]
    words += ["module.min_samples=20", "module.batch_size=8"] if phase == 2 else ["model.dropout=0.2"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command("train.py", *words, env=env(whole)).code == 0
    code = command("train.py", *words, env=env(stopped), at=f"{step}:{name}").code
    assert code == (-9 if name == "SIGKILL" else 143)
    (run,), (reference,) = (find_runs(folder, f"lasps_phase{phase}") for folder in (stopped, whole))
    assert not run.finished
    resumed = command("train.py", f"resume={run.path}", env=env(stopped))
    assert resumed.code == 0, resumed.err
    assert (run.path / "metrics.csv").read_bytes() == (reference.path / "metrics.csv").read_bytes()
    mine, theirs = (network_weights(each.best) for each in (run, reference))
    assert all((mine[key] == theirs[key]).all() for key in theirs)


def test_commands_work_from_another_directory(outputs, tmp_path):
    run = resolve_run("latest:lasps_phase2", outputs)
    done = command("train.py", f"resume={run.path}", cwd=tmp_path, env=env(outputs))
    assert done.code == 0, done.err
    assert "is finished" in done.err


@pytest.mark.parametrize("charts", ["npy", "png"])
def test_exported_arrays_train_like_the_bars_they_came_from(tmp_path, charts):
    folder = tmp_path / "arrays"
    small = [*TINY[:5], "data.windowing.stride=40"]
    words = [sys.executable, "-m", "lasps.export", str(folder), "--charts", charts, *small]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    data = [f"data.path={folder}", "data=lasps/arrays", *TINY[5:9], "phase.epochs=1"]
    done = command("train.py", "experiment=lasps_phase1", *data, env=env(tmp_path))
    assert done.code == 0, done.err
    assert resolve_run("latest:lasps_phase1", tmp_path).summary["data_source"] == "synthetic"


def test_a_sweep_leaves_a_run_directory_per_job(tmp_path):
    words = ["-m", "experiment=lasps_phase1", *TINY, "phase.epochs=1", "seed=0,1"]
    done = command("train.py", *words, env=env(tmp_path))
    assert done.code == 0, done.err
    runs = find_runs(tmp_path, "lasps_phase1")
    assert [run.path.name for run in runs] == ["1", "0"]
    assert all(run.finished for run in runs)
    assert runs[0].path.parent.name.endswith("-sweep")


@pytest.mark.parametrize("logger", ["tensorboard", "mlflow", "wandb"])
def test_other_loggers_work_offline(tmp_path, logger):
    words = ["experiment=lasps_phase1", *TINY, "phase.epochs=1", f"logger={logger}"]
    done = command("train.py", *words, env=env(tmp_path) | {"WANDB_SILENT": "true", "WANDB_MODE": "offline"})
    assert done.code == 0, done.err
    pattern = {"tensorboard": "events.out.*", "mlflow": "mlflow.db", "wandb": "wandb/offline-run-*"}[logger]
    assert list(tmp_path.rglob(pattern))

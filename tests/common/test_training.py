"""What one run leaves behind, and what it says when something is wrong."""

import errno
import json

import pytest
import torch
from omegaconf import OmegaConf

from common import checkpoints
from common.checkpoints import network_weights
from common.errors import UserError
from common.recorder import Diverged
from common.rundir import Run, find_runs, resolve_run
from common.training import train
from tests.toy import toy_config


def only_run(output_dir) -> Run:
    (run,) = find_runs(output_dir, "toy")
    return run


def test_a_run_leaves_every_file(tmp_path):
    objective = train(toy_config(tmp_path))
    run = only_run(tmp_path)
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert names - {".lock"} == {
        "config.yaml", "overrides.yaml", "environment.json", "status.json", "metrics.csv", "summary.json", "run.log",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt",
    }  # fmt: skip
    assert run.status["status"] == "done"
    assert run.summary["objective"] == objective == run.summary["metrics"]["val/loss"]["value"]
    assert run.summary["metrics"]["val/loss"] == {"value": objective, "split": "val", "n": 60}
    assert run.summary["data_source"] == "synthetic"
    assert run.environment["fingerprint"] == run.config.facts.fingerprint
    json.loads((run.path / "summary.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_two_runs_of_one_config_give_the_same_bytes(tmp_path):
    for _ in range(2):
        train(toy_config(tmp_path))
    one, other = find_runs(tmp_path, "toy")
    assert (one.path / "metrics.csv").read_bytes() == (other.path / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_another_seed_gives_another_run(tmp_path):
    assert train(toy_config(tmp_path)) != train(toy_config(tmp_path, seed=1))


@pytest.mark.slow
def test_training_learns(tmp_path):
    train(toy_config(tmp_path, phase__epochs=8))
    rows = (only_run(tmp_path).path / "metrics.csv").read_text().splitlines()
    first, last = (float(row.split(",")[3]) for row in (rows[1], rows[-1]))
    assert last < 0.3 * first


@pytest.mark.slow
def test_best_is_the_best_epoch_and_last_the_last(tmp_path):
    train(toy_config(tmp_path, mode="max", phase__epochs=4))  # the loss falls, so the "best" epoch is the first
    run = only_run(tmp_path)
    assert run.summary["best_epoch"] == 1
    best, last = network_weights(run.best), network_weights(run.last)
    assert not all(torch.equal(best[name], last[name]) for name in best)


@pytest.mark.slow
def test_training_stops_when_patience_runs_out(tmp_path):
    train(toy_config(tmp_path, optim__lr=0.0, phase__patience=2, phase__epochs=9))
    assert only_run(tmp_path).summary["epochs"] == 3


def test_a_diverging_run_says_so(tmp_path):
    with pytest.raises(Diverged, match=r"is nan|is inf"):
        train(toy_config(tmp_path, module__loss_scale=float("inf")))
    run = only_run(tmp_path)
    assert run.status["status"] == "diverged"
    assert not run.finished


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(tmp_path):
    objective = train(toy_config(tmp_path))
    run = only_run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert train(OmegaConf.create({"resume": str(run.path)})) == objective
    assert before == {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}


def test_resuming_what_is_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"not a run directory \(it has no config.yaml\)"):
        train(OmegaConf.create({"resume": str(tmp_path)}))


@pytest.mark.slow
def test_a_run_is_not_continued_on_changed_data(tmp_path):
    train(toy_config(tmp_path))
    run = only_run(tmp_path)
    (run.path / "summary.json").unlink()
    config = run.config
    config.data.data_seed = 9
    run.write_config(config, [])
    with pytest.raises(UserError, match="the data has changed since the run began"):
        train(OmegaConf.create({"resume": str(run.path)}))


def test_two_processes_never_work_in_one_run(tmp_path):
    run = Run.create(tmp_path)
    with run.held(), pytest.raises(UserError, match="another process"), Run(run.path).held():
        pass


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    saves, whole = iter(range(100)), torch.save

    def save(checkpoint, file):
        if next(saves) >= 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(checkpoint, file)

    monkeypatch.setattr(checkpoints.torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        train(toy_config(tmp_path))
    run = only_run(tmp_path)
    assert run.status["status"] == "failed"
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    monkeypatch.setattr(checkpoints.torch, "save", whole)
    train(OmegaConf.create({"resume": str(run.path)}))
    assert run.finished


@pytest.mark.slow
def test_latest_is_the_newest_finished_run(tmp_path):
    train(toy_config(tmp_path))
    train(toy_config(tmp_path, seed=1))
    newest, _ = find_runs(tmp_path, "toy")
    assert resolve_run("latest:toy", tmp_path).path == newest.path
    (newest.path / "summary.json").unlink()
    assert resolve_run("latest:toy", tmp_path).path != newest.path
    with pytest.raises(UserError, match=r"no finished run below .*toi\. Did you mean toy\?"):
        resolve_run("latest:toi", tmp_path)

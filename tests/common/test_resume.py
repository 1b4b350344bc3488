"""A run that was killed and resumed leaves what an uninterrupted one leaves, bit for bit."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from common.checkpoints import read_checkpoint
from common.rundir import Run, find_runs
from tests import processes
from tests.toy import toy_config

pytestmark = pytest.mark.slow  # a process per run


def only_run(output_dir: Path, experiment: str = "toy") -> Run:
    (run,) = find_runs(output_dir, experiment)
    return run


def resume(run: Run) -> int:
    return processes.run(processes.train, OmegaConf.create({"resume": str(run.path)}))


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_result(run: Run, reference: Run) -> None:
    assert (run.path / "metrics.csv").read_bytes() == (reference.path / "metrics.csv").read_bytes()
    for name in ("best", "last"):
        mine, theirs = (read_checkpoint(getattr(each, name)) for each in (run, reference))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert same(mine[part], theirs[part]), f"{name}.ckpt: {part} differs"
    assert run.status["status"] == "done"


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Run:
    output_dir = tmp_path_factory.mktemp("reference")
    assert processes.run(processes.train, toy_config(output_dir)) == 0
    return only_run(output_dir)


# 9 steps an epoch: in the middle, at the last step of an epoch, at the first of the next, in the last epoch
@pytest.mark.parametrize("step", [0, 4, 8, 9, 25])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_run_stopped_at_any_step_resumes_to_the_same_bits(tmp_path, reference, step, name):
    config = toy_config(tmp_path, callbacks__recorder__every_n_steps=2)
    code = processes.run(processes.train, config, env={"TOY_SIGNAL": f"{step}:{name}"})
    assert code == (143 if name == "SIGTERM" else -9)
    run = only_run(tmp_path)
    if name == "SIGTERM":
        assert run.status["status"] == "interrupted"
    assert not run.finished
    assert resume(run) == 0
    assert_same_result(run, reference)


def test_sigterm_loses_no_step(tmp_path):
    processes.run(processes.train, toy_config(tmp_path), env={"TOY_SIGNAL": "4:SIGTERM"})
    assert read_checkpoint(only_run(tmp_path).last)["global_step"] == 5


def test_ctrl_c_stops_after_the_step_with_code_130(tmp_path, reference):
    assert processes.run(processes.train, toy_config(tmp_path), env={"TOY_SIGNAL": "12:SIGINT"}) == 130
    run = only_run(tmp_path)
    assert read_checkpoint(run.last)["global_step"] == 13
    assert resume(run) == 0
    assert_same_result(run, reference)


@pytest.mark.parametrize("write", [0, 1, 3])
def test_a_kill_during_a_checkpoint_write_leaves_the_earlier_one(tmp_path, reference, write):
    assert processes.run(processes.train_and_die_writing, toy_config(tmp_path), write) == -9
    run = only_run(tmp_path)
    for path in (run.path / "checkpoints").glob("*.ckpt"):
        read_checkpoint(path)
    assert resume(run) == 0
    assert_same_result(run, reference)


def test_early_stopping_survives_a_resume(tmp_path):
    patient = {"phase__patience": 2, "phase__epochs": 12, "optim__lr": 0.0}  # nothing improves after the first epoch
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert processes.run(processes.train, toy_config(whole, **patient)) == 0
    assert processes.run(processes.train, toy_config(stopped, **patient), env={"TOY_SIGNAL": "20:SIGKILL"}) == -9
    run = only_run(stopped)
    assert resume(run) == 0
    assert_same_result(run, only_run(whole))
    assert len((run.path / "metrics.csv").read_text().splitlines()) == 1 + 3


def test_accumulated_gradients_are_never_cut_in_two(tmp_path):
    accumulate = {"trainer__accumulate_grad_batches": 2, "callbacks__recorder__every_n_steps": 1}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert processes.run(processes.train, toy_config(whole, **accumulate)) == 0
    for signal_name in ("SIGKILL", "SIGTERM"):
        folder = stopped / signal_name
        processes.run(processes.train, toy_config(folder, **accumulate), env={"TOY_SIGNAL": f"7:{signal_name}"})
        run = only_run(folder)
        assert resume(run) == 0
        assert_same_result(run, only_run(whole))

"""Which weights a run starts from: the parent is found, trained or refused, and never the wrong one."""

import logging

import pytest
import torch
from omegaconf import OmegaConf

from common import parents
from common.checkpoints import network_weights
from common.errors import UserError
from common.rundir import find_runs, resolve_run
from common.training import train
from tests import processes
from tests.toy import toy_config


@pytest.fixture
def experiments(monkeypatch, tmp_path):
    """Two experiments, `toy_parent` and `toy_child`; returns what composes them."""

    def compose(name, **changes):
        start = {"toy_parent": None, "toy_child": "run:toy_parent"}[name]
        config = toy_config(tmp_path, name=name, phase__init_from=start, phase__epochs=1, **changes)
        if name == "toy_child":
            config.phase.trainable = ["network.3.*"]
            config.phase.gradient_clip = 0.5
        return config

    monkeypatch.setattr(parents, "compose", compose)
    return compose


@pytest.mark.slow
def test_a_missing_parent_is_trained_first_on_the_childs_data_and_seed(experiments, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(experiments("toy_child", seed=3, data__data_seed=7, model__hidden_dim=5))
    (parent,), (child,) = find_runs(tmp_path, "toy_parent"), find_runs(tmp_path, "toy_child")
    assert "training toy_parent first" in caplog.text
    assert parent.config.seed == 3
    assert parent.config.data.data_seed == 7
    assert parent.config.model.hidden_dim == 5
    assert parent.config.trainer.gradient_clip_val == 1.0, "what the child's phase decides is the child's alone"
    assert child.environment["parent"]["run"] == str(parent.path)
    frozen = "network.0.weight"
    assert torch.equal(network_weights(child.best)[frozen], network_weights(parent.best)[frozen])


@pytest.mark.slow
def test_a_finished_parent_is_used_again(experiments, tmp_path):
    train(experiments("toy_parent"))
    train(experiments("toy_child"))
    train(experiments("toy_child"))
    assert len(find_runs(tmp_path, "toy_parent")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"data__data_seed": 7}, {"model__hidden_dim": 5}, {"seed": 4}])
def test_a_parent_on_other_data_model_or_seed_is_never_used(experiments, tmp_path, change):
    train(experiments("toy_parent"))
    with pytest.raises(UserError, match=r"no finished run of it on this data .* parents=never"):
        train(experiments("toy_child", parents="never", **change))
    train(experiments("toy_child", **change))
    assert len(find_runs(tmp_path, "toy_parent")) == 2


@pytest.mark.slow
def test_the_childs_result_does_not_depend_on_who_trained_the_parent(experiments, tmp_path):
    train(experiments("toy_child"))
    train(experiments("toy_child"))
    first, second = ((run.path / "metrics.csv").read_bytes() for run in find_runs(tmp_path, "toy_child"))
    assert first == second


@pytest.mark.slow
def test_init_from_a_run_or_a_checkpoint_is_explicit(experiments, tmp_path):
    train(experiments("toy_parent"))
    parent = resolve_run("latest:toy_parent", tmp_path)
    for source in (parent.path, parent.last):
        train(experiments("toy_child", init_from=str(source), parents="never"))
        child = find_runs(tmp_path, "toy_child")[0]
        assert child.environment["parent"]["run"] == str(parent.path)


def test_init_from_a_run_of_another_model_is_refused(experiments, tmp_path):
    train(experiments("toy_parent"))
    source = str(resolve_run("latest:toy_parent", tmp_path).path)
    with pytest.raises(UserError, match=r"model\.hidden_dim is 8 there, 5 here"):
        train(experiments("toy_child", init_from=source, model__hidden_dim=5))


def test_init_from_null_starts_from_random_weights(experiments, tmp_path):
    train(experiments("toy_child", init_from=None))
    assert find_runs(tmp_path, "toy_parent") == []
    assert find_runs(tmp_path, "toy_child")[0].environment["parent"] is None


def test_init_from_nowhere_is_one_line(experiments):
    with pytest.raises(UserError, match=r"init_from=nowhere: no such run directory or checkpoint"):
        train(experiments("toy_child", init_from="nowhere"))


@pytest.mark.slow
def test_a_kill_between_parent_and_child_changes_nothing(tmp_path):
    def child(folder):
        parent = toy_config(folder, name="toy_parent", phase__epochs=2)
        processes.run(processes.train, parent)
        source = str(resolve_run("latest:toy_parent", folder).path)
        return toy_config(folder, name="toy_child", phase__init_from=source)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert processes.run(processes.train, child(whole)) == 0
    assert processes.run(processes.train_and_die_between, child(killed)) == -9
    (run,) = find_runs(killed, "toy_child")
    assert processes.run(processes.train, OmegaConf.create({"resume": str(run.path)})) == 0
    (reference,) = find_runs(whole, "toy_child")
    assert (run.path / "metrics.csv").read_bytes() == (reference.path / "metrics.csv").read_bytes()
    assert network_weights(run.last).keys() == network_weights(reference.last).keys()
    assert all(
        torch.equal(value, network_weights(reference.last)[name]) for name, value in network_weights(run.last).items()
    )

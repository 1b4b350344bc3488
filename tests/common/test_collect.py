"""Units on disk and their records, of a toy model with two units."""

import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

from common.checkpoints import network_weights
from common.collect import Collect, UnitScore, config_hash, dead_fractions
from common.errors import UserError
from common.rundir import find_runs
from common.training import train
from common.unit_files import (
    STORED_DTYPES,
    file_hash,
    read_manifest,
    read_unit,
    saved_epochs,
    unit_file,
    write_units,
)
from tests import processes, toy


class UnitsModule(toy.ToyModule):
    """The toy's two layers as units `first` and `second`; what is recorded of them is known beforehand."""

    @property
    def units(self):
        return {"first": nn.Sequential(*list(self.network)[:3]), "second": self.network[3]}

    @property
    def groups(self):
        return {"first": ["first", "second"]}

    def unit_scores(self):
        epoch = float(self.current_epoch)
        rows = np.array([epoch, epoch + 2])
        return {
            name: [UnitScore("train", 3, 0.5), UnitScore("select", 2, epoch + 1, {"f1": None}, row_losses=rows)]
            for name in self.units
        }

    def probe(self):
        self.network(torch.ones(8, 4))


def config_for(folder, **changes):
    collect = {
        "_target_": "common.collect.Collect", "run_dir": "${run_dir}", "every_n_epochs": 2, "dtype": "float32",
        "keep_last": None, "ema_decay": None,
    }  # fmt: skip
    config = toy.toy_config(folder, module___target_="tests.common.test_collect.UnitsModule", phase__epochs=4)
    config.callbacks = OmegaConf.merge({"collect": collect}, config.callbacks)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def collected(folder, **changes):
    train(config_for(folder, **changes))
    (found,) = find_runs(folder, "toy")
    return found


def records(found):
    return [json.loads(line) for line in (found.path / "units" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return collected(tmp_path_factory.mktemp("whole"), callbacks__collect__ema_decay=0.5)


@pytest.mark.slow
def test_units_of_the_last_epoch_are_the_weights_of_the_last_checkpoint(whole):
    assert list(saved_epochs(whole.path / "units")) == [2, 4]
    folder = whole.path / "units" / "epoch_0004"
    weights = network_weights(whole.last)
    first, second = read_unit(folder, "first"), read_unit(folder, "second")
    assert torch.equal(first["0.weight"], weights["network.0.weight"])
    assert torch.equal(second["weight"], weights["network.3.weight"])
    earlier = read_unit(whole.path / "units" / "epoch_0002", "second")
    assert not torch.equal(earlier["weight"], second["weight"])


def test_the_manifest_says_what_the_units_are(whole):
    manifest = read_manifest(whole.path / "units" / "epoch_0004")
    assert (manifest["schema"], manifest["epoch"], manifest["seed"]) == (1, 4, 0)
    assert manifest["global_step"] == 4 * 9
    assert manifest["config_hash"] == config_hash(whole.config)
    assert manifest["groups"] == {"first": ["first", "second"]}
    assert manifest["units"]["first"]["numel"] == 4 * 8 + 8
    assert manifest["units"]["first"]["keys_hash"] != manifest["units"]["second"]["keys_hash"]


def test_the_config_hash_follows_what_the_weights_depend_on(tmp_path, whole):
    other = whole.config
    other.paths.output_dir, other.callbacks.collect.every_n_epochs = str(tmp_path), 1
    assert config_hash(other) == config_hash(whole.config)
    other.seed = 1
    assert config_hash(other) != config_hash(whole.config)


def test_every_epoch_unit_and_split_has_one_line(whole):
    lines = records(whole)
    keys = [(line["epoch"], line["unit"], line["split"]) for line in lines]
    assert keys == [(e, unit, split) for e in (2, 4) for unit in ("first", "second") for split in ("train", "select")]
    line = lines[-1]
    assert (line["loss"], line["n"], line["task_metrics"]) == (4.0, 2, {"f1": None})
    assert line["weight_norm"] > 0
    assert 0 < line["update_ratio"] < 1
    assert line["nan_count"] == 0
    ratios = [each["grad_norm_ratio"] for each in lines[-4::2]]
    assert all(0 < ratio < 1 for ratio in ratios)


def test_losses_of_the_rows_are_stacked_over_epochs(whole):
    with np.load(whole.path / "units" / "row_losses.npz") as arrays:
        assert arrays["epochs"].tolist() == [2, 4]
        assert arrays["first"].dtype == np.float16
        assert arrays["first"].tolist() == [[1, 3], [3, 5]]


def test_the_moving_average_lies_between_the_weights_it_saw(whole):
    average = read_unit(whole.path / "units" / "ema", "second")["weight"]
    last = read_unit(whole.path / "units" / "epoch_0004", "second")["weight"]
    assert average.shape == last.shape
    assert 0 < (average - last).abs().max() < 0.1


def test_the_moving_average_is_there_when_no_epoch_is_due_at_the_end(tmp_path):
    found = collected(tmp_path, phase__epochs=3, callbacks__collect__ema_decay=0.5)
    assert list(saved_epochs(found.path / "units")) == [2]
    ema = read_manifest(found.path / "units" / "ema")
    assert (ema["epoch"], ema["global_step"]) == (3, 27)


def test_quantities_are_those_of_the_steps(tmp_path, monkeypatch):
    seen = {"norm": [], "ratio": []}
    gradients, updates = Collect._add_gradients, Collect.on_train_batch_end

    def watch_gradients(self, trainer, optimizer):
        grads = [parameter.grad for parameter in trainer.lightning_module.network[3].parameters()]
        seen["norm"].append(torch.cat([each.flatten() for each in grads]).norm().item())
        gradients(self, trainer, optimizer)

    def watch_updates(self, trainer, module, *args):
        if self.before is not None:
            old = torch.cat([each.flatten() for each in self.before[2:]])
            new = torch.cat([each.detach().flatten() for each in module.network[3].parameters()])
            seen["ratio"].append(((new - old).norm() / old.norm()).item())
        updates(self, trainer, module, *args)

    monkeypatch.setattr(Collect, "_add_gradients", watch_gradients)
    monkeypatch.setattr(Collect, "on_train_batch_end", watch_updates)
    found = collected(tmp_path, phase__epochs=2)
    line = records(found)[-1]
    assert len(seen["norm"]) == 9
    assert line["grad_norm"] == pytest.approx(np.mean(seen["norm"]), rel=1e-5)
    assert line["update_ratio"] == pytest.approx(np.mean(seen["ratio"]), rel=1e-4)


@pytest.mark.slow
def test_bfloat16_halves_the_files_and_a_limit_keeps_the_latest(tmp_path, whole):
    settings = {"dtype": "bfloat16", "keep_last": 1, "every_n_epochs": 1}
    found = collected(tmp_path, **{f"callbacks__collect__{name}": value for name, value in settings.items()})
    assert list(saved_epochs(found.path / "units")) == [4]
    assert [line["epoch"] for line in records(found)[::4]] == [1, 2, 3, 4]
    short = read_unit(found.path / "units" / "epoch_0004", "second")["weight"]
    full = read_unit(whole.path / "units" / "epoch_0004", "second")["weight"]
    assert short.dtype == torch.bfloat16
    assert torch.equal(short, full.bfloat16())


@pytest.mark.slow
def test_a_stopped_run_collects_what_an_uninterrupted_one_does(tmp_path, whole):
    config = config_for(tmp_path, callbacks__collect__ema_decay=0.5)
    config.callbacks.recorder.every_n_steps = 2
    env = {"TOY_SIGNAL": "15:SIGKILL"}  # in the middle of the second epoch
    assert processes.run(processes.train, config, env=env) == -9
    (found,) = find_runs(tmp_path, "toy")
    train(OmegaConf.create({"resume": str(found.path)}))
    assert list(saved_epochs(found.path / "units")) == [2, 4]

    def timeless(lines):
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert timeless(records(found)) == timeless(records(whole))
    for name in ("epoch_0002", "epoch_0004", "ema"):
        mine, theirs = (read_manifest(each.path / "units" / name)["units"] for each in (found, whole))
        assert mine == theirs


class Parts(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.units = {"one": nn.Sequential(nn.Linear(2, 4), activation), "other": nn.Linear(4, 1)}
        self.one, self.other = self.units.values()

    def probe(self):
        self.other(self.one(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])))


@pytest.mark.parametrize(("activation", "expected"), [(nn.ReLU(), 0.5), (nn.GELU(), 0.5)])
def test_dead_units_are_counted(activation, expected):
    module = Parts(activation)
    module.one[0].weight.data = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    module.one[0].bias.data = torch.tensor([0.0, 0.0, -20.0, -40.0])
    module.train()
    assert dead_fractions(module) == {"one": expected, "other": None}
    assert module.training


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "epoch_0001"
    state = {"w": torch.arange(64.0), "count": torch.tensor(7)}
    write_units(folder, [("a", state)], {"a": ["a"]}, "bfloat16", epoch=1)
    return folder


def test_integers_keep_their_type(saved):
    assert read_unit(saved, "a")["count"].dtype == torch.int64


def test_one_flipped_byte_is_found_and_named(saved):
    path = saved / "a.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors: damaged, unit a is not what was written"):
        read_unit(saved, "a")


def settle(saved):
    """Let the clock of the file system tick between the last unit and its manifest."""
    time.sleep(0.03)
    manifest = saved / "manifest.json"
    manifest.write_bytes(manifest.read_bytes())


def test_a_file_that_nobody_touched_is_not_hashed_again(saved, monkeypatch):
    settle(saved)
    monkeypatch.setattr("common.unit_files.file_hash", lambda path: pytest.fail("hashed"))
    assert unit_file(saved, "a") == saved / "a.safetensors"
    with pytest.raises(pytest.fail.Exception, match="hashed"):
        unit_file(saved, "a", rehash=True)


def test_a_copy_is_hashed_and_so_is_what_was_written_within_a_tick(saved, tmp_path):
    unit = saved / "a.safetensors"
    shutil.copytree(saved, tmp_path / "copy", copy_function=shutil.copy2)
    for path in (unit, tmp_path / "copy" / "a.safetensors"):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=times)
        with pytest.raises(UserError, match="damaged"):
            unit_file(path.parent, "a")


def test_writing_to_a_unit_that_was_read_leaves_its_file(saved):
    state = read_unit(saved, "a")
    state["w"].zero_()
    assert read_unit(saved, "a")["w"].tolist() == list(range(64))


def test_a_file_is_what_safetensors_reads(saved):
    expected = load_file(saved / "a.safetensors")
    state = read_unit(saved, "a")
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) and state[key].dtype == value.dtype for key, value in expected.items())


@pytest.mark.parametrize("dtype", sorted(STORED_DTYPES.values(), key=str))
def test_tensors_of_every_type_and_shape_come_back(tmp_path, dtype):
    state = {
        "many": torch.ones(3, 5).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "none": torch.ones(0, 2, dtype=dtype),
    }
    save_file(state, tmp_path / "a.safetensors")
    manifest = {
        "schema": 1,
        "groups": {},
        "units": {"a": {"file": "a.safetensors", "sha256": file_hash(tmp_path / "a.safetensors")}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    back = read_unit(tmp_path, "a")
    assert all(torch.equal(back[key], value) and back[key].dtype == dtype for key, value in state.items())


def test_what_is_missing_is_named(saved):
    with pytest.raises(UserError, match=r"no unit aa\. Did you mean a\? There are a\."):
        read_unit(saved, "aa")
    (saved / "a.safetensors").unlink()
    with pytest.raises(UserError, match="the file of unit a was removed"):
        read_unit(saved, "a")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_a_manifest_that_is_none_is_refused(saved, content):
    path: Path = saved / "manifest.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: "):
        read_manifest(saved)


def test_an_incomplete_checkpoint_is_skipped_with_a_warning(saved, caplog):
    (saved.parent / "epoch_0002").mkdir()
    with caplog.at_level(logging.WARNING):
        assert saved_epochs(saved.parent) == {1: saved}
    assert "epoch_0002: skipped, it has no manifest.json" in caplog.text


def test_a_kill_while_writing_leaves_no_manifest(saved, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("common.unit_files.write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        write_units(saved, [("a", {"w": torch.zeros(1)})], {}, "float32")
    assert saved_epochs(saved.parent) == {}

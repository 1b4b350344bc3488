import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from common.checkpoints import AtomicCheckpointIO, hash_weights, load_network, read_checkpoint
from common.errors import UserError


class Holder(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.network = nn.Linear(4, width)
        self.register_buffer("train_loss_sum", torch.zeros(()))


def save(path: Path, module: nn.Module) -> Path:
    AtomicCheckpointIO().save_checkpoint({"state_dict": module.state_dict()}, path)
    return path


def test_network_weights_travel_and_nothing_else(tmp_path):
    torch.manual_seed(0)
    theirs, ours = Holder(), Holder()
    theirs.train_loss_sum += 5
    digest = load_network(ours, save(tmp_path / "a.ckpt", theirs))
    assert torch.equal(ours.network.weight, theirs.network.weight)
    assert ours.train_loss_sum == 0
    assert digest == hash_weights({f"network.{name}": value for name, value in theirs.network.state_dict().items()})


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    path = save(tmp_path / "a.ckpt", Holder(width=5))
    with pytest.raises(UserError, match=r"network\.weight is \(5, 4\) there, \(3, 4\) here"):
        load_network(Holder(), path)


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    other = nn.Module()
    other.network = nn.ModuleDict({"head": nn.Linear(4, 3)})
    with pytest.raises(UserError, match=r"it lacks network\.bias \(2 missing, 2 extra\)"):
        load_network(Holder(), save(tmp_path / "a.ckpt", other))


def test_a_truncated_checkpoint_is_one_line(tmp_path):
    path = save(tmp_path / "a.ckpt", Holder())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip"])
def test_a_foreign_file_is_one_line(tmp_path, content):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.ckpt"):
        read_checkpoint(path)


def test_a_file_of_bare_tensors_is_no_checkpoint_of_a_run(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="no state_dict"):
        read_checkpoint(tmp_path / "a.ckpt")


class Exploit:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickled_code_never_runs(tmp_path, write):
    trace = tmp_path / "executed"
    write({"state_dict": {}, "extra": Exploit(trace)}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"refused|not a checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not trace.exists()


def test_a_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")

"""Checkpoints: written whole or not at all, read without running what is in them."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from common.errors import UserError
from common.files import write_atomic

NETWORK = "network."  # a module's deployed weights live below this name; whatever else it saves serves resuming


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk and renames; reads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_atomic(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> dict:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint, tensors on the CPU.

    Raises:
        UserError: as `read_pickle`; if the file is no checkpoint of a run.
    """
    checkpoint = read_pickle(path)
    if "state_dict" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of a run (no state_dict); use one written by train.py.")
    return checkpoint


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict of tensors and plain values that `torch.save` wrote, on the CPU.

    Raises:
        UserError: if the file is missing, truncated, holds no dict, or holds pickled code, which is refused unexecuted.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint.") from None
    except pickle.UnpicklingError as error:
        reason = "it holds pickled code, which is never executed" if "weights_only" in str(error) else "it is damaged"
        raise UserError(f"{path}: refused, {reason}; use a checkpoint written by train.py.") from None
    except Exception as error:  # bytes that are no checkpoint can make the reader fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise UserError(f"{path}: truncated or not a checkpoint ({reason}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint (it holds a {type(content).__name__}).")
    return content


def network_weights(path: Path) -> dict[str, torch.Tensor]:
    """The deployed weights in a checkpoint, by their names in the module (`network.…`)."""
    return {name: value for name, value in read_checkpoint(path)["state_dict"].items() if name.startswith(NETWORK)}


def load_network(module: torch.nn.Module, path: Path) -> str:
    """Put the weights of a checkpoint into `module`; returns their hash.

    Raises:
        UserError: if names or shapes differ, naming the first that does.
    """
    theirs, ours = network_weights(path), module.state_dict()
    ours = {name: value for name, value in ours.items() if name.startswith(NETWORK)}
    missing, unknown = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which this model lacks"
        raise UserError(f"{path}: weights of another model: it {what} ({len(missing)} missing, {len(unknown)} extra).")
    for name, value in ours.items():
        if theirs[name].shape != value.shape:
            shapes = f"{tuple(theirs[name].shape)} there, {tuple(value.shape)} here"
            raise UserError(f"{path}: weights of another model: {name} is {shapes}; model and data must match.")
    module.load_state_dict(theirs, strict=False)
    return hash_weights(theirs)


def hash_weights(weights: dict[str, torch.Tensor]) -> str:
    """16 hexadecimal digits that depend on every name and every byte of the weights."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()

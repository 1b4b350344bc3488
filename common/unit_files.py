"""Checkpoints of a model's units: one safetensors file each, and a manifest that makes them a whole."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from common.errors import UserError, nearest
from common.files import hash_record, read_json, write_atomic, write_json

MANIFEST, SCHEMA = "manifest.json", 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

log = logging.getLogger(__name__)


def write_units(
    folder: Path, units: Mapping[str, Mapping[str, Tensor]], groups: Mapping[str, list[str]], dtype: str, **facts: Any
) -> None:
    """Write `<unit>.safetensors` for every unit, then the manifest: without it the folder counts as incomplete.

    Args:
        units: state dicts, buffers included.
        groups: units that depend on one another, by group.
        dtype: `float32` or `bfloat16`, of floating-point tensors.
        facts: more entries of the manifest, such as the epoch.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    entries = {}
    for name, state in units.items():
        stored = {key: _stored(value, dtype) for key, value in state.items()}
        content = save(stored)
        write_atomic(folder / f"{name}.safetensors", lambda file, content=content: file.write(content))
        entries[name] = {
            "file": f"{name}.safetensors", "sha256": hashlib.sha256(content).hexdigest(), "dtype": dtype,
            "numel": sum(value.numel() for value in stored.values()), "keys_hash": keys_hash(stored),
        }  # fmt: skip
    write_json(folder / MANIFEST, {"schema": SCHEMA, **facts, "units": entries, "groups": groups})


def _stored(value: Tensor, dtype: str) -> Tensor:
    value = value.detach().cpu()
    return (value.to(DTYPES[dtype]) if value.is_floating_point() else value).contiguous()


def keys_hash(state: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that depend on the names, shapes and types of the tensors."""
    return hash_record(sorted([key, list(value.shape), str(value.dtype)] for key, value in state.items()))


def saved_epochs(folder: Path) -> dict[int, Path]:
    """The complete checkpoints below `folder`, by epoch; incomplete ones are skipped with a warning."""
    complete = {}
    for path in sorted(folder.glob("epoch_*")):
        if (path / MANIFEST).is_file():
            complete[int(path.name.removeprefix("epoch_"))] = path
        else:
            log.warning(f"{path}: skipped, it has no {MANIFEST}: the run was stopped while it was written")
    return complete


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        UserError: if it is missing, unreadable, or of another schema.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest; this is no complete checkpoint of units.") from None
    except ValueError as error:
        raise UserError(f"{path}: unreadable ({error}).") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a manifest of schema {SCHEMA}.")
    return manifest


def read_unit(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one unit, after its file has been found to be what was written.

    Raises:
        UserError: if the checkpoint has no such unit, its file is missing, or its bytes have changed.
    """
    units = read_manifest(folder)["units"]
    if name not in units:
        raise UserError(f"{folder}: no unit {name}.{nearest(name, units)} There are {', '.join(units)}.")
    path = folder / units[name]["file"]
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the file of unit {name} was removed.") from None
    if hashlib.sha256(content).hexdigest() != units[name]["sha256"]:
        raise UserError(f"{path}: damaged, unit {name} is not what was written (SHA-256 differs); restore the file.")
    try:
        return load(content)
    except SafetensorError as error:
        raise UserError(f"{path}: unit {name} is no safetensors file ({error}).") from None

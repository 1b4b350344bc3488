"""Checkpoints of a model's units: one safetensors file each, and a manifest that makes them a whole."""

import hashlib
import json
import logging
import math
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.files import hash_record, read_json, write_atomic, write_json

MANIFEST, SCHEMA = "manifest.json", 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STORED_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CLOCK_TICK_NS = 20_000_000  # two writes within a tick of the file system's clock leave the same time

log = logging.getLogger(__name__)


def write_units(
    folder: Path,
    units: Iterable[tuple[str, Mapping[str, Tensor]]],
    groups: Mapping[str, list[str]],
    dtype: str,
    subfolder: str = "",
    **facts: Any,
) -> None:
    """Write `<unit>.safetensors` for every unit, then the manifest: without it the folder counts as incomplete.

    Args:
        units: names and state dicts, buffers included; one at a time is held.
        groups: units that depend on one another, by group.
        dtype: `float32` or `bfloat16`, of floating-point tensors.
        subfolder: of `folder`, where the files of the units go.
        facts: more entries of the manifest, such as the epoch.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    entries, seals = {}, {}
    for name, state in units:
        path = folder / subfolder / f"{name}.safetensors"
        stored = {key: _stored(value, dtype) for key, value in state.items()}
        write_atomic(path, lambda file, stored=stored: save_file(stored, file.name))
        entries[name] = {
            "file": str(path.relative_to(folder)), "sha256": file_hash(path), "dtype": dtype,
            "numel": sum(value.numel() for value in stored.values()), "keys_hash": keys_hash(stored),
        }  # fmt: skip
        seals[name] = _seal(path)
    write_json(folder / MANIFEST, {"schema": SCHEMA, **facts, "units": entries, "groups": groups, "seals": seals})


def file_hash(path: Path) -> str:
    """SHA-256 of a file, which is read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(path: Path) -> list[int]:
    """What no write to a file leaves as it was: its inode, size and time of change, which users cannot set."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_ctime_ns]


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
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA or not {"units", "groups"} <= manifest.keys():
        raise UserError(f"{path}: not a manifest of schema {SCHEMA}.")
    return manifest


def unit_file(folder: Path, name: str, rehash: bool = False) -> Path:
    """The file of one unit, after it has been found to be what was written.

    The SHA-256 of 70 MB takes twice as long as reading them. So it is computed of those files alone that were written
    to, moved or copied since the manifest was made: of any other the file system still says what it said then.

    Args:
        rehash: compute it in any case, which finds bytes that the disk itself lost.

    Raises:
        UserError: if the checkpoint has no such unit, its file is missing, or its bytes have changed.
    """
    manifest = read_manifest(folder)
    units = manifest["units"]
    if name not in units:
        raise UserError(f"{folder}: no unit {name}.{nearest(name, units)} There are {', '.join(units)}.")
    path, seal = folder / units[name]["file"], manifest.get("seals", {}).get(name)
    try:
        settled = (folder / MANIFEST).stat().st_ctime_ns - path.stat().st_ctime_ns > CLOCK_TICK_NS
        intact = not rehash and settled and _seal(path) == seal
        if not intact and file_hash(path) != units[name]["sha256"]:
            raise UserError(
                f"{path}: damaged, unit {name} is not what was written (SHA-256 differs); restore the file."
            )
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the file of unit {name} was removed.") from None
    return path


def read_unit(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one unit, mapped from its file: bytes are read when they are first used.

    They may be written to, which does not reach the file.

    Raises:
        UserError: as `unit_file`.
    """
    # safetensors' own load_file touches every tensor, and the kernel then reads ahead the whole file
    with open(unit_file(folder, name), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    header.pop("__metadata__", None)
    return {key: _view(content, 8 + length, entry) for key, entry in header.items()}


def _view(content: mmap.mmap, start: int, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape, (offset, _) = STORED_DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=math.prod(shape), offset=start + offset).view(shape)


def load_units(units: Mapping[str, nn.Module], folder: Path) -> None:
    """Put a checkpoint of units, an epoch's or a combined one, into the modules of the same names.

    Raises:
        UserError: if units, tensors or shapes differ, naming the first that does; or as `read_unit`.
    """
    theirs = read_manifest(folder)["units"]
    missing, unknown = sorted(units.keys() - theirs.keys()), sorted(theirs.keys() - units.keys())
    if missing or unknown:
        what = f"lacks unit {missing[0]}" if missing else f"has unit {unknown[0]}, which this model lacks"
        raise UserError(f"{folder}: units of another model: it {what}.")
    for name, unit in units.items():
        try:
            unit.load_state_dict(read_unit(folder, name))
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise UserError(f"{folder}: unit {name} is of another model: {reason}") from None

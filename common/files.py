"""Writing files so that a reader, or a kill, never meets half of one."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError


def locate_data(path: str, data_dir: str | None) -> Path:
    """The file or folder `path`; a relative one is looked up below `data_dir`, then below the current directory.

    Raises:
        UserError: if it is at neither place, naming both.
    """
    places = list(dict.fromkeys(Path(root).absolute() / path for root in (data_dir, ".") if root is not None))
    found = next((place for place in places if place.exists()), None)
    if found is None:
        tried = " or ".join(map(str, places))
        raise UserError(f"{path}: nothing at {tried}; set paths.data_dir (or DATA_DIR), or give an absolute path.")
    return found


def write_atomic(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk, and rename it into place.

    Raises:
        OSError: from the disk; what stood at `path` before is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path, record: dict) -> None:
    """Write strict JSON, atomically: NaN and infinities become null, NumPy scalars become numbers."""
    write_text(path, json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def plain(value: Any) -> Any:
    """`value` as nested dicts, lists, strings, numbers and None only."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def hash_arrays(*arrays: np.ndarray) -> str:
    """16 hexadecimal digits that depend on the type, shape and every byte of the arrays, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def hash_record(record: Any) -> str:
    """16 hexadecimal digits that depend on the content of a plain record, not on the order of its keys."""
    text = json.dumps(plain(record), sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

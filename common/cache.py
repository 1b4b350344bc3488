"""Arrays that are computed once: memory-mapped files under a key that holds everything they depend on."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock

from common.files import hash_record, read_json, write_atomic, write_json

log = logging.getLogger(__name__)


def cached_arrays(
    folder: Path, key: Mapping[str, str], compute: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays that `compute` returns, memory-mapped; computed only if no entry has this key.

    An entry is complete when its `key.json` is there, which is written last; a damaged one is computed again.

    Args:
        folder: where the entries lie.
        key: names and hashes of everything the arrays depend on.
    """
    entry = Path(folder) / hash_record(dict(key))
    entry.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_suffix(".lock")):
        arrays = _read(entry, key)
        if arrays is None:
            shutil.rmtree(entry)
            for name, array in compute().items():
                write_atomic(entry / f"{name}.npy", lambda file, array=array: np.save(file, array))
            sizes = {path.stem: path.stat().st_size for path in sorted(entry.glob("*.npy"))}
            write_json(entry / "key.json", {"key": dict(key), "bytes": sizes})
            arrays = _read(entry, key)
        else:
            log.info(f"cache: {', '.join(arrays)} from {entry}")
    return arrays


def _read(entry: Path, key: Mapping[str, str]) -> dict[str, np.ndarray] | None:
    try:
        record = read_json(entry / "key.json")
        if record["key"] != dict(key):
            return None
        paths = {name: entry / f"{name}.npy" for name in record["bytes"]}
        if any(path.stat().st_size != record["bytes"][name] for name, path in paths.items()):
            return None
        return {name: np.load(path, mmap_mode="c") for name, path in paths.items()}
    except (OSError, ValueError, KeyError):
        return None

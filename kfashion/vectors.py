"""Image vectors that are computed once: a store on disk that only grows, keyed by all that a vector depends on.

Source: kfashion specification, section 3.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.files import hash_record, read_json, write_json
from kfashion.encoders import ImageEncoder
from kfashion.garments import Excluded

log = logging.getLogger(__name__)

KEY_BYTES = 32
STORE_VERSION = 1


class VectorStore:
    """Vectors of one encoder under one preparation, in `vectors.bin`, and the key of each in `keys.bin`.

    A batch is written with its vectors first: whatever was cut off by a kill is no key's vector, and is written over.

    Args:
        folder: of the stores of all encoders.
        encoder_id, preprocess_hash: of the encoder; another pair is another store.
        dim: of its vectors.
    """

    def __init__(self, folder: Path, encoder_id: str, preprocess_hash: str, dim: int):
        self.manifest = {
            "version": STORE_VERSION, "encoder": encoder_id, "preprocess": preprocess_hash, "dim": dim,
        }  # fmt: skip
        self.path, self.dim = folder / hash_record(self.manifest), dim
        self.path.mkdir(parents=True, exist_ok=True)
        if _manifest(self.path) != self.manifest:  # half made, or another's: nothing in it may be used
            for name in ("keys.bin", "vectors.bin"):
                (self.path / name).unlink(missing_ok=True)
            write_json(self.path / "manifest.json", self.manifest)

    def __len__(self) -> int:
        return min(_size(self.path / "keys.bin") // KEY_BYTES, _size(self.path / "vectors.bin") // (4 * self.dim))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(N,) int64 row of each of (N, 32) uint8 keys; -1 where there is none."""
        stored = np.fromfile(self.path / "keys.bin", np.uint8, len(self) * KEY_BYTES) if len(self) else np.empty(0)
        rows = pc.index_in(_binary(keys), value_set=_binary(stored))
        return pc.fill_null(rows, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Add (n, 32) uint8 keys with their (n, dim) float32 vectors; both are on disk on return."""
        count = len(self)
        _write_at(self.path / "vectors.bin", count * 4 * self.dim, vectors.astype(np.float32))
        _write_at(self.path / "keys.bin", count * KEY_BYTES, keys)

    def vectors(self) -> np.ndarray:
        """(n, dim) float32 of all rows, memory-mapped."""
        if not len(self):
            return np.empty((0, self.dim), np.float32)
        return np.memmap(self.path / "vectors.bin", np.float32, "r", shape=(len(self), self.dim))

    def lock(self) -> FileLock:
        return FileLock(self.path / "lock")


def vector_keys(item_id: Sequence[str], image_sha256: np.ndarray, crop: Sequence[Sequence[int]]) -> np.ndarray:
    """(N, 32) uint8: SHA-256 of the item, the bytes of its image and the place of its crop, hence of the crop's bytes.

    So a key is known without decoding the image.
    """
    rows = zip(item_id, image_sha256, crop)
    digests = [hashlib.sha256(f"{item}\n{list(box)}\n".encode() + image.tobytes()) for item, image, box in rows]
    return np.frombuffer(b"".join(each.digest() for each in digests), np.uint8).reshape(-1, KEY_BYTES)


def embed(
    picture: Callable[[int], Image.Image],
    keys: np.ndarray,
    encoder: ImageEncoder,
    folder: Path,
    batch_size: int,
    num_workers: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of all pictures and the row of each in them, -1 where a picture cannot be decoded.

    Only what is not in the store is computed; after a kill it goes on where it was.

    Args:
        picture: row → RGB picture; raises `Excluded` where it cannot be decoded.
        keys: (N, 32) uint8 of the pictures.

    Returns:
        (n, D) float32, memory-mapped, and (N,) int64.

    Raises:
        RuntimeError: if the encoder's weights have changed while it was used.
    """
    store = VectorStore(folder, encoder.id, encoder.preprocess_hash, encoder.dim)
    with store.lock():
        missing = np.flatnonzero(store.find(keys) < 0)
        if len(missing):
            log.info(f"{encoder.name}: {len(missing):,} of {len(keys):,} pictures to embed  → {store.path}")
            before = encoder.checksum()
            loader = DataLoader(
                _Pictures(picture, missing, encoder), batch_size, collate_fn=_collated, num_workers=num_workers
            )
            for rows, pixels in tqdm(loader, f"{encoder.name}, by {batch_size}", disable=None, leave=False):
                if len(rows):
                    store.append(keys[rows], encoder.encode(torch.stack(pixels)).numpy())
            if encoder.checksum() != before:
                raise RuntimeError(f"{encoder.name}: the weights of the frozen encoder have changed")
        return store.vectors(), store.find(keys)


class _Pictures(Dataset):
    """Rows and their prepared pictures, None for one that cannot be decoded."""

    def __init__(self, picture: Callable[[int], Image.Image], rows: np.ndarray, encoder: ImageEncoder):
        self.picture, self.rows, self.encoder = picture, rows, encoder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[int, Tensor | None]:
        row = int(self.rows[number])
        try:
            return row, self.encoder.prepare(self.picture(row))
        except Excluded:
            return row, None


def _collated(samples: list[tuple[int, Tensor | None]]) -> tuple[list[int], list[Tensor]]:
    """Those that could be decoded."""
    read = [(row, pixels) for row, pixels in samples if pixels is not None]
    return [row for row, _ in read], [pixels for _, pixels in read]


def _manifest(path: Path) -> dict | None:
    try:
        return read_json(path / "manifest.json")
    except (OSError, ValueError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _binary(keys: np.ndarray) -> pa.Array:
    """(n, 32) bytes as Arrow, without a copy as Python objects."""
    buffer = pa.py_buffer(np.ascontiguousarray(keys, np.uint8))
    return pa.Array.from_buffers(pa.binary(KEY_BYTES), keys.size // KEY_BYTES, [None, buffer])


def _write_at(path: Path, offset: int, array: np.ndarray) -> None:
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        os.fsync(file.fileno())

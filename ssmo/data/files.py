"""Pictures from folders and zip archives alike, and the splits that a data set does not come with."""

import io
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError

SPLIT_SEED = 1234
VAL_SHARE, TEST_SHARE = 0.1, 0.2

Files = Mapping[str, Callable[[], bytes]]


def list_files(path: Path) -> dict[str, Callable[[], bytes]]:
    """What reads each file, by its name below the folder or archive `path`; archives in a folder are looked into.

    Raises:
        UserError: for a broken archive, or a single file that is none.
    """
    if path.is_file():
        return _archive(path)
    files: dict[str, Callable[[], bytes]] = {}
    for each in sorted(path.rglob("*")):
        if each.suffix.lower() == ".zip":
            files |= _archive(each)
        elif each.is_file():
            files[each.relative_to(path).as_posix()] = each.read_bytes
    return files


def _archive(path: Path) -> dict[str, Callable[[], bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: no zip archive ({error}); give a folder or a zip archive.") from None
    return {each.filename: partial(archive.read, each) for each in archive.infolist() if not each.is_dir()}


def read_picture(files: Files, name: str, mode: str | None, size: tuple[int, int] | None, method: int) -> np.ndarray:
    """(H, W, C) or (H, W) uint8 pixels of a file.

    Args:
        mode: "L" or "RGB"; None for the numbers as they are stored, the indices of a palette among them.
        size: height and width to resize to.
        method: how; Pillow's bilinear filter averages over what a smaller pixel covers.

    Raises:
        UserError: naming the file, if it is no picture or has more than eight bits.
    """
    try:
        picture = Image.open(io.BytesIO(files[name]()))
        picture = picture if mode is None else picture.convert(mode)
        picture = picture if size is None else picture.resize(size[::-1], method)
        pixels = np.asarray(picture)
    except Exception as error:  # damaged pictures and archives raise almost anything
        raise UserError(f"{name}: cannot be read as a picture ({error}); mend or remove it.") from None
    if pixels.dtype != np.uint8:
        raise UserError(f"{name}: has pixels of {pixels.dtype}; save it with 8 bits per channel.")
    return pixels


def hold_out(group: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: the same share of every group, at least one; always the same samples."""
    rng, held = np.random.default_rng(SPLIT_SEED), np.zeros(len(group), bool)
    for each in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == each))
        held[rows[: max(1, round(share * len(rows)))]] = True
    return held


def complete_splits(
    parts: dict[str, tuple[np.ndarray, np.ndarray]], group: Callable[[np.ndarray], np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Train, val and test, each (x, y).

    Without a test part the val part is the test; without either, a fifth of train. Validation is then a tenth of train.

    Args:
        group: what of the targets must be equally frequent in a part that is held out.

    Raises:
        UserError: if a split would be empty.
    """
    parts = dict(parts)
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    for split, share in (("test", TEST_SHARE), ("val", VAL_SHARE)):
        if split not in parts:
            x, y = parts["train"]
            held = hold_out(group(y), share)
            parts["train"], parts[split] = (x[~held], y[~held]), (x[held], y[held])
    empty = [split for split, (_, y) in parts.items() if len(y) == 0]
    if empty:
        raise UserError(f"{empty[0]}: no pictures are left for this split; give more data.")
    return {split: parts[split] for split in ("train", "val", "test")}

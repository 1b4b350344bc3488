"""Pictures as they are meant to be seen: upright, RGB, cut to a garment."""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from common.cache import cached_arrays
from common.files import hash_record
from kfashion.garments import Excluded

PRINT_VERSION = "2"

ORIENTATION = 0x0112  # EXIF tag
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
Crop = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height as seen, EXIF orientation applied.

    Only the header is read, and the end of the file: where it is not that of its format, the image is decoded.

    Raises:
        Excluded: bad_image, if it cannot be decoded or is cut off.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            end = ENDS.get(image.format)
            if end is None or not _ends_with(file, end):
                image.load()
    except UNREADABLE as error:
        raise Excluded("bad_image", detail=str(error)) from None
    return (height, width) if turned else (width, height)


def load_rgb(path: Path | str, crop: Crop | None = None) -> Image.Image:
    """The image upright, in RGB, transparent parts white, cut to `crop`.

    Raises:
        Excluded: bad_image, if it cannot be decoded or is cut off.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            upright = upright.crop(crop) if crop is not None else upright
            return _rgb(upright)
    except UNREADABLE as error:
        raise Excluded("bad_image", detail=str(error)) from None


@dataclass
class ImagePrints:
    """What n image files hold.

    Attributes:
        sha256: (n, 32) uint8 of the bytes.
        perceptual: (n,) uint64, see `perceptual_hash`.
        readable: (n,) bool, whether it can be decoded to the end.
    """

    sha256: np.ndarray
    perceptual: np.ndarray
    readable: np.ndarray


def image_prints(root: Path, names: Sequence[str], cache: Path, num_workers: int = 0) -> ImagePrints:
    """The prints of images below `root`; taken again only if a name, a size or a time has changed."""
    status = [os.stat(root / name) for name in names]
    files = [(name, each.st_size, each.st_mtime_ns) for name, each in zip(names, status)]
    key = {"version": PRINT_VERSION, "root": str(root.absolute()), "files": hash_record(files)}
    return ImagePrints(**cached_arrays(cache, key, lambda: _take_prints(root, names, num_workers)))


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that agree in all but a few between pictures that look alike (pHash).

    The signs of the 8 × 8 lowest frequencies of the grey picture at 32 pixels, against their median.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    low = (COSINES @ grey @ COSINES.T).reshape(-1)
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes())


def _take_prints(root: Path, names: Sequence[str], num_workers: int) -> dict[str, np.ndarray]:
    paths = [str(root / name) for name in names]
    taken = tqdm(in_processes(_print, paths, num_workers), "images", len(paths), disable=None, leave=False)
    digests, hashes, readable = zip(*taken)
    return {
        "sha256": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        "perceptual": np.array(hashes, np.uint64),
        "readable": np.array(readable),
    }


def _print(path: str) -> tuple[bytes, int, bool]:
    digest = hashlib.sha256(Path(path).read_bytes()).digest()
    try:
        with Image.open(path) as image:
            image.draft("L", (64, 64))  # a JPEG is decoded small, a quarter of the work
            return digest, perceptual_hash(image), True
    except UNREADABLE:
        return digest, int.from_bytes(digest[:8]), False  # like no other image


def in_processes(function: Callable[[Any], Any], inputs: Sequence[Any], num_workers: int) -> Iterator[Any]:
    """`function` of every input, in order, in so many processes; in this one if 0."""
    if not num_workers:
        yield from map(function, inputs)
        return
    with multiprocessing.get_context("fork").Pool(num_workers) as pool:
        yield from pool.imap(function, inputs, chunksize=32)


def _cosines(count: int, size: int) -> np.ndarray:
    """The first `count` rows of the cosine transform of `size` points."""
    return np.cos(np.pi / size * (np.arange(size) + 0.5) * np.arange(count)[:, None])


COSINES = _cosines(8, 32)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _ends_with(file: BinaryIO, end: bytes) -> bool:
    place = file.tell()
    file.seek(max(file.seek(0, os.SEEK_END) - len(end), 0))
    found = file.read()
    file.seek(place)
    return found == end

"""Changed pictures: what another photo of the same garment might look like. For training only.

There is no CutMix: the vectors of views are computed before there are batches, and the record of the garment that was
pasted in would have to be in the batch, to be found by its share. MixUp (`kfashion.augment.mix_vectors`) mixes vectors
within a batch. Source: kfashion specification, section 4.
"""

import hashlib
import math
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

VERSION = 1  # of the changes: another one does not take the vectors that are stored
MAX_ROTATION = 15.0  # degrees
MAX_JITTER = 0.2  # of brightness, contrast and saturation
MIN_AREA = 0.8  # of the crop
View = Literal["basic", "autoaugment"]
PICTURES = "augmented_pictures"  # folder of the result files that show some


def view_keys(keys: np.ndarray, view: int, kind: View = "basic") -> np.ndarray:
    """(N, 32) uint8 keys of one view of pictures with (N, 32) keys."""
    salt = f"view {view} version {VERSION}{'' if kind == 'basic' else f' {kind}'}".encode()
    digests = b"".join(hashlib.sha256(key.tobytes() + salt).digest() for key in keys)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def changed(image: Image.Image, key: np.ndarray, kind: View = "basic") -> Image.Image:
    """The picture turned, mirrored, cut and lit at random, a function of the picture and of its view's key.

    Args:
        kind: autoaugment then applies ImageNet's policy of Cubuk et al. 2019, "AutoAugment", arXiv 1805.09501.
    """
    rng = np.random.default_rng(key.view(np.uint64).tolist())
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_border(image))
    side = math.sqrt(rng.uniform(MIN_AREA, 1))
    width, height = (max(1, round(each * side)) for each in image.size)
    left, top = (int(rng.integers(whole - part + 1)) for whole, part in zip(image.size, (width, height)))
    image = image.crop((left, top, left + width, top + height))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - MAX_JITTER, 1 + MAX_JITTER))
    return _auto_augmented(image, int(rng.integers(2**63))) if kind == "autoaugment" else image


def _auto_augmented(image: Image.Image, seed: int) -> Image.Image:
    from torchvision.transforms import AutoAugment  # seconds, and few need it

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoAugment(fill=list(_border(image)))(image)


def _border(image: Image.Image) -> tuple[int, ...]:
    """The mean colour of the four corners."""
    corners = [image.getpixel((x, y)) for x in (0, image.width - 1) for y in (0, image.height - 1)]
    return tuple(int(each) for each in np.mean(corners, axis=0))

"""The files that labelled scenes come in: CamVid, Pascal VOC 2012 and Cityscapes.

Source: ssmo specification, section 5.4.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from ssmo.data.files import Files, list_files, read_picture
from ssmo.tasks import IGNORE

Part = tuple[np.ndarray, np.ndarray]  # (N, 3, H, W) uint8 pictures, (N, H, W) uint8 classes
Pairs = dict[str, list[tuple[str, str]]]  # names of picture and label map, by part


class SceneFormat(NamedTuple):
    """How a data set is laid out.

    Attributes:
        name: of the data set.
        layout: what its folder must contain, for messages.
        pairs: finds pictures and label maps by part; train, val, perhaps test.
        numbers: class of each number in the label maps; all other numbers are ignored.
    """

    name: str
    layout: str
    pairs: Callable[[Files], Pairs]
    numbers: Mapping[int, str]


def _camvid_pairs(files: Files) -> Pairs:
    new = _matched(files, r"(train|val|test)/img/([^/]+)\.(?:jpg|png)", lambda split, name: f"{split}/lab/{name}.png")
    return new or _matched(files, r"(train|val|test)/([^/]+)\.png", lambda split, name: f"{split}annot/{name}.png")


def _cityscapes_pairs(files: Files) -> Pairs:
    # the labels of the test part are not public: its maps are empty
    pattern = r"leftImg8bit/(train|val)/([^/]+/[^/]+)_leftImg8bit\.png"
    return _matched(files, pattern, lambda split, name: f"gtFine/{split}/{name}_gtFine_labelIds.png")


def _matched(files: Files, pattern: str, label: Callable[[str, str], str]) -> Pairs:
    pairs: Pairs = {}
    for name in files:
        match = re.search(rf"(?:^|/){pattern}$", name)
        if match:
            root = name[: match.start(1) - (len("leftImg8bit/") if "leftImg8bit/" in pattern else 0)]
            pairs.setdefault(match[1], []).append((name, root + label(match[1], match[2])))
    return {split: sorted(each) for split, each in pairs.items()}


def _voc_pairs(files: Files) -> Pairs:
    pairs: Pairs = {}
    for name in files:
        root, _, rest = name.rpartition("ImageSets/Segmentation/")
        if rest in ("train.txt", "val.txt") and name.endswith(f"ImageSets/Segmentation/{rest}"):
            pairs[PurePosixPath(rest).stem] = [
                (f"{root}JPEGImages/{each}.jpg", f"{root}SegmentationClass/{each}.png")
                for each in files[name]().decode().split()
            ]
    return pairs


_CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorbike", 33: "bicycle",
}  # fmt: skip
CAMVID = SceneFormat(
    "camvid", "train/img/ID.jpg with train/lab/ID.png, or train/ID.png with trainannot/ID.png; likewise val",
    _camvid_pairs, dict(enumerate(_CAMVID)),
)  # fmt: skip
VOC = SceneFormat("voc", "ImageSets/Segmentation/train.txt and val.txt, JPEGImages, SegmentationClass",
                  _voc_pairs, dict(enumerate(_VOC)))  # fmt: skip
CITYSCAPES = SceneFormat("cityscapes", "leftImg8bit/{train,val}/CITY and gtFine/{train,val}/CITY",
                         _cityscapes_pairs, _CITYSCAPES)  # fmt: skip
SHARED = ("person", "car", "bus", "train", "motorbike", "bicycle")  # of VOC and Cityscapes


def read_parts(
    scenes: SceneFormat, path: Path, classes: Sequence[str], size: tuple[int, int] | None
) -> dict[str, Part]:
    """Pictures and classes, numbered as in `classes`, of every part; 255 elsewhere.

    Pictures that show none of the classes are left out.

    Raises:
        UserError: if files are missing or damaged, or, without `size`, pictures differ in size.
    """
    files = list_files(path)
    pairs = scenes.pairs(files)
    if not pairs.get("train") or not pairs.get("val"):
        raise UserError(f"{path}: is not laid out as {scenes.name}; needs {scenes.layout}.")
    table = np.full(256, IGNORE, np.uint8)
    for number, name in scenes.numbers.items():
        if name in classes:
            table[number] = classes.index(name)
    parts = {}
    for split, each in pairs.items():
        x, y = _read(files, each, size)
        y = table[y]
        shown = (y != IGNORE).any((1, 2))
        parts[split] = (x, y) if shown.all() else (x[shown], y[shown])
    return parts


def _read(files: Files, pairs: Sequence[tuple[str, str]], size: tuple[int, int] | None) -> Part:
    height, width = size or read_picture(files, pairs[0][0], "RGB", None, Image.Resampling.BILINEAR).shape[:2]
    x, y = np.empty((len(pairs), 3, height, width), np.uint8), np.empty((len(pairs), height, width), np.uint8)
    for row, (picture, label) in enumerate(pairs):
        for name in (picture, label):
            if name not in files:
                raise UserError(f"{name}: is missing; picture and label map come in pairs.")
        pixels = read_picture(files, picture, "RGB", size, Image.Resampling.BILINEAR)
        classes = read_picture(files, label, None, size, Image.Resampling.NEAREST)
        if classes.ndim != 2:
            raise UserError(f"{label}: has {classes.shape[-1]} channels; a label map holds one number per pixel.")
        for name, shape in ((picture, pixels.shape[:2]), (label, classes.shape)):
            if shape != (height, width):
                raise UserError(f"{name}: is {shape[0]} x {shape[1]}, others {height} x {width}; set data.size=[H,W].")
        x[row], y[row] = pixels.transpose(2, 0, 1), classes
    return x, y

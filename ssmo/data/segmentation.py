"""Pictures with a class for every pixel: drawn scenes, CamVid, Pascal VOC and Cityscapes.

Source: ssmo specification, section 5.4.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from common.errors import UserError
from common.files import locate_data
from ssmo.data.base import Samples, Strength
from ssmo.data.corruptions import CORRUPTIONS, lower_resolution
from ssmo.data.files import complete_splits
from ssmo.data.pictures import Count, PictureData, Pixels, Seed, Workers
from ssmo.data.scenes import CAMVID, CITYSCAPES, SHARED, VOC, Part, SceneFormat, read_parts
from ssmo.shapes import SCENE_CLASSES, draw_scenes

Condition = Literal["clean", "label_noise", "weak_data", "weak_labels", "resolution_shift", "corrupted", *CORRUPTIONS]
ShiftCondition = Literal[Condition, "domain_shift"]
Size = tuple[Count, Count]


class ByteLabels:
    """(N, H, W) uint8 classes that are int64 when they are asked for: an eighth of the memory."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.values[index].astype(np.int64)


def mislabel_objects(
    label: np.ndarray, rate: float, num_classes: int, background: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Labels in which exactly round(rate · K) of the K objects are another class: annotators err in what, not where.

    An object is a connected region of one class. The background is no object and no object becomes background.

    Args:
        label: (N, H, W) uint8, 255 ignored.
        background: its class; None where there is none.
    """
    kinds = [each for each in range(num_classes) if each != background]
    regions, classes = np.zeros(label.shape, np.int32), [0]
    for picture, region in zip(label, regions, strict=True):
        for place, kind in enumerate(kinds):
            found, count = ndimage.label(picture == kind)
            region[found > 0] = found[found > 0] + len(classes) - 1
            classes += [place] * count
    places = np.array(classes)
    chosen = 1 + rng.permutation(len(places) - 1)[: round(rate * (len(places) - 1))]
    places[chosen] = (places[chosen] + rng.integers(1, len(kinds), len(chosen))) % len(kinds)
    return np.where(regions > 0, np.array(kinds, np.uint8)[places[regions]], label)


class SegmentationData(PictureData):
    """Base of labelled scenes.

    Conditions `label_noise` and, for slot 2 alone, `weak_labels` give a share `strength` of all objects the name of
    another class, see `mislabel_objects`. `resolution_shift` takes from the test pictures the detail that is lost when
    they are resized by `strength` and back.

    Attributes:
        background: class of what is no object; None where there is none.
    """

    task, adapter = "segmentation", "ssmo.tasks.Segmentation"
    strengths = PictureData.strengths | {"label_noise": 0.3, "weak_labels": 0.3, "resolution_shift": 0.5}
    evaluation_batch = 16  # the maps of 256 scenes of 240 x 180 pixels take 5 GB
    background: int | None

    def worsen(self, splits: dict[str, Samples]) -> dict[str, Samples]:
        train, test = splits["train"], splits["test"]
        if self.condition == "label_noise":
            noisy = self.noisy(train.y[np.arange(len(train))], np.random.default_rng([self.data_seed, 98]))
            return splits | {"train": replace(train, y=ByteLabels(noisy.astype(np.uint8)))}
        if self.condition == "resolution_shift":
            return splits | {"test": replace(test, x=lower_resolution(test.x, self.strength))}
        return splits

    def noisy(self, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return mislabel_objects(y, self.strength, len(self.class_names), self.background, rng)


class ShapesSeg(SegmentationData):
    """Drawn shapes of four classes on a textured ground; needs no download.

    Args:
        num_train, num_val, num_test: pictures per split.
        size: pixels per side.
        border: a line of one pixel around each shape is ignored.
    """

    dataset, class_names, background = "shapes_seg", list(SCENE_CLASSES), 0

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Workers,
        condition: Condition,
        strength: Strength | None,
        data_seed: Seed,
        crop_pad: Pixels,
        flip: bool,
        num_train: Count,
        num_val: Count,
        num_test: Count,
        size: Annotated[int, Field(ge=16)],
        border: bool,
    ):
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed, crop_pad, flip)
        self.sizes, self.size, self.border = {"train": num_train, "val": num_val, "test": num_test}, size, border

    def clean(self) -> dict[str, Samples]:
        return {split: self._draw(number, count) for number, (split, count) in enumerate(self.sizes.items())}

    def _draw(self, stream: int, count: int) -> Samples:
        x, y = draw_scenes(count, self.size, self.border, np.random.default_rng([self.data_seed, stream]))
        return Samples(x, ByteLabels(y))


class SceneFiles(SegmentationData):
    """Base of real scenes. Without a labelled test part, val is the test and a tenth of train is validation.

    Args:
        path: folder or zip archive of the data; relative to the data directory or the current one.
        size: height and width; pictures are resized bilinearly, which may stretch them, labels to the nearest. None
            leaves them as they are, if all have one size.
    """

    data_source = "real"
    scenes: ClassVar[SceneFormat]

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Workers,
        condition: Condition,
        strength: Strength | None,
        data_seed: Seed,
        crop_pad: Pixels,
        flip: bool,
        path: str,
        data_dir: str | None,
        size: Size | None,
    ):
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed, crop_pad, flip)
        self.path, self.data_dir, self.size = path, data_dir, size
        self.class_names, self.background = list(self.scenes.numbers.values()), None

    def clean(self) -> dict[str, Samples]:
        parts = complete_splits(self.read(self.scenes, self.path), group=lambda y: np.zeros(len(y)))
        return {split: Samples(x, ByteLabels(y)) for split, (x, y) in parts.items()}

    def read(self, scenes: SceneFormat, path: str) -> dict[str, Part]:
        return read_parts(scenes, locate_data(path, self.data_dir), self.class_names, self.size)


class CamVid(SceneFiles):
    """CamVid, 11 classes of road scenes; its void is ignored."""

    dataset, scenes = CAMVID.name, CAMVID


class _Shifted(SceneFiles):
    """Two data sets that share six classes.

    Args:
        classes: all, or the six of both; pixels of all others are then ignored, pictures of nothing else left out.
        other_path: the other data set, on whose val part condition `domain_shift` tests.
    """

    other: ClassVar[SceneFormat]

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Workers,
        condition: ShiftCondition,
        strength: Strength | None,
        data_seed: Seed,
        crop_pad: Pixels,
        flip: bool,
        path: str,
        data_dir: str | None,
        size: Size | None,
        classes: Literal["all", "shared"],
        other_path: str | None = None,
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, crop_pad, flip, path, data_dir, size
        )
        if condition == "domain_shift" and (classes == "all" or other_path is None or size is None):
            raise UserError("condition=domain_shift: needs data.classes=shared, data.size and data.other_path=FOLDER.")
        self.other_path = other_path
        if classes == "shared":
            self.class_names = list(SHARED)
        if "background" in self.class_names:
            self.background = self.class_names.index("background")

    def worsen(self, splits: dict[str, Samples]) -> dict[str, Samples]:
        if self.condition != "domain_shift":
            return super().worsen(splits)
        x, y = self.read(self.other, self.other_path)["val"]
        return splits | {"test": Samples(x, ByteLabels(y))}


class Voc(_Shifted):
    """Pascal VOC 2012, 20 classes and background."""

    dataset, scenes, other = VOC.name, VOC, CITYSCAPES


class Cityscapes(_Shifted):
    """Cityscapes, its 19 classes for training."""

    dataset, scenes, other = CITYSCAPES.name, CITYSCAPES, VOC

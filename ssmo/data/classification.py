"""Pictures with one label each: drawn glyphs, and the file formats of the usual data sets.

Source: ssmo specification, section 5.1.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from common.errors import UserError, nearest
from common.files import locate_data
from ssmo.data.base import Samples, Strength
from ssmo.data.corruptions import CIFAR_C_ONLY, CORRUPTIONS, spread
from ssmo.data.files import complete_splits
from ssmo.data.formats import (
    CIFAR10,
    Part,
    read_cifar10,
    read_cifar100,
    read_cifar_c,
    read_digits,
    read_mnist,
    read_tree,
)
from ssmo.data.pictures import Count, PictureData, Pixels, Seed, Workers
from ssmo.shapes import GLYPHS, draw_glyphs

Condition = Literal["clean", "label_noise", "asymmetric_noise", "weak_data", "weak_labels", "corrupted", *CORRUPTIONS]
CIFAR_C = {name: name for name in CORRUPTIONS} | {"jpeg": "jpeg_compression"}
Cifar10Condition = Literal[Condition, *CIFAR_C_ONLY]

SUBSET_SEED = 42
DIGITS = [str(number) for number in range(10)]
CONFUSED_DIGITS = {"7": "1", "2": "7", "5": "6", "6": "5", "3": "8"}
CONFUSED_GLYPHS = {"ring": "disc", "frame": "square", "two_bars": "bar", "cross": "saltire", "saltire": "cross"}
CONFUSED_CIFAR10 = {"truck": "automobile", "bird": "airplane", "cat": "dog", "dog": "cat", "deer": "horse"}


def symmetric_noise(label: np.ndarray, rate: float, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Labels of which exactly round(rate · N) are another class, each of the others equally likely."""
    noisy = label.copy()
    rows = rng.permutation(len(label))[: round(rate * len(label))]
    noisy[rows] = (label[rows] + rng.integers(1, num_classes, len(rows))) % num_classes
    return noisy


def asymmetric_noise(
    label: np.ndarray, rate: float, confused: Mapping[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Labels in which exactly round(rate · n) of the n samples of each class in `confused` are the class it names."""
    noisy = label.copy()
    for true, wrong in confused.items():
        rows = rng.permutation(np.flatnonzero(label == true))
        noisy[rows[: round(rate * len(rows))]] = wrong
    return noisy


class ClassificationData(PictureData):
    """Base of pictures with one label each.

    Conditions `label_noise` and `asymmetric_noise` change training labels for both models; `strength` is the share of
    wrong labels, of all samples or of those of the classes that are taken for another. Slot 2 alone gets symmetric
    noise by `weak_labels`.

    Attributes:
        confused: the class that samples of a class become by `asymmetric_noise`.
    """

    task, adapter = "classification", "ssmo.tasks.Classification"
    strengths = PictureData.strengths | {"label_noise": 0.4, "asymmetric_noise": 0.4, "weak_labels": 0.4}
    confused: Mapping[str, str]

    def worsen(self, splits: dict[str, Samples]) -> dict[str, Samples]:
        if self.condition not in ("label_noise", "asymmetric_noise"):
            return splits
        change = self.noisy if self.condition == "label_noise" else self._confuse
        y = change(splits["train"].y, np.random.default_rng([self.data_seed, 98]))
        return splits | {"train": replace(splits["train"], y=y)}

    def noisy(self, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return symmetric_noise(y, self.strength, len(self.class_names), rng)

    def _confuse(self, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.confused:
            raise UserError("condition=asymmetric_noise: say what is taken for what, data.confused={CLASS: CLASS}.")
        number = {name: index for index, name in enumerate(self.class_names)}
        unknown = [each for pair in self.confused.items() for each in pair if each not in number]
        if unknown:
            raise UserError(
                f"confused: no class {unknown[0]}.{nearest(unknown[0], number)} There are: {', '.join(number)}."
            )
        pairs = {number[true]: number[wrong] for true, wrong in self.confused.items()}
        return asymmetric_noise(y, self.strength, pairs, rng)


class Shapes10(ClassificationData):
    """Ten drawn glyphs; needs no download.

    Args:
        num_train, num_val, num_test: pictures per split.
        size: pixels per side.
    """

    dataset, class_names, confused = "shapes10", list(GLYPHS), CONFUSED_GLYPHS

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Workers,
        condition: Condition,
        strength: Strength | None,
        data_seed: Seed,
        num_train: Count,
        num_val: Count,
        num_test: Count,
        size: Annotated[int, Field(ge=8)],
    ):
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed)
        self.sizes, self.size = {"train": num_train, "val": num_val, "test": num_test}, size

    def clean(self) -> dict[str, Samples]:
        return {split: self._draw(number, count) for number, (split, count) in enumerate(self.sizes.items())}

    def _draw(self, stream: int, count: int) -> Samples:
        rng = np.random.default_rng([self.data_seed, stream])
        label = rng.permutation(np.arange(count) % len(GLYPHS))
        return Samples(draw_glyphs(label, self.size, rng), label)


class PictureFiles(ClassificationData):
    """Base of real picture sets.

    Validation is what comes as such, or a tenth of train, stratified; test likewise, or a fifth. Neither depends on any
    seed, nor do the pictures that `num_train` chooses.

    Args:
        path: where the data is; relative to the data directory or the current one.
        num_train: how many of the training pictures to use, chosen at random; None for all.
    """

    data_source = "real"

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Workers,
        condition: Condition,
        strength: Strength | None,
        data_seed: Seed,
        path: str,
        data_dir: str | None,
        num_train: Count | None,
        crop_pad: Pixels,
        flip: bool,
    ):
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed, crop_pad, flip)
        self.path, self.data_dir, self.num_train = path, data_dir, num_train

    @abstractmethod
    def read(self, path: Path) -> dict[str, Part]:
        """The parts that the files have."""

    def clean(self) -> dict[str, Samples]:
        parts = complete_splits(self.read(locate_data(self.path, self.data_dir)), group=lambda y: y)
        parts["train"] = choose(parts["train"], self.num_train)
        return {split: Samples(x, y) for split, (x, y) in parts.items()}


class Digits(PictureFiles):
    """UCI digits of 8x8 pixels, `digits.csv.gz`."""

    dataset, class_names, confused = "digits", DIGITS, CONFUSED_DIGITS

    def read(self, path: Path) -> dict[str, Part]:
        return read_digits(path)


class Mnist(PictureFiles):
    """MNIST, or what comes in its form, from an npz or the folder of the four IDX files."""

    dataset, class_names, confused = "mnist", DIGITS, CONFUSED_DIGITS

    def read(self, path: Path) -> dict[str, Part]:
        return read_mnist(path)


class Cifar10(PictureFiles):
    """CIFAR-10 from the original pickles or from class folders of JPEG or PNG files, also in zip archives.

    Args:
        cifar_c: folder of CIFAR-10-C; the corrupted test pictures are then those, and there are eight more kinds.
    """

    dataset, class_names, confused = "cifar10", list(CIFAR10), CONFUSED_CIFAR10

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Workers,
        condition: Cifar10Condition,
        strength: Strength | None,
        data_seed: Seed,
        path: str,
        data_dir: str | None,
        num_train: Count | None,
        crop_pad: Pixels,
        flip: bool,
        cifar_c: str | None = None,
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, path, data_dir, num_train, crop_pad, flip
        )
        if condition in CIFAR_C_ONLY and cifar_c is None:
            raise UserError(f"condition={condition}: comes from CIFAR-10-C only; set data.cifar_c=FOLDER.")
        self.cifar_c = cifar_c

    def read(self, path: Path) -> dict[str, Part]:
        return read_cifar10(path)

    def corrupted(self, test: Samples) -> Samples:
        if self.cifar_c is None:
            return super().corrupted(test)
        folder, severity = locate_data(self.cifar_c, self.data_dir), int(self.strength)
        if self.condition != "corrupted":
            return Samples(*read_cifar_c(folder, CIFAR_C.get(self.condition, self.condition), severity))
        kinds = [name for name in (*CIFAR_C.values(), *CIFAR_C_ONLY) if (folder / f"{name}.npy").exists()]
        if not kinds:
            raise UserError(f"{folder}: holds no NAME.npy of CIFAR-10-C.")
        return _mixed({name: read_cifar_c(folder, name, severity) for name in kinds}, self.data_seed)


class Cifar100(PictureFiles):
    """CIFAR-100, fine labels, from the original pickles; `asymmetric_noise` stays within the superclass."""

    dataset = "cifar100"

    def read(self, path: Path) -> dict[str, Part]:
        parts, self.class_names, self.confused = read_cifar100(path)
        return parts


class ImageFolder(PictureFiles):
    """JPEG and PNG files in class folders, [train|val|test/]CLASS/FILE, also in zip archives.

    Args:
        size: pixels per side; others are resized.
        channels: 1 reads them as grey, 3 as colour.
        confused: for `asymmetric_noise`, the class that samples of a class become.
    """

    dataset = "image_folder"

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Workers,
        condition: Condition,
        strength: Strength | None,
        data_seed: Seed,
        path: str,
        data_dir: str | None,
        num_train: Count | None,
        crop_pad: Pixels,
        flip: bool,
        size: Count,
        channels: Literal[1, 3],
        confused: dict[str, str] | None = None,
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, path, data_dir, num_train, crop_pad, flip
        )
        self.size, self.channels, self.confused = size, channels, confused or {}

    def read(self, path: Path) -> dict[str, Part]:
        parts, self.class_names = read_tree(path, self.size, self.channels)
        if len(self.class_names) < 2:
            raise UserError(f"{path}: holds the class {self.class_names[0]} only; needs two or more class folders.")
        return parts


def choose(part: Part, count: int | None) -> Part:
    """`count` samples of a part in their order, the same ones every time; all for None.

    Raises:
        UserError: if there are fewer.
    """
    if count is None:
        return part
    if count > len(part[1]):
        raise UserError(f"num_train={count}: there are only {len(part[1])} training pictures; null takes all.")
    rows = np.sort(np.random.default_rng(SUBSET_SEED).permutation(len(part[1]))[:count])
    return part[0][rows], part[1][rows]


def _mixed(parts: Mapping[str, Part], seed: int) -> Samples:
    """The test pictures, each from one of the parts, which hold the same pictures in the same order."""
    labels = [y for _, y in parts.values()]
    names = np.array(spread(len(labels[0]), list(parts), seed))
    x = np.empty_like(next(iter(parts.values()))[0])
    for name, (pictures, _) in parts.items():
        x[names == name] = pictures[names == name]
    return Samples(x, labels[0])

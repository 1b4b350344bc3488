"""Eleven ways in which pictures get worse, each in five severities of the CIFAR scale.

Parameters of the ssmo specification, section 5.1; where it gives none, those of the CIFAR version of Hendrycks and
Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions", arXiv 1903.12261. They are meant for
pictures of 32 pixels and mild on larger ones.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from common.errors import UserError

Picture = np.ndarray  # (C, H, W) float in [0, 1]


def _gaussian_noise(picture: Picture, sigma: float, rng: np.random.Generator) -> Picture:
    return picture + sigma * rng.standard_normal(picture.shape)


def _shot_noise(picture: Picture, photons: float, rng: np.random.Generator) -> Picture:
    return rng.poisson(picture * photons) / photons


def _impulse_noise(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    hit, salt = rng.random(picture.shape) < share, rng.random(picture.shape) < 0.5
    return np.where(hit, salt, picture)


def _gaussian_blur(picture: Picture, sigma: float, rng: np.random.Generator) -> Picture:
    return ndimage.gaussian_filter(picture, (0, sigma, sigma), mode="nearest")


def _motion_blur(picture: Picture, motion: tuple[int, float], rng: np.random.Generator) -> Picture:
    """Mean along a line of a random direction, at most 45° from the horizontal, with weights of a Gaussian's half."""
    length, sigma = motion
    angle, steps = rng.uniform(-np.pi / 4, np.pi / 4), np.arange(length + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    moved = (ndimage.shift(picture, (0, step * np.sin(angle), step * np.cos(angle)), order=1, mode="nearest")
             for step in steps)  # fmt: skip
    return sum(weight * each for weight, each in zip(weights / weights.sum(), moved, strict=True))


def _brightness(picture: Picture, shift: float, rng: np.random.Generator) -> Picture:
    return picture + shift


def _contrast(picture: Picture, factor: float, rng: np.random.Generator) -> Picture:
    mean = picture.mean((1, 2), keepdims=True)
    return (picture - mean) * factor + mean


def _pixelate(picture: Picture, factor: float, rng: np.random.Generator) -> Picture:
    small = tuple(max(1, int(side * factor)) for side in picture.shape[1:])
    return resize(resize(picture, small, Image.Resampling.BOX), picture.shape[1:], Image.Resampling.BOX)


def _jpeg(picture: Picture, quality: int, rng: np.random.Generator) -> Picture:
    pixels, file = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    read = np.asarray(Image.open(file)) / 255
    return read[None] if len(pixels) == 1 else read.transpose(2, 0, 1)


def _fog(picture: Picture, fog: tuple[float, float], rng: np.random.Generator) -> Picture:
    """A random field in [0, 1], whose amplitude falls with the frequency, added; then scaled back to the old maximum.

    The original adds a fractal of midpoints; a Fourier series of the same roughness has no preferred directions.
    """
    amount, decay = fog
    rows, columns = picture.shape[1:]
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns) * columns)
    spectrum = np.fft.rfft2(rng.standard_normal((rows, columns))) * np.maximum(frequency, 1) ** -decay
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (rows, columns))
    field = (field - field.min()) / (np.ptp(field) + 1e-12)
    highest = picture.max()
    return (picture + amount * field) * highest / (highest + amount)


def _saturate(picture: Picture, change: tuple[float, float], rng: np.random.Generator) -> Picture:
    """HSV saturation times a factor plus a shift; hue and value stay, and so does grey, which has no hue."""
    factor, shift = change
    value = picture.max(0)
    saturation = (value - picture.min(0)) / np.maximum(value, 1e-12)
    wanted = np.clip(saturation * factor + shift, 0, 1)
    ratio = np.where(saturation > 0, wanted / np.maximum(saturation, 1e-12), 1)
    return value - (value - picture) * ratio


# fmt: off
SEVERITIES: dict[str, tuple[Callable, tuple]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),                          # deviation
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),                                         # photons
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),                            # share of values
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),                                 # deviation, pixels
    "motion_blur": (_motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),            # length, deviation
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),                                     # shift
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),                                         # factor
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),                                       # of the resolution
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),                                                        # quality
    "fog": (_fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),                # amount, decay
    "saturate": (_saturate, ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))),        # factor, shift
}
# fmt: on
CORRUPTIONS = tuple(SEVERITIES)
COLOUR_ONLY = ("saturate",)
# kinds that only the files of CIFAR-10-C offer
CIFAR_C_ONLY = (
    "defocus_blur", "elastic_transform", "frost", "glass_blur", "snow", "spatter", "speckle_noise", "zoom_blur",
)  # fmt: skip
STRENGTHS = dict.fromkeys((*CORRUPTIONS, *CIFAR_C_ONLY, "corrupted"), 3.0)


def corrupt(pictures: np.ndarray, condition: str, severity: int, seed: int) -> np.ndarray:
    """The pictures, each changed by random numbers of (seed, its index, the corruption).

    Args:
        pictures: (N, C, H, W) uint8, or float in [0, 1].
        condition: a corruption, or "corrupted": all of them in turn, see `spread`.
        severity: 1 to 5.

    Raises:
        UserError: if grey pictures are to lose or gain colour.
    """
    if condition in COLOUR_ONLY and pictures.shape[1] == 1:
        raise UserError(f"condition={condition}: grey pictures have no colour; choose another corruption.")
    kinds = [each for each in CORRUPTIONS if pictures.shape[1] > 1 or each not in COLOUR_ONLY]
    names = spread(len(pictures), kinds, seed) if condition == "corrupted" else [condition] * len(pictures)

    def change(index: int, picture: Picture) -> Picture:
        function, parameters = SEVERITIES[names[index]]
        return function(picture, parameters[severity - 1],
                        np.random.default_rng([seed, index, CORRUPTIONS.index(names[index])]))  # fmt: skip

    return transform(pictures, change)


def spread(count: int, kinds: Sequence[str], seed: int) -> list[str]:
    """Which of `kinds` each of `count` pictures gets: in random order, each as often as the others but for one."""
    order = np.random.default_rng([seed, 97]).permutation(count)
    return [kinds[number % len(kinds)] for number in order]


def lower_resolution(pictures: np.ndarray, factor: float) -> np.ndarray:
    """The pictures resized by `factor` and back, bilinear, without aliasing."""

    def change(index: int, picture: Picture) -> Picture:
        small = tuple(max(1, round(side * factor)) for side in picture.shape[1:])
        return resize(resize(picture, small, Image.Resampling.BILINEAR), picture.shape[1:], Image.Resampling.BILINEAR)

    return transform(pictures, change)


def transform(pictures: np.ndarray, change: Callable[[int, Picture], Picture]) -> np.ndarray:
    """`change(index, picture)` of every picture on the scale [0, 1], clipped to it, in the type of `pictures`."""
    top = 255 if pictures.dtype == np.uint8 else 1
    changed = np.empty_like(pictures)
    for index, picture in enumerate(pictures):
        new = np.clip(change(index, picture.astype(np.float64) / top), 0, 1) * top
        changed[index] = np.rint(new) if top == 255 else new
    return changed


def resize(picture: Picture, size: tuple[int, ...], method: int) -> Picture:
    """(C, *size) picture."""
    channels = (Image.fromarray(channel.astype(np.float32)) for channel in picture)
    return np.stack([np.asarray(channel.resize(size[::-1], method)) for channel in channels])


def check_strength(condition: str, strength: float | None) -> None:
    """Corruptions have severities 1 to 5; of all else at most the whole.

    Raises:
        UserError: for any other strength.
    """
    if condition in STRENGTHS:
        if strength not in range(1, 6):
            raise UserError(f"strength={strength}: {condition} has the severities 1, 2, 3, 4 and 5.")
    elif strength is not None and strength > 1:
        raise UserError(f"strength={strength}: {condition} takes a share, at most 1.")

"""Curves and whole recordings with a known answer, to measure what the analysis finds and what it invents."""

import json
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from common.files import write_atomic, write_text
from redheart.records import METRICS, ROW_LOSSES

Shape = Literal["flat", "declining", "U", "step", "knee"]
SHAPES = get_args(Shape)
EPOCHS = np.arange(2, 61, 2)


def shape_of(shape: Shape, epochs: np.ndarray = EPOCHS) -> np.ndarray:
    """A noiseless curve around 0.5.

    flat; declining by 0.1 over 60 epochs, never flattening; U with its minimum at 30; a step of −0.1 after 30; a steep
    decline that is flat from 30 on.
    """
    match shape:
        case "flat":
            return np.full(len(epochs), 0.5)
        case "declining":
            return 0.55 - 0.1 * epochs / 60
        case "U":
            return 0.4 + 0.2 * ((epochs - 30) / 30) ** 2
        case "step":
            return np.where(epochs <= 30, 0.5, 0.4)
        case "knee":
            return 0.4 + 0.3 * np.maximum(0, 1 - epochs / 30)
    raise ValueError(f"{shape}: choose {', '.join(SHAPES)}")


def ar_noise(rng: np.random.Generator, length: int, sd: float, phi: float = 0.0, num: int = 1) -> np.ndarray:
    """(num, length) stationary AR(1) noise of standard deviation `sd`."""
    noise = rng.normal(0, sd, (num, length))
    for t in range(1, length):
        noise[:, t] = phi * noise[:, t - 1] + np.sqrt(1 - phi**2) * noise[:, t]
    return noise


def planted_curves(shape: Shape, num: int, noise: float, phi: float = 0.0, seed: int = 0) -> np.ndarray:
    """(num, 30) curves of one shape under independent noise."""
    return shape_of(shape) + ar_noise(np.random.default_rng(seed), len(EPOCHS), noise, phi, num)


def write_recording(folder: Path, units: dict[str, Shape], noise: float = 0.01, num_rows: int = 1500, seed: int = 0):
    """Write the records of a run whose unit losses have these shapes: metrics.jsonl and row_losses.npz.

    The task metric is highest where the noiseless loss is lowest; gradients fall with the epochs. Noise comes from the
    rows: those of one epoch and the next share 0.2 of standard deviation, the rest averages to `noise`.
    """
    rng = np.random.default_rng(seed)
    rows, lines = {"epochs": EPOCHS}, []
    for unit, shape in units.items():
        own = rng.normal(0, noise * num_rows**0.5, (len(EPOCHS), num_rows))  # so that the mean has this noise
        each = shape_of(shape)[:, None] + rng.normal(0, 0.2, num_rows) + own
        rows[unit] = each.astype(np.float16)
        f1 = 0.9 - shape_of(shape) + rng.normal(0, 0.01, len(EPOCHS))
        for epoch, select, mean, score in zip(EPOCHS.tolist(), each.mean(1), shape_of(shape), f1):
            common = {"epoch": epoch, "unit": unit}
            lines += [
                common | {"split": "select", "n": num_rows, "loss": select, "task_metrics": {"macro_f1": score}},
                common | {
                    "split": "train", "n": 6000, "loss": mean - 0.001 * epoch, "task_metrics": {},
                    "grad_norm": 2 / epoch**0.5, "grad_norm_ratio": 0.1, "lr": 3e-4, "update_ratio": 1e-2 / epoch,
                    "dead_fraction": 0.002 * epoch, "weight_norm": 20.0, "nan_count": 0, "seconds": 1.0,
                },
            ]  # fmt: skip
    write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
    write_atomic(folder / ROW_LOSSES, lambda file: np.savez(file, **rows))

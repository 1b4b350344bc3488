"""Further metrics of the four tasks, from rows per sample, so that batches of any size add up.

Source: ssmo specification, section 4. The deciding metrics are those of `ssmo.tasks`.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from common.calibration import expected_calibration_error, reliability
from ssmo.tasks import Classification, Operator, Segmentation, Task

Rows = dict[str, Tensor]
BANDS = {"low": (0, 4), "mid": (5, 12), "high": (13, math.inf)}  # wave numbers, both ends included
CALIBRATION_BINS = 15
TOLERANCE = 2  # pixels by which a boundary may lie off


class Further(Protocol):
    """The further metrics of a task."""

    def rows(self, output: Tensor, target: Tensor) -> Rows:
        """What is measured of every sample of a batch, (B, …)."""

    def figures(self, rows: Rows) -> dict[str, float]:
        """Metrics of all samples."""


def further(task: Task, facts: Mapping[str, Any]) -> Further:
    """The further metrics of a task on data with these facts."""
    if isinstance(task, Classification):
        return Classes()
    if isinstance(task, Segmentation):
        names = facts.get("class_names") or [str(number) for number in range(task.num_classes)]
        return Pixels(task, list(names))
    return Fields(task, facts["periodic"]) if isinstance(task, Operator) else Forecasts()


class Classes:
    """Expected calibration error over 15 bins of equal width; the log loss is among the scores of the task."""

    def rows(self, output: Tensor, target: Tensor) -> Rows:
        return {"probability": output.softmax(1).double(), "label": target}

    def figures(self, rows: Rows) -> dict[str, float]:
        table = reliability(rows["probability"].numpy(), rows["label"].numpy(), CALIBRATION_BINS)
        return {"ece": expected_calibration_error(table)}


class Pixels:
    """IoU of every class, and F1 of the boundaries between classes where two pixels off still count as found."""

    def __init__(self, task: Segmentation, class_names: list[str]):
        self.task, self.class_names = task, class_names

    def rows(self, output: Tensor, target: Tensor) -> Rows:
        valid = self.task.valid(target)
        near = widened(valid)  # further inside what is not judged, no boundary is known
        ours, theirs = boundary(output.max(1).indices) & near, boundary(filled(target, valid)) & near
        pairs = (ours, ours & widened(theirs), theirs, theirs & widened(ours))
        confusion = [self.task.statistics(*each) for each in zip(output[:, None], target[:, None], strict=True)]
        return {
            "boundary": torch.stack([each.flatten(1).sum(1) for each in pairs], 1),
            "confusion": torch.stack(confusion),
        }

    def figures(self, rows: Rows) -> dict[str, float]:
        ours, ours_found, theirs, theirs_found = rows["boundary"].sum(0).tolist()
        precision, recall = ours_found / max(ours, 1), theirs_found / max(theirs, 1)
        confusion = rows["confusion"].sum(0)
        both = confusion.diagonal()
        iou = both / (confusion.sum(0) + confusion.sum(1) - both)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return {"boundary_f1": f1} | dict(zip((f"iou {name}" for name in self.class_names), iou.tolist(), strict=True))


class Fields:
    """Errors of fields in their own units; relative ones are divided by the norm of the truth, sample by sample.

    The spectral errors are the parts of the relative L2 error in three bands of wave numbers: their squares add up to
    its square. Derivatives for the H1 norm are central differences.
    """

    def __init__(self, task: Operator, periodic: bool):
        self.task, self.periodic = task, periodic

    def rows(self, output: Tensor, target: Tensor) -> Rows:
        output, target = self.task.fields(output).double(), self.task.fields(target).double()
        error = output - target
        rows = {"max_error": error.abs().flatten(1).amax(1)}
        rows["relative_h1"] = (self._h1(error) / self._h1(target)).sqrt()
        whole = sum(band_energy(target).values())
        return rows | {f"relative_l2 {name}": (part / whole).sqrt() for name, part in band_energy(error).items()}

    def figures(self, rows: Rows) -> dict[str, float]:
        found = {name: values.mean().item() for name, values in rows.items()}
        return found | {"max_error": rows["max_error"].max().item()}

    def _h1(self, fields: Tensor) -> Tensor:
        """(B,) mean square of a field and of its derivatives on a domain of length 1."""
        parts = [fields]
        for dim in range(2, fields.dim()):
            points = fields.shape[dim]
            if self.periodic:
                parts.append((fields.roll(-1, dim) - fields.roll(1, dim)) * points / 2)
            else:
                parts += torch.gradient(fields, spacing=1 / (points - 1), dim=dim)
        return sum(part.square().flatten(1).mean(1) for part in parts)


class Forecasts:
    """Mean squared error by quarter of the horizon and by channel."""

    def rows(self, output: Tensor, target: Tensor) -> Rows:
        return {"squares": (output - target).double() ** 2}

    def figures(self, rows: Rows) -> dict[str, float]:
        squares = rows["squares"]
        quarters = {f"mse quarter {number}": part for number, part in enumerate(squares.tensor_split(4, 1), 1)}
        channels = {f"mse channel {number}": squares[..., number] for number in range(squares.shape[2])}
        return {name: part.nanmean().item() for name, part in (quarters | channels).items()}


def band_energy(fields: Tensor) -> dict[str, Tensor]:
    """Band → (B,) sum of squared Fourier coefficients of (B, C, *grid) fields, by the length of the wave number."""
    dims = tuple(range(2, fields.dim()))
    energy = torch.fft.fftn(fields, dim=dims, norm="forward").abs().square().sum(1)
    axes = [torch.fft.fftfreq(fields.shape[dim], 1 / fields.shape[dim], device=fields.device) for dim in dims]
    length = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt().round()
    return {
        name: (energy * ((length >= low) & (length <= high))).flatten(1).sum(1) for name, (low, high) in BANDS.items()
    }


def filled(label: Tensor, valid: Tensor) -> Tensor:
    """Labels in which pixels that do not count have the class of the nearest one that does."""
    found = label.clone()
    for own, known in zip(found, valid, strict=True):
        if known.any():
            nearest = distance_transform_edt(~known.cpu().numpy(), return_distances=False, return_indices=True)
            own.copy_(own[tuple(torch.from_numpy(nearest).long().to(own.device))])
    return found


def boundary(label: Tensor) -> Tensor:
    """(B, H, W) bool: pixels whose right or lower neighbour is of another class."""
    found = torch.zeros_like(label, dtype=torch.bool)
    for dim in (1, 2):
        size = label.shape[dim] - 1
        found.narrow(dim, 0, size).logical_or_(label.narrow(dim, 0, size) != label.narrow(dim, 1, size))
    return found


def widened(mask: Tensor) -> Tensor:
    """(B, H, W) bool: pixels at most `TOLERANCE` steps, diagonal ones too, from one of the mask."""
    return functional.max_pool2d(mask[:, None].float(), 2 * TOLERANCE + 1, 1, TOLERANCE)[:, 0] > 0

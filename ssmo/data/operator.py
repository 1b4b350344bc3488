"""Pairs of fields for operator learning: solutions of three equations, and the file formats of the usual data sets.

Source: ssmo specification, section 5.2.
"""

import logging
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from common.cache import cached_arrays
from common.errors import UserError
from common.files import locate_data
from ssmo.data.base import SPLITS, Samples, Strength
from ssmo.data.field_files import Fields, read_fields
from ssmo.data.values import ValueData
from ssmo.fields import (
    binary_coefficient,
    burgers_initial,
    cosine_field,
    diagonal_forcing,
    lognormal_coefficient,
    vorticity_initial,
    wave_source,
)
from ssmo.solvers import solve_burgers, solve_darcy, solve_navier_stokes

log = logging.getLogger(__name__)

Condition = Literal["clean", "parameter_shift", "ic_shift", "resolution_shift", "weak_data", "weak_labels"]
Count = Annotated[int, Field(ge=1)]
Points = Annotated[int, Field(ge=4)]
Positive = Annotated[float, Field(gt=0)]
CHUNK = 32  # samples solved at once: larger ones are slower, for they leave the processor's cache
LOGNORMAL_SCALE = 10.0
VERSION = 1  # of the generated fields; raise it when solvers or random fields change


class OperatorData(ValueData):
    """Base of operator learning: inputs and targets are (N, C, *grid), standardised per channel over training samples.

    Condition `resolution_shift` tests on a grid `strength` times as fine, with the same mean and deviation.

    Attributes:
        num_dims: directions of the grid.
        periodic: whether the domain is a torus with points at i / N, else nodes lie at i / (N − 1).
    """

    task = "operator"
    strengths = ValueData.strengths | {"resolution_shift": 2.0}
    num_dims: Literal[1, 2]
    periodic: bool

    @abstractmethod
    def fields(self) -> dict[str, Fields]:
        """Inputs and targets of each split, (N, C, *grid) float32 in their own units."""

    def load(self) -> dict[str, Samples]:
        fields = self.fields()
        scales = [_moments(values) for values in fields["train"]]
        self.target_mean, self.target_std = (each.ravel().astype(float).tolist() for each in scales[1])
        return {
            split: Samples(*((values - mean) / std for values, (mean, std) in zip(both, scales, strict=True)))
            for split, both in fields.items()
        }

    def describe(self) -> dict[str, Any]:
        x, y = self.splits["train"].x, self.splits["train"].y
        return {
            "task": {"_target_": "ssmo.tasks.Operator", "mean": self.target_mean, "std": self.target_std},
            "in_channels": x.shape[1],
            "out_channels": y.shape[1],
            "num_dims": self.num_dims,
            "grid": list(x.shape[2:]),
            "test_grid": list(self.splits["test"].x.shape[2:]),
            "periodic": self.periodic,
        }

    def finer(self) -> int:
        """How many times as fine the test grid is.

        Raises:
            UserError: if `strength` is no whole number above 1.
        """
        if self.condition != "resolution_shift":
            return 1
        if self.strength < 2 or self.strength % 1:
            raise UserError(f"data.strength: {self.strength:g} is no finer grid; give 2 or 4 for resolution_shift.")
        return int(self.strength)


def _moments(values: np.ndarray) -> Fields:
    """(1, C, 1, …) float32 mean and deviation per channel; 1 instead of the deviation of a constant."""
    axes = (0, *range(2, values.ndim))
    mean, std = (each(axes, keepdims=True, dtype=np.float64) for each in (values.mean, values.std))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


class SolvedData(OperatorData):
    """Base of generated data: random inputs and their solutions, computed once and cached by their parameters.

    All grids are taken from one solution on `solver_points` points per direction. Conditions that change the test
    split: `ic_shift` multiplies the exponent of the random field's covariance by `strength` (below 1: rougher); others
    change parameters of the equation, as the class says.

    Args:
        num_train, num_val, num_test: samples; each split has random numbers of its own.
        points: points per direction, boundary included.
        exponent: α of the covariance of the random field.
        cache_dir: where solutions are kept.

    Raises:
        UserError: if a grid cannot be taken from the solver's at equal steps.
    """

    strengths = OperatorData.strengths | {"parameter_shift": 2.0, "ic_shift": 0.75}

    def __init__(
        self, seed: int, batch_size: int, num_workers: int, condition: str, strength: float | None, data_seed: int,
        num_train: int, num_val: int, num_test: int, points: int, solver_points: int, exponent: float, cache_dir: str,
    ):  # fmt: skip
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed)
        self.counts = dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
        self.points, self.solver_points, self.exponent, self.cache_dir = points, solver_points, exponent, cache_dir
        for split in SPLITS:
            self._stride(split)

    @abstractmethod
    def parameters(self, split: str) -> dict[str, Any]:
        """What the fields of a split depend on, as plain values."""

    @abstractmethod
    def solve(self, count: int, parameters: dict[str, Any], generator: Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (count, C, *grid) on the solver's grid."""

    def fields(self) -> dict[str, Fields]:
        return {split: self._cached(split) for split in SPLITS}

    def shifted(self, split: str, condition: str) -> bool:
        """Whether this condition changes this split."""
        return split == "test" and self.condition == condition

    def factor(self, split: str, condition: str) -> float:
        """By how much this condition changes a parameter in this split."""
        return self.strength if self.shifted(split, condition) else 1.0

    def _stride(self, split: str) -> int:
        ends = 0 if self.periodic else 1
        steps = (self.points - ends) * (self.finer() if split == "test" else 1)
        stride, rest = divmod(self.solver_points - ends, steps)
        if rest or not stride:
            raise UserError(
                f"data.points: a {split} grid of {steps + ends} points cannot be taken from "
                f"data.solver_points={self.solver_points}; make that {steps * max(1, stride) + ends}."
            )
        return stride

    def _cached(self, split: str) -> Fields:
        exponent, stride = self.exponent * self.factor(split, "ic_shift"), self._stride(split)
        parameters = self.parameters(split) | {"exponent": exponent}
        key = parameters | {
            "dataset": self.dataset, "version": VERSION, "solver_points": self.solver_points, "stride": stride,
            "count": self.counts[split], "data_seed": self.data_seed, "split": split,
        }  # fmt: skip
        key = {name: repr(value) for name, value in key.items()}
        arrays = cached_arrays(Path(self.cache_dir), key, lambda: self._compute(split, parameters, stride))
        return arrays["x"], arrays["y"]

    def _compute(self, split: str, parameters: dict[str, Any], stride: int) -> dict[str, np.ndarray]:
        log.info(f"{self.dataset}: solving {self.counts[split]} {split} samples, once")
        generator = Generator().manual_seed(self.data_seed * len(SPLITS) + SPLITS.index(split))
        grid = (..., *[slice(None, None, stride)] * self.num_dims)
        chunks = []
        for first in range(0, self.counts[split], CHUNK):
            pair = self.solve(min(CHUNK, self.counts[split] - first), parameters, generator)
            chunks.append([values[grid].float() for values in pair])
        x, y = (torch.cat(side).numpy() for side in zip(*chunks, strict=True))
        return {"x": x, "y": y}


class Burgers(SolvedData):
    """u(x, 0) → u(x, 1) of the viscous Burgers equation on the periodic unit interval.

    Condition `parameter_shift`: training viscosity is uniform in [ν, 2ν], the test has ν / strength and 2ν · strength
    in turn; viscosity is a second, constant input channel then.

    Args:
        viscosity: ν.
        dt: time step of the solver.
    """

    dataset, num_dims, periodic = "burgers", 1, True

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Annotated[int, Field(ge=0)],
        condition: Condition,
        strength: Strength | None,
        data_seed: Annotated[int, Field(ge=0)],
        num_train: Count,
        num_val: Count,
        num_test: Count,
        points: Points,
        solver_points: Points,
        exponent: Positive,
        cache_dir: str,
        viscosity: Positive,
        dt: Positive,
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, num_train, num_val, num_test, points,
            solver_points, exponent, cache_dir,
        )  # fmt: skip
        self.viscosity, self.dt = viscosity, dt

    def parameters(self, split: str) -> dict[str, Any]:
        low, high = self.viscosity, self.viscosity * (2 if self.condition == "parameter_shift" else 1)
        shift = self.factor(split, "parameter_shift")
        return {"low": low / shift, "high": high * shift, "only_ends": shift != 1, "dt": self.dt}

    def solve(self, count: int, parameters: dict[str, Any], generator: Generator) -> tuple[Tensor, Tensor]:
        u0 = burgers_initial(count, self.solver_points, generator, exponent=parameters["exponent"])
        low, high = parameters["low"], parameters["high"]
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        viscosity = low + (high - low) * (torch.arange(count) % 2 if parameters["only_ends"] else share)
        u = solve_burgers(u0, viscosity, t_end=1.0, dt=parameters["dt"])
        channels = [u0] if low == high else [u0, viscosity[:, None].expand_as(u0)]
        return torch.stack(channels, 1), u[:, None]


class Darcy(SolvedData):
    """Permeability → pressure of Darcy flow on the unit square, for a source of 1.

    Conditions: `parameter_shift`, the inverse correlation length τ of the test's permeability is `strength` times as
    large; `source_shift`, its source is 1 + strength · sin πx; `coefficient_shift`, its permeability is
    exp(strength · g) of the random field g.

    Args:
        tau: τ.
        coefficient: permeabilities 3 and 12 where g is below and above 0, or exp(10 g).

    Raises:
        UserError: under `coefficient_shift` if the coefficient is log-normal already.
    """

    dataset, num_dims, periodic = "darcy", 2, False
    strengths = SolvedData.strengths | {"source_shift": 1.0, "coefficient_shift": LOGNORMAL_SCALE}

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Annotated[int, Field(ge=0)],
        condition: Literal[Condition, "source_shift", "coefficient_shift"],
        strength: Strength | None,
        data_seed: Annotated[int, Field(ge=0)],
        num_train: Count,
        num_val: Count,
        num_test: Count,
        points: Points,
        solver_points: Points,
        exponent: Positive,
        cache_dir: str,
        tau: Positive,
        coefficient: Literal["binary", "lognormal"],
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, num_train, num_val, num_test, points,
            solver_points, exponent, cache_dir,
        )  # fmt: skip
        self.tau, self.coefficient = tau, coefficient
        if condition == "coefficient_shift" and coefficient != "binary":
            raise UserError(f"data.coefficient={coefficient}: coefficient_shift trains on binary and tests lognormal.")

    def parameters(self, split: str) -> dict[str, Any]:
        found = {"tau": self.tau * self.factor(split, "parameter_shift"), "coefficient": self.coefficient}
        if self.shifted(split, "coefficient_shift"):
            found |= {"coefficient": "lognormal", "scale": self.strength}
        return found | ({"wave": self.strength} if self.shifted(split, "source_shift") else {})

    def solve(self, count: int, parameters: dict[str, Any], generator: Generator) -> tuple[Tensor, Tensor]:
        field = cosine_field(
            count, self.solver_points, generator, tau=parameters["tau"], exponent=parameters["exponent"]
        )
        binary, scale = parameters["coefficient"] == "binary", parameters.get("scale", LOGNORMAL_SCALE)
        a = binary_coefficient(field) if binary else lognormal_coefficient(field, scale)
        return a[:, None], solve_darcy(a, wave_source(self.solver_points, parameters.get("wave", 0.0)))[:, None]


class NavierStokes(SolvedData):
    """ω(0) → ω(T) of the two-dimensional Navier-Stokes equation on the unit torus, forced along the diagonal.

    Conditions: `parameter_shift`, the viscosity of the test is divided by `strength`; `forcing_shift`, its forcing is
    `strength` times as strong.

    Args:
        viscosity: ν.
        t_end: T.
        variance: σ² of the initial vorticity's covariance σ² (−Δ + 49)^−α.
        forcing: amplitude of the forcing.
        dt: time step of the solver.
    """

    dataset, num_dims, periodic = "navier_stokes", 2, True
    strengths = SolvedData.strengths | {"forcing_shift": 1.5}

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Annotated[int, Field(ge=0)],
        condition: Literal[Condition, "forcing_shift"],
        strength: Strength | None,
        data_seed: Annotated[int, Field(ge=0)],
        num_train: Count,
        num_val: Count,
        num_test: Count,
        points: Points,
        solver_points: Points,
        exponent: Positive,
        cache_dir: str,
        viscosity: Positive,
        t_end: Positive,
        variance: Positive,
        forcing: Annotated[float, Field(ge=0)],
        dt: Positive,
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, num_train, num_val, num_test, points,
            solver_points, exponent, cache_dir,
        )  # fmt: skip
        self.viscosity, self.t_end, self.variance, self.forcing, self.dt = viscosity, t_end, variance, forcing, dt

    def parameters(self, split: str) -> dict[str, Any]:
        return {
            "viscosity": self.viscosity / self.factor(split, "parameter_shift"), "t_end": self.t_end,
            "variance": self.variance, "forcing": self.forcing * self.factor(split, "forcing_shift"), "dt": self.dt,
        }  # fmt: skip

    def solve(self, count: int, parameters: dict[str, Any], generator: Generator) -> tuple[Tensor, Tensor]:
        points = self.solver_points
        w0 = vorticity_initial(
            count, points, generator, exponent=parameters["exponent"], variance=parameters["variance"]
        )
        force = diagonal_forcing(points, parameters["forcing"])
        w = solve_navier_stokes(w0, parameters["viscosity"], parameters["t_end"], force, parameters["dt"])
        return w0[:, None], w[:, None]


class FieldFile(OperatorData):
    """Fields in a file: MATLAB with `a` and `u`, a torch dict with `x` and `y`, or PDEBench HDF5 with `tensor`.

    Rows follow one another: training, validation, test, unless the test has a file of its own. Where targets have an
    axis of time, the last one counts; PDEBench's input is the first time, or `nu` where there is one.

    Args:
        path, test_path: .mat, .pt, .h5 or .hdf5 files, relative to `data_dir` or the current directory.
        num_dims, periodic: of the domain; no format tells.
        stride: every how many points are used.
        test_stride: the same for the test; None for `stride`, over `strength` under `resolution_shift`.
    """

    data_source = "real"

    def __init__(
        self,
        seed: int,
        batch_size: Count,
        num_workers: Annotated[int, Field(ge=0)],
        condition: Literal["clean", "resolution_shift", "weak_data", "weak_labels"],
        strength: Strength | None,
        data_seed: Annotated[int, Field(ge=0)],
        num_train: Count,
        num_val: Count,
        num_test: Count,
        path: str,
        test_path: str | None,
        num_dims: Literal[1, 2],
        periodic: bool,
        stride: Count,
        test_stride: Count | None,
        data_dir: str | None,
    ):
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed)
        self.counts = (num_train, num_val, num_test)
        self.path, self.test_path, self.data_dir = path, test_path, data_dir
        self.num_dims, self.periodic, self.stride = num_dims, periodic, stride
        self.test_stride = test_stride or stride // self.finer()
        if test_stride is None and stride % self.finer():
            raise UserError(
                f"data.stride: {stride} is no multiple of {self.finer()}, by which the test grid is finer; "
                "give data.test_stride."
            )
        self.dataset = Path(path).stem.lower()

    def fields(self) -> dict[str, Fields]:
        train, val, test = self.counts
        after = 0 if self.test_path else train + val
        found = {
            "train": self._read(self.path, slice(0, train), self.stride),
            "val": self._read(self.path, slice(train, train + val), self.stride),
            "test": self._read(self.test_path or self.path, slice(after, after + test), self.test_stride),
        }
        grids = [found[split][0].shape[2:] for split in ("train", "test")]
        if self.condition != "resolution_shift" and grids[0] != grids[1]:
            raise UserError(
                f"data.test_path: the test grid is {grids[1]}, that of training {grids[0]}; "
                "choose data.condition=resolution_shift or another data.test_stride."
            )
        return found

    def _read(self, path: str, rows: slice, stride: int) -> Fields:
        return read_fields(locate_data(path, self.data_dir), rows, self.num_dims, stride)

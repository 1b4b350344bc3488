"""Inputs and solutions in the file formats of the usual operator data sets.

Source: ssmo specification, section 5.2.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch

from common.errors import UserError

Fields = tuple[np.ndarray, np.ndarray]


def read_fields(file: Path, rows: slice, num_dims: int, stride: int) -> Fields:
    """Inputs and targets, (N, C, *grid) float32, every `stride`-th point of the samples `rows`.

    `.mat` holds `a` and `u` (version 5 or 7.3), `.pt` a dict of `x` and `y`, `.h5` or `.hdf5` PDEBench's `tensor`
    (N, T, *grid) and perhaps `nu`. The last time of targets that have one more axis than inputs counts.

    Raises:
        UserError: for another format, missing keys, too few samples, axes that do not fit, or values that are not
            finite.
    """
    readers = {".mat": _matlab, ".pt": _torch, ".h5": _pdebench, ".hdf5": _pdebench}
    if file.suffix not in readers:
        raise UserError(f"{file}: is of no known format; give one of {', '.join(readers)}.")
    x, y = readers[file.suffix](file, rows)
    if y.ndim == x.ndim + 1:
        y = y[:, -1]
    grid = (..., *[slice(None, None, stride)] * num_dims)
    x, y = (_with_channel(file, values, num_dims)[grid].astype(np.float32) for values in (x, y))
    if x.shape[2:] != y.shape[2:]:
        raise UserError(f"{file}: inputs have the grid {x.shape[2:]}, targets {y.shape[2:]}; they must be equal.")
    _require_finite(file, rows.start, x, y)
    return x, y


def _matlab(file: Path, rows: slice) -> Fields:
    try:
        content = scipy.io.loadmat(file, variable_names=["a", "u"])
    except NotImplementedError:  # what scipy says of version 7.3, which is HDF5 with the axes reversed
        with _hdf5(file) as content:
            content = {name: values[()].T for name, values in content.items() if name in ("a", "u")}
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{file}: is no MATLAB file ({error}); save it again or choose another.") from None
    return _rows(file, content, ("a", "u"), rows)


def _torch(file: Path, rows: slice) -> Fields:
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: is no torch file of plain tensors ({reason}); save a dict of tensors.") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}; save a dict of tensors x and y.")
    tensors = {name: values.numpy() for name, values in content.items() if isinstance(values, torch.Tensor)}
    return _rows(file, tensors, ("x", "y"), rows)


def _pdebench(file: Path, rows: slice) -> Fields:
    with _hdf5(file) as content:
        names = ("nu", "tensor") if "nu" in content else ("tensor",)
        _require(file, content, names, rows)
        solution = content["tensor"]  # read where it is needed: all times of all samples are gigabytes
        return (content["nu"][rows] if "nu" in content else solution[rows, 0]), solution[rows, -1]


@contextmanager
def _hdf5(file: Path) -> Iterator[Any]:
    try:
        import h5py  # comes with neuraloperator, not with this project
    except ImportError:
        raise UserError(f"{file}: is an HDF5 file, and h5py is not installed; `pip install h5py` reads it.") from None
    try:
        content = h5py.File(file)
    except OSError as error:
        raise UserError(f"{file}: is no HDF5 file ({error}); download it again.") from None
    with content:
        yield content


def _rows(file: Path, content: Any, names: tuple[str, str], rows: slice) -> Fields:
    _require(file, content, names, rows)
    return tuple(content[name][rows] for name in names)


def _require(file: Path, content: Any, names: tuple[str, ...], rows: slice) -> None:
    missing = [name for name in names if name not in content]
    if missing:
        known = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise UserError(f"{file}: has no {' and no '.join(missing)}, only {known}; choose another file.")
    count = min(len(content[name]) for name in names)
    if rows.stop > count:
        raise UserError(
            f"{file}: holds {count} samples, {rows.start} to {rows.stop} are asked for; lower data.num_train, "
            "data.num_val or data.num_test."
        )


def _with_channel(file: Path, values: np.ndarray, num_dims: int) -> np.ndarray:
    if values.ndim == num_dims + 1:
        return values[:, None]
    if values.ndim == num_dims + 2:
        return values
    raise UserError(
        f"{file}: fields have the axes {values.shape[1:]}, which do not fit data.num_dims={num_dims}; change that."
    )


def _require_finite(file: Path, first: int, *fields: np.ndarray) -> None:
    for values in fields:
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        if len(bad):
            raise UserError(f"{file}: sample {first + bad[0]} is not finite ({len(bad)} such samples); leave it out.")

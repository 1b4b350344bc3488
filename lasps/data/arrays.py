"""Reading the array format of lasps (specification, section 5), with every check.

A folder with `train`, `val` and `test`, each holding `time_series.npy` (N, 60, 25 or 28), `sector_ids.npy`,
`labels.npy`, perhaps `metadata.csv`, `returns.npy`, and charts as `chart_images.npy` or `charts/000000.png`; above them
`sectors.json` and `manifest.json`.
"""

import hashlib
import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.files import hash_record
from lasps.data.dataset import StockDataset
from lasps.data.sectors import SectorScheme
from lasps.data.windows import WINDOW

log = logging.getLogger(__name__)

NUM_FEATURES = {25: "v1", 28: "v2"}
IMAGE_SHAPE = (3, 224, 224)
LONGEST_HORIZON_DAYS = 14  # calendar days that five sessions span at most, the longest holiday closure included
CHECK_ROWS = 4096


class ArrayDataset(StockDataset):
    """The windows of one split folder, memory-mapped.

    Args:
        folder: holds the files of the split.
        num_sectors: number of sectors of the scheme.
        stored_charts: read charts from the folder; otherwise they are drawn from the series.

    Raises:
        UserError: naming file, row and column of what is missing, misshapen, out of range or not finite.
    """

    def __init__(self, folder: Path, num_sectors: int, stored_charts: bool):
        self.folder = folder
        labels = _integers(folder / "labels.npy", 0, 2, "labels are 0 sell, 1 hold, 2 buy")
        sectors = _integers(folder / "sector_ids.npy", 0, num_sectors - 1, f"sectors.json names {num_sectors}")
        count = len(labels)
        _same_length(folder / "sector_ids.npy", len(sectors), count)
        self.table = _open(folder / "time_series.npy", count, [(WINDOW, 25), (WINDOW, 28)])
        self.feature_version = NUM_FEATURES[self.table.shape[2]]
        _check_finite(folder / "time_series.npy", self.table)
        meta = _read_metadata(folder, count)
        if self.feature_version == "v1" and meta is None:
            raise UserError(f"{folder}: 25 features need metadata.csv, from whose dates the calendar columns come.")
        returns = folder / "returns.npy"
        super().__init__(
            labels,
            sectors,
            codes=None if meta is None else meta.stock_code.to_numpy(dtype=str),
            date=None if meta is None else meta.date.to_numpy().astype("datetime64[D]"),
            label_end=None if meta is None else meta.label_end.to_numpy().astype("datetime64[D]"),
            forward_return=_open(returns, count, [()]) if returns.is_file() else None,
        )
        self.rows = np.arange(count)
        self.chart_idx = np.arange(count) if meta is None else meta.chart_idx.to_numpy()
        self.images = self._open_images(count) if stored_charts else None
        self.calendar = None if self.feature_version == "v2" else _calendar(self.date)
        self.charts_stored = stored_charts
        if stored_charts and count:
            self._check_images()

    def keep(self, chosen: np.ndarray) -> None:
        """Leave only the samples at `chosen` in the data set; the files stay as they are."""
        for name in ("labels", "sector_ids", "codes", "date", "label_end", "forward_return", "rows", "chart_idx",
                     "calendar"):  # fmt: skip
            value = getattr(self, name)
            setattr(self, name, None if value is None else value[chosen])

    def series(self, index: int | np.ndarray) -> np.ndarray:
        raw = np.array(self.table[self.rows[index]])
        if self.calendar is None:
            return raw
        calendar = np.broadcast_to(self.calendar[index][..., None, :], (*raw.shape[:-1], 3))
        return np.concatenate([raw, calendar], axis=-1)  # the date of t on all rows, as version 1 was trained

    def chart(self, index: int | np.ndarray) -> Tensor | None:
        if not self.charts_stored:
            return None
        if self.images is not None:
            return torch.from_numpy(np.array(self.images[self.rows[index]]))
        numbers = self.chart_idx[index]
        return _read_png(self.folder, numbers) if np.ndim(numbers) == 0 else torch.stack(
            [_read_png(self.folder, number) for number in numbers]
        )  # fmt: skip

    def _open_images(self, count: int) -> np.ndarray | None:
        path = self.folder / "chart_images.npy"
        if path.is_file():
            return _open(path, count, [IMAGE_SHAPE])
        if not (self.folder / "charts").is_dir():
            raise UserError(
                f"{self.folder}: neither chart_images.npy nor charts/; pass data.charts=drawn to draw them."
            )
        for number in self.chart_idx:
            if not (self.folder / "charts" / f"{number:06d}.png").is_file():
                raise UserError(f"{self.folder}/charts/{number:06d}.png: missing image; pass data.charts=drawn.")
        return None

    def _check_images(self) -> None:
        sampled = np.unique(np.linspace(0, len(self) - 1, 16).astype(int))
        constant = [index for index in sampled if self.chart(int(index)).std() == 0]
        if len(constant) == len(sampled):
            raise UserError(f"{self.folder}: all sampled chart images are constant; pass data.charts=drawn.")
        if constant:
            raise UserError(f"{self.folder}: chart image of row {constant[0]} is constant; pass data.charts=drawn.")


def read_arrays(path: Path, stored_charts: bool) -> tuple[dict[str, ArrayDataset], SectorScheme]:
    """The three data sets below `path` and what their sector ids mean.

    Raises:
        UserError: for anything the checks of section 5 find.
    """
    if not path.is_dir():
        raise UserError(f"data.path={path}: no such folder; it should hold train, val and test.")
    scheme = SectorScheme.load(path / "sectors.json")
    datasets = {name: ArrayDataset(path / name, len(scheme), stored_charts) for name in ("train", "val", "test")}
    versions = {name: data.feature_version for name, data in datasets.items()}
    if len(set(versions.values())) > 1:
        raise UserError(f"{path}: splits of different feature versions: {versions}; export them alike.")
    return datasets, scheme


def purge(datasets: dict[str, ArrayDataset], embargo: int) -> int:
    """Drop windows whose label is decided in the next split or within `embargo` sessions before it; returns how many.

    Raises:
        UserError: if the dates of two splits overlap, or a split is empty afterwards.
    """
    dropped = 0
    names = list(datasets)
    for name, later in pairwise(names):
        data, start = datasets[name], datasets[later].date.min()
        if data.date.max() >= start:
            row = int(np.argmax(data.date >= start))
            raise UserError(
                f"{data.folder}/metadata.csv row {row + 1}, date {data.date[row]}: not before {later} ({start})."
            )
        kept = np.flatnonzero(np.busday_offset(data.label_end, embargo, roll="forward") < start)
        dropped += len(data) - len(kept)
        if not len(kept):
            raise UserError(f"{data.folder}: empty after purging labels that end within {embargo} sessions of {start}.")
        data.keep(kept)
    return dropped


def _open(path: Path, count: int, shapes: list[tuple[int, ...]]) -> np.ndarray:
    """(count, *shape) float32, memory-mapped, for the shape that fits; with an npy header or raw."""
    if not path.is_file():
        raise UserError(f"{path}: missing.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return _open_raw(path, count, shapes)
    _same_length(path, len(array) if array.ndim else 0, count)
    if array.shape[1:] not in shapes:
        if array.shape[1:] == (WINDOW, 29):
            raise UserError(f"{path}: 29 features are the abandoned variant with sine and cosine dates; export again.")
        expected = " or ".join(str((count, *shape)) for shape in shapes)
        raise UserError(f"{path}: shape {array.shape}, expected {expected}.")
    if array.dtype.kind != "f":
        raise UserError(f"{path}: type {array.dtype}, expected float32.")
    return array


def _open_raw(path: Path, count: int, shapes: list[tuple[int, ...]]) -> np.ndarray:
    size = path.stat().st_size
    for shape in shapes:
        if size == count * int(np.prod(shape)) * 4:
            return np.memmap(path, np.float32, "r", shape=(count, *shape))
    expected = " or ".join(str(count * int(np.prod(shape)) * 4) for shape in shapes)
    raise UserError(f"{path}: {size} bytes without an npy header, expected {expected} for {count} samples.")


def _integers(path: Path, low: int, high: int, meaning: str) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: missing.")
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{path}: not an npy file ({str(error).splitlines()[0]}).") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{path}: shape {array.shape} of {array.dtype}, expected (N,) of integers.")
    wrong = (array < low) | (array > high)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"{path} row {row}: {array[row]} is not in {low}…{high}; {meaning} ({wrong.sum()} such rows).")
    return array.astype(np.int64)


def _same_length(path: Path, count: int, expected: int) -> None:
    if count != expected:
        raise UserError(f"{path}: {count} samples, labels.npy has {expected}.")


def _check_finite(path: Path, table: np.ndarray) -> None:
    for start in range(0, len(table), CHECK_ROWS):
        wrong = ~np.isfinite(table[start : start + CHECK_ROWS])
        if wrong.any():
            row, session, column = np.argwhere(wrong)[0]
            value = table[start + row, session, column]
            raise UserError(f"{path} row {start + row}, session {session}, column {column}: {value} is not finite.")


def _read_metadata(folder: Path, count: int) -> pd.DataFrame | None:
    path = folder / "metadata.csv"
    if not path.is_file():
        log.warning(f"{folder}: no metadata.csv: no dates, so nothing is purged and nothing can be judged by date")
        return None
    meta = pd.read_csv(path, dtype={"stock_code": str})
    for column in ("stock_code", "date", "chart_idx"):
        if column not in meta:
            raise UserError(f"{path}: no column {column}; it has {', '.join(meta.columns)}.")
    _same_length(path, len(meta), count)
    meta["date"] = pd.to_datetime(meta.date, errors="coerce")
    short = meta.stock_code.str.fullmatch(r"\d{1,5}").fillna(True)
    problems = (
        ("date", meta.date.isna(), "no ISO date"),
        ("stock_code", short, "a stock code without its leading zeros; write codes as text of six characters"),
        ("date", meta.duplicated(["stock_code", "date"]), "a repeated (stock_code, date)"),
    )
    for column, wrong, what in problems:
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise UserError(f"{path} row {row + 1}, {column} {meta[column][row]}: {what} ({wrong.sum()} such rows).")
    if sorted(meta.chart_idx) != list(range(count)):
        raise UserError(f"{path}: chart_idx is not a permutation of 0…{count - 1}.")
    if "label_end_date" in meta:
        meta["label_end"] = pd.to_datetime(meta.label_end_date)
    else:
        meta["label_end"] = meta.date + pd.Timedelta(days=LONGEST_HORIZON_DAYS)
    return meta


def _calendar(date: np.ndarray) -> np.ndarray:
    days = pd.DatetimeIndex(date)
    return np.stack([days.weekday / 4, days.month / 12, days.day / 31], axis=1).astype(np.float32)


def _read_png(folder: Path, number: int) -> Tensor:
    path = folder / "charts" / f"{number:06d}.png"
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: unreadable image ({str(error).splitlines()[0]}).") from None
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)


def identity(path: Path) -> str:
    """Hash of all files below `path`: of their content, for chart images, which can be 700 GB, of size and time."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    images = [file for file in files if file.suffix == ".png" or file.stem == "chart_images"]
    content = [[str(file.relative_to(path)), sha256(file)] for file in files if file not in set(images)]
    stats = [(file, file.stat()) for file in images]
    return hash_record(
        [content, [[str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns] for file, stat in stats]]
    )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

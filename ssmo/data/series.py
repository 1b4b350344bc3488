"""Windows of multivariate time series: a simulated one, and the CSV files of the usual benchmarks.

Source: ssmo specification, section 5.3.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from common.errors import UserError
from common.files import locate_data
from ssmo.data.base import SPLITS, Samples, Strength
from ssmo.data.values import ValueData

Condition = Literal[
    "clean", "temporal_shift", "sub_period", "missing", "missing_blocks", "weak_data", "weak_labels"
]  # fmt: skip
Steps = Annotated[int, Field(ge=1)]
Months = list[Annotated[int, Field(ge=1, le=12)]]
ETT_CHANNELS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
BLOCK = (6, 24)  # shortest and longest gap in steps


@dataclass
class Series:
    """A series and where its splits end.

    Attributes:
        values: (T, C) float64, in its own units.
        channels: their C names.
        dates: (T,) datetime64, or None where the source has none.
        ends: rows before which training, validation and test end.
    """

    values: np.ndarray
    channels: list[str]
    dates: np.ndarray | None
    ends: tuple[int, int, int]


class Windows:
    """Pieces of a series, cut when they are asked for: row i is `values[start[i] : start[i] + length]`."""

    def __init__(self, values: np.ndarray, start: np.ndarray, length: int):
        self.values, self.start, self.length = values, start, length

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.values[self.start[index][:, None] + np.arange(self.length)]


class GappyWindows(Windows):
    """Windows with missing values, each imputed by the one seen last, or 0, the training mean, before the first.

    Which values of a window are missing depends on `key` and the window's number alone.

    Args:
        rate: expected share of missing values.
        blocks: whether they are missing in runs of 6 to 24 steps.
    """

    def __init__(self, values: np.ndarray, start: np.ndarray, length: int, rate: float, blocks: bool, key: list[int]):
        super().__init__(values, start, length)
        self.rate, self.draw, self.key = rate, draw_blocks if blocks else draw_points, key

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        shape = (self.length, self.values.shape[1])
        missing = [self.draw(shape, self.rate, np.random.default_rng([*self.key, number])) for number in index]
        return fill_forward(super().__getitem__(index), np.stack(missing))


def draw_points(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> np.ndarray:
    """(L, C) bool, each true with probability `rate`."""
    return rng.random(shape) < rate


def draw_blocks(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> np.ndarray:
    """(L, C) bool, true in runs of 6 to 24 steps per channel; a share `rate` of all is true, up to a hundredth.

    A gap may begin before the window, so that its first steps are missing as often as the others.
    """
    shortest, longest = BLOCK
    steps, channels = shape[0] + longest - 1, shape[1]
    # gaps begin independently, so a step is in none of them with probability exp(−rate of starts × mean length)
    starts = rng.random((steps, channels)) < -np.log1p(-rate) / ((shortest + longest) / 2)
    step = np.arange(steps)[:, None]
    end = np.where(starts, step + rng.integers(shortest, longest + 1, (steps, channels)), 0)
    return (np.maximum.accumulate(end) > step)[longest - 1 :]


def fill_forward(windows: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """(B, L, C) windows whose missing values are the last that was not, or 0 where there is none before."""
    seen = np.where(missing, -1, np.arange(windows.shape[1])[:, None])
    last = np.maximum.accumulate(seen, axis=1)
    filled = np.take_along_axis(windows, last.clip(0), axis=1)
    return np.where(last < 0, windows.dtype.type(0), filled)


class WindowSamples(Samples):
    """Samples that are windows of one series."""

    def arrays(self) -> list[np.ndarray]:
        """The series, where its windows begin, and some of them as they are seen: all would not fit into memory."""
        extra = [each for each in (self.y_weak, self.taught_weak) if each is not None]
        return [self.x.values, self.x.start, self.y.start, self.x[np.arange(min(64, len(self)))], *extra]


class SeriesData(ValueData):
    """Base of forecasting data: `input_length` standardised steps in, the next `horizon` out.

    Targets tile each split: the inputs of its first windows reach back into the split before. Mean and deviation are
    those of all training rows under every condition, so that errors have one unit.

    Conditions: `temporal_shift` trains on the first `strength` of the training rows; `sub_period` on windows whose
    targets begin in `months`; `missing` and `missing_blocks` drop the share `strength` of the inputs, never of the
    targets, in all splits, single values or runs of 6 to 24 steps.
    """

    task = "time_series"
    strengths = ValueData.strengths | {"temporal_shift": 0.6, "missing": 0.3, "missing_blocks": 0.3}

    def __init__(
        self, seed: int, batch_size: int, num_workers: int, condition: str, strength: float | None, data_seed: int,
        input_length: int, horizon: int, months: list[int],
    ):  # fmt: skip
        super().__init__(seed, batch_size, num_workers, condition, strength, data_seed)
        self.input_length, self.horizon, self.months = input_length, horizon, months
        if condition in ("temporal_shift", "missing", "missing_blocks") and self.strength >= 1:
            raise UserError(f"data.strength: {self.strength:g} is no share for {condition}; give one below 1.")

    @abstractmethod
    def read(self) -> Series:
        """The whole series."""

    def load(self) -> dict[str, Samples]:
        series = self.read()
        self.channels = series.channels
        train = series.values[: series.ends[0]]
        std = train.std(0)
        values = ((series.values - train.mean(0)) / np.where(std > 0, std, 1)).astype(np.float32)
        begins = (self.input_length, *series.ends[:2])
        return {
            split: self._windows(split, values, self._targets(split, begin, end, series.dates))
            for split, begin, end in zip(SPLITS, begins, series.ends, strict=True)
        }

    def _targets(self, split: str, begin: int, end: int, dates: np.ndarray | None) -> np.ndarray:
        """(N,) rows at which the targets of a split's windows begin."""
        rows = end
        if split == "train" and self.condition == "temporal_shift":
            end = round(self.strength * end)
        start = np.arange(max(begin, self.input_length), end - self.horizon + 1)
        if split == "train" and self.condition == "sub_period":
            start = start[np.isin(self._month(dates)[start], self.months)]
        if not len(start):
            raise UserError(
                f"{self.dataset}: the {split} split has no window of {self.input_length} + {self.horizon} steps under "
                f"{self.condition} (it ends at row {rows}); use shorter windows, a longer series or other months."
            )
        return start

    def _month(self, dates: np.ndarray | None) -> np.ndarray:
        if dates is None:
            raise UserError(f"{self.dataset}: has no dates, as condition=sub_period needs; use another condition.")
        return dates.astype("datetime64[M]").astype(np.int64) % 12 + 1

    def _windows(self, split: str, values: np.ndarray, target: np.ndarray) -> Samples:
        start, length = target - self.input_length, self.input_length
        x = Windows(values, start, length)
        if self.condition in ("missing", "missing_blocks"):
            key = [self.data_seed, SPLITS.index(split), 5]
            x = GappyWindows(values, start, length, self.strength, self.condition == "missing_blocks", key)
        return WindowSamples(x, Windows(values, target, self.horizon))

    def describe(self) -> dict[str, Any]:
        return {
            "task": {"_target_": "ssmo.tasks.Series"},
            "input_length": self.input_length,
            "horizon": self.horizon,
            "num_channels": len(self.channels),
            "channels": self.channels,
        }


class SyntheticSeries(SeriesData):
    """Seven hourly channels with a daily and a weekly rhythm, trend, coloured noise and two lagged couplings.

    Args:
        num_steps: hours; 70 % train, 10 % validation, 20 % test.
    """

    dataset = "synth_multi"

    def __init__(
        self,
        seed: int,
        batch_size: Steps,
        num_workers: Annotated[int, Field(ge=0)],
        condition: Condition,
        strength: Strength | None,
        data_seed: Annotated[int, Field(ge=0)],
        input_length: Steps,
        horizon: Steps,
        months: Months,
        num_steps: Steps,
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, input_length, horizon, months
        )  # fmt: skip
        self.num_steps = num_steps

    def read(self) -> Series:
        values = simulate_series(self.num_steps, np.random.default_rng([self.data_seed, 6]))
        dates = np.datetime64("2020-01-01T00", "h") + np.arange(self.num_steps)
        return Series(values, [f"channel_{number}" for number in range(values.shape[1])], dates, by_shares(len(values)))


class CsvSeries(SeriesData):
    """A series in a CSV file: a column of dates and numeric ones, or numbers only and no header.

    Args:
        path: the file, relative to `data_dir` or the current directory.
        split: `ett` is 12, 4 and 4 months of 30 days, `shares` 70, 10 and 20 %; `auto` tells ETT by its columns.
    """

    data_source = "real"

    def __init__(
        self,
        seed: int,
        batch_size: Steps,
        num_workers: Annotated[int, Field(ge=0)],
        condition: Condition,
        strength: Strength | None,
        data_seed: Annotated[int, Field(ge=0)],
        input_length: Steps,
        horizon: Steps,
        months: Months,
        path: str,
        split: Literal["auto", "ett", "shares"],
        data_dir: str | None,
    ):
        super().__init__(
            seed, batch_size, num_workers, condition, strength, data_seed, input_length, horizon, months
        )  # fmt: skip
        self.path, self.split, self.data_dir = path, split, data_dir
        self.dataset = Path(path).stem.lower()

    def read(self) -> Series:
        file = locate_data(self.path, self.data_dir)
        values, channels, dates = read_table(file)
        ett = self.split == "ett" or (self.split == "auto" and channels == ETT_CHANNELS)
        return Series(values, channels, dates, by_months(file, dates) if ett else by_shares(len(values)))


def by_shares(num_rows: int) -> tuple[int, int, int]:
    """Ends of 70, 10 and 20 % of the rows, rounded as published benchmarks do."""
    train, test = int(num_rows * 0.7), int(num_rows * 0.2)
    return train, num_rows - test, num_rows


def by_months(file: Path, dates: np.ndarray | None) -> tuple[int, int, int]:
    """Ends of 12, 4 and 4 months of 30 days, the rest unused: the official split of the ETT series.

    Raises:
        UserError: if there are no dates or fewer rows.
    """
    if dates is None or len(dates) < 2:
        raise UserError(f"{file}: has no dates, as split=ett needs; use split=shares.")
    month = round(np.timedelta64(30, "D") / (dates[1] - dates[0]))
    if len(dates) < 20 * month:
        raise UserError(f"{file}: {len(dates)} rows are no 20 months of {month} rows; use split=shares.")
    return 12 * month, 16 * month, 20 * month


def read_table(file: Path) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    """(T, C) float64 values, the channels' names, and (T,) datetime64[s] dates or None.

    Raises:
        UserError: naming row and column of what is no number or no date, or of a date that goes back.
    """
    with open(file, encoding="utf-8", errors="replace") as lines:
        headless = _is_number(lines.readline().split(",")[0])
    try:
        table = pd.read_csv(file, header=None if headless else 0, dtype=str, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: is no CSV table ({str(error).strip()}); give rows of equally many values.") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus columns for an index
        raise UserError(f"{file}: row 2 has more values than the header has names; name every column.")
    first_row = 1 if headless else 2
    dates = None if headless else _dates(file, table.pop(table.columns[0]), first_row)
    numbers = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        row, column = bad[0]
        raise UserError(
            f"{file}: row {row + first_row}, column {table.columns[column]}: {table.iat[row, column]} is no finite "
            f"number ({len(bad)} such values); repair the file."
        )
    if not numbers.size:
        raise UserError(f"{file}: has no values; give a column of dates and at least one of numbers.")
    return numbers, [f"channel_{name}" if headless else name for name in table.columns], dates


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _dates(file: Path, column: pd.Series, first_row: int) -> np.ndarray:
    dates = pd.to_datetime(column, errors="coerce")
    wrong = (dates.isna() | (dates.diff() < pd.Timedelta(0))).to_numpy().nonzero()[0]
    if len(wrong):
        raise UserError(
            f"{file}: row {wrong[0] + first_row}, column {column.name}: {column.iat[wrong[0]]} is no date, or earlier "
            "than the row before; the first column must hold the dates in order."
        )
    return dates.to_numpy().astype("datetime64[s]")


def simulate_series(num_steps: int, rng: np.random.Generator) -> np.ndarray:
    """(T, 7) hourly values: amplitudes and phases differ by channel, noise is AR(1) with coefficient 0.7.

    Half of channel 0 reaches channel 1 six hours later, half of channel 2 channel 3 a day later.
    """
    lead, channels = 24, 7
    hour = np.arange(num_steps + lead)[:, None]
    values = rng.uniform(-1, 1, channels) * hour / num_steps
    for period, low, high in ((24, 0.5, 1.5), (168, 0.3, 0.8)):
        amplitude, phase = rng.uniform(low, high, channels), rng.uniform(0, 2 * np.pi, channels)
        values = values + amplitude * np.sin(2 * np.pi * hour / period + phase)
    noise = rng.normal(0, 0.3, values.shape)
    for step in range(1, len(noise)):
        noise[step] += 0.7 * noise[step - 1]
    values = values + noise
    for source, target, lag in ((0, 1, 6), (2, 3, 24)):
        values[lead:, target] += 0.5 * values[lead - lag : -lag, source]
    return values[lead:]

"""Which windows a table of bars holds, and their labels (lasps specification, sections 1 and 11)."""

import zlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from common.errors import UserError
from lasps.data.bars import Bars

WINDOW = 60  # sessions that the model looks at
EPOCH = np.datetime64("1990-01-01")


@dataclass(frozen=True)
class Windowing:
    """Which sessions end a window, and how it is labelled.

    The stride counts the weekdays since 1990-01-01, holidays too, from an offset that the issue's code decides. So
    neither other issues nor the first day of the data choose an issue's windows, and a stride of 5, which keeps each
    issue to one weekday, spreads the issues over all of them.

    Args:
        horizon: market sessions between the close of t and the close that decides the label.
        threshold: a move of this much or more is BUY (up) or SELL (down).
        stride: weekdays between two windows of an issue.
    """

    horizon: Annotated[int, Field(ge=1)] = 5
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.03
    stride: Annotated[int, Field(ge=1)] = 5


@dataclass
class Windows:
    """N labelled windows, sorted by date and stock.

    Attributes:
        end_row: (N,) int64, row of session t in `Bars`; the window is rows end_row − 59 … end_row.
        date, label_end: (N,) datetime64[D], session t and the session that decides the label.
        label: (N,) int64. 0 sell, 1 hold, 2 buy, from the forward return.
        forward_return: (N,) float32, from the close of t to the close of `label_end`.
        sector: (N,) int64, as it was known at t.
        stock: (N,) int32, index into `Bars.codes`.
        counts: sessions that the stride meets: `windows`, and by reason those that give none.
    """

    end_row: np.ndarray
    date: np.ndarray
    label_end: np.ndarray
    label: np.ndarray
    forward_return: np.ndarray
    sector: np.ndarray
    stock: np.ndarray
    counts: dict[str, int]


def index_windows(bars: Bars, features: np.ndarray, windowing: Windowing) -> Windows:
    """All windows of finite features whose label is known.

    The label is known if the issue traded, in the same segment, on the market session `horizon` after t; market
    sessions are all dates in `bars`. There is none for the last sessions of an issue or before a halt.

    Args:
        features: (R, 28) from `compute_features`; NaN on the first rows of a segment, so that no window crosses one.

    Raises:
        UserError: if there is no window at all.
    """
    offset = np.array([zlib.crc32(code.encode()) for code in bars.codes])[bars.stock]
    met = (np.busday_count(EPOCH, bars.date) + offset) % windowing.stride == 0
    complete = _finite_rows_up_to(features) >= WINDOW
    exit_row = _exit_row(bars, windowing.horizon)
    end_row = np.flatnonzero(met & complete & (exit_row >= 0))
    counts = {
        "windows": len(end_row),
        "incomplete_warm_up": int((met & ~complete).sum()),
        "no_exit_price": int((met & complete & (exit_row < 0)).sum()),
    }
    if not len(end_row):
        raise UserError(
            f"no window in {len(bars)} bars: of the {met.sum()} sessions that the stride meets, "
            f"{counts['incomplete_warm_up']} have fewer than 178 earlier sessions and {counts['no_exit_price']} no "
            f"close {windowing.horizon} sessions later; give longer bars or set data.windowing.stride=1."
        )
    end_row = end_row[np.lexsort((bars.stock[end_row], bars.date[end_row]))]
    exit_row = exit_row[end_row]
    forward_return = bars.close[exit_row] / bars.close[end_row] - 1
    return Windows(
        end_row=end_row,
        date=bars.date[end_row],
        label_end=bars.date[exit_row],
        label=label_of(forward_return, windowing.threshold),
        forward_return=forward_return.astype(np.float32),
        sector=bars.sector[end_row],
        stock=bars.stock[end_row],
        counts=counts,
    )


def label_of(forward_return: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) int64: 0 for returns ≤ −threshold, 2 for ≥ threshold, else 1, from (N,) float64 returns."""
    # in binary, 90 / 100 − 1 > −0.1, and adjusted prices are rounded; whole prices up to 1e7 cannot come as close
    bound = threshold - 1e-12
    return 1 + (forward_return >= bound).astype(np.int64) - (forward_return <= -bound)


def _finite_rows_up_to(features: np.ndarray) -> np.ndarray:
    """(R,) number of rows in unbroken succession, up to and with this one, whose features are all finite."""
    row = np.arange(len(features))
    return row - np.maximum.accumulate(np.where(np.isfinite(features).all(axis=1), -1, row))


def _exit_row(bars: Bars, horizon: int) -> np.ndarray:
    """(R,) row of the same segment on the market session `horizon` after each row's, −1 where there is none."""
    sessions, session = np.unique(bars.date, return_inverse=True)
    place = bars.segment.astype(np.int64) * (len(sessions) + horizon) + session  # ascending, a gap after each segment
    found = np.searchsorted(place, place + horizon)
    there = place[np.minimum(found, len(place) - 1)] == place + horizon
    return np.where(there, found, -1)

"""Which windows a table of bars holds, and their labels (lasps specification, sections 1 and 11)."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from common.errors import UserError
from lasps.data.bars import Bars
from lasps.data.features import FEATURES

WINDOW = 60  # sessions that the model looks at
ATR = FEATURES.index("atr")
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
        stride: weekdays between two windows of an issue, in training and validation.
        test_stride: the same in the test split, where daily ranks need all issues of a day; None as in training.
        entry: the price that the return starts from: the close of t, or the open of the next market session, at which
            one who knows the close of t can still buy.
        aux_horizons: sessions after t over which relative returns are auxiliary targets of training.
    """

    horizon: Annotated[int, Field(ge=1)] = 5
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.03
    stride: Annotated[int, Field(ge=1)] = 5
    test_stride: Annotated[int, Field(ge=1)] | None = None
    entry: Literal["close_t", "open_t1"] = "close_t"
    aux_horizons: Sequence[Annotated[int, Field(ge=1)]] = ()


@dataclass
class Windows:
    """N labelled windows, sorted by date and stock.

    Attributes:
        end_row: (N,) int64, row of session t in `Bars`; the window is rows end_row − 59 … end_row.
        date, label_end: (N,) datetime64[D], session t and the session that decides the label.
        label: (N,) int64. 0 sell, 1 hold, 2 buy, from the forward return.
        forward_return: (N,) float32, from the entry price to the close of `label_end`.
        sector: (N,) int64, as it was known at t.
        stock: (N,) int32, index into `Bars.codes`.
        aux_targets: (N, K) float32, see `_relative_returns`; NaN where unknown.
        all_known: (N,) datetime64[D], the session by which label and auxiliary targets are all decided.
        in_stride, in_test_stride: (N,) bool, which of the two strides meets the window; at least one does.
        counts: sessions that the stride meets: `windows`, and by reason those that give none.
    """

    end_row: np.ndarray
    date: np.ndarray
    label_end: np.ndarray
    label: np.ndarray
    forward_return: np.ndarray
    sector: np.ndarray
    stock: np.ndarray
    aux_targets: np.ndarray
    all_known: np.ndarray
    in_stride: np.ndarray
    in_test_stride: np.ndarray
    counts: dict[str, int]


def index_windows(bars: Bars, features: np.ndarray, windowing: Windowing) -> Windows:
    """All windows of finite features whose label is known.

    The label is known if the issue traded, in the same segment, on the market session `horizon` after t, and where the
    return starts at the next open, on that session too; market sessions are all dates in `bars`. There is none for the
    last sessions of an issue or before a halt.

    Args:
        features: (R, 28) from `compute_features`; NaN on the first rows of a segment, so that no window crosses one.

    Raises:
        UserError: if there is no window at all.
    """
    place = np.busday_count(EPOCH, bars.date) + np.array([zlib.crc32(code.encode()) for code in bars.codes])[bars.stock]
    met = place % windowing.stride == 0
    met_in_test = place % (windowing.test_stride or windowing.stride) == 0
    complete = complete_windows(features)
    exit_row = row_after(bars, windowing.horizon)
    entry_row = row_after(bars, 1) if windowing.entry == "open_t1" else np.arange(len(bars))
    priced = (exit_row >= 0) & (entry_row >= 0)
    end_row = np.flatnonzero((met | met_in_test) & complete & priced)
    counts = {
        "windows": int((met & complete & priced).sum()),
        "incomplete_warm_up": int((met & ~complete).sum()),
        "no_exit_price": int((met & complete & ~priced).sum()),
    }
    if not counts["windows"]:
        raise UserError(
            f"no window in {len(bars)} bars: of the {met.sum()} sessions that the stride meets, "
            f"{counts['incomplete_warm_up']} have fewer than 178 earlier sessions and {counts['no_exit_price']} no "
            f"close {windowing.horizon} sessions later; give longer bars or set data.windowing.stride=1."
        )
    end_row = end_row[np.lexsort((bars.stock[end_row], bars.date[end_row]))]
    exit_row = exit_row[end_row]
    entry_price = (bars.open if windowing.entry == "open_t1" else bars.close)[entry_row[end_row]]
    forward_return = bars.close[exit_row] / entry_price - 1
    aux_targets, aux_known = _auxiliary(bars, features, end_row, windowing.aux_horizons)
    return Windows(
        end_row=end_row,
        date=bars.date[end_row],
        label_end=bars.date[exit_row],
        label=label_of(forward_return, windowing.threshold),
        forward_return=forward_return.astype(np.float32),
        sector=bars.sector[end_row],
        stock=bars.stock[end_row],
        aux_targets=aux_targets,
        all_known=np.maximum(bars.date[exit_row], aux_known),
        in_stride=met[end_row],
        in_test_stride=met_in_test[end_row],
        counts=counts,
    )


def _auxiliary(
    bars: Bars, features: np.ndarray, end_row: np.ndarray, horizons: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) float32 relative returns of the windows over each horizon, and (N,) the last session they rest on."""
    targets = np.full((len(end_row), len(horizons)), np.nan, np.float32)
    known = bars.date[end_row]
    for column, horizon in enumerate(horizons):
        exit_row = row_after(bars, horizon)
        targets[:, column] = _relative_returns(bars, features[:, ATR], exit_row, horizon)[end_row]
        known = np.maximum(known, bars.date[np.where(exit_row >= 0, exit_row, 0)][end_row])
    return targets, known


def _relative_returns(bars: Bars, atr: np.ndarray, exit_row: np.ndarray, horizon: int) -> np.ndarray:
    """(R,) log return to `exit_row` less the day's mean over all issues, in units of ATR · √horizon, within ±3."""
    there = exit_row >= 0
    move = np.where(there, np.log(bars.close[exit_row] / bars.close), 0.0)
    day = np.unique(bars.date, return_inverse=True)[1]
    mean = np.bincount(day, move) / np.maximum(np.bincount(day, there), 1)
    scale = np.maximum(atr / bars.close, 1e-3) * np.sqrt(horizon)
    return np.where(there, np.clip((move - mean[day]) / scale, -3, 3), np.nan)


def label_of(forward_return: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) int64: 0 for returns ≤ −threshold, 2 for ≥ threshold, else 1, from (N,) float64 returns."""
    # in binary, 90 / 100 − 1 > −0.1, and adjusted prices are rounded; whole prices up to 1e7 cannot come as close
    bound = threshold - 1e-12
    return 1 + (forward_return >= bound).astype(np.int64) - (forward_return <= -bound)


def complete_windows(features: np.ndarray) -> np.ndarray:
    """(R,) bool, whether this row and the 59 before it have finite features; (R, 28) as from `compute_features`."""
    row = np.arange(len(features))
    return row - np.maximum.accumulate(np.where(np.isfinite(features).all(axis=1), -1, row)) >= WINDOW


def row_after(bars: Bars, lag: int) -> np.ndarray:
    """(R,) row of the same segment on the market session `lag` after each row's, −1 where there is none."""
    sessions, session = np.unique(bars.date, return_inverse=True)
    place = bars.segment.astype(np.int64) * (len(sessions) + lag) + session  # ascending, a gap after each segment
    found = np.searchsorted(place, place + lag)
    there = place[np.minimum(found, len(place) - 1)] == place + lag
    return np.where(there, found, -1)

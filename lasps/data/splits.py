"""Chronological splits whose labels do not reach into one another (lasps specification, section 11)."""

from collections.abc import Sequence
from datetime import date as day
from typing import Annotated

import numpy as np
from pydantic import Field

from common.errors import UserError

NAMES = ("train", "val", "test")
EVER = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")


def assign_splits(
    date: np.ndarray,
    label_end: np.ndarray,
    *,
    val_start: np.datetime64,
    test_start: np.datetime64,
    embargo: int,
    sessions: np.ndarray,
) -> np.ndarray:
    """(N,) int8: 0 train, 1 val, 2 test, −1 purged.

    A window belongs to a split by its date. It is purged if its label is decided in the next split or fewer than
    `embargo` whole sessions before it; the gap lies at the end of the earlier split, so that the later one keeps its
    dates. (López de Prado, Advances in Financial Machine Learning, 2018, chapter 7, puts the embargo behind a test set
    because training windows follow it there; here none do.)

    Args:
        date, label_end: (N,) datetime64[D], session t and the session that decides the label.
        val_start, test_start: first day of validation and of test.
        embargo: sessions between the last label's end and the next split.
        sessions: all market sessions, ascending.
    """
    split = np.searchsorted(np.array([val_start, test_start]), date, side="right").astype(np.int8)
    never = np.iinfo(np.int64).max
    border = np.array([*np.searchsorted(sessions, [val_start, test_start]), never])
    split[np.searchsorted(sessions, label_end) + embargo >= border[split]] = -1
    return split


class DateSplit:
    """Train, validation and test by date, purged; see `assign_splits`.

    Args:
        val_start, test_start: first day of validation and of test, as in 2023-01-31. Without them `fractions` decide.
        end, start: last and first day of windows that are used.
        fractions: shares of the sessions on which windows end, for train, validation and test.
        embargo: sessions between the end of the last label of a split and the next split.

    Raises:
        UserError: for a text that is no date, dates out of order, one bound without the other, or fractions that do
            not sum to 1.
    """

    def __init__(
        self,
        val_start: str | None = None,
        test_start: str | None = None,
        end: str | None = None,
        start: str | None = None,
        fractions: Annotated[Sequence[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)] = (
            0.7, 0.15, 0.15,
        ),
        embargo: Annotated[int, Field(ge=0)] = 5,
    ):  # fmt: skip
        given = {"start": start, "val_start": val_start, "test_start": test_start, "end": end}
        days = {name: _parse(name, text) for name, text in given.items() if text is not None}
        for (name, first), (later, last) in zip(list(days.items()), list(days.items())[1:]):
            if first >= last:
                raise UserError(f"data.split.{name}={first}: not before data.split.{later}={last}; swap or mend them.")
        if (val_start is None) != (test_start is None):
            raise UserError("data.split: give both val_start and test_start, or neither to split by fractions.")
        if len(fractions) != 3 or abs(sum(fractions) - 1) > 1e-6:
            raise UserError(f"data.split.fractions={list(fractions)}: give three, for {', '.join(NAMES)}, of sum 1.")
        self.start, self.end = days.get("start", EVER[0]), days.get("end", EVER[1])
        self.val_start, self.test_start = days.get("val_start"), days.get("test_start")
        self.fractions, self.embargo = fractions, embargo

    def assign(self, date: np.ndarray, label_end: np.ndarray, sessions: np.ndarray) -> np.ndarray:
        """(N,) int8: 0 train, 1 val, 2 test, −1 purged or not within `start` … `end`; see `assign_splits`.

        Raises:
            UserError: if a split is empty.
        """
        inside = (date >= self.start) & (date <= self.end)
        if not inside.any():
            raise UserError(
                f"data.split.start={self.start}, data.split.end={self.end}: no window in between; "
                f"they are dated {date.min()} … {date.max()}."
            )
        val_start, test_start = self._bounds(np.unique(date[inside]))
        split = assign_splits(
            date, label_end, val_start=val_start, test_start=test_start, embargo=self.embargo, sessions=sessions
        )
        split[~inside] = -1
        self._refuse_empty(split, date[inside], val_start, test_start)
        return split

    def _bounds(self, days: np.ndarray) -> tuple[np.datetime64, np.datetime64]:
        """First day of validation and of test: as given, or at the fractions of `days`, which are ascending."""
        if self.val_start is not None:
            return self.val_start, self.test_start
        train, val, _ = self.fractions
        # 1e-9: in binary, 0.29 · 100 < 29
        return days[int(train * len(days) + 1e-9)], days[int((train + val) * len(days) + 1e-9)]

    def _refuse_empty(
        self, split: np.ndarray, date: np.ndarray, val_start: np.datetime64, test_start: np.datetime64
    ) -> None:
        first, last = date.min(), date.max()
        starts, ends = (first, val_start, test_start), (val_start, test_start, last)
        for number, name in enumerate(NAMES):
            if not (split == number).any():
                raise UserError(
                    f"{name} split, {starts[number]} … {ends[number]}: empty, after purging labels that end within "
                    f"{self.embargo} sessions of the next split; windows are dated {first} … {last}. Change "
                    "data.split.val_start, test_start, fractions or embargo, or give longer bars."
                )


def _parse(name: str, text: str) -> np.datetime64:
    try:
        return np.datetime64(day.fromisoformat(text))
    except ValueError:
        raise UserError(f"data.split.{name}={text}: no date; write it as in 2023-01-31.") from None

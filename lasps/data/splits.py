"""Chronological splits whose labels do not reach into one another (lasps specification, section 11)."""

from collections.abc import Sequence
from datetime import date as day
from typing import Annotated, Literal

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

    With `folds` the sessions from the first of test on are cut into that many spans of equal length: fold k is tested
    on span k, validated on the sessions before it (as many as lie between `val_start` and `test_start`), and trained
    on all earlier ones, or on as many as fold 0 has. One run is one fold; the spans together are walk-forward.

    Args:
        val_start, test_start: first day of validation and of test, as in 2023-01-31. Without them `fractions` decide.
        end, start: last and first day of windows that are used.
        fractions: shares of the sessions on which windows end, for train, validation and test.
        embargo: sessions between the end of the last label of a split and the next split.
        folds, fold: number of walk-forward folds, and which of them this is, from 0.
        history: training sessions of later folds: `expanding`, from the first on, or `rolling`, as many as in fold 0.
        random: deal the same windows out at random, in splits of the same sizes. What one split learns, another is
            asked: labels overlap for days and all issues share a day's market. Only to show what leakage looks like.
        allow_leaky: must be true for that.

    Raises:
        UserError: for a text that is no date, dates out of order, one bound without the other, fractions that do
            not sum to 1, a fold that does not exist, or a random split without `allow_leaky`.
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
        folds: Annotated[int, Field(ge=1)] = 1,
        fold: Annotated[int, Field(ge=0)] = 0,
        history: Literal["expanding", "rolling"] = "expanding",
        random: bool = False,
        allow_leaky: bool = False,
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
        if fold >= folds:
            raise UserError(f"data.split.fold={fold}: with data.split.folds={folds} choose 0 … {folds - 1}.")
        if random and not allow_leaky:
            raise UserError(
                "data.split.random=true: labels overlap for days and all issues share a day's market, so training "
                "would know the test split; split by date, or set data.split.allow_leaky=true to see what leaks."
            )
        self.start, self.end = days.get("start", EVER[0]), days.get("end", EVER[1])
        self.val_start, self.test_start = days.get("val_start"), days.get("test_start")
        self.fractions, self.embargo = fractions, embargo
        self.folds, self.fold, self.history, self.random = folds, fold, history, random

    def assign(self, date: np.ndarray, label_end: np.ndarray, sessions: np.ndarray) -> np.ndarray:
        """(N,) int8: 0 train, 1 val, 2 test, −1 purged or not used by this fold; see `assign_splits`.

        Raises:
            UserError: if a split is empty.
        """
        inside = (date >= self.start) & (date <= self.end)
        if not inside.any():
            raise UserError(
                f"data.split.start={self.start}, data.split.end={self.end}: no window in between; "
                f"they are dated {date.min()} … {date.max()}."
            )
        start, val_start, test_start, end = self._bounds(np.unique(date[inside]))
        inside = (date >= start) & (date <= end)
        split = assign_splits(
            date, label_end, val_start=val_start, test_start=test_start, embargo=self.embargo, sessions=sessions
        )
        split[~inside] = -1
        self._refuse_empty(split, date[inside], val_start, test_start)
        if self.random:
            used = np.flatnonzero(split >= 0)
            split[used] = np.random.default_rng(0).permutation(split[used])
        return split

    def _bounds(self, days: np.ndarray) -> tuple[np.datetime64, np.datetime64, np.datetime64, np.datetime64]:
        """First day of training, of validation and of test, and last day of test, of this fold.

        Args:
            days: (D,) on which windows end, ascending.
        """
        bounds = self._first_bounds(days)
        if self.folds == 1:
            return days[0], *bounds, days[-1]
        val, test = np.searchsorted(days, bounds)
        if self.folds > len(days) - test:
            raise UserError(
                f"test split: {len(days) - test} sessions for data.split.folds={self.folds}; windows are dated "
                f"{days[0]} … {days[-1]}. Use fewer folds or an earlier test_start, or give longer bars."
            )
        edges = test + np.arange(self.folds + 1) * (len(days) - test) // self.folds
        shift = edges[self.fold] - test
        first = shift if self.history == "rolling" else 0
        return days[first], days[val + shift], days[test + shift], days[edges[self.fold + 1] - 1]

    def _first_bounds(self, days: np.ndarray) -> tuple[np.datetime64, np.datetime64]:
        """First day of validation and of test of fold 0: as given, or at the fractions of `days`."""
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

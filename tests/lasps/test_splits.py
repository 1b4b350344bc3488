"""Splits by date: what is purged, what is refused, and that no label reaches into the next split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from lasps.data.splits import DateSplit, assign_splits

SESSIONS = np.busday_offset("2020-01-01", np.arange(300), roll="forward")
DATE, LABEL_END = SESSIONS[:-5], SESSIONS[5:]  # one window a session, decided five sessions later


def assign(val: int, test: int, embargo: int) -> np.ndarray:
    """Splits of `DATE` with validation and test from these sessions on."""
    return assign_splits(
        DATE, LABEL_END, val_start=SESSIONS[val], test_start=SESSIONS[test], embargo=embargo, sessions=SESSIONS
    )


def test_without_embargo_only_labels_that_end_in_the_next_split_are_purged():
    # session 95 is decided on 100, the first of validation; 94 on 99
    assert assign(100, 200, embargo=0).tolist() == [0] * 95 + [-1] * 5 + [1] * 95 + [-1] * 5 + [2] * 95


def test_the_embargo_widens_the_gap_before_each_border_and_leaves_the_later_split_whole():
    assert assign(100, 200, embargo=3).tolist() == [0] * 92 + [-1] * 8 + [1] * 92 + [-1] * 8 + [2] * 95


@given(st.integers(1, 150), st.integers(1, 140), st.integers(0, 20))
def test_between_a_label_and_the_next_split_lie_at_least_embargo_sessions(val, width, embargo):
    test = val + width
    split = assign(val, test, embargo)
    for number, border in ((0, val), (1, test)):
        ends = np.searchsorted(SESSIONS, LABEL_END[split == number])
        assert (border - ends - 1 >= embargo).all()
        assert (DATE[split == number] < SESSIONS[border]).all()
    assert (DATE[split == 1] >= SESSIONS[val]).all()
    assert (split[test:] == 2).all()


def test_a_border_on_a_holiday_is_the_next_session():
    saturday, monday = np.datetime64("2020-05-30"), np.datetime64("2020-06-01")
    later = np.datetime64("2020-11-02")
    on_holiday, on_session = (
        assign_splits(DATE, LABEL_END, val_start=start, test_start=later, embargo=2, sessions=SESSIONS)
        for start in (saturday, monday)
    )
    np.testing.assert_array_equal(on_holiday, on_session)


def test_a_date_split_with_bounds_is_assign_splits_within_start_and_end():
    split = DateSplit("2020-06-01", "2020-11-02", start="2020-02-03", end="2021-01-29", embargo=2)
    expected = assign_splits(
        DATE, LABEL_END, val_start=np.datetime64("2020-06-01"), test_start=np.datetime64("2020-11-02"), embargo=2,
        sessions=SESSIONS,
    )  # fmt: skip
    outside = (np.datetime64("2020-02-03") > DATE) | (np.datetime64("2021-01-29") < DATE)
    expected[outside] = -1
    assigned = split.assign(DATE, LABEL_END, SESSIONS)
    np.testing.assert_array_equal(assigned, expected)
    assert assigned.dtype == np.int8
    assert DATE[assigned == 0].min() == np.datetime64("2020-02-03")
    assert DATE[assigned == 2].max() == np.datetime64("2021-01-29")


def test_fractions_are_of_distinct_sessions_not_of_windows():
    crowded = np.repeat(np.arange(100), np.where(np.arange(100) < 10, 50, 1))  # most windows on the first ten sessions
    split = DateSplit(fractions=[0.5, 0.21, 0.29], embargo=0).assign(DATE[crowded], DATE[crowded], SESSIONS)
    assert (split == np.searchsorted([50, 71], crowded, side="right")).all()


def test_fractions_that_binary_rounds_down_still_meet_their_session():
    split = DateSplit(fractions=[0.29, 0.15, 0.56], embargo=0).assign(DATE[:100], DATE[:100], SESSIONS)
    assert split.tolist() == [0] * 29 + [1] * 15 + [2] * 56  # 100 · 0.29 < 29 and 100 · (0.29 + 0.15) < 44


def test_fractions_count_the_sessions_between_start_and_end():
    split = DateSplit(start=str(DATE[100]), end=str(DATE[199]), embargo=0).assign(DATE, DATE, SESSIONS)
    assert split.tolist() == [-1] * 100 + [0] * 70 + [1] * 15 + [2] * 15 + [-1] * 95


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"val_start": "2023-13-01", "test_start": "2024-01-01"}, "data.split.val_start=2023-13-01: no date"),
        ({"val_start": "2023-01-01", "test_start": "later"}, "data.split.test_start=later: no date"),
        ({"end": "today"}, "data.split.end=today: no date"),
        (
            {"val_start": "2024-01-01", "test_start": "2023-01-01"},
            "data.split.val_start=2024-01-01: not before data.split.test_start=2023-01-01",
        ),
        ({"val_start": "2024-01-01", "test_start": "2024-01-01"}, "not before"),
        ({"start": "2024-01-01", "end": "2023-01-01"}, "data.split.start=2024-01-01: not before data.split.end"),
        ({"start": "2023-06-01", "val_start": "2023-01-01", "test_start": "2024-01-01"}, "data.split.start=2023-06-01"),
        ({"val_start": "2022-01-01", "test_start": "2023-01-01", "end": "2023-01-01"}, "data.split.test_start="),
        ({"val_start": "2023-01-01"}, "both val_start and test_start, or neither"),
        ({"test_start": "2023-01-01"}, "both val_start and test_start, or neither"),
        ({"fractions": [0.5, 0.2, 0.2]}, r"data.split.fractions=\[0.5, 0.2, 0.2\]"),
        ({"fractions": [0.5, 0.5]}, "give three"),
    ],
)
def test_a_mistaken_split_is_refused_in_the_constructor(arguments, reason):
    with pytest.raises(UserError, match=reason):
        DateSplit(**arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"val_start": "2020-01-06", "test_start": "2020-06-01"}, "train split, 2020-01-01 … 2020-01-06: empty"),
        ({"val_start": "2020-06-01", "test_start": "2020-06-10"}, "val split, 2020-06-01 … 2020-06-10: empty"),
        ({"val_start": "2020-06-01", "test_start": "2022-01-01"}, "test split, 2022-01-01 … 2021-02-16: empty"),
        ({"start": "2022-01-01"}, "data.split.start=2022-01-01.* no window in between; .* 2020-01-01 … 2021-02-16"),
        ({"embargo": 60}, "val split.* within 60 sessions of the next split; windows are dated 2020-01-01"),
    ],
)
def test_an_empty_split_is_refused_with_its_dates_and_the_span_of_the_data(arguments, reason):
    with pytest.raises(UserError, match=reason) as caught:
        DateSplit(**arguments).assign(DATE, LABEL_END, SESSIONS)
    assert "\n" not in str(caught.value)
    assert "data.split." in str(caught.value)


@pytest.mark.parametrize("days", [1, 2, 3])
def test_a_handful_of_sessions_is_refused_not_an_index_error(days):
    with pytest.raises(UserError, match="empty"):
        DateSplit().assign(DATE[:days], LABEL_END[:days], SESSIONS)


DAYS = np.arange("2020-01-01", "2020-04-10", dtype="datetime64[D]")  # 100 sessions
LATER = DAYS + np.timedelta64(5, "D")


def fold(number, **arguments):
    split = DateSplit("2020-02-10", "2020-02-20", folds=3, fold=number, embargo=2, **arguments)  # sessions 40 and 50
    return split.assign(DAYS, LATER, DAYS)


def spans(assigned):
    return [(int(np.flatnonzero(assigned == k)[0]), int(np.flatnonzero(assigned == k)[-1])) for k in (0, 1, 2)]


def test_walk_forward_folds_test_successive_spans_and_validate_right_before_them():
    # 50 test sessions in spans of 16, 17, 17; labels of 5 sessions and an embargo of 2 purge 7 sessions at each border
    assert [spans(fold(number)) for number in range(3)] == [
        [(0, 32), (40, 42), (50, 65)],
        [(0, 48), (56, 58), (66, 82)],
        [(0, 65), (73, 75), (83, 99)],
    ]


def test_rolling_history_keeps_the_training_length_of_the_first_fold():
    assert [spans(fold(number, history="rolling"))[0] for number in range(3)] == [(0, 32), (16, 48), (33, 65)]


def test_fold_zero_of_one_is_the_fixed_split():
    one = DateSplit("2020-02-10", "2020-02-20", embargo=2).assign(DAYS, LATER, DAYS)
    assert spans(one) == [(0, 32), (40, 42), (50, 99)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"folds": 2, "fold": 2}, r"fold=2: with data.split.folds=2 choose 0 … 1"),
        ({"random": True}, "allow_leaky=true"),
    ],
)
def test_impossible_and_leaky_splits_are_refused(arguments, reason):
    with pytest.raises(UserError, match=reason):
        DateSplit(**arguments)


def test_more_folds_than_test_sessions_are_refused():
    with pytest.raises(UserError, match=r"50 sessions for data\.split\.folds=60"):
        DateSplit("2020-02-10", "2020-02-20", folds=60).assign(DAYS, LATER, DAYS)


def test_a_random_split_deals_the_same_windows_out_in_splits_of_the_same_sizes():
    dates = {"val_start": "2020-02-10", "test_start": "2020-02-20", "embargo": 2}
    honest = DateSplit(**dates).assign(DAYS, LATER, DAYS)
    leaky = DateSplit(**dates, random=True, allow_leaky=True).assign(DAYS, LATER, DAYS)
    assert np.bincount(honest + 1).tolist() == np.bincount(leaky + 1).tolist()
    assert ((honest < 0) == (leaky < 0)).all()
    assert DAYS[leaky == 0].max() > DAYS[leaky == 2].min()

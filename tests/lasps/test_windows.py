"""Which windows there are, what their labels are, and what neither may depend on."""

import os
import zlib

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from lasps.data.bars import Bars
from lasps.data.features import compute_features
from lasps.data.sources import KrxFiles
from lasps.data.windows import WINDOW, Windowing, Windows, index_windows, label_of
from tests.lasps.walks import random_bars, rows, scaled

DAILY = Windowing(stride=1)


def windows_of(bars: Bars, windowing: Windowing = DAILY) -> Windows:
    return index_windows(bars, compute_features(bars), windowing)


def one_by_one(bars: Bars, windowing: Windowing) -> list[tuple]:
    """(date, stock, end row, label end, return, label) of every window, found row by row with a dictionary."""
    features = compute_features(bars)
    calendar = sorted(set(bars.date.tolist()))
    row_on = {key: row for row, key in enumerate(zip(bars.segment.tolist(), bars.date.tolist(), strict=True))}
    found = []
    for row, (segment, today) in enumerate(zip(bars.segment.tolist(), bars.date.tolist(), strict=True)):
        later = calendar.index(today) + windowing.horizon
        exit_row = row_on.get((segment, calendar[later])) if later < len(calendar) else None
        window = slice(max(row - WINDOW + 1, 0), row + 1)
        complete = (bars.segment[window] == segment).sum() == WINDOW and np.isfinite(features[window]).all()
        offset = zlib.crc32(bars.codes[bars.stock[row]].encode())
        met = (np.busday_count("1990-01-01", today) + offset) % windowing.stride == 0
        entry_row, entry = row, bars.close
        if windowing.entry == "open_t1":
            tomorrow = calendar.index(today) + 1
            entry_row = row_on.get((segment, calendar[tomorrow])) if tomorrow < len(calendar) else None
            entry = bars.open
        if exit_row is None or entry_row is None or not complete or not met:
            continue
        move = bars.close[exit_row] / entry[entry_row] - 1
        label = 2 if move >= windowing.threshold else 0 if move <= -windowing.threshold else 1
        found.append((today, int(bars.stock[row]), row, calendar[later], np.float32(move), label))
    return sorted(found, key=lambda window: window[:2])


@pytest.mark.parametrize(
    "windowing", [DAILY, Windowing(), Windowing(horizon=2, threshold=0.01, stride=3), Windowing(entry="open_t1")]
)
def test_windows_are_those_found_row_by_row(windowing):
    bars = random_bars([230, 170, 260, 200, 190], seed=4)
    bars.segment[1000:] += 1  # a price break after 140 rows of the last issue
    bars.sector = np.arange(len(bars))
    halted = np.isin(np.arange(len(bars)), [150, 190, 191, 192, 193, 194, 195, 500, 599, 630, 820])
    bars = rows(bars, ~halted)
    windows = windows_of(bars, windowing)
    expected = one_by_one(bars, windowing)
    columns = (windows.date.tolist(), windows.stock.tolist(), windows.end_row.tolist(), windows.label_end.tolist(),
               windows.forward_return.tolist(), windows.label.tolist())  # fmt: skip
    assert list(zip(*columns, strict=True)) == expected
    assert len(expected) > 20
    assert windows.sector.tolist() == bars.sector[windows.end_row].tolist()


def test_the_first_window_has_178_earlier_sessions_and_the_last_five_sessions_have_none():
    windows = windows_of(random_bars([190]))
    assert windows.end_row.tolist() == list(range(178, 185))
    assert windows.counts == {"windows": 7, "incomplete_warm_up": 178, "no_exit_price": 5}


def test_the_exit_is_counted_in_sessions_of_the_market_not_of_the_issue():
    bars = random_bars([200, 200])
    bars = rows(bars, np.arange(400) != 183)  # the first issue does not trade on session 183
    windows = windows_of(bars)
    first = windows.stock == 0
    sessions = np.searchsorted(np.unique(bars.date), windows.date)
    # 178 would end on 183; 183 itself is none, and its loss makes the warm-up last one session longer
    assert sessions[first].tolist() == [*range(179, 183), *range(184, 195)]
    assert sessions[~first].tolist() == list(range(178, 195))
    assert (np.searchsorted(np.unique(bars.date), windows.label_end) - sessions == 5).all()


def test_no_window_or_label_crosses_a_segment():
    bars = random_bars([400])
    bars.segment[200:] = 1
    windows = windows_of(bars)
    assert windows.end_row.tolist() == [*range(178, 195), *range(378, 395)]
    assert windows.counts["no_exit_price"] == 10


def test_an_infinite_or_missing_feature_costs_the_60_windows_that_hold_it():
    bars = random_bars([300])
    features = compute_features(bars)
    features[200, 18] = np.inf
    windows = index_windows(bars, features, DAILY)
    assert windows.end_row.tolist() == [*range(178, 200), *range(260, 295)]


def test_types_are_those_that_windows_promise():
    windows = windows_of(random_bars([190]))
    types = {"end_row": "int64", "date": "datetime64[D]", "label_end": "datetime64[D]", "label": "int64",
             "forward_return": "float32", "sector": "int64", "stock": "int32"}  # fmt: skip
    assert {name: str(getattr(windows, name).dtype) for name in types} == types


def test_windows_are_sorted_by_date_and_stock():
    windows = windows_of(random_bars([200, 200, 200]))
    order = list(zip(windows.date.tolist(), windows.stock.tolist(), strict=True))
    assert order == sorted(order)


def test_labels_include_both_bounds():
    returns = np.array([103 / 100, 97 / 100, 1.0299999999, 0.9700000001, 1, 2, 0.5]) - 1
    assert label_of(returns, 0.03).tolist() == [2, 0, 1, 1, 1, 2, 0]
    assert label_of(returns, 0.03).dtype == np.int64


@pytest.mark.parametrize("percent", [1, 3, 5, 10, 15])
def test_every_whole_price_at_the_bound_is_labelled_and_its_neighbours_are_too(percent):
    units = np.concatenate([np.arange(1, 20_000), np.arange(99_000, 100_000)])
    close = 100 * units  # up to ten million won, of which a percent is a whole number
    up, down = (100 + percent) * units, (100 - percent) * units
    threshold = percent / 100
    assert (label_of(up / close - 1, threshold) == 2).all()
    assert (label_of((up - 1) / close - 1, threshold) != 2).all()
    assert (label_of(down / close - 1, threshold) == 0).all()
    assert (label_of((down + 1) / close - 1, threshold) != 0).all()


def test_prices_at_the_bound_that_an_adjustment_factor_has_rounded_are_labelled():
    rng = np.random.default_rng(0)
    close, factor = 100.0 * rng.integers(1, 10_000, 20_000), rng.uniform(0.01, 3, 20_000)
    assert (label_of((close * 1.03 * factor) / (close * factor) - 1, 0.03) == 2).all()
    assert (label_of((close * 0.97 * factor) / (close * factor) - 1, 0.03) == 0).all()


def test_a_stride_of_five_keeps_an_issue_to_one_weekday():
    windows = windows_of(random_bars([260], start="2020-01-01"), Windowing(stride=5))
    assert len(set(pd.DatetimeIndex(windows.date).weekday)) == 1
    assert np.diff(windows.date).astype(int).tolist() == [7] * (len(windows.date) - 1)
    assert sum(windows.counts.values()) == 52  # weeks among the 260 weekdays


def test_issues_are_spread_over_all_weekdays():
    windows = windows_of(random_bars([260] * 30), Windowing(stride=5))
    assert set(pd.DatetimeIndex(windows.date).weekday) == {0, 1, 2, 3, 4}


def test_windows_of_an_issue_do_not_depend_on_other_issues_or_on_an_earlier_start():
    bars = random_bars([300, 250, 280])
    together = windows_of(bars, Windowing())
    first = together.stock == 0
    alone = windows_of(rows(bars, bars.stock == 0), Windowing())
    later = windows_of(rows(bars, slice(13, 300)), Windowing())
    for name in ("date", "label_end", "label", "forward_return"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[first])
        np.testing.assert_array_equal(getattr(later, name), getattr(together, name)[first][-len(later.date) :])
    assert 0 <= len(alone.date) - len(later.date) <= 3


def test_a_price_factor_leaves_windows_and_labels():
    bars = random_bars([250])
    windows, thrice = windows_of(bars), windows_of(scaled(bars, 3.0))
    np.testing.assert_array_equal(thrice.end_row, windows.end_row)
    np.testing.assert_array_equal(thrice.label, windows.label)


def test_too_short_bars_are_refused_with_the_reason():
    with pytest.raises(UserError, match=r"no window in 183 bars: of the 183 .* 178 have fewer .* 5 no close 5"):
        windows_of(random_bars([183]))


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs the real bars: set DATA_DIR")
@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("kospi200_2015_2020.parquet", [23.9, 52.7, 23.4]),
        ("kospi_kosdaq_2023_2025.parquet", [26.0, 52.7, 21.3]),
        ("themes_2015_2019.parquet", [24.5, 50.5, 25.0]),
    ],
)
def test_label_shares_of_real_rows_are_those_of_their_description(name, shares):
    table = pd.read_parquet(os.path.join(os.environ["DATA_DIR"], "krx", name)).sort_values(["code", "date"])
    moves = table.groupby("code").close.transform(lambda close: close.shift(-5) / close - 1).dropna().to_numpy()
    assert 100 * np.bincount(label_of(moves, 0.03)) / len(moves) == pytest.approx(shares, abs=0.051)


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs the real bars: set DATA_DIR")
def test_real_windows_are_those_found_row_by_row():
    bars = KrxFiles(os.path.join("krx", "dirty_calendar")).load(os.environ["DATA_DIR"])
    windows = windows_of(bars, Windowing())
    expected = one_by_one(bars, Windowing())
    assert list(zip(windows.date.tolist(), windows.end_row.tolist(), windows.label.tolist(), strict=True)) == [
        (today, row, label) for today, _, row, _, _, label in expected
    ]


def test_the_test_stride_adds_windows_and_says_which_stride_meets_each():
    bars = random_bars([300, 280], seed=1)
    both, sparse, daily = windows_of(bars, Windowing(test_stride=1)), windows_of(bars, Windowing()), windows_of(bars)
    assert both.end_row.tolist() == daily.end_row.tolist()
    assert both.end_row[both.in_stride].tolist() == sparse.end_row.tolist()
    assert both.in_test_stride.all()
    assert both.counts == sparse.counts


def test_auxiliary_targets_are_returns_over_the_market_in_units_of_daily_range():
    bars = random_bars([230, 210, 230], seed=2)
    windows = windows_of(bars, Windowing(stride=1, aux_horizons=(2, 9)))
    features = compute_features(bars)
    window = next(i for i, day in enumerate(windows.date) if day == bars.date[203] and windows.stock[i] == 1)
    row, peers = 230 + 203, (203, 230 + 203, 440 + 203)
    moves = [np.log(bars.close[peer + 2] / bars.close[peer]) for peer in peers]
    scale = features[row, 17] / bars.close[row] * np.sqrt(2)
    expected = np.clip((moves[1] - np.mean(moves)) / scale, -3, 3)
    assert windows.end_row[window] == row
    assert windows.aux_targets[window, 0] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(windows.aux_targets[window, 1])  # the issue has 210 bars
    assert windows.all_known[0] == bars.date[178 + 9]

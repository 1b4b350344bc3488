"""The features against hand values and the formulas of the specification in pandas, and what they may not depend on."""

import numpy as np
import pandas as pd
import pytest

from lasps.data.bars import Bars
from lasps.data.features import FEATURES, compute_features, segment_features
from tests.lasps.walks import random_bars, rows, scaled


def columns_of(bars: Bars) -> dict[str, np.ndarray]:
    """Features by name, (n,) float64, of bars of one segment."""
    arrays = (bars.date, bars.open, bars.high, bars.low, bars.close, bars.volume, bars.flow)
    return dict(zip(FEATURES, segment_features(*arrays).T, strict=True))


def by_hand(**columns: list[float]) -> dict[str, np.ndarray]:
    """Features of bars flat at `close`, or 100, unless a column says otherwise, from Thursday 2020-01-02 on."""
    length = len(next(iter(columns.values())))
    bars = random_bars([length], start="2020-01-02")
    close = np.asarray(columns.get("close", [100.0] * length), float)
    bars.open, bars.high, bars.low, bars.close = (np.asarray(columns.get(name, close), float) for name in
                                                  ("open", "high", "low", "close"))  # fmt: skip
    bars.volume = np.asarray(columns.get("volume", [10.0] * length), float)
    bars.flow = np.asarray(columns.get("flow", [np.nan] * length), float)
    return columns_of(bars)


def in_pandas(bars: Bars) -> pd.DataFrame:
    """Section 2 of the specification, written with pandas for one issue; only the calendar is left out."""
    frame = pd.DataFrame({name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")})
    close, volume, previous = frame.close, frame.volume, frame.close.shift()
    for length in (5, 20, 60, 120):
        frame[f"ma{length}"] = close.rolling(length).mean()
    delta = close.diff()
    gain, loss = delta.clip(lower=0).rolling(14).mean(), (-delta).clip(lower=0).rolling(14).mean()
    frame["rsi"] = 100 - 100 / (1 + gain / loss)
    frame["macd"] = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    frame["macd_signal"] = frame.macd.ewm(span=9, adjust=False).mean()
    frame["macd_hist"] = frame.macd - frame.macd_signal
    deviation = close.rolling(20).std(ddof=1)
    frame["bb_upper"], frame["bb_middle"] = frame.ma20 + 2 * deviation, frame.ma20
    frame["bb_lower"] = frame.ma20 - 2 * deviation
    frame["bb_width"] = (frame.bb_upper - frame.bb_lower) / frame.bb_middle
    ranges = pd.concat([frame.high - frame.low, (frame.high - previous).abs(), (frame.low - previous).abs()], axis=1)
    true_range = ranges.max(axis=1, skipna=False)
    frame["atr"] = true_range.rolling(14).mean()
    frame["obv"] = (np.sign(delta).fillna(0) * volume).cumsum()
    frame["volume_ma20"] = volume.rolling(20).mean()
    frame["volume_ratio"] = (volume / frame.volume_ma20).clip(0, 3) / 3
    frame["volatility_ratio"] = (true_range / true_range.rolling(20).mean()).clip(0, 3) / 3
    frame["gap_direction"] = (frame.open / previous - 1).clip(-0.1, 0.1) * 10
    frame["rsi_norm"] = frame.rsi / 100
    flow = pd.Series(bars.flow).fillna(0)
    frame["foreign_inst_flow"] = np.sign(flow) * np.minimum(1, np.log10(flow.abs() + 1) / 8)
    return frame


def test_the_names_are_the_28_of_the_specification_in_its_order():
    assert len(FEATURES) == len(set(FEATURES)) == 28
    places = {"close": 3, "ma5": 5, "ma120": 8, "rsi": 9, "macd": 10, "bb_upper": 13, "bb_lower": 15, "bb_width": 16,
              "atr": 17, "obv": 18, "volume_ma20": 19, "volume_ratio": 20, "foreign_inst_flow": 24,
              "day": 27}  # fmt: skip
    assert {name: FEATURES.index(name) for name in places} == places


@pytest.mark.parametrize("seed", range(3))
def test_features_agree_with_the_formulas_in_pandas(seed):
    bars = random_bars([200], seed)
    bars.flow[::7] = np.nan
    bars.open[50] *= 1.5
    bars.volume[60] *= 50
    bars.high[70] *= 1.4
    features = columns_of(bars)
    reference = in_pandas(bars)
    assert tuple(reference) == tuple(features)[:25]
    for name in reference:
        np.testing.assert_allclose(features[name], reference[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_feature_is_nan_exactly_until_its_segment_is_old_enough():
    features = columns_of(random_bars([130]))
    first = {name: int(np.flatnonzero(np.isfinite(values))[0]) for name, values in features.items()}
    late = {"ma5": 4, "ma20": 19, "ma60": 59, "ma120": 119, "rsi": 14, "rsi_norm": 14, "bb_upper": 19,
            "bb_middle": 19, "bb_lower": 19, "bb_width": 19, "atr": 14, "volume_ma20": 19, "volume_ratio": 19,
            "volatility_ratio": 20, "gap_direction": 1}  # fmt: skip
    assert first == dict.fromkeys(FEATURES, 0) | late
    assert all(np.isfinite(values[first[name] :]).all() for name, values in features.items())


def test_rsi_by_hand():
    # 14 moves: 13 gains of 2 and a loss of 4 → 100 · 26 / 30
    assert by_hand(close=[*range(100, 128, 2), 122])["rsi"][14] == pytest.approx(100 * 26 / 30)


def test_rsi_is_100_for_gains_only_0_for_losses_only_and_50_without_movement():
    assert by_hand(close=np.arange(100, 120) * 0.1)["rsi"][14:].tolist() == [100] * 6
    assert by_hand(close=np.arange(120, 100, -1) * 0.1)["rsi"][14:].tolist() == [0] * 6
    moved_before = [1.1, 2.3, 0.7, *[100.1] * 20]
    assert by_hand(close=moved_before)["rsi"][-1] == 50
    assert by_hand(close=moved_before)["rsi_norm"][-1] == 0.5


def test_macd_by_hand():
    # from the second close on: EMA12 = 100 + 13 · 2/13, EMA26 = 100 + 13 · 2/27, signal = macd · 2/10
    features = by_hand(close=[100, 113])
    macd = 2 - 26 / 27
    assert features["macd"].tolist() == pytest.approx([0, macd])
    assert features["macd_signal"].tolist() == pytest.approx([0, macd / 5])
    assert features["macd_hist"].tolist() == pytest.approx([0, macd * 4 / 5])


def test_bollinger_bands_by_hand():
    # ten closes of 90 and ten of 110: mean 100, sample variance 20 · 100 / 19
    features = by_hand(close=[90, 110] * 10)
    band = 2 * np.sqrt(2000 / 19)
    last = [features[name][-1] for name in ("bb_upper", "bb_middle", "bb_lower", "bb_width")]
    assert last == pytest.approx([100 + band, 100, 100 - band, 2 * band / 100])
    assert np.array_equal(features["bb_middle"], features["ma20"], equal_nan=True)


def test_true_range_reaches_back_to_the_previous_close():
    high, low = np.full(15, 101.0), np.full(15, 99.0)  # 14 rows of range 2
    assert by_hand(high=high, low=low)["atr"][-1] == 2
    high[-1], low[-1] = 112, 110  # above the close before: 112 − 100
    assert by_hand(high=high, low=low)["atr"][-1] == pytest.approx((13 * 2 + 12) / 14)
    high[-1], low[-1] = 90, 86  # below: 100 − 86
    assert by_hand(high=high, low=low)["atr"][-1] == pytest.approx((13 * 2 + 14) / 14)


def test_obv_starts_at_zero_adds_on_up_closes_and_subtracts_on_down_closes():
    features = by_hand(close=[100, 101, 101, 99, 100], volume=[7, 10, 20, 40, 80])
    assert features["obv"].tolist() == [0, 10, 10, -30, 50]


def test_ratios_are_clipped_at_three_times_the_mean():
    volume = [10.0] * 19 + [30]  # mean 11
    assert by_hand(volume=volume)["volume_ratio"][-1] == pytest.approx(30 / 11 / 3)
    assert by_hand(volume=[*volume[:-1], 1000])["volume_ratio"][-1] == 1
    high = np.full(21, 101.0)
    high[-1] = 200
    assert by_hand(high=high)["volatility_ratio"][-1] == 1


def test_volatility_ratio_without_any_range_is_its_default():
    assert by_hand(close=[100] * 25)["volatility_ratio"][20:].tolist() == [0.33] * 5


def test_gap_is_the_open_against_the_previous_close_clipped_at_a_tenth():
    gaps = by_hand(open=[100, 103, 95, 130, 60])["gap_direction"]
    assert np.isnan(gaps[0])
    assert gaps[1:].tolist() == pytest.approx([0.3, -0.5, 1, -1])


def test_flow_is_a_signed_logarithm_0_where_unknown():
    flows = by_hand(flow=[np.nan, 0, 9_999, -9_999, 1e12])["foreign_inst_flow"]
    assert flows.tolist() == [0, 0, 0.5, -0.5, 1]


def test_the_calendar_is_that_of_each_row():
    # Thursday 2 January 2020 … Monday 6 January, and 31 December 2019, a Tuesday
    features = by_hand(close=[100] * 3)
    assert features["weekday"].tolist() == [0.75, 1, 0]
    assert features["month"].tolist() == [1 / 12] * 3
    assert features["day"].tolist() == [2 / 31, 3 / 31, 6 / 31]
    bars = random_bars([1], start="2019-12-31")
    assert [columns_of(bars)[name][0] for name in ("weekday", "month", "day")] == [0.25, 1, 1]


@pytest.mark.parametrize("start", ["1969-12-25", "2000-02-25", "2026-11-21"])
def test_the_calendar_agrees_with_pandas(start):
    bars = random_bars([300], start=start)
    features, days = columns_of(bars), pd.DatetimeIndex(bars.date)
    np.testing.assert_array_equal(features["weekday"], days.weekday / 4)
    np.testing.assert_array_equal(features["month"], days.month / 12)
    np.testing.assert_array_equal(features["day"], days.day / 31)


@pytest.mark.parametrize("length", [1, 2, 13, 60, 119, 120, 121, 199])
def test_no_bit_of_a_row_depends_on_later_rows(length):
    bars = random_bars([200], seed=1)
    np.testing.assert_array_equal(compute_features(rows(bars, slice(length))), compute_features(bars)[:length])


def test_changing_all_later_bars_changes_nothing_before():
    bars = random_bars([200], seed=2)
    before = compute_features(bars)
    for name in ("open", "high", "low", "close", "volume", "flow"):
        getattr(bars, name)[150:] *= 7
    after = compute_features(bars)
    np.testing.assert_array_equal(after[:150], before[:150])


def test_segments_are_computed_each_by_itself():
    bars = random_bars([150, 3, 140])
    bars.stock[150:] = 0  # a segment ends at a broken price, not only at another issue
    features = compute_features(bars)
    assert features.dtype == np.float32
    assert features.shape == (293, 28)
    for part in bars.segments():
        np.testing.assert_array_equal(features[part], compute_features(rows(bars, part)))


def test_a_price_factor_moves_price_columns_by_it_and_leaves_the_others():
    bars = random_bars([160], seed=3)
    with_unit = {"open", "high", "low", "close", "ma5", "ma20", "ma60", "ma120", "macd", "macd_signal", "macd_hist",
                 "bb_upper", "bb_middle", "bb_lower", "atr"}  # fmt: skip
    once, thrice = columns_of(bars), columns_of(scaled(bars, 3.0))
    for name in FEATURES:
        expected = once[name] * (3 if name in with_unit else 1)
        np.testing.assert_allclose(thrice[name], expected, rtol=1e-9, atol=1e-8, err_msg=name)

"""The 28 features of every session: bars, averages, oscillators, ratios and calendar (lasps specification, section 2).

A row's features depend on that row and earlier ones of its segment, and not even in the last bit on later ones.
"""

from itertools import accumulate

import numpy as np

from lasps.data.bars import Bars

FEATURES = (
    "open", "high", "low", "close", "volume",
    "ma5", "ma20", "ma60", "ma120",
    "rsi", "macd", "macd_signal", "macd_hist",
    "bb_upper", "bb_middle", "bb_lower", "bb_width", "atr",
    "obv", "volume_ma20", "volume_ratio", "volatility_ratio", "gap_direction", "rsi_norm", "foreign_inst_flow",
    "weekday", "month", "day",
)  # fmt: skip


def compute_features(bars: Bars) -> np.ndarray:
    """(R, 28) float32, columns in the order of `FEATURES`, each segment by itself.

    NaN where a segment is too young for a feature: `ma120` needs 119 earlier sessions. Where it is old enough but the
    feature is 0/0, the default of the specification stands. Unlike the original, the RSI is 100 if all moves were gains
    and 50 if there was none.
    """
    features = np.empty((len(bars), len(FEATURES)), np.float32)
    for rows in bars.segments():
        features[rows] = segment_features(
            bars.date[rows], bars.open[rows], bars.high[rows], bars.low[rows], bars.close[rows], bars.volume[rows],
            bars.flow[rows],
        )  # fmt: skip
    return features


def segment_features(
    date: np.ndarray, open_: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray,
    flow: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """(n, 28) float64: the features of one segment from its (n,) columns of `Bars`, see `compute_features`."""
    previous = np.concatenate([[np.nan], close[:-1]])
    change = close - previous
    true_range = np.maximum.reduce([high - low, np.abs(high - previous), np.abs(low - previous)])
    macd = _ema(close, 12) - _ema(close, 26)
    macd_signal = _ema(macd, 9)
    middle, band = _rolling_mean(close, 20), 2 * _rolling_std(close, 20)
    rsi = _rsi(change, 14)
    volume_ma20 = _rolling_mean(volume, 20)
    bought = np.nan_to_num(flow)
    month = date.astype("datetime64[M]")
    columns = {
        "open": open_, "high": high, "low": low, "close": close, "volume": volume,
        "ma5": _rolling_mean(close, 5), "ma20": middle,
        "ma60": _rolling_mean(close, 60), "ma120": _rolling_mean(close, 120),
        "rsi": rsi, "macd": macd, "macd_signal": macd_signal, "macd_hist": macd - macd_signal,
        "bb_upper": middle + band, "bb_middle": middle, "bb_lower": middle - band, "bb_width": 2 * band / middle,
        "atr": _rolling_mean(true_range, 14),
        "obv": np.cumsum(np.nan_to_num(np.sign(change)) * volume),
        "volume_ma20": volume_ma20,
        "volume_ratio": _share_of_triple(volume, volume_ma20),
        "volatility_ratio": _share_of_triple(true_range, _rolling_mean(true_range, 20)),
        "gap_direction": np.clip(open_ / previous - 1, -0.1, 0.1) * 10,
        "rsi_norm": rsi / 100,
        "foreign_inst_flow": np.sign(bought) * np.minimum(1, np.log10(np.abs(bought) + 1) / 8),
        "weekday": (date.astype(np.int64) + 3) % 7 / 4,  # day 0 was a Thursday
        "month": (month.astype(np.int64) % 12 + 1) / 12,
        "day": ((date - month).astype(np.int64) + 1) / 31,
    }  # fmt: skip
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _rolling_mean(values: np.ndarray, length: int) -> np.ndarray:
    """(n,) mean of the last `length` values at each position, NaN where there are fewer."""
    return _padded(_window_sums(values, length) / length, len(values))


def _rolling_std(values: np.ndarray, length: int) -> np.ndarray:
    """(n,) sample standard deviation (ddof 1) of the last `length` values, NaN where there are fewer."""
    mean = _window_sums(values, length) / length
    squares = sum((values[lag : lag + len(mean)] - mean) ** 2 for lag in range(length))
    return _padded(np.sqrt(squares / (length - 1)), len(values))


def _window_sums(values: np.ndarray, length: int) -> np.ndarray:
    """(n − length + 1,) sum of every full window, from the sums of its halves.

    So they have the same bits wherever a series ends, and are exactly 0 for a window of zeros: running sums would keep
    a trace of what went before.
    """
    if length == 1 or len(values) < length:
        return values[: max(len(values) - length + 1, 0)]
    half = length // 2
    halves = _window_sums(values, half)
    pairs = halves[:-half] + halves[half:]
    return pairs[:-1] + values[length - 1 :] if length % 2 else pairs


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """(count,) `values` of the full windows, behind NaN for the incomplete ones."""
    return np.concatenate([np.full(count - len(values), np.nan), values])


def _ema(values: np.ndarray, span: int) -> np.ndarray:
    """(n,) recursive exponential mean that starts at the first value."""
    weight = 2 / (span + 1)
    return np.array(list(accumulate(values.tolist(), lambda mean, value: mean + weight * (value - mean))))


def _rsi(change: np.ndarray, length: int) -> np.ndarray:
    """(n,) relative strength from simple means: 100 if all moves were gains, 50 without any movement."""
    gain = _rolling_mean(np.maximum(change, 0), length)
    loss = _rolling_mean(np.maximum(-change, 0), length)
    return 100 * _ratio(gain, gain + loss, undefined=0.5)


def _share_of_triple(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(n,) in [0, 1]: `values` as a share of three times `mean`."""
    return _ratio(np.minimum(values, 3 * mean), 3 * mean, undefined=0.33)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, undefined: float) -> np.ndarray:
    """The quotient, `undefined` where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, undefined), where=denominator != 0)

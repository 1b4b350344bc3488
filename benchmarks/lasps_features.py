"""Features and windows of a whole market: CPU time, memory, and the time per row against pandas.

Bar: 1,892 issues × 357 sessions in at most 20 s of CPU and 2 GB. Run with `python benchmarks/lasps_features.py`.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from lasps.data.bars import Bars
from lasps.data.features import FEATURES, compute_features
from lasps.data.sectors import LASPS13
from lasps.data.windows import Windowing, index_windows

ISSUES, SESSIONS, BASELINE_ISSUES = 1892, 357, 100
CPU_BAR_S, MEMORY_BAR_GB, ROUNDS = 20, 2, 5


def random_bars(issues: int, sessions: int) -> Bars:
    """Random walks, one segment per issue."""
    rng = np.random.default_rng(0)
    close = 20_000 * np.exp(np.cumsum(0.02 * rng.standard_normal((issues, sessions)), axis=1)).ravel()
    open_ = close * np.exp(0.01 * rng.standard_normal(close.size))
    stock = np.repeat(np.arange(issues, dtype=np.int32), sessions)
    return Bars(
        codes=[f"{number:06d}" for number in range(issues)], stock=stock, segment=stock,
        date=np.tile(np.busday_offset("2024-01-01", np.arange(sessions)), issues),
        open=open_, high=np.maximum(open_, close) * 1.01, low=np.minimum(open_, close) / 1.01, close=close,
        volume=np.round(rng.lognormal(11, 1, close.size)), flow=np.round(1e4 * rng.standard_normal(close.size)),
        sector=stock.astype(np.int64) % len(LASPS13), sectors=LASPS13, synthetic=True,
    )  # fmt: skip


def with_groupby(bars: Bars) -> np.ndarray:
    """(R, 28) the same features, as a pandas user writes them: groupby, rolling and ewm over the long table."""
    names = ("stock", "date", "open", "high", "low", "close", "volume", "flow")
    frame = pd.DataFrame({name: getattr(bars, name) for name in names})

    def mean(values: pd.Series, length: int) -> np.ndarray:
        return values.groupby(frame.stock).rolling(length).mean().to_numpy()

    def ema(values: pd.Series, span: int) -> np.ndarray:
        return values.groupby(frame.stock).ewm(span=span, adjust=False).mean().to_numpy()

    close, volume = frame.close, frame.volume
    previous, change = close.groupby(frame.stock).shift(), close.groupby(frame.stock).diff()
    for length in (5, 20, 60, 120):
        frame[f"ma{length}"] = mean(close, length)
    gain, loss = mean(change.clip(lower=0), 14), mean((-change).clip(lower=0), 14)
    frame["rsi"] = 100 * gain / (gain + loss)
    frame["macd"] = ema(close, 12) - ema(close, 26)
    frame["macd_signal"] = ema(frame.macd, 9)
    frame["macd_hist"] = frame.macd - frame.macd_signal
    band = 2 * close.groupby(frame.stock).rolling(20).std().to_numpy()
    frame["bb_upper"], frame["bb_middle"], frame["bb_lower"] = frame.ma20 + band, frame.ma20, frame.ma20 - band
    frame["bb_width"] = 2 * band / frame.ma20
    ranges = [frame.high - frame.low, (frame.high - previous).abs(), (frame.low - previous).abs()]
    true_range = pd.concat(ranges, axis=1).max(axis=1, skipna=False)
    frame["atr"] = mean(true_range, 14)
    frame["obv"] = (np.sign(change).fillna(0) * volume).groupby(frame.stock).cumsum()
    frame["volume_ma20"] = mean(volume, 20)
    frame["volume_ratio"] = (volume / frame.volume_ma20).clip(0, 3) / 3
    frame["volatility_ratio"] = (true_range / mean(true_range, 20)).clip(0, 3) / 3
    frame["gap_direction"] = (frame.open / previous - 1).clip(-0.1, 0.1) * 10
    frame["rsi_norm"] = frame.rsi / 100
    frame["foreign_inst_flow"] = np.sign(frame.flow) * np.minimum(1, np.log10(frame.flow.abs() + 1) / 8)
    frame["weekday"], frame["month"] = frame.date.dt.day_of_week / 4, frame.date.dt.month / 12
    frame["day"] = frame.date.dt.day / 31
    return frame[list(FEATURES)].to_numpy(np.float32)


def cpu_seconds(function: Callable[[], Any], rounds: int = 1) -> float:
    """The least CPU time of some calls."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    bars = random_bars(ISSUES, SESSIONS)
    seconds = cpu_seconds(lambda: index_windows(bars, compute_features(bars), Windowing(stride=1)))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    print(f"{ISSUES:,} issues × {SESSIONS} sessions, features and windows: {seconds:.1f} s of CPU (bar {CPU_BAR_S} s)")
    print(f"peak memory: {peak_gb:.2f} GB (bar {MEMORY_BAR_GB} GB)")

    few = random_bars(BASELINE_ISSUES, SESSIONS)
    np.testing.assert_allclose(compute_features(few), with_groupby(few), rtol=1e-4, atol=1e-3)
    ours, theirs = (1e6 * cpu_seconds(each, ROUNDS) / len(few) for each in
                    (lambda: compute_features(few), lambda: with_groupby(few)))  # fmt: skip
    print(f"features per row: {ours:.2f} µs; pandas groupby {theirs:.2f} µs, {theirs / ours:.1f} times as much "
          f"({BASELINE_ISSUES} issues, same values, best of {ROUNDS})")  # fmt: skip
    sys.exit(seconds > CPU_BAR_S or peak_gb > MEMORY_BAR_GB)


if __name__ == "__main__":
    main()

"""Bars of random walks, for the tests of what is computed from bars."""

from dataclasses import replace

import numpy as np

from lasps.data.bars import Bars
from lasps.data.sectors import LASPS13


def random_bars(lengths: list[int], seed: int = 0, start: str = "2020-01-01") -> Bars:
    """Bars of one issue per length, in one segment each; all trade on every weekday from `start` on."""
    rng = np.random.default_rng(seed)
    stock = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    close = np.concatenate([10_000 * np.exp(np.cumsum(0.02 * rng.standard_normal(length))) for length in lengths])
    open_ = close * np.exp(0.01 * rng.standard_normal(len(close)))
    spread = np.exp(0.01 * np.abs(rng.standard_normal((2, len(close)))))
    return Bars(
        codes=[f"{number:06d}" for number in range(len(lengths))],
        stock=stock,
        segment=stock.copy(),
        date=np.concatenate([np.busday_offset(start, np.arange(length), roll="forward") for length in lengths]),
        open=open_,
        high=np.maximum(open_, close) * spread[0],
        low=np.minimum(open_, close) / spread[1],
        close=close,
        volume=np.round(1e5 * np.exp(0.5 * rng.standard_normal(len(close)))),
        flow=np.round(1e4 * rng.standard_normal(len(close))),
        sector=stock.astype(np.int64) % len(LASPS13),
        sectors=LASPS13,
        synthetic=True,
    )


def scaled(bars: Bars, factor: float) -> Bars:
    """The same bars with all prices times `factor`."""
    return replace(bars, **{name: getattr(bars, name) * factor for name in ("open", "high", "low", "close")})


def rows(bars: Bars, chosen: np.ndarray | slice) -> Bars:
    """The bars of the chosen rows."""
    columns = {name: value[chosen] for name, value in vars(bars).items() if isinstance(value, np.ndarray)}
    return replace(bars, **columns)

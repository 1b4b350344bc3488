"""Scalings of raw windows (B, 60, 28), each window by itself, on any device (lasps specification, section 2)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lasps.data.features import FEATURES

FLAT = 1e-10  # a column whose range is smaller counts as constant


def _columns(names: str) -> list[int]:
    return [FEATURES.index(name) for name in names.split()]


PRICES = _columns("open high low close ma5 ma20 ma60 ma120 bb_upper bb_middle bb_lower")
PRICE_DIFFERENCES = _columns("macd macd_signal macd_hist atr")
VOLUMES = _columns("volume volume_ma20")
VOLATILITIES = _columns("bb_width atr")
OPEN_ENDED = slice(0, FEATURES.index("volume_ratio"))  # the columns after it are within −1 … 1 as they are
CLOSE, RSI, OBV, VOLUME_MA20 = _columns("close rsi obv volume_ma20")


class Normalise(nn.Module):
    """Scaling of a window's 28 columns.

    Attributes:
        needs_fit: whether `fit` must see the training windows before use.
    """

    needs_fit = False

    def forward(self, series: Tensor) -> Tensor:
        """(B, T, 28) float32, scaled, from raw features (B, T, 28), oldest session first."""
        raise NotImplementedError


class WindowMinMax(Normalise):
    """Columns 0–19 each over their own range in the window, 0 … 1, or 0.5 where constant; 20–27 as they are.

    As in the original. Every column has a scale of its own, so how prices compare to their averages is lost.
    """

    def forward(self, series: Tensor) -> Tensor:
        scaled = series.clone()
        scaled[..., OPEN_ENDED] = _min_max(series[..., OPEN_ENDED], dims=(1,))
        return scaled


class SharedPriceScale(Normalise):
    """Columns of one unit share one scale per window, so that prices still compare to their averages.

    - open, high, low, close, ma5 … ma120, bb_upper, bb_middle, bb_lower: over their joint range, 0 … 1;
    - macd, macd_signal, macd_hist, atr: divided by that range, sign kept, 0 if it is 0;
    - volume, volume_ma20: logarithm of 1 + x over its joint range, 0 … 1;
    - obv: over its own range, 0 … 1;
    - rsi: / 100;
    - bb_width, a ratio already, and columns 20–27: as they are.

    A joint range that is constant becomes 0.5.
    """

    def forward(self, series: Tensor) -> Tensor:
        scaled = series.clone()
        prices = series[..., PRICES]
        spread = prices.amax((1, 2), keepdim=True) - prices.amin((1, 2), keepdim=True)
        scaled[..., PRICES] = _min_max(prices, dims=(1, 2))
        scaled[..., PRICE_DIFFERENCES] = series[..., PRICE_DIFFERENCES] / torch.where(spread < FLAT, torch.inf, spread)
        scaled[..., VOLUMES] = _min_max(series[..., VOLUMES].log1p(), dims=(1, 2))
        scaled[..., OBV] = _min_max(series[..., OBV], dims=(1,))
        scaled[..., RSI] = series[..., RSI] / 100
        return scaled


class Relative(Normalise):
    """Columns as ratios to session t, then as z-scores over all sessions of the training windows, within ±10.

    - open … bb_lower (prices): log(x / close[t]), at least log(0.01), since a lower band may be negative;
    - macd, macd_signal, macd_hist, atr: x / close of the same session;
    - volume, volume_ma20: log((1 + x) / (1 + volume_ma20[t]));
    - obv: (x − obv[t]) / volume_ma20[t];
    - rsi, bb_width and columns 20–27: as they are.

    A column that is constant over the training windows becomes 0 there.

    Attributes:
        mean, std: (28,) float32 of the ratios, NaN before `fit`; saved in the state dict.
    """

    needs_fit = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((len(FEATURES),), torch.nan))
        self.register_buffer("std", torch.full((len(FEATURES),), torch.nan))
        self._refresh()
        self.register_load_state_dict_post_hook(Relative._refresh)

    def forward(self, series: Tensor) -> Tensor:
        """As `Normalise.forward`.

        Raises:
            RuntimeError: if neither `fit` nor `load_state_dict` came before.
        """
        if not self._fitted:
            raise RuntimeError("Relative: no statistics yet; call fit with the training windows or load a state dict.")
        return ((relative(series) - self.mean) / self.std).clamp(-10, 10)

    def fit(self, series_batches: Iterable[Tensor]) -> None:
        """Take mean and standard deviation per column over all sessions of raw training windows (B, T, 28)."""
        count, total, squares = 0, 0.0, 0.0
        for series in series_batches:
            # float64: sums over a hundred million rows
            ratios = relative(series).double().flatten(0, 1)
            count += len(ratios)
            total = total + ratios.sum(0)
            squares = squares + (ratios**2).sum(0)
        mean = total / count
        std = (squares / count - mean**2).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < 1e-6, 1, std))  # below what float32 resolves: constant
        self._refresh()

    def _refresh(self, *_: object) -> None:
        # kept as a Python value: asking the buffers in `forward` would wait for the GPU at every batch
        self._fitted = not bool(self.mean.isnan().any())


class MinMaxVolatility(Relative):
    """As `WindowMinMax`, but atr and bb_width as in `Relative`.

    A range of its own for every window hides how much an issue moves, which decides HOLD; these two columns tell it.
    """

    def forward(self, series: Tensor) -> Tensor:
        """As `Relative.forward`."""
        scaled = series.clone()
        scaled[..., OPEN_ENDED] = _min_max(series[..., OPEN_ENDED], dims=(1,))
        scaled[..., VOLATILITIES] = super().forward(series)[..., VOLATILITIES]
        return scaled


def relative(series: Tensor) -> Tensor:
    """(B, T, 28) ratios, see `Relative`."""
    ratios = series.clone()
    last = series[:, -1:]
    ratios[..., PRICES] = (series[..., PRICES] / last[..., [CLOSE]]).clamp_min(0.01).log()
    ratios[..., PRICE_DIFFERENCES] = series[..., PRICE_DIFFERENCES] / series[..., [CLOSE]]
    ratios[..., VOLUMES] = series[..., VOLUMES].log1p() - last[..., [VOLUME_MA20]].log1p()
    ratios[..., OBV] = (series[..., OBV] - last[..., OBV]) / last[..., VOLUME_MA20].clamp_min(1)
    return ratios


def _min_max(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`values` over their range along `dims`, 0 … 1; 0.5 where the range is below `FLAT`."""
    low = values.amin(dims, keepdim=True)
    spread = values.amax(dims, keepdim=True) - low
    return torch.where(spread < FLAT, 0.5, (values - low) / spread.clamp_min(FLAT))

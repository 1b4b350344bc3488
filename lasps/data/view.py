"""How a model sees a window: normalised series and drawn chart, made batched on the model's device."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from lasps.charts import ChartRenderer
from lasps.data.dataset import StockDataset, WindowBatch
from lasps.data.features import FEATURES
from lasps.normalise import Normalise

OHLCV = slice(0, 5)


class View:
    """Turns a batch of raw windows into what the network takes.

    Args:
        normalise: scaling of the series.
        charts: draws the candle charts; stored images take precedence.
        hide: features that the model sees as 0 throughout. Month and day together name a session, whose market move
            all issues share: a model may learn it by heart.
    """

    def __init__(self, normalise: Normalise, charts: ChartRenderer, hide: Sequence[Literal[FEATURES]] = ()):
        self.normalise, self.charts = normalise, charts
        self.hidden = [FEATURES.index(name) for name in hide]

    def fit(self, dataset: StockDataset) -> None:
        """Fit the statistics that the scaling needs, if any, on the training windows."""
        if self.normalise.needs_fit:
            batches = (range(start, min(start + 1024, len(dataset))) for start in range(0, len(dataset), 1024))
            self.normalise.fit(dataset[list(batch)].series for batch in batches)

    def state(self) -> dict[str, list[float]]:
        """The fitted statistics as plain values, empty where the scaling needs none."""
        return {name: value.tolist() for name, value in self.normalise.state_dict().items()}

    def restore(self, state: dict[str, list[float]]) -> "View":
        """This view with statistics from `state()`, in place of `fit`."""
        self.normalise.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        return self

    def __call__(self, batch: WindowBatch, draw: bool) -> WindowBatch:
        """The batch with normalised series and, if `draw`, with charts."""
        chart = batch.chart
        if draw and chart is None:
            chart = self.charts(batch.series[..., OHLCV])
        series = self.normalise.to(batch.series.device)(batch.series)
        series[..., self.hidden] = 0
        return replace(batch, series=series, chart=chart if draw else None)

    def identity(self) -> list:
        """What the view depends on, for fingerprints."""
        return [type(self.normalise).__name__, vars(self.charts), *self.hidden]

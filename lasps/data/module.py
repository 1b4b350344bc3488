"""The lasps data modules: one per source, all with the same windows, splits and view."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch.utils.data import DataLoader

from common.data import TrunkDataModule
from common.files import hash_arrays, hash_record, locate_data, read_json
from common.losses import inverse_share_weights
from lasps.data.arrays import identity, purge, read_arrays
from lasps.data.bars import Bars
from lasps.data.dataset import PanelDataset, StockDataset
from lasps.data.features import compute_features
from lasps.data.sectors import SectorScheme
from lasps.data.simulated import SimulatedMarket
from lasps.data.sources import KrxFiles, UsSample
from lasps.data.splits import DateSplit
from lasps.data.view import View
from lasps.data.windows import Windowing, index_windows
from lasps.judged import CLASSES

SPLITS = ("train", "val", "test")


class LaspsDataModule(TrunkDataModule):
    """Labelled windows in three splits; subclasses fill `datasets` in `setup`.

    Attributes:
        datasets: "train", "val" and "test".
        sectors: what the sector ids mean.
        view: normalisation and charts, fitted on the training windows.
        loaders: what makes the "train" and "val" loaders of a module that does not train on the windows themselves.
        leaky: whether the splits were dealt out at random, so that nothing measured on them means anything.
    """

    leaky = False
    datasets: dict[str, StockDataset]
    sectors: SectorScheme

    def __init__(self, view: View, seed: int, batch_size: int, num_workers: int, data_dir: str | None):
        super().__init__(seed, batch_size, num_workers)
        self.view, self.data_dir, self.datasets, self.loaders = view, data_dir, {}, {}

    def setup(self, stage: str | None = None) -> None:
        if not self.datasets:
            self.load()
            self.view.fit(self.datasets["train"])
            self.facts["view"] = self.view.state()

    def load(self) -> None:
        """Fill `datasets`, `sectors`, `data_source`, `fingerprint` and `facts`."""
        raise NotImplementedError

    def describe(self, content: Sequence[Any], feature_version: str, counts: dict[str, int]) -> None:
        """Set `fingerprint` and `facts` from the loaded data sets.

        Args:
            content: hashes of what the windows are made of.
            counts: what was read and left out, by reason.
        """
        split_hashes = [
            hash_arrays(data.labels, data.sector_ids) if data.date is None
            else hash_arrays(data.labels, data.sector_ids, data.date, data.label_end, data.forward_return)
            for data in self.datasets.values()
        ]  # fmt: skip
        self.fingerprint = hash_record([content, split_hashes, self.view.identity(), feature_version])
        class_counts = np.bincount(self.datasets["train"].labels, minlength=len(CLASSES)).tolist()
        self.facts = {
            "num_sectors": len(self.sectors),
            "sectors": list(self.sectors.english),
            "num_features": 28,
            "num_aux": 0 if (aux := self.datasets["train"].aux_targets) is None else aux.shape[1],
            "feature_version": feature_version,
            "num_samples": {split: len(data) for split, data in self.datasets.items()},
            "class_counts": class_counts,
            "class_weights": inverse_share_weights(class_counts),
            "counts": counts,
            "leaky": self.leaky,
        }

    def train_dataloader(self) -> DataLoader:
        return self.loaders["train"]() if self.loaders else self.shuffled(self.datasets["train"])

    def val_dataloader(self) -> DataLoader:
        return self.loaders["val"]() if self.loaders else self.in_order(self.datasets["val"])


class BarsDataModule(LaspsDataModule):
    """Windows cut from daily bars.

    Args:
        source: delivers the bars.
        windowing: horizon, threshold and stride of the labelled windows.
        split: dates of the three splits.

    Attributes:
        bars: what the windows are cut from.
    """

    bars: Bars

    def __init__(
        self, source: Any, windowing: Windowing, split: DateSplit, view: View, seed: int, batch_size: int,
        num_workers: int, data_dir: str | None,
    ):  # fmt: skip
        super().__init__(view, seed, batch_size, num_workers, data_dir)
        self.source, self.windowing, self.split = source, windowing, split
        self.leaky = split.random

    def load(self) -> None:
        self.bars = bars = self.source.load(self.data_dir)
        features = compute_features(bars)
        windows = index_windows(bars, features, self.windowing)
        assigned = self.split.assign(windows.date, windows.all_known, np.unique(bars.date))
        self.datasets = {
            name: PanelDataset(features, windows, np.flatnonzero((assigned == number) & met), bars.codes)
            for number, (name, met) in enumerate(zip(SPLITS, (windows.in_stride,) * 2 + (windows.in_test_stride,)))
        }
        self.sectors = bars.sectors
        self.data_source = "synthetic" if bars.synthetic else "real"
        purged = int(((assigned < 0) & windows.in_stride).sum())
        counts = {**bars.counts, **bars.universe(), **windows.counts, "purged_windows": purged}
        ends = [data.end_row for data in self.datasets.values()]
        self.describe([hash_arrays(features, *ends), bars.sectors.version, *bars.codes], "v2", counts)


class SimulatedData(BarsDataModule):
    """Windows of the simulated market, see `lasps.data.simulated`.

    Args:
        market_seed: seed of the market; the run's seed leaves the data as it is.
        signal: strength of the planted, sector-dependent signal; 0 is pure noise.
    """

    def __init__(
        self,
        windowing: Windowing,
        split: DateSplit,
        view: View,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        data_dir: str | None,
        market_seed: Annotated[int, Field(ge=0)] = 0,
        signal: Annotated[float, Field(ge=0)] = 1.0,
        num_sectors: Literal[13, 20] = 13,
        stocks_per_sector: Annotated[int, Field(ge=1)] = 6,
        start: str = "2019-07-01",
        end: str = "2024-12-30",
    ):
        source = SimulatedMarket(market_seed, signal, num_sectors, stocks_per_sector, start, end)
        super().__init__(source, windowing, split, view, seed, batch_size, num_workers, data_dir)


class UsSampleData(BarsDataModule):
    """Windows of the five American stocks that come with bokeh_sampledata."""

    def __init__(
        self,
        windowing: Windowing,
        split: DateSplit,
        view: View,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        data_dir: str | None,
    ):
        super().__init__(UsSample(), windowing, split, view, seed, batch_size, num_workers, data_dir)


class KrxData(BarsDataModule):
    """Windows of the bars in a user's files; the arguments of its own are those of `lasps.data.sources.KrxFiles`."""

    def __init__(
        self,
        windowing: Windowing,
        split: DateSplit,
        view: View,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        data_dir: str | None,
        path: str,
        sectors: str | None = None,
        flows: str | None = None,
        flow_unit: Literal["shares", "won"] = "shares",
        max_daily_move: Annotated[float, Field(gt=0)] = 0.305,
        num_sectors: Literal[13, 20] = 13,
        unknown_sector: Literal["other", "drop", "refuse"] = "other",
    ):
        source = KrxFiles(path, sectors, flows, flow_unit, max_daily_move, num_sectors, unknown_sector)
        super().__init__(source, windowing, split, view, seed, batch_size, num_workers, data_dir)


class ArraysData(LaspsDataModule):
    """Windows in the array format of the specification, section 5, split by folder.

    Args:
        path: holds train, val, test and sectors.json; relative to the data directory or the current one.
        charts: `stored` images of the folder, or `drawn` from the series.
        embargo: sessions between the end of the last label of a split and the next split.
    """

    def __init__(
        self,
        view: View,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        data_dir: str | None,
        path: str,
        charts: Literal["stored", "drawn"] = "stored",
        embargo: Annotated[int, Field(ge=0)] = 5,
    ):
        super().__init__(view, seed, batch_size, num_workers, data_dir)
        self.path, self.charts, self.embargo = path, charts, embargo

    def load(self) -> None:
        folder = locate_data(self.path, self.data_dir)
        self.datasets, self.sectors = read_arrays(folder, self.charts == "stored")
        dated = all(data.date is not None for data in self.datasets.values())
        purged = purge(self.datasets, self.embargo) if dated else 0
        manifest = folder / "manifest.json"
        self.data_source = read_json(manifest).get("data_source", "real") if manifest.is_file() else "real"
        version = self.datasets["train"].feature_version
        self.describe([identity(folder), self.charts], version, {"purged_windows": purged})

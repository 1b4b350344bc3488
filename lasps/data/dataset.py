"""Windows as a data set: raw features, labels and the seed document's per-sector subsets."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lasps.data.windows import WINDOW, Windows


@dataclass
class WindowBatch:
    """A batch of B trading windows of T sessions, oldest first.

    Attributes:
        series: (B, T, 28) float32. Raw features from the data set, normalised ones once `View` has been applied.
        chart: (B, 3, H, W) float32 in [0, 1], or None before `View` has drawn it or where the model takes none.
        sector: (B,) int64 in [0, num_sectors).
        label: (B,) int64. 0 sell, 1 hold, 2 buy, from the forward return.
        aux: (B, K) float32 auxiliary targets, NaN where unknown; None where there are none.
    """

    series: Tensor
    chart: Tensor | None
    sector: Tensor
    label: Tensor
    aux: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device) -> "WindowBatch":
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


class StockDataset(Dataset):
    """N labelled windows; subclasses say where a window's features come from.

    Indexing with an array gives a batch, with an integer a single sample without batch axis.

    Attributes:
        codes: N stock codes, or None where the source has none.
        date, label_end: (N,) datetime64[D], session t and the session that decides the label; or None.
        forward_return: (N,) float32, or None.
        labels, sector_ids: (N,) int64.
        aux_targets: (N, K) float32 for training, or None.
    """

    aux_targets: np.ndarray | None = None

    def __init__(
        self,
        labels: np.ndarray,
        sector_ids: np.ndarray,
        codes: np.ndarray | None = None,
        date: np.ndarray | None = None,
        label_end: np.ndarray | None = None,
        forward_return: np.ndarray | None = None,
    ):
        self.labels, self.sector_ids = labels, sector_ids
        self.codes, self.date, self.label_end, self.forward_return = codes, date, label_end, forward_return

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | np.ndarray) -> WindowBatch:
        return WindowBatch(
            torch.from_numpy(self.series(index)),
            self.chart(index),
            torch.as_tensor(self.sector_ids[index]),
            torch.as_tensor(self.labels[index]),
            None if self.aux_targets is None else torch.as_tensor(self.aux_targets[index]),
        )

    def series(self, index: int | np.ndarray) -> np.ndarray:
        """Raw features (…, T, 28) float32 of the windows at `index`."""
        raise NotImplementedError

    def chart(self, index: int | np.ndarray) -> Tensor | None:
        """Stored chart images (…, 3, H, W), or None where charts are drawn from the series."""
        return None

    def get_sector_indices(self, sector_id: int) -> np.ndarray:
        """Indices of all samples of a sector, ascending."""
        return np.flatnonzero(self.sector_ids == sector_id)

    def get_sector_subset(self, sector_id: int) -> "SectorSubset":
        return SectorSubset(self, self.get_sector_indices(sector_id), sector_id)


class SectorSubset(Dataset):
    """The samples of one sector."""

    def __init__(self, dataset: StockDataset, indices: np.ndarray, sector_id: int):
        self.dataset, self.indices, self.sector_id = dataset, indices, sector_id

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | np.ndarray) -> WindowBatch:
        return self.dataset[self.indices[index]]


class PanelDataset(StockDataset):
    """Windows cut on demand from one table of features, so that overlapping windows share their rows.

    Args:
        features: (R, 28) float32, one row per issue and session.
        windows: which rows end a window, and its labels.
        chosen: (N,) positions in `windows` that this data set holds.
        codes: names of the issues that `windows.stock` numbers.
    """

    def __init__(self, features: np.ndarray, windows: Windows, chosen: np.ndarray, codes: list[str]):
        super().__init__(
            windows.label[chosen], windows.sector[chosen], np.asarray(codes)[windows.stock[chosen]],
            windows.date[chosen], windows.label_end[chosen], windows.forward_return[chosen],
        )  # fmt: skip
        self.features, self.end_row = features, windows.end_row[chosen]
        self.aux_targets = windows.aux_targets[chosen] if windows.aux_targets.shape[1] else None
        self._offsets = np.arange(1 - WINDOW, 1)

    def series(self, index: int | np.ndarray) -> np.ndarray:
        return self.features[self.end_row[index][..., None] + self._offsets]

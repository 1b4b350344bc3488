"""Rows in three splits: generated ones with a known best predictor, or real texts beside generated bags."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset

from common.data import InOrder, TrunkDataModule
from common.errors import UserError
from common.files import hash_arrays
from redheart.rows import NUM_OUTPUTS, SPLITS, Rows, Split, Task, assign_splits
from redheart.sources import CLASSES, Source
from redheart.synthetic import EMOTIONS, generate, make_bags
from redheart.tasks import Answer, Targets, TaskBatch, answer, has_target, task_metrics

EVALUATION_BATCH = 512
TARGETS = tuple(Targets.__annotations__)
Share = Annotated[float, Field(gt=0, lt=1)]


class RowSet(Dataset):
    """The rows of one split; an array of indices gives a batch."""

    def __init__(self, rows: Rows, index: np.ndarray):
        self.rows, self.index = rows, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: np.ndarray) -> TaskBatch:
        chosen = self.index[index]
        second = self.rows.second[chosen]
        paired = np.flatnonzero(second >= 0)
        x = self.rows.x[np.concatenate([self.rows.first[chosen], second[paired]])]
        targets = {name: torch.from_numpy(getattr(self.rows, name)[chosen]) for name in TARGETS}
        return TaskBatch(torch.from_numpy(x), torch.from_numpy(paired), Targets(**targets))


class RowData(TrunkDataModule):
    """Base of the data of redheart: subclasses make the rows.

    Args:
        shares: of the rows in train, select and test, which the hash of a row's name decides.
    """

    class_names: tuple[str, ...]

    def __init__(self, seed: int, batch_size: int, num_workers: int, shares: list[float]):
        super().__init__(seed, batch_size, num_workers)
        if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"data.shares={shares}: need three shares, of train, select and test, that add up to 1.")
        self.shares = tuple(shares)
        self.datasets: dict[Split, RowSet] = {}

    def make(self) -> Rows:
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        if not self.datasets:
            rows = self.make()
            split = assign_splits(rows, self.shares)
            self.datasets = {name: RowSet(rows, np.flatnonzero(split == n)) for n, name in enumerate(SPLITS)}
            self._describe(rows, split)

    def _describe(self, rows: Rows, split: np.ndarray) -> None:
        counts = {name: self._counts(data) for name, data in self.datasets.items()}
        for name in SPLITS:
            for task, count in counts[name].items():
                if not count and counts["train"][task]:
                    raise UserError(f"data: no row of {task} in the {name} split; take more rows or other data.shares.")
        targets = [getattr(rows, name) for name in TARGETS]
        self.fingerprint = hash_arrays(rows.x, rows.first, rows.second, split, *targets)
        labels = rows.emotion[self.datasets["train"].index]
        self.facts = {
            "dim": rows.x.shape[-1],
            "class_names": list(self.class_names),
            "class_counts": np.bincount(labels[labels >= 0], minlength=len(self.class_names)).tolist(),
            "num_samples": {name: len(data) for name, data in self.datasets.items()},
            "num_left_out": int((split < 0).sum()),
            "num_targets": counts,
        }

    def _counts(self, data: RowSet) -> dict[Task, int]:
        targets = data[np.arange(len(data))].targets
        return {task: int(has_target(task, targets).sum()) for task in NUM_OUTPUTS}

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.datasets["train"])

    def val_dataloader(self) -> DataLoader:
        return self.whole("select")

    def whole(self, split: Split) -> DataLoader:
        """All rows of a split in order, in batches as large as is fast."""
        data = self.datasets[split]
        return self._loader(data, InOrder(len(data), EVALUATION_BATCH))


class SyntheticData(RowData):
    """Generated texts and bags, see `redheart.synthetic.generate`.

    Args:
        num_rows: of all splits together.
        data_seed: of the rows; the run's seed leaves them as they are.
    """

    data_source = "synthetic"
    class_names = EMOTIONS

    def __init__(
        self,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        shares: list[Share],
        num_rows: Annotated[int, Field(ge=30)],
        dim: Annotated[int, Field(ge=56)],
        num_segments: Annotated[int, Field(ge=1)],
        bag_share: Share,
        pair_share: Share,
        data_seed: Annotated[int, Field(ge=0)],
    ):
        super().__init__(seed, batch_size, num_workers, shares)
        self.settings = {
            "num_rows": num_rows, "dim": dim, "seed": data_seed, "bag_share": bag_share, "pair_share": pair_share,
            "num_segments": num_segments,
        }  # fmt: skip

    def make(self) -> Rows:
        generated = generate(**self.settings)
        self.ideal = generated.ideal
        return generated.rows

    def ideal_metrics(self, split: Split) -> dict[Task, dict[str, float]]:
        """The metrics of the best predictor on a split: what no model can beat but by chance."""
        data = self.datasets[split]
        batch, rows = data[np.arange(len(data))], data.rows
        places = np.concatenate([rows.first[data.index], rows.second[data.index][batch.paired.numpy()]])
        said: dict[Task, Answer] = {
            task: answer(torch.from_numpy(logits[places]), batch) for task, logits in self.ideal.items()
        }
        return {task: task_metrics(task, each, batch.targets) for task, each in said.items()}


class TextData(RowData):
    """Real texts; bags are generated, as no text has a decomposition of information.

    Args:
        sources: the data sets by any name, each with its encoder; None takes one of an inherited config out.
        dim: size of the vectors, the same for all sources.
        num_bags: of all splits together.
        data_seed: of the bags.
    """

    data_source = "real"
    class_names = CLASSES

    def __init__(
        self,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        shares: list[Share],
        data_dir: str | None,
        sources: dict[str, Source | None],
        dim: Annotated[int, Field(ge=56)],
        num_bags: Annotated[int, Field(ge=1)],
        data_seed: Annotated[int, Field(ge=0)],
    ):
        super().__init__(seed, batch_size, num_workers, shares)
        self.data_dir, self.sources, self.dim = data_dir, sources, dim
        self.num_bags, self.data_seed = num_bags, data_seed

    def make(self) -> Rows:
        texts = [source.load(self.data_dir, self.dim) for source in self.sources.values() if source is not None]
        return Rows.join([*texts, make_bags(self.num_bags, self.dim, self.data_seed)])

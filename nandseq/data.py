"""Sequences for the classifier: generated once, with their features, in disjoint splits and harder test sets."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data import InOrder, TrunkDataModule
from common.errors import UserError
from common.files import hash_arrays, hash_record
from nandseq.features import Features, FeatureSet, compute_features, leak
from nandseq.metrics import Truth
from nandseq.profiles import Profile
from nandseq.simulator import EXTRA_SETS, Sequences, make_sequences

SPLITS = ("train", "val", "test")
EVALUATION_BATCH = 512


@dataclass
class SequenceBatch:
    """B sequences of L commands.

    Attributes:
        index: (B,) int64 number of each sequence in its set.
        categories: (B, L, K) int64.
        numbers: (B, L, D) float32.
        slot: (B, L) int64 blocks, numbered in the order of first appearance.
        label: (B,) int64 class, 0 valid.
        bad_index: (B,) int64 first bad command, -1 where all are legal.
        bad: (B, L) bool, commands that break a rule.
    """

    index: Tensor
    categories: Tensor
    numbers: Tensor
    slot: Tensor
    label: Tensor
    bad_index: Tensor
    bad: Tensor

    def __len__(self) -> int:
        return len(self.label)


class SequenceSet(Dataset):
    """Sequences with their features, as arrays; an array of indices gives a batch.

    Args:
        sequences: what the features are made of.

    Attributes:
        arrays: the fields of `SequenceBatch` but `index`, for all sequences, in any integer type.
        truth: what a model should say.
    """

    def __init__(self, sequences: Sequences, features: Features):
        self.sequences, self.features = sequences, features
        self.truth = Truth(sequences.label, sequences.bad_index, list(sequences.names))
        self.arrays = {
            "categories": features.categories, "numbers": features.numbers, "slot": sequences.slot,
            "label": sequences.label, "bad_index": sequences.bad_index, "bad": sequences.codes > 0,
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.arrays["label"])

    def __getitem__(self, index: np.ndarray) -> SequenceBatch:
        rows = {name: torch.from_numpy(array[index]) for name, array in self.arrays.items()}
        for name in ("categories", "slot", "label", "bad_index"):
            rows[name] = rows[name].long()
        return SequenceBatch(torch.from_numpy(index), **rows)

    @property
    def identity(self) -> str:
        """Hash of the sequences themselves, whatever features they are seen by."""
        columns = self.sequences
        return hash_arrays(columns.op, columns.slot, columns.page, columns.address, columns.label, columns.bad_index)


class SimulatedData(TrunkDataModule):
    """Sequences of the simulator with at most one bad command, in three splits and four harder test sets.

    Args:
        profile: name or file of the device profile whose rules hold.
        features: feature sets, see `nandseq.features`; what they give away is in the facts as `leak`.
        num_train, num_val, num_test: sequences per split.
        num_extra: sequences of each harder test set.
        class_shares: of the training and validation sequences, by class, `valid` first.
        test_shares: of all test sequences, so that runs with other training shares are judged on the same ones.
        mixture, seq_len, num_blocks, max_streams, hard_share, hop_max: see `nandseq.simulator.make_sequences`; the
            harder test sets change one of them each.
        data_seed: seed of the sequences; the run's seed leaves them as they are.
    """

    data_source = "synthetic"

    def __init__(
        self,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        profile: str,
        features: list[FeatureSet],
        num_train: Annotated[int, Field(ge=1)],
        num_val: Annotated[int, Field(ge=1)],
        num_test: Annotated[int, Field(ge=1)],
        num_extra: Annotated[int, Field(ge=1)],
        class_shares: dict[str, Annotated[float, Field(ge=0)]],
        test_shares: dict[str, Annotated[float, Field(ge=0)]],
        mixture: dict[str, Annotated[float, Field(ge=0)]] | None,
        seq_len: Annotated[int, Field(ge=2)],
        num_blocks: Annotated[int, Field(ge=1)],
        max_streams: Annotated[int, Field(ge=1)],
        hard_share: Annotated[float, Field(ge=0, le=1)],
        hop_max: Annotated[int, Field(ge=2)],
        data_seed: Annotated[int, Field(ge=0)],
    ):
        super().__init__(seed, batch_size, num_workers)
        if list(class_shares) != list(test_shares):
            raise UserError(f"data.test_shares={test_shares}: name the classes of data.class_shares={class_shares}.")
        self.profile, self.features = Profile.load(profile), features
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.num_extra, self.class_shares, self.test_shares = num_extra, class_shares, test_shares
        self.data_seed = data_seed
        self.settings = {
            "mixture": mixture, "seq_len": seq_len, "num_blocks": num_blocks, "max_streams": max_streams,
            "hard_share": hard_share, "hop_max": hop_max,
        }  # fmt: skip
        self.datasets: dict[str, SequenceSet] = {}

    def setup(self, stage: str | None = None) -> None:
        if not self.datasets:
            self.datasets = {split: self.make(split) for split in SPLITS}
            self.describe()

    def describe(self) -> None:
        """Set `fingerprint` and `facts` from the three splits."""
        content = [hash_arrays(*data.arrays.values()) for data in self.datasets.values()]
        self.fingerprint = hash_record([content, self.features])
        train = self.datasets["train"]
        names, features = train.truth.names, train.features
        self.facts = {
            "class_names": names,
            "class_counts": np.bincount(train.truth.label, minlength=len(names)).tolist(),
            "num_samples": self.sizes,
            "num_classes": len(names),
            "columns": features.names,
            "category_sizes": features.sizes,
            "num_numbers": features.numbers.shape[-1],
            "slot_column": features.names.index("slot") if "slot" in features.names else None,
            "leak": leak(self.features),
            "test_fingerprint": self.datasets["test"].identity,
        }

    def make(self, name: str) -> SequenceSet:
        """The split or extra test set of that name: a stream of random numbers of its own."""
        settings = self.settings | EXTRA_SETS.get(name, {})
        shares = self.class_shares if name in ("train", "val") else self.test_shares
        count = self.sizes.get(name, self.num_extra)
        sequences = make_sequences(
            count, self.profile, class_shares=shares, seed=self.data_seed, stream=name, **settings
        )
        return SequenceSet(sequences, compute_features(sequences, self.features, self.profile))

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.datasets["train"])

    def val_dataloader(self) -> DataLoader:
        return self.whole(self.datasets["val"])

    def whole(self, data: SequenceSet) -> DataLoader:
        """All sequences in order, in batches as large as is fast: nothing is learnt from them."""
        return self._loader(data, InOrder(len(data), EVALUATION_BATCH))

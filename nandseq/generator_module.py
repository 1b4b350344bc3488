"""Training of the generator: sequences as tokens, and the step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.data import TrunkDataModule
from common.errors import UserError
from common.files import hash_arrays, hash_record
from common.module import TrunkModule
from nandseq.generator import TokenGRU
from nandseq.profiles import Profile
from nandseq.tokens import PAD, Vocabulary, Walks, encode, replay

SPLITS = ("train", "val", "test")


@dataclass
class TokenBatch:
    """B sequences of up to T tokens.

    Attributes:
        target: (B, T) int64 tokens, -1 after the end.
        newest: (B, T, S) int64 newest page of every slot's block before each token.
        legal: (B, T, V) bool, what the rules allow there.
        scenario: (B,) int64.
    """

    target: Tensor
    newest: Tensor
    legal: Tensor
    scenario: Tensor

    def __len__(self) -> int:
        return len(self.target)

    @property
    def previous(self) -> Tensor:
        """(B, T) the token before each, -1 at the beginning."""
        return torch.cat([torch.full_like(self.target[:, :1], PAD), self.target[:, :-1]], 1)


class TokenSet(Dataset):
    """Sequences, their tokens and the state before each token; an array of indices gives a batch.

    Attributes:
        walks: the N sequences.
        scenario: (N,) int64.
        tokens: (N, T) int16.
    """

    def __init__(self, walks: Walks, scenario: np.ndarray, vocabulary: Vocabulary, profile: Profile):
        self.walks, self.scenario = walks, scenario
        self.tokens = encode(walks, vocabulary, profile)
        self.newest, self.legal = replay(self.tokens, vocabulary, profile)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: np.ndarray) -> TokenBatch:
        arrays = (self.tokens, self.newest, self.legal, self.scenario)
        target, newest, legal, scenario = (torch.from_numpy(array[index]) for array in arrays)
        return TokenBatch(target.long(), newest.long(), legal, scenario)


class GeneratorData(TrunkDataModule):
    """Legal sequences of a source in three splits, as tokens.

    Args:
        source: makes the sequences, see `nandseq.generator_sources`.
        profile: name or file of the device profile whose rules hold.
        num_slots: blocks that a sequence can hold at a time.
        num_ages: ages a read can have; null: as many as the profile makes legal.
        num_train, num_val, num_test: sequences per split, each from a stream of random numbers of its own.
        seq_len: commands of a sequence.
        data_seed: seed of the sequences; the run's seed leaves them as they are.

    Attributes:
        datasets: "train", "val" and "test".
        vocabulary: what the tokens mean.
    """

    data_source = "synthetic"

    def __init__(
        self,
        seed: int,
        batch_size: Annotated[int, Field(ge=1)],
        num_workers: Annotated[int, Field(ge=0)],
        source: Any,
        profile: str,
        num_slots: Annotated[int, Field(ge=1, le=256)],
        num_ages: Annotated[int, Field(ge=1)] | None,
        num_train: Annotated[int, Field(ge=1)],
        num_val: Annotated[int, Field(ge=1)],
        num_test: Annotated[int, Field(ge=1)],
        seq_len: Annotated[int, Field(ge=2)],
        data_seed: Annotated[int, Field(ge=0)],
    ):
        super().__init__(seed, batch_size, num_workers)
        self.source, self.profile, self.seq_len, self.data_seed = source, Profile.load(profile), seq_len, data_seed
        self.vocabulary = Vocabulary.of(self.profile, num_slots, num_ages)
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.datasets: dict[str, TokenSet] = {}

    def setup(self, stage: str | None = None) -> None:
        if not self.datasets:
            self.datasets = {split: self.make(split, count) for split, count in self.sizes.items()}
            self.describe()

    def make(self, stream: str, count: int) -> TokenSet:
        """`count` sequences of the stream of that name."""
        walks, scenario = self.source.sequences(count, self.profile, self.seq_len, self.data_seed, stream)
        return TokenSet(walks, scenario, self.vocabulary, self.profile)

    def describe(self) -> None:
        """Set `fingerprint` and `facts` from the three splits."""
        hashes = [hash_arrays(data.tokens, data.scenario) for data in self.datasets.values()]
        self.fingerprint = hash_record([hashes, self.vocabulary.num_slots, self.vocabulary.num_ages])
        scenarios = self.datasets["train"].scenario
        self.facts = {
            "num_samples": self.sizes,
            "num_slots": self.vocabulary.num_slots,
            "num_ages": self.vocabulary.num_ages,
            "pages": self.profile.pages,
            "scenarios": list(self.source.scenarios),
            "num_scenarios": len(self.source.scenarios),
            "scenario_counts": np.bincount(scenarios, minlength=len(self.source.scenarios)).tolist(),
        }

    def train_dataloader(self) -> DataLoader:
        return self.shuffled(self.datasets["train"])

    def val_dataloader(self) -> DataLoader:
        return self.in_order(self.datasets["val"])


class GeneratorModule(TrunkModule):
    """Trains the network to tell the next token.

    Args:
        loss: nats a token.
        legality_weight: weight of the probability given to illegal tokens. A network that knows the source has none, so
            it gives up nothing for it; sequences alone say too seldom what never happens.
    """

    network: TokenGRU

    def __init__(
        self,
        network: nn.Module,
        loss: nn.CrossEntropyLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[float, int], float],
        trainable: Sequence[str],
        legality_weight: Annotated[float, Field(ge=0)] = 0.0,
    ):
        super().__init__(network, optimizer, schedule, trainable)
        if loss.reduction != "mean":
            raise UserError(
                f"loss.reduction={loss.reduction}: the generator's figures are nats a token; set it to mean."
            )
        self.loss, self.legality_weight = loss, legality_weight
        self.val_sums = torch.zeros(3, dtype=torch.float64)

    def logits(self, batch: TokenBatch) -> Tensor:
        """(B, T, V) logits of each token from those before it."""
        return self.network(batch.previous, batch.newest, batch.scenario)[0]

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        logits = self.logits(batch)
        loss = self.loss(logits.flatten(0, 1), batch.target.flatten())
        if self.legality_weight:
            illegal = (logits.softmax(2) * ~batch.legal).sum(2)
            loss = loss + self.legality_weight * illegal[batch.target != PAD].mean()
        return self.record_train_loss(loss, len(batch), batch_idx)

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        shares = self.logits(batch).log_softmax(2)
        present = batch.target != PAD
        nats = -shares.gather(2, batch.target.clamp(min=0)[..., None])[..., 0]
        illegal = (shares.exp() * ~batch.legal).sum(2)
        sums = [(nats * present).double().sum(), (illegal * present).double().sum(), present.sum()]
        self.val_sums += torch.stack([each.double().cpu() for each in sums])

    def on_validation_epoch_end(self) -> None:
        nats, illegal, count = self.val_sums.tolist()
        self.val_sums.zero_()
        self.log("val/loss", nats / count)
        self.log("val/illegal_mass", illegal / count)

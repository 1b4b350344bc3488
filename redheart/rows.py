"""Rows of data, whatever they come from: vectors, targets of any of the four tasks, and the split each belongs to."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass, fields
from itertools import chain
from typing import Literal

import numpy as np

Split = Literal["train", "select", "test"]
SPLITS: tuple[Split, ...] = ("train", "select", "test")
Task = Literal["emotion", "bentham", "regret", "surd"]
TASKS: tuple[Task, ...] = ("emotion", "bentham", "regret", "surd")
NUM_OUTPUTS: dict[Task, int] = {"emotion": 7, "bentham": 10, "regret": 1, "surd": 4}
DIMENSIONS = (
    "intensity", "duration", "certainty", "propinquity", "fecundity", "purity", "extent",
    "agency", "dignity", "fairness",
)  # fmt: skip
UNLABELLED = -100


@dataclass
class Rows:
    """n rows over M vectors. A float target is NaN where it is missing.

    Attributes:
        x: (M, D) float32, or (M, L, D) for texts of L segments.
        ids: n names, which decide the split.
        texts: n tuples of the normalised texts of a row; empty where the row was generated.
        first, second: (n,) int64 vector of the row, and of the text it is compared with, −1 for none.
        emotion: (n,) int64 class, −100 unlabelled.
        bentham: (n, 10) in [0, 1].
        regret: (n,) in [0, 1].
        vote: (n,) share of votes that the first text is the worse choice.
        preference: (n,) 1 where the first text is the more pleasant one, 0 where the second is.
        surd: (n, 4) shares (R, U1, U2, S).
        information: (n,) bits that those are shares of.
    """

    x: np.ndarray
    ids: list[str]
    texts: list[tuple[str, ...]]
    first: np.ndarray
    second: np.ndarray
    emotion: np.ndarray
    bentham: np.ndarray
    regret: np.ndarray
    vote: np.ndarray
    preference: np.ndarray
    surd: np.ndarray
    information: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(
        cls, x: np.ndarray, ids: list[str], first: np.ndarray, second: np.ndarray | None = None,
        texts: list[tuple[str, ...]] | None = None, **targets: np.ndarray,
    ) -> "Rows":  # fmt: skip
        """Rows with the targets given, the others missing; integers become int64 and floats float32."""
        n = len(ids)
        missing = {
            "emotion": np.full(n, UNLABELLED),
            **{name: np.full((n, NUM_OUTPUTS[name]), np.nan) for name in ("bentham", "surd")},
            **{name: np.full(n, np.nan) for name in ("regret", "vote", "preference", "information")},
        }  # fmt: skip
        columns = {name: np.asarray(value) for name, value in (missing | targets).items()}
        typed = {name: each.astype(np.int64 if name == "emotion" else np.float32) for name, each in columns.items()}
        second = np.full(n, -1) if second is None else second
        places = {"first": first.astype(np.int64), "second": second.astype(np.int64)}
        return cls(x.astype(np.float32), ids, texts or [()] * n, **places, **typed)

    @classmethod
    def join(cls, parts: list["Rows"]) -> "Rows":
        """All rows one after another, each over its own vectors."""
        offsets = np.cumsum([0, *(len(part.x) for part in parts)])
        moved = {
            "first": [part.first + offset for part, offset in zip(parts, offsets)],
            "second": [np.where(part.second < 0, -1, part.second + offset) for part, offset in zip(parts, offsets)],
        }
        joined = {}
        for field in fields(cls):
            each = moved.get(field.name) or [getattr(part, field.name) for part in parts]
            listed = field.name in ("ids", "texts")
            joined[field.name] = list(chain(*each)) if listed else np.concatenate(each)
        return cls(**joined)


def normalise(text: str) -> str:
    """Lower case, one space between words, compatible characters alike: what makes two texts the same text."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().lower()


def assign_splits(rows: Rows, shares: tuple[float, float, float]) -> np.ndarray:
    """(n,) int8: 0 train, 1 select, 2 test by the hash of the row's name, −1 left out.

    Rows of the same texts go where the first of them goes. Where two pairs share but one text and fall into different
    splits, the one in the earlier split is left out: chains of shared texts reach through whole data sets.
    """
    owner: dict[tuple[str, ...], str] = {}
    keys = [
        owner.setdefault(tuple(sorted(texts)), name) if texts else name for name, texts in zip(rows.ids, rows.texts)
    ]
    split = np.searchsorted(np.cumsum(shares)[:2], [hash_share(key) for key in keys], side="right").astype(np.int8)
    latest: dict[str, int] = {}
    for number, texts in zip(split, rows.texts):
        for text in texts:
            latest[text] = max(int(number), latest.get(text, 0))
    left_out = [any(latest[text] > number for text in texts) for number, texts in zip(split, rows.texts)]
    return np.where(left_out, -1, split).astype(np.int8)


def hash_share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) / 2**48

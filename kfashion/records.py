"""Garments as numbers: five attribute fields, their vocabulary, and tensors of records.

Source: kfashion specification, section 2.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from common.errors import UserError
from common.files import read_json, write_json
from kfashion.fields import FIELDS, MULTI, SINGLE, Items, columns_of, flat_tokens, tokens_of

PAD, UNKNOWN, MISSING = 0, 1, 2
NUM_RESERVED = 3
VOCABULARY_VERSION = 1

Codes = dict[str, Tensor]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of every field; a token's code is its place plus 3.

    Args:
        tokens: by field, sorted by code point.
    """

    tokens: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_items(cls, items: Items) -> "Vocabulary":
        """The vocabulary of the garments given, which must be those of the training split only."""
        return cls({field: tuple(tokens) for field, tokens in tokens_of(items).items()})

    @classmethod
    def load(cls, path: Path, expected: str | None = None) -> "Vocabulary":
        """The vocabulary that `save` wrote.

        Args:
            expected: the hash it must have, for example that of a checkpoint.

        Raises:
            UserError: if the file is missing, of another version or damaged, or its hash is another one.
        """
        try:
            content = read_json(path)
            version, stored = content["version"], content["sha256"]
            vocabulary = cls({field: tuple(content["tokens"][field]) for field in FIELDS})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no vocabulary can be read ({type(error).__name__}: {error}).") from None
        if version != VOCABULARY_VERSION:
            raise UserError(f"{path}: version {version}; this program reads version {VOCABULARY_VERSION}.")
        if stored != vocabulary.hash:
            raise UserError(f"{path}: its tokens do not fit its sha256; it was changed by hand, make it anew.")
        if expected not in (None, vocabulary.hash):
            raise UserError(
                f"{path}: vocabulary {vocabulary.hash[:12]}, need {expected[:12]}; take the vocab.json of the same run."
            )
        return vocabulary

    def save(self, path: Path) -> None:
        tokens = {field: list(self.tokens[field]) for field in FIELDS}
        write_json(path, {"version": VOCABULARY_VERSION, "sha256": self.hash, "sizes": self.sizes, "tokens": tokens})

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of the embedding table of every field, those of padding, unknown and missing included."""
        return {field: NUM_RESERVED + len(self.tokens[field]) for field in FIELDS}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the tokens."""
        text = json.dumps([self.tokens[field] for field in FIELDS], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, items: Items) -> Codes:
        """Codes of N garments: (N,) int64 for single fields, (N, L) int32 padded with 0 for multi fields.

        L is the largest number of tokens that a garment has in the field, at least 1. A token that is not in the
        vocabulary is UNKNOWN, an empty field MISSING (`[2, 0, …]` in a multi field).
        """
        columns = columns_of(items)
        codes = {field: self._look_up(field, flat_tokens(columns[field])) for field in FIELDS}
        single = {field: torch.from_numpy(codes[field]) for field in SINGLE}
        multi = {field: torch.from_numpy(_padded(codes[field], columns[field], MISSING, np.int32)) for field in MULTI}
        return {field: (single | multi)[field] for field in FIELDS}

    def decode(self, codes: Codes, row: int) -> dict[str, str | list[str] | None]:
        """One garment in words again; unknown tokens read `<unknown>`."""
        words = {field: self._words(field, codes[field][row].reshape(-1).tolist()) for field in FIELDS}
        return words | {field: next(iter(words[field]), None) for field in SINGLE}

    def _look_up(self, field: str, values: pa.Array) -> np.ndarray:
        """(n,) int64 codes of tokens; null is MISSING."""
        place = pc.index_in(values, value_set=pa.array(self.tokens[field], pa.string()))
        codes = pc.fill_null(pc.add(place, NUM_RESERVED), UNKNOWN).to_numpy(zero_copy_only=False).astype(np.int64)
        codes[values.is_null().to_numpy(zero_copy_only=False)] = MISSING
        return codes

    def _words(self, field: str, codes: list[int]) -> list[str]:
        names = dict(enumerate(self.tokens[field], NUM_RESERVED)) | {UNKNOWN: "<unknown>"}
        return [names[code] for code in codes if code not in (PAD, MISSING)]


@dataclass
class RecordBatch:
    """B garments.

    Attributes:
        codes: by field, (B,) int64 for single fields, (B, L) int64 padded with 0 for multi fields.
        item_index: (B,) int64 row of each garment in the `Records` of the data.
        group_index: (B,) int64; garments of one group show the same image or the same look.
        attr_key: (B,) int64, equal where all five fields are.
        image_embedding: (B, 512) float32 of length 1, of the frozen image encoder.
    """

    codes: Codes
    item_index: Tensor
    group_index: Tensor
    attr_key: Tensor
    image_embedding: Tensor

    def __len__(self) -> int:
        return len(self.item_index)

    def to(self, device: torch.device) -> "RecordBatch":
        codes = {field: each.to(device) for field, each in self.codes.items()}
        others = (self.item_index, self.group_index, self.attr_key, self.image_embedding)
        return RecordBatch(codes, *(each.to(device) for each in others))


@dataclass
class Records:
    """N garments as tensors.

    Attributes:
        codes: as `Vocabulary.encode` gives them; what is valid is `codes != 0`.
        group: (N,) int64, see `RecordBatch.group_index`.
        attr_key: (N,) int64, see `attribute_keys`.
        item_id: (N,) str.
    """

    codes: Codes
    group: Tensor
    attr_key: Tensor
    item_id: np.ndarray

    @classmethod
    def from_items(cls, items: pa.Table, vocabulary: Vocabulary, group: np.ndarray) -> "Records":
        """The garments of a table with a column `item_id` and one for each field."""
        item_id = np.array(items["item_id"].to_pylist(), dtype=np.str_)
        return cls(vocabulary.encode(items), torch.from_numpy(group.astype(np.int64)), attribute_keys(items), item_id)

    def __len__(self) -> int:
        return len(self.group)

    def batch(self, index: np.ndarray, image_embedding: Tensor) -> RecordBatch:
        """The garments of some rows, with their (B, 512) image vectors."""
        rows = torch.from_numpy(index)
        codes = {field: each[rows].long() for field, each in self.codes.items()}
        return RecordBatch(codes, rows, self.group[rows], self.attr_key[rows], image_embedding)


def attribute_keys(items: Items) -> Tensor:
    """(N,) int64, equal where the words of all five fields are; order inside a multi field does not count."""
    columns = columns_of(items)
    hashes = {field: _hashes(flat_tokens(columns[field])) for field in FIELDS}
    words = {field: _padded(hashes[field], columns[field], 0, np.int64) for field in MULTI} | {
        field: hashes[field] for field in SINGLE
    }
    return _combined({field: torch.from_numpy(words[field]) for field in FIELDS})


def code_keys(codes: Codes) -> Tensor:
    """(B,) int64, equal where the codes of all five fields are: the keys of records that were changed by augmentation.

    They are other numbers than those of `attribute_keys`, so a batch takes either for all of its rows.
    """
    given = {field: (each != PAD) & (each != MISSING) for field, each in codes.items()}
    return _combined({field: _mixed(codes[field].long()) * given[field] for field in FIELDS})


def _combined(words: Codes) -> Tensor:
    """Keys from one number per token, 0 for none."""
    key = torch.zeros_like(words["category"])
    for field in FIELDS:
        key = _mixed(key ^ _mixed(words[field].reshape(len(key), -1).sum(dim=1)))
    return key


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of splitmix64: a bijection of int64 whose output bits depend on all input bits."""
    x = x + -0x61C8864680B583EB
    x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _padded(flat: np.ndarray, column: pa.Array, empty: int, dtype: type) -> np.ndarray:
    """(N, L) from the numbers of all tokens; garments without a token hold `[empty, 0, …]`."""
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    padded = np.zeros((len(counts), max(1, counts.max(initial=0))), dtype)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = flat
    padded[counts == 0, 0] = empty
    return padded


def _hashes(values: pa.Array) -> np.ndarray:
    """(n,) int64 of tokens, a function of the word alone; 0 for null."""
    encoded = values.dictionary_encode()
    digests = [hashlib.blake2b(word.encode(), digest_size=8).digest() for word in encoded.dictionary.to_pylist()]
    table = np.array([0, *(int.from_bytes(digest, signed=True) for digest in digests)], np.int64)
    return table[pc.fill_null(pc.add(encoded.indices, 1), 0).to_numpy(zero_copy_only=False)]

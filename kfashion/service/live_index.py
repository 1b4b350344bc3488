"""A search index that changes while it is searched."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kfashion.search import Backend, ExactIndex, Identity, build_index

Found = list[tuple[str, float]]
DECIMALS = 6  # of a cosine: the last bits depend on how many queries were multiplied at once


@dataclass(frozen=True)
class Snapshot:
    """What one search sees: searches keep theirs while changes make the next.

    Attributes:
        categories: (N,) of the garments in the index.
        alive: (N,) bool, those that have not been removed.
    """

    index: ExactIndex
    categories: np.ndarray
    alive: np.ndarray

    def search(self, queries: np.ndarray, count: int, wanted: frozenset[str]) -> list[Found]:
        if not self.alive.any():
            return [[] for _ in queries]
        allowed = self.alive & np.isin(self.categories, sorted(wanted)) if wanted else self.alive
        if not allowed.any():
            return [[] for _ in queries]
        places, scores = self.index.search(queries, count, None if allowed.all() else allowed)
        scores = np.clip(scores, -1, 1).round(DECIMALS)
        return [list(zip(self.index.ids[row].tolist(), score.tolist())) for row, score in zip(places, scores)]


class LiveIndex:
    """A large part built at the start, in which garments are only struck out, and a small one of those added since.

    Args:
        ids, vectors, categories: of the N garments at the start.
    """

    def __init__(
        self,
        identity: Identity,
        ids: Sequence[str],
        vectors: np.ndarray,
        categories: Sequence[str | None],
        backend: Backend = "exact",
    ):
        self.identity, self.backend = identity, backend
        kind = backend if len(ids) else "exact"  # there is nothing to make cells of
        self.base = self._snapshot(ids, vectors, categories, kind)
        self.recent = self._snapshot([], vectors[:0], [], "exact")

    def __len__(self) -> int:
        return int(self.base.alive.sum() + self.recent.alive.sum())

    def add(self, item_id: str, vector: np.ndarray, category: str | None) -> None:
        """Callers take turns; searches may go on meanwhile."""
        kept = self.recent.alive
        ids, vectors = self.recent.index.ids[kept], self.recent.index.vectors[kept]
        self.recent = self._snapshot(
            [*ids.tolist(), item_id], np.vstack([vectors, vector[None]]),
            [*self.recent.categories[kept].tolist(), category], "exact",
        )  # fmt: skip

    def remove(self, item_id: str) -> None:
        """As `add`; what is not there is left."""
        for name in ("base", "recent"):
            part: Snapshot = getattr(self, name)
            setattr(self, name, replace(part, alive=part.alive & (part.index.ids != item_id)))

    def search(self, queries: np.ndarray, count: int, wanted: Sequence[frozenset[str]]) -> list[Found]:
        """For each of (Q, D) queries the `count` best names and cosines, best first, equal cosines by name.

        Args:
            wanted: for each query the categories that may be found; empty for all.
        """
        parts, found = (self.base, self.recent), [[] for _ in queries]
        for each in set(wanted):
            rows = [row for row, own in enumerate(wanted) if own == each]
            for part in parts:
                for row, more in zip(rows, part.search(queries[rows], count, each)):
                    found[row] += more
        return [sorted(each, key=lambda pair: (-pair[1], pair[0]))[:count] for each in found]

    def _snapshot(
        self, ids: Sequence[str], vectors: np.ndarray, categories: Sequence[str | None], backend: Backend
    ) -> Snapshot:
        index = build_index(self.identity, ids, vectors, backend)
        return Snapshot(index, np.array([each or "" for each in categories], np.str_), np.ones(len(ids), bool))

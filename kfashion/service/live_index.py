"""A search index that changes while it is searched."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from kfashion.search import Backend, ExactIndex, Identity, IvfIndex, load_cells

log = logging.getLogger(__name__)

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
        cells: file of the cells of an approximate index, written if it is not there or does not fit; None for none.
    """

    def __init__(
        self,
        identity: Identity,
        ids: Sequence[str],
        vectors: np.ndarray,
        categories: Sequence[str | None],
        backend: Backend = "exact",
        cells: Path | None = None,
    ):
        self.identity, self.backend = identity, backend
        approximate = backend == "ivf" and len(ids) > 0  # of nothing no cells can be made
        index = _ivf_index(identity, ids, vectors, cells) if approximate else ExactIndex(identity, ids, vectors)
        # replaced together, so that no search sees twice what is removed and added again meanwhile
        self.parts = _snapshot(index, categories), self._small([], vectors[:0], [])

    def __len__(self) -> int:
        return sum(int(part.alive.sum()) for part in self.parts)

    def add(self, item_id: str, vector: np.ndarray, category: str | None) -> None:
        """Callers take turns; searches may go on meanwhile."""
        base, recent = self.parts
        kept = recent.alive
        ids, vectors = recent.index.ids[kept], recent.index.vectors[kept]
        categories = [*recent.categories[kept].tolist(), category]
        self.parts = base, self._small([*ids.tolist(), item_id], np.vstack([vectors, vector[None]]), categories)

    def remove(self, item_id: str) -> None:
        """As `add`; what is not there is left."""
        base, recent = (replace(part, alive=part.alive & (part.index.ids != item_id)) for part in self.parts)
        self.parts = base, recent

    def search(self, queries: np.ndarray, count: int, wanted: Sequence[frozenset[str]]) -> list[Found]:
        """For each of (Q, D) queries the `count` best names and cosines, best first, equal cosines by name.

        Args:
            wanted: for each query the categories that may be found; empty for all.
        """
        parts, found = self.parts, [[] for _ in queries]
        for each in set(wanted):
            rows = [row for row, own in enumerate(wanted) if own == each]
            for part in parts:
                for row, more in zip(rows, part.search(queries[rows], count, each)):
                    found[row] += more
        return [sorted(each, key=lambda pair: (-pair[1], pair[0]))[:count] for each in found]

    def _small(self, ids: Sequence[str], vectors: np.ndarray, categories: Sequence[str | None]) -> Snapshot:
        return _snapshot(ExactIndex(self.identity, ids, vectors), categories)


def _snapshot(index: ExactIndex, categories: Sequence[str | None]) -> Snapshot:
    return Snapshot(index, np.array([each or "" for each in categories], np.str_), np.ones(len(index), bool))


def _ivf_index(identity: Identity, ids: Sequence[str], vectors: np.ndarray, path: Path | None) -> IvfIndex:
    """With the cells in a file where they fit; else they are found in the vectors and kept in that file."""
    try:
        kept = load_cells(path, identity) if path is not None and path.exists() else None
    except UserError as error:
        log.warning(f"{error} It is made anew.")
        kept = None
    index = IvfIndex(identity, ids, vectors, kept)
    if path is not None and (kept is None or index.cells.centres is not kept.centres):
        index.save_cells(path)
    return index

"""Search among the vectors of garments: exact, or approximate by faiss, behind one interface and in one file.

Cosines are inner products, because all vectors have length 1. A file names the encoder, the preparation of pixels, the
vocabulary and the model that its vectors belong to, and is refused under any other. Source: kfashion specification,
section 6.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import torch

from common.errors import UserError
from common.files import write_atomic

VERSION = 2
QUERIES_AT_ONCE = 256
COMPARED = 200  # queries on which an approximate index is held against the exact one
LEAST_RECALL, TARGET_RECALL = 0.95, 0.995
LENGTH_TOLERANCE = 1e-3
Backend = Literal["exact", "ivf"]


@dataclass(frozen=True)
class Identity:
    """What vectors belong to; those of different identities have nothing to say to each other.

    Attributes:
        encoder, preprocess: id of the image encoder and hash of its preparation of pixels.
        vocabulary, model: hashes of the words and of the weights of the attribute encoder.
    """

    encoder: str
    preprocess: str
    vocabulary: str
    model: str


@dataclass(frozen=True)
class Cells:
    """Where an approximate index puts vectors: slow to find, soon loaded, and good for vectors like those it is of.

    Attributes:
        centres: (C, D) float32.
        probes: cells that are looked into for a query.
    """

    centres: np.ndarray
    probes: int


class ExactIndex:
    """Every vector is compared: one matrix product and the k largest.

    Args:
        ids: (N,) names of the garments, each once.
        vectors: (N, D) float32 of length 1.
    """

    backend: Backend = "exact"

    def __init__(self, identity: Identity, ids: Sequence[str], vectors: np.ndarray):
        self.identity = identity
        self.ids, self.vectors = np.empty(0, np.str_), np.empty((0, vectors.shape[1]), np.float32)
        self.recall_at_10: float | None = None
        self.add(ids, vectors)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Add garments.

        Raises:
            UserError: for a name that is there already, a wrong shape, or vectors that have not length 1.
        """
        ids, vectors = _checked(ids, vectors, self.vectors.shape[1])
        known = np.isin(ids, self.ids)
        if known.any():
            raise UserError(f"{ids[known][0]}: is in the index already; remove it first.")
        self.ids, self.vectors = np.concatenate([self.ids, ids]), np.concatenate([self.vectors, vectors])

    def remove(self, ids: Sequence[str]) -> None:
        """Take garments out.

        Raises:
            UserError: for a name that is not there.
        """
        gone = self._gone(ids)
        self.ids, self.vectors = self.ids[~gone], self.vectors[~gone]

    def search(
        self, queries: np.ndarray, k: int = 5, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest garments of each query, best first: (Q, k) positions in `ids`, and their cosines.

        Fewer columns than k where there are fewer garments.

        Args:
            queries: (Q, D) float32 of length 1.
            allowed: (N,) bool, which garments may be found; None for all.
        """
        k = min(k, len(self) if allowed is None else int(allowed.sum()))
        found = [self._nearest(queries[start : start + QUERIES_AT_ONCE], k, allowed)
                 for start in range(0, len(queries), QUERIES_AT_ONCE)]  # fmt: skip
        return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])

    def save(self, path: Path) -> None:
        """Write the index to one file, which replaces an older one at once."""
        self._write(path, {"ids": self.ids, "vectors": self.vectors, **self._arrays()})

    def manifest(self) -> dict:
        """What the index is, as plain values; `warning` where an approximate one finds too little."""
        poor = self.recall_at_10 is not None and self.recall_at_10 < LEAST_RECALL
        return {
            "version": VERSION, "backend": self.backend, "dim": self.vectors.shape[1], "metric": "cosine",
            "count": len(self), **asdict(self.identity), "recall_at_10": self.recall_at_10,
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "warning": f"recall@10 {self.recall_at_10:.3f} < {LEAST_RECALL}" if poor else None,
        }  # fmt: skip

    def _nearest(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        scores = torch.from_numpy(queries) @ torch.from_numpy(self.vectors).T
        if allowed is not None:
            scores.masked_fill_(~torch.from_numpy(allowed), -torch.inf)
        best = scores.topk(k)
        return best.indices.numpy(), best.values.numpy()

    def _gone(self, ids: Sequence[str]) -> np.ndarray:
        missing = np.setdiff1d(np.asarray(ids, np.str_), self.ids)
        if len(missing):
            raise UserError(f"{missing[0]}: is not in the index.")
        return np.isin(self.ids, np.asarray(ids, np.str_))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def _write(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        manifest = np.array(json.dumps(self.manifest()))
        write_atomic(path, lambda file: np.savez(file, manifest=manifest, **arrays))


class IvfIndex(ExactIndex):
    """Only the vectors in the cells nearest to a query are compared (faiss, inverted file).

    The number of cells that are looked into is the smallest power of two with which 200 of the garments, as queries,
    find 99.5 % of what the exact index finds.

    Args:
        cells: found before in vectors like these; they are found anew where they fit these no more.

    Attributes:
        cells: that the index has.
    """

    backend = "ivf"

    def __init__(self, identity: Identity, ids: Sequence[str], vectors: np.ndarray, cells: Cells | None = None):
        super().__init__(identity, ids, vectors)
        if cells is None or not self._fill(cells.centres, 2 * cells.probes):
            self._train()

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        before = len(self)
        super().add(ids, vectors)
        if before:
            self.inverted.add(self.vectors[before:])

    def remove(self, ids: Sequence[str]) -> None:
        super().remove(ids)
        self._train()  # positions have moved

    def save_cells(self, path: Path) -> None:
        """As `save`, without names and vectors."""
        self._write(path, self._arrays())

    def _train(self) -> None:
        count, dim = self._num_cells(), self.vectors.shape[1]
        trained = faiss.Kmeans(dim, count, niter=10, spherical=True, max_points_per_centroid=64)
        with _all_cores():
            trained.train(self.vectors)
        self._fill(trained.centroids, count)

    def _num_cells(self) -> int:
        return max(1, min(int(2 * len(self) ** 0.5), len(self) // 39))  # faiss wants 39 vectors to train a cell

    def _fill(self, centres: np.ndarray, most_probes: int) -> bool:
        """Put all vectors into cells of these centres; False if there are half or twice as many cells as there should
        be, or more than so many of them had to be looked into."""
        dim, count = self.vectors.shape[1], len(centres)
        if centres.shape != (count, dim) or not self._num_cells() / 2 <= count <= 2 * self._num_cells():
            return False
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(centres)
        self.inverted = faiss.IndexIVFFlat(quantizer, dim, count, faiss.METRIC_INNER_PRODUCT)
        with _all_cores():
            self.inverted.add(self.vectors)
        queries = self.vectors[np.random.default_rng(0).permutation(len(self))[:COMPARED]]
        exact = super()._nearest(queries, min(10, len(self)), None)[0]
        probes = 1
        while (recall := self._recall(queries, exact, probes)) < TARGET_RECALL and probes < count:
            probes = min(2 * probes, count)
        self.cells, self.recall_at_10 = Cells(centres, probes), recall
        return probes <= most_probes

    def _recall(self, queries: np.ndarray, exact: np.ndarray, probes: int) -> float:
        found = self.inverted.search(queries, exact.shape[1], params=faiss.SearchParametersIVF(nprobe=probes))[1]
        return float(np.mean([np.isin(one, other).mean() for one, other in zip(exact, found)]))

    def _nearest(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        options = faiss.SearchParametersIVF(nprobe=self.cells.probes)
        if allowed is not None:
            options.sel = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        scores, found = self.inverted.search(queries, k, params=options)
        short = (found < 0).any(1)  # the cells held fewer than k
        if short.any():
            found[short], scores[short] = super()._nearest(queries[short], k, allowed)
        return found, scores

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"centres": self.cells.centres, "probes": np.array(self.cells.probes)}


@contextmanager
def _all_cores() -> Iterator[None]:
    """faiss works on all cores for this thread, whatever OMP_NUM_THREADS says of single searches."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


BACKENDS: dict[Backend, type[ExactIndex]] = {"exact": ExactIndex, "ivf": IvfIndex}


def build_index(identity: Identity, ids: Sequence[str], vectors: np.ndarray, backend: Backend = "exact") -> ExactIndex:
    """An index of garments; exact is right up to about 100,000.

    Raises:
        UserError: as `ExactIndex.add`, and for an unknown backend.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend={backend}: no such index; there are {', '.join(BACKENDS)}.")
    return BACKENDS[backend](identity, ids, vectors)


def load_index(path: Path, identity: Identity) -> ExactIndex:
    """The index in a file.

    Args:
        identity: of the vectors that it is to be asked with.

    Raises:
        UserError: if the file is missing, damaged or of another version, or its vectors are of another identity.
    """
    content = _read(path, identity)
    if "centres" in content:
        return IvfIndex(identity, content["ids"], content["vectors"], _cells(content))
    return ExactIndex(identity, content["ids"], content["vectors"])


def load_cells(path: Path, identity: Identity) -> Cells:
    """What `IvfIndex.save_cells` wrote. Raises as `load_index`."""
    content = _read(path, identity)
    if "centres" not in content:
        raise UserError(f"{path}: an index without cells; build it again.")
    return _cells(content)


def _cells(content: dict[str, np.ndarray]) -> Cells:
    return Cells(np.asarray(content["centres"], np.float32), int(content["probes"]))


def _read(path: Path, identity: Identity) -> dict[str, np.ndarray]:
    """The arrays in a file. Raises as `load_index`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            content = dict(file)
        manifest = json.loads(str(content["manifest"]))
        version = manifest["version"]
        stored = Identity(**{each.name: manifest[each.name] for each in fields(Identity)})
    except Exception as error:  # bytes that are no index can make the reader fail in any way
        raise UserError(f"{path}: no index can be read ({type(error).__name__}); build it again.") from None
    if version != VERSION:
        raise UserError(f"{path}: version {version}; this program reads version {VERSION}.")
    for each in fields(Identity):
        theirs, ours = getattr(stored, each.name), getattr(identity, each.name)
        if theirs != ours:
            raise UserError(f"{path}: built with {each.name} {theirs}, need {ours}; build the index again.")
    return content


def _checked(ids: Sequence[str], vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    ids, vectors = np.asarray(ids, np.str_), np.ascontiguousarray(vectors, np.float32)
    if vectors.shape != (len(ids), dim):
        raise UserError(f"vectors of shape {vectors.shape} for {len(ids)} garments; need ({len(ids)}, {dim}).")
    if len(np.unique(ids)) < len(ids):
        names, counts = np.unique(ids, return_counts=True)
        raise UserError(f"{names[counts > 1][0]}: occurs more than once; every garment needs a name of its own.")
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # a tenth of the time of np.linalg.norm
    bad = ~(np.abs(lengths - 1) < LENGTH_TOLERANCE)
    if bad.any():
        raise UserError(f"{ids[bad][0]}: its vector has length {lengths[bad][0]:.4g}, not 1.")
    return ids, vectors

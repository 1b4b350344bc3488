"""Search among 100,000 vectors of 512 numbers: exact against one matrix product with top-k, IVF against exact.

Vectors lie around 2,000 centres, as those of garments do; uniform ones have no near neighbours to be found. Bars:
exact, 64 queries at once, in at most 1.2 times the plain product; IVF with recall@10 of 0.99 at 20 times the speed of
exact, one query at a time. Run with `python benchmarks/kfashion_search.py`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faiss
import numpy as np
import torch

from kfashion.search import Identity, build_index

COUNT, DIM, CENTRES, BATCH, ROUNDS = 100_000, 512, 2_000, 64, 15


def clustered(count: int, seed: int) -> np.ndarray:
    """(count, DIM) float32 of length 1; a vector's cosine with its centre is about 0.8."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIM)).astype(np.float32)
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(CENTRES, size=count)] + 0.75 * rng.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def seconds(*works: Callable[[], object]) -> list[float]:
    """Median wall seconds of each, turn by turn after one round of warm-up."""
    taken = [[] for _ in works]
    for round_ in range(ROUNDS + 1):
        for work, own in zip(works, taken):
            begin = time.perf_counter()
            work()
            if round_:
                own.append(time.perf_counter() - begin)
    return [float(np.median(own)) for own in taken]


def main() -> None:
    faiss.omp_set_num_threads(torch.get_num_threads())
    vectors, queries = clustered(COUNT, 1), clustered(1000, 2)
    identity, ids = Identity("", "", "", ""), np.arange(COUNT).astype(np.str_)
    exact = build_index(identity, ids, vectors)
    matrix, batch = torch.from_numpy(vectors), queries[:BATCH]

    def plain() -> torch.Tensor:
        return (torch.from_numpy(batch) @ matrix.T).topk(10).indices

    base, own = seconds(plain, lambda: exact.search(batch, 10))
    print(f"{torch.get_num_threads()} threads; exact, {BATCH} queries: {own * 1e3:.1f} ms, product and top-k "
          f"{base * 1e3:.1f} ms, ratio {own / base:.2f} (bar 1.2)")  # fmt: skip
    begin = time.perf_counter()
    ivf = build_index(identity, ids, vectors, "ivf")
    elapsed = time.perf_counter() - begin
    print(f"IVF built in {elapsed:.0f} s: {len(ivf.cells.centres)} cells, {ivf.cells.probes} looked into")
    right, found = exact.search(queries, 10)[0], ivf.search(queries, 10)[0]
    recall = np.mean([np.isin(one, other).mean() for one, other in zip(right, found)])
    one = queries[:1]
    slow, quick = seconds(lambda: exact.search(one, 10), lambda: ivf.search(one, 10))
    print(f"one query: exact {slow * 1e3:.2f} ms, IVF {quick * 1e3:.3f} ms, {slow / quick:.0f} × (bar 20); recall@10 "
          f"{recall:.4f} (bar 0.99)")  # fmt: skip


if __name__ == "__main__":
    main()

"""A grouped and stratified split: what shows the same image, the same look or nearly the same picture stays together.

Source: kfashion specification, section 4.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.errors import ChecksFailed, UserError
from common.files import read_json, write_json

SPLITS = ("train", "val", "test")
SPLITS_VERSION = 1
NEAR_BITS, HASH_BITS = 4, 64


def group_images(perceptual: np.ndarray, labels: Sequence[Sequence[str | None]]) -> np.ndarray:
    """(n,) int64 group of every image: those that are linked, directly or through others.

    Args:
        perceptual: (n,) uint64; images within 4 bits of 64 are linked.
        labels: any number of columns of n labels, such as looks; images with the same label of a column are linked.
    """
    values, first, place = np.unique(perceptual, return_index=True, return_inverse=True)
    links = [_chain(place), *(np.stack([first[one], first[other]], axis=1) for one, other in near_pairs(values))]
    for column in labels:
        present = np.flatnonzero([label is not None for label in column])
        numbers = np.unique([column[row] for row in present], return_inverse=True)[1]
        links.append(present[_chain(numbers)])
    pairs = np.concatenate(links)
    n = len(perceptual)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def near_pairs(hashes: np.ndarray, bits: int = NEAR_BITS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of different (n,) uint64 hashes that differ in so few bits, some more than once, in portions.

    Two hashes that differ in k bits agree in at least one of k + 1 bands; only those that share a band are compared.
    """
    edges = np.linspace(0, HASH_BITS, bits + 2).astype(int)
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        order = np.argsort(band, kind="stable")
        band, value = band[order], hashes[order]
        distance, active = 1, np.arange(len(order))
        while len(active):
            active = active[active + distance < len(order)]
            active = active[band[active] == band[active + distance]]
            close = active[np.bitwise_count(value[active] ^ value[active + distance]) <= bits]
            yield order[close], order[close + distance]
            distance += 1


def assign_splits(group: np.ndarray, stratum: Sequence[str], shares: Sequence[float], seed: int) -> np.ndarray:
    """(N,) int8 split of every garment: 0 train, 1 val, 2 test; whole groups, in every stratum near the shares.

    The largest groups first, those of one size in random order, each goes where it adds least to the sum over splits
    and strata of (count - wanted)² / wanted.
    """
    groups, place, sizes = np.unique(group, return_inverse=True, return_counts=True)
    strata, row = np.unique(list(stratum), return_inverse=True)
    counts = np.bincount(place * len(strata) + row, minlength=len(groups) * len(strata)).reshape(len(groups), -1)
    used = np.flatnonzero(np.asarray(shares) > 0)
    wanted = np.asarray(shares)[used, None] * counts.sum(0)
    lacking, chosen = wanted.copy(), np.zeros(len(groups), np.int8)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    for each in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        added = counts[each]
        best = (added * (added - 2 * lacking) / wanted).sum(1).argmin()
        lacking[best] -= added
        chosen[each] = used[best]
    return chosen[place]


def check_splits(group: np.ndarray, split: np.ndarray) -> None:
    """Raises ChecksFailed if a group is in two splits."""
    pairs = np.unique(np.stack([group, split]), axis=1)[0]
    torn = len(pairs) - len(np.unique(pairs))
    if torn:
        raise ChecksFailed(f"{torn} of {len(np.unique(pairs))} groups are in more than one split")


def save_splits(path: Path, item_id: np.ndarray, split: np.ndarray, settings: Mapping) -> None:
    """Write which garments are in which split, and how they got there."""
    items = {name: item_id[split == number].tolist() for number, name in enumerate(SPLITS)}
    write_json(path, {"version": SPLITS_VERSION, **settings, "items": items})


def load_splits(path: Path, item_id: np.ndarray) -> np.ndarray:
    """(N,) int8 of a file that `save_splits` wrote.

    Raises:
        UserError: if the file cannot be read, or does not say of every garment where it belongs.
    """
    try:
        items = read_json(path)["items"]
        split = {item: number for number, name in enumerate(SPLITS) for item in items[name]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no splits can be read ({type(error).__name__}: {error}).") from None
    missing = [item for item in item_id.tolist() if item not in split]
    if missing:
        raise UserError(f"{path}: {len(missing)} garments are in no split, for example {missing[0]}; make it anew.")
    return np.array([split[item] for item in item_id.tolist()], np.int8)


def _chain(column: np.ndarray) -> np.ndarray:
    """(m, 2) pairs of rows that link all with the same number."""
    order = np.argsort(column, kind="stable")
    same = np.flatnonzero(column[order][1:] == column[order][:-1])
    return np.stack([order[same], order[same + 1]], axis=1)

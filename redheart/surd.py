"""SURD: how much a target's information is redundant in, unique to, or synergistic between its sources, and what leaks.

Martínez-Sánchez, Arranz and Lozano-Durán (2024), Decomposing causality into its synergistic, unique, and redundant
components, Nature Communications 15, 9296; the steps are those of the redheart specification, section 3.1. A known
property of this family, as of I_min: independent sources of equal strength are called redundant (the two-bit copy has
one bit of redundancy).
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

DEGENERATE = 1e-12  # bits; less information than this cannot be divided
Sources = tuple[int, ...]


@dataclass(frozen=True)
class Surd:
    """A decomposition in bits. Sources are counted from 1.

    Attributes:
        redundant: by set of two or more sources.
        unique: by source.
        synergistic: by set of two or more sources.
        information: I(T; all sources), the sum of the three.
        leak: H(T | all sources) / H(T); 0 for a target that never varies.
    """

    redundant: dict[Sources, float]
    unique: dict[Sources, float]
    synergistic: dict[Sources, float]
    information: float
    leak: float

    @property
    def degenerate(self) -> bool:
        """Whether there is no information to divide."""
        return self.information <= DEGENERATE

    def shares(self) -> np.ndarray:
        """(2^(n+1) − 2 − n,) shares of the information, summing to 1, or zeros where degenerate.

        In the order redundant, unique, synergistic: (R, U1, U2, S) for two sources.
        """
        parts = np.array([*self.redundant.values(), *self.unique.values(), *self.synergistic.values()])
        return np.zeros_like(parts) if self.degenerate else parts / self.information


def surd(joint: ArrayLike) -> Surd:
    """The decomposition of a discrete joint distribution; the array is left as it is.

    Args:
        joint: (T, n1, n2, …) probabilities or counts of the target's states and those of each source.

    Raises:
        ValueError: without a source, for a negative or non-finite entry, or if all are zero.
    """
    joint = np.asarray(joint, dtype=np.float64)
    if joint.ndim < 2 or not np.isfinite(joint).all() or (joint < 0).any() or not joint.any():
        raise ValueError("joint must hold non-negative numbers, not all zero, over the target and at least one source")
    joint = joint / joint.sum()
    sources = range(1, joint.ndim)
    subsets = [subset for size in sources for subset in combinations(sources, size)]
    parts = [dict.fromkeys(subsets, 0.0) for _ in range(2)]
    target = joint.sum(tuple(sources))
    specific = {subset: specific_information(joint, subset) for subset in subsets}
    for t in np.flatnonzero(target):
        _divide({subset: specific[subset][t] for subset in subsets}, target[t], *parts)
    single, several = parts
    information = float(target @ specific[subsets[-1]])
    entropy = -float(target[target > 0] @ np.log2(target[target > 0]))
    return Surd(
        redundant={subset: single[subset] for subset in subsets if len(subset) > 1},
        unique={subset: single[subset] for subset in subsets if len(subset) == 1},
        synergistic={subset: several[subset] for subset in subsets if len(subset) > 1},
        information=information,
        leak=max(0.0, 1 - information / entropy) if entropy > DEGENERATE else 0.0,
    )


def specific_information(joint: np.ndarray, subset: Sources) -> np.ndarray:
    """(T,) bits that a set of sources holds about each state of the target: Σ p(a|t) log2(p(t|a) / p(t)).

    Never negative: p(t|a)/p(t) = p(a|t)/p(a), so it is a Kullback-Leibler divergence. 0 for states that never occur.
    """
    others = tuple(axis for axis in range(1, joint.ndim) if axis not in subset)
    cells = joint.sum(others).reshape(len(joint), -1)
    target, source = cells.sum(1), cells.sum(0)
    t, a = np.nonzero(cells)
    bits = cells[t, a] / target[t] * np.log2(cells[t, a] / (target[t] * source[a]))
    return np.bincount(t, bits, minlength=len(joint))


def _divide(values: dict[Sources, float], weight: float, single: dict, several: dict) -> None:
    """Add one target state's information, `weight` × value, to the parts it belongs to."""
    values = dict(values)
    for size in range(2, max(map(len, values)) + 1):
        best = max(value for subset, value in values.items() if len(subset) == size - 1)
        for subset in values:
            if len(subset) == size and values[subset] < best - DEGENERATE:
                values[subset] = 0.0
    # rounding must not decide a tie between a source and a pair: it would turn unique into synergistic
    order = sorted(values, key=lambda subset: (round(values[subset], 12), len(subset), subset))
    left, before = tuple(subset[0] for subset in values if len(subset) == 1), 0.0
    for subset in order:
        step, before = weight * (values[subset] - before), values[subset]
        if len(subset) > 1:
            several[subset] += step
        else:
            single[left] += step
            left = tuple(source for source in left if source != subset[0])


def joint_counts(observations: ArrayLike, num_states: tuple[int, ...]) -> np.ndarray:
    """(T, n1, …) counts of a bag of observations.

    Args:
        observations: (N, 1 + sources) integer states, the target first.
        num_states: of the target and each source.
    """
    cells = np.ravel_multi_index(np.asarray(observations).T, num_states)
    return np.bincount(cells, minlength=math.prod(num_states)).reshape(num_states)


def discretise(values: ArrayLike, bins: int | None = None) -> np.ndarray:
    """(N,) bins of equal count for a continuous variable; ⌊N^(1/3)⌋ bins unless told, at least 2."""
    values = np.asarray(values, dtype=np.float64)
    bins = bins or max(2, int(round(len(values) ** (1 / 3), 9)))
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right")


def information_bias(counts: np.ndarray) -> float:
    """Bits by which I(T; all sources) of so few observations exceeds the truth: (|T| − 1)(|A| − 1) / (2 N ln 2).

    |A| counts the joint states of the sources. About half of it lands in synergy: use bags of 200 or more.
    """
    counts = np.asarray(counts)
    states = counts.reshape(len(counts), -1)
    return (len(counts) - 1) * (states.shape[1] - 1) / (2 * counts.sum() * math.log(2))

"""How near generated sequences come to given ones: validity, distances, diversity (specification, section 9)."""

from typing import Any

import numpy as np
from numba import njit
from scipy.optimize import minimize

from common.metrics import auc
from nandseq.codes import Op
from nandseq.profiles import Profile
from nandseq.rules import check_batch
from nandseq.tokens import Walks
from nandseq.trace_features import trace_features

MAX_AGE, MAX_RUN, MAX_GAP, MAX_PAGE = 16, 32, 64, 64  # the last cell holds what is beyond
COMPARED = 100  # generated sequences whose neighbours are looked for
AMONG = 2000  # training sequences they are looked for in
RIDGE = 1e-3


def broken(walks: Walks, profile: Profile) -> np.ndarray:
    """(N, L) uint8 rule that each command breaks, by the rule engine; 0 for none and after the end."""
    return np.where(walks.present, check_batch(walks.op, walks.block, walks.page, profile).primary, 0)


def validity(walks: Walks, profile: Profile) -> dict[str, Any]:
    """valid_seq and valid_op (shares), first_violation (mean number of the first bad command; None without one)."""
    bad = broken(walks, profile) > 0
    invalid = bad.any(1)
    first = float(bad[invalid].argmax(1).mean()) if invalid.any() else None
    share = 1 - bad.sum() / max(int(walks.length.sum()), 1)
    return {"valid_seq": float(1 - invalid.mean()), "valid_op": float(share), "first_violation": first}


def distances(walks: Walks, reference: Walks) -> dict[str, float]:
    """Distances between two sets of sequences, 0 for equal ones.

    Jensen-Shannon divergence in bits of single commands, pairs of commands, read ages and lengths of runs on a block;
    Wasserstein-1 distance of the gap between two commands of a block, in commands, and of a block's final page.
    """
    ours, theirs = _histograms(walks), _histograms(reference)
    far = {"gap", "final_page"}
    return {
        ("w1_" if name in far else "js_") + name: (wasserstein if name in far else jensen_shannon)(ours[name], other)
        for name, other in theirs.items()
    }


def _histograms(walks: Walks) -> dict[str, np.ndarray]:
    num_ops = len(Op)
    tables = {
        "op": np.zeros(num_ops), "bigram": np.zeros(num_ops**2), "age": np.zeros(MAX_AGE), "run": np.zeros(MAX_RUN),
        "gap": np.zeros(MAX_GAP), "final_page": np.zeros(MAX_PAGE),
    }  # fmt: skip
    _count(walks.op, walks.block, walks.page, walks.length, *tables.values())
    return tables


@njit(cache=True)
def _count(ops, blocks, pages, length, op, bigram, age, run, gap, final_page):
    num_blocks = blocks.max() + 1
    newest, seen = np.empty(num_blocks, np.int64), np.empty(num_blocks, np.int64)
    for n in range(len(ops)):
        newest[:], seen[:], running = -1, -1, 0
        for t in range(length[n]):
            kind, b = ops[n, t], blocks[n, t]
            op[kind] += 1
            if t > 0:
                bigram[ops[n, t - 1] * len(op) + kind] += 1
            if t > 0 and blocks[n, t - 1] != b:
                run[min(running, len(run)) - 1] += 1
                running = 0
            running += 1
            if seen[b] >= 0:
                gap[min(t - seen[b], len(gap)) - 1] += 1
            seen[b] = t
            if kind == 0:
                newest[b] = -1
            elif kind == 1:
                newest[b] = max(pages[n, t], newest[b])
            elif newest[b] >= pages[n, t]:
                age[min(newest[b] - pages[n, t], len(age) - 1)] += 1
        run[min(max(running, 1), len(run)) - 1] += 1
        for b in range(num_blocks):
            if seen[b] >= 0:
                final_page[min(newest[b] + 1, len(final_page) - 1)] += 1


def jensen_shannon(counts: np.ndarray, others: np.ndarray) -> float:
    """Divergence in bits, 0 to 1, of two histograms."""
    p, q = counts / max(counts.sum(), 1), others / max(others.sum(), 1)
    mean = (p + q) / 2
    parts = [np.sum(one[one > 0] * np.log2(one[one > 0] / mean[one > 0])) for one in (p, q)]
    return float(max(np.mean(parts), 0.0))


def wasserstein(counts: np.ndarray, others: np.ndarray) -> float:
    """How many cells the one histogram's mass must move on average to become the other."""
    p, q = counts / max(counts.sum(), 1), others / max(others.sum(), 1)
    return float(np.abs(np.cumsum(p - q)).sum())


def diversity(walks: Walks, training: Walks, seed: int = 0) -> dict[str, float]:
    """unique (share of distinct sequences), novel (share not in training), and two mean edit distances a command.

    nearest_training: to the nearest of `AMONG` training sequences; pairwise: between generated ones.
    """
    rows, known = _rows(walks), {row.tobytes() for row in _rows(training)}
    rng = np.random.default_rng(seed)
    some = rows[rng.permutation(len(rows))[:COMPARED]]
    among = _rows(training)[rng.permutation(len(training))[:AMONG]]
    return {
        "unique": len({row.tobytes() for row in rows}) / len(rows),
        "novel": float(np.mean([row.tobytes() not in known for row in rows])),
        "nearest_training": float(edit_distances(some, among).min(1).mean() / rows.shape[1]),
        "pairwise": float(edit_distances(some[::2], some[1::2]).mean() / rows.shape[1]),
    }


def _rows(walks: Walks) -> np.ndarray:
    """(N, L) one number for each command, -1 after the end."""
    whole = (walks.op.astype(np.int64) << 48) + (walks.block.astype(np.int64) << 32) + walks.page
    return np.ascontiguousarray(np.where(walks.present, whole, -1))


@njit(cache=True)
def edit_distances(some, others):
    """(N, M) Levenshtein distances (1966) between rows of numbers."""
    width = others.shape[1]
    result, above = np.empty((len(some), len(others)), np.int64), np.empty(width + 1, np.int64)
    for n in range(len(some)):
        for m in range(len(others)):
            above[:] = np.arange(width + 1)
            for i in range(some.shape[1]):
                corner, above[0] = above[0], i + 1
                for j in range(width):
                    changed = corner + (some[n, i] != others[m, j])
                    corner = above[j + 1]
                    above[j + 1] = min(changed, corner + 1, above[j] + 1)
            result[n, m] = above[width]
    return result


class Judge:
    """Linear classifier of sequences by their features, to tell scenarios, or generated ones from given ones, apart.

    Multinomial logistic regression with a small ridge; knows nothing of the generator.
    """

    def __init__(self, walks: Walks, label: np.ndarray, num_classes: int):
        features = features_of(walks)
        self.mean, self.std = features.mean(0), features.std(0) + 1e-6
        inputs, size = self._inputs(features), num_classes
        wanted = np.eye(size)[label]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(-1, size)
            shares = _softmax(inputs @ weights)
            nats = -np.log(np.maximum(shares[np.arange(len(label)), label], 1e-12)).mean()
            slope = inputs.T @ (shares - wanted) / len(label) + 2 * RIDGE * weights
            return nats + RIDGE * np.sum(weights**2), slope.ravel()

        start = np.zeros(inputs.shape[1] * size)
        self.weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x.reshape(-1, size)

    def probabilities(self, walks: Walks) -> np.ndarray:
        """(N, C)"""
        return _softmax(self._inputs(features_of(walks)) @ self.weights)

    def _inputs(self, features: np.ndarray) -> np.ndarray:
        scaled = (features - self.mean) / self.std
        return np.concatenate([scaled, np.ones((len(scaled), 1))], 1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def features_of(walks: Walks) -> np.ndarray:
    """(N, D) what the judge sees of each sequence."""
    return trace_features(walks.op, walks.block, walks.page, walks.length)


def two_sample_auroc(walks: Walks, reference: Walks) -> float:
    """How well a linear judge tells the two sets apart on their second halves; 0.5: not at all."""
    halves = [(one[: len(one) // 2], one[len(one) // 2 :]) for one in (walks, reference)]
    learnt, judged = (Walks(*(np.concatenate(pair) for pair in zip(_columns(a), _columns(b)))) for a, b in zip(*halves))
    label = np.repeat([1, 0], [len(halves[0][0]), len(halves[1][0])])
    truth = np.repeat([True, False], [len(halves[0][1]), len(halves[1][1])])
    return auc(Judge(learnt, label, 2).probabilities(judged)[:, 1], truth)


def _columns(walks: Walks) -> tuple[np.ndarray, ...]:
    return walks.op, walks.block, walks.page, walks.length


def scenario_scores(judge: Judge, walks: Walks, scenario: np.ndarray, num_scenarios: int) -> dict[str, float]:
    """coverage (share of scenarios that the judge sees at all), js_label (bits), conditional_accuracy."""
    seen = judge.probabilities(walks).argmax(1)
    counts, asked = (np.bincount(each, minlength=num_scenarios) for each in (seen, scenario))
    return {
        "coverage": float((counts > 0).mean()),
        "js_label": jensen_shannon(counts, asked),
        "conditional_accuracy": float((seen == scenario).mean()),
    }

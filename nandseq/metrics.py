"""Scores of validity, strategy and place of the fault (nandseq specification, section 6, "Metrics, defined once").

Invalid is the positive class. The names that the founding roadmap used for other quantities begin with `peer_`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.metrics import auc, classification_scores, confusion_matrix
from common.stats import percentile_interval, resample_sums

VALID = 0


@dataclass
class Answers:
    """What a model says of N sequences.

    Attributes:
        invalid: (N,) probability of being invalid.
        strategy: (N, C) probabilities of the classes, or None.
        ops: (N, L) score of each command, higher for more suspect, or None.
    """

    invalid: np.ndarray
    strategy: np.ndarray | None = None
    ops: np.ndarray | None = None


@dataclass
class Truth:
    """What is so.

    Attributes:
        label: (N,) class, 0 valid.
        bad_index: (N,) the first bad command, -1 where all are legal.
        names: C names of the classes, `valid` first.
    """

    label: np.ndarray
    bad_index: np.ndarray
    names: Sequence[str]


def scores(truth: Truth, answers: Answers) -> dict[str, float]:
    """Every score of one model on one set; those of a head that it lacks are left out.

    accuracy, balanced_accuracy, f1_invalid, f1_valid, false_alarms (share of valid sequences called invalid), auroc,
    f1_detect/<strategy> (that strategy against all valid sequences); with a strategy head accuracy_strategy, macro_f1
    and f1_ovr/<class>, each class against all others on the whole set; with a head per command locate_at_1. And of the
    founding roadmap peer_invalid_f1, which is the F1 of valid, and peer_f1/<strategy>, taken where no false alarm can
    occur.
    """
    figures = count_scores(_counts(truth, answers).sum(0, keepdims=True), truth.names, answers)
    return {
        **{name: float(value[0]) for name, value in figures.items()},
        "auroc": auc(answers.invalid, truth.label != VALID),
    }


def intervals(
    truth: Truth, models: Sequence[Answers], num_resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """95 % bootstrap intervals over sequences, of all scores but auroc and the peer's, as plain values by name.

    Args:
        models: one or more with the same heads, for example one per seed; their answers to a sequence stay together,
            and the scores are those of all answers as one.
    """
    counts = sum(_counts(truth, answers) for answers in models)
    estimates = count_scores(counts.sum(0, keepdims=True), truth.names, models[0])
    resamples = count_scores(resample_sums(counts, num_resamples, seed), truth.names, models[0])
    return {
        name: percentile_interval(estimates[name][0], values, 0.95, len(counts), groups=False).as_dict()
        for name, values in resamples.items()
        if not name.startswith("peer")
    }


def _counts(truth: Truth, answers: Answers) -> np.ndarray:
    """(N, C · 2 + C · C + 1) what each sequence adds to the sums that all scores are made of."""
    num_classes, rows = len(truth.names), np.arange(len(truth.label))
    called = np.zeros((len(rows), num_classes, 2))
    called[rows, truth.label, (answers.invalid >= 0.5).astype(int)] = 1
    confusion = np.zeros((len(rows), num_classes, num_classes))
    if answers.strategy is not None:
        confusion[rows, truth.label, answers.strategy.argmax(1)] = 1
    found = np.zeros(len(rows))
    if answers.ops is not None:
        found = (truth.label != VALID) & (answers.ops.argmax(1) == truth.bad_index)
    return np.concatenate([called.reshape(len(rows), -1), confusion.reshape(len(rows), -1), found[:, None]], 1)


def count_scores(sums: np.ndarray, names: Sequence[str], answers: Answers) -> dict[str, np.ndarray]:
    """The scores that are ratios of counts, for R rows of sums of what each sequence adds."""
    size = len(names)
    called = sums[:, : 2 * size].reshape(-1, size, 2)
    binary = np.stack([called[:, VALID], called[:, 1:].sum(1)], 1)
    whole = classification_scores(binary)
    figures = {name: whole[name] for name in ("accuracy", "balanced_accuracy")}
    figures |= {"f1_invalid": whole["f1"][:, 1], "f1_valid": whole["f1"][:, 0]}
    figures |= {"false_alarms": 1 - whole["recall"][:, 0], "peer_invalid_f1": whole["f1"][:, 0]}
    for number, name in list(enumerate(names))[1:]:
        detection = classification_scores(called[:, [VALID, number]])
        recall = detection["recall"][:, 1]
        figures |= {f"f1_detect/{name}": detection["f1"][:, 1], f"peer_f1/{name}": 2 * recall / (1 + recall)}
    if answers.strategy is not None:
        each = classification_scores(sums[:, 2 * size : -1].reshape(-1, size, size))
        figures |= {"accuracy_strategy": each["accuracy"], "macro_f1": each["macro_f1"]}
        figures |= {f"f1_ovr/{name}": each["f1"][:, number] for number, name in enumerate(names)}
    if answers.ops is not None:
        invalid = binary[:, 1].sum(1)
        figures["locate_at_1"] = np.divide(sums[:, -1], invalid, out=np.zeros(len(sums)), where=invalid > 0)
    return figures


def best_constant(truth: Truth, num_ops: int) -> dict[str, float]:
    """For each score the best that an answer can do which never looks at the sequence; false alarms aside.

    The constants are: each class for the strategy, valid or invalid for the verdict, any one command for the place.
    """
    size, rows = len(truth.names), len(truth.label)
    every = []
    for number in range(size):
        strategy = np.eye(size)[np.full(rows, number)]
        every.append(scores(truth, Answers(np.full(rows, float(number != VALID)), strategy)))
    best = {name: max(each[name] for each in every) for name in every[0]}
    del best["false_alarms"]
    places = truth.bad_index[truth.label != VALID]
    at = np.bincount(places[places >= 0], minlength=num_ops)  # labels of the older generator can lack a bad command
    return best | {"locate_at_1": float(at.max() / max(len(places), 1))}


def mean_answers(each: Sequence[Answers]) -> Answers:
    """The soft vote: the mean of all members' probabilities and of their scores of the commands."""

    def mean(name: str) -> np.ndarray | None:
        parts = [getattr(answers, name) for answers in each]
        return None if any(part is None for part in parts) else np.mean(parts, 0)

    return Answers(mean("invalid"), mean("strategy"), mean("ops"))


def worst_f1(figures: Mapping[str, float]) -> float | None:
    """The lowest `f1_ovr` of all classes, or None without a strategy head."""
    values = [value for name, value in figures.items() if name.startswith("f1_ovr/")]
    return min(values) if values else None


def confusion(truth: Truth, answers: Answers) -> np.ndarray:
    """(C, C) counts, rows actual; without a strategy head (C, 2), columns called valid and called invalid."""
    if answers.strategy is None:
        return confusion_matrix(truth.label, (answers.invalid >= 0.5).astype(int), len(truth.names))[:, :2]
    return confusion_matrix(truth.label, answers.strategy.argmax(1), len(truth.names))

"""Scores of classifiers, as single numbers and as reports with intervals and the best constant predictor beside them.

Conventions: a confusion matrix has the actual classes in its rows; 0/0 counts as 0; a class that occurs neither among
the targets nor among the predictions takes no part in a mean over classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.files import plain
from common.stats import Interval, group_sums, percentile_interval, resample_sums

SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")
SMALLEST_PROBABILITY = 1e-15  # log loss of a certain mistake: 34.5 nats instead of infinity


def confusion_matrix(
    targets: ArrayLike, predictions: ArrayLike, num_classes: int, groups: ArrayLike | None = None
) -> np.ndarray:
    """(C, C) int64 counts, rows actual, columns predicted; (K, C, C), one matrix per group, where `groups` is given.

    Args:
        targets, predictions: (n,) class numbers in [0, C).
        groups: (n,) labels; the K groups come in the order of the sorted labels.

    Raises:
        ValueError: for class numbers out of range or unequal lengths.
    """
    targets, predictions = _classes(targets, num_classes, "targets"), _classes(predictions, num_classes, "predictions")
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets and {len(predictions)} predictions; need equal numbers")
    cell = targets * num_classes + predictions
    if groups is None:
        return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)
    names, labels = np.unique(np.asarray(groups), return_inverse=True)
    if labels.shape != targets.shape:
        raise ValueError(f"{len(targets)} targets and groups of shape {labels.shape}; need one label per target")
    counts = np.bincount(labels * num_classes**2 + cell, minlength=len(names) * num_classes**2)
    return counts.reshape(-1, num_classes, num_classes)


def classification_scores(confusion: ArrayLike) -> dict[str, np.ndarray]:
    """Every score that a confusion matrix determines, over any leading axes.

    accuracy; balanced_accuracy (mean recall of the classes that occur among the targets); macro_f1 (mean F1 of the
    classes that occur among targets or predictions); mcc (Gorodkin 2004, 0 for a constant predictor); and per class
    precision, recall, f1. 0/0 is 0. The same definitions as scikit-learn's defaults.

    Args:
        confusion: (..., C, C) counts, rows actual.

    Returns:
        Arrays of shape (...), the per-class ones (..., C).
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2]:
        raise ValueError(f"a confusion matrix is square; got shape {confusion.shape}")
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    actual, predicted = confusion.sum(-1), confusion.sum(-2)
    total = actual.sum(-1, keepdims=True)
    recall, f1 = _ratio(hits, actual), _ratio(2 * hits, actual + predicted)
    covariance = (hits * total - actual * predicted).sum(-1)
    # as a sum of products, because total² − Σ actual² can round to a negative number
    variances = [(counts * (total - counts)).sum(-1) for counts in (actual, predicted)]
    return {
        "accuracy": _ratio(hits.sum(-1), total[..., 0]),
        "balanced_accuracy": _ratio(recall.sum(-1), (actual > 0).sum(-1)),
        "macro_f1": _ratio(f1.sum(-1), (actual + predicted > 0).sum(-1)),
        "mcc": _ratio(covariance, np.sqrt(variances[0]) * np.sqrt(variances[1])),
        "precision": _ratio(hits, predicted),
        "recall": recall,
        "f1": f1,
    }


def log_loss(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean −log of the probability given to the true class, nats; probabilities are raised to at least 1e-15.

    Args:
        probabilities: (n, C), rows summing to 1.
        targets: (n,) class numbers.
    """
    return float(_log_losses(*_checked(probabilities, targets)).mean())


def brier(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean over rows of the squared error summed over all C classes, in [0, 2]: twice the usual figure for C = 2.

    Args:
        probabilities: (n, C), rows summing to 1.
        targets: (n,) class numbers.
    """
    return float(_squared_errors(*_checked(probabilities, targets)).mean())


def constant_predictor(prior: ArrayLike, targets: ArrayLike) -> dict[str, Any]:
    """Scores of what needs no input: always the most frequent training class, with the training shares as odds.

    Args:
        prior: (C,) counts or shares of the classes in the training set, never in the set that is judged.
        targets: (n,) class numbers.

    Returns:
        class (its number), the four scores, log_loss and brier.
    """
    prior = _shares(prior)
    probabilities = np.broadcast_to(prior, (len(np.atleast_1d(targets)), len(prior)))
    favourite = int(prior.argmax())
    confusion = confusion_matrix(targets, np.full(len(probabilities), favourite), len(prior))
    scores = classification_scores(confusion)
    return {
        "class": favourite,
        **{name: float(scores[name]) for name in SCORES},
        "log_loss": log_loss(probabilities, targets),
        "brier": brier(probabilities, targets),
    }


def classification_report(
    targets: ArrayLike,
    probabilities: ArrayLike,
    *,
    class_names: Sequence[str],
    prior: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
    num_resamples: int = 2000,
) -> dict[str, Any]:
    """Everything a report says about one classifier on one set of rows, as plain values ready for JSON.

    Args:
        targets: (n,) class numbers.
        probabilities: (n, C), rows summing to 1; the prediction is the largest.
        class_names: C names.
        prior: (C,) counts or shares of the classes in the training set.
        groups: (n,) labels of rows that belong together, for example `date_blocks(dates)`; `np.arange(n)` where rows
            are independent. None, or all rows in one group, gives no intervals.

    Returns:
        n; accuracy, balanced_accuracy, macro_f1, mcc, log_loss, log_loss_gain (how much lower than that of the prior),
        brier; intervals (95 %, by the same names); class_counts, class_accuracy (= recall), precision, recall, f1 by
        class name; confusion (rows actual); constant_predictor.

    Raises:
        ValueError: for no rows, unequal lengths, classes out of range, or rows that are not probabilities.
    """
    probabilities, targets = _checked(probabilities, targets)
    if len(class_names) != probabilities.shape[1]:
        raise ValueError(f"{len(class_names)} class names for {probabilities.shape[1]} columns of probabilities")
    confusion = confusion_matrix(targets, probabilities.argmax(1), len(class_names))
    scores = classification_scores(confusion)
    losses = _row_losses(probabilities, targets, prior)
    by_class = {"class_counts": confusion.sum(1), "class_accuracy": scores["recall"]}
    by_class |= {name: scores[name] for name in ("precision", "recall", "f1")}
    constant = constant_predictor(prior, targets)
    report = {
        "n": len(targets),
        **{name: scores[name] for name in SCORES},
        **{name: values.mean() for name, values in losses.items()},
        "intervals": {},
        **{name: dict(zip(class_names, values.tolist(), strict=True)) for name, values in by_class.items()},
        "confusion": confusion,
        "constant_predictor": constant | {"class": class_names[constant["class"]]},
    }
    if groups is not None and len(np.unique(groups)) > 1:
        counts = confusion_matrix(targets, probabilities.argmax(1), len(class_names), groups)
        intervals = _intervals(counts, SCORES, losses, groups, seed, num_resamples)
        report["intervals"] = {name: interval.as_dict() for name, interval in intervals.items()}
    return plain(report)


def compare_classifiers(
    targets: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    groups: ArrayLike,
    *,
    seed: int = 0,
    num_resamples: int = 2000,
) -> dict[str, Interval]:
    """95 % intervals of b − a for accuracy, balanced_accuracy, macro_f1 and log_loss, paired: both on the same draws.

    Args:
        targets: (n,) class numbers.
        probabilities_a, probabilities_b: (n, C), rows summing to 1.
        groups: (n,) labels of rows that belong together, at least two; `np.arange(n)` where rows are independent.

    Raises:
        ValueError: as `classification_report`, and for fewer than two groups.
    """
    (first, targets), (second, _) = _checked(probabilities_a, targets), _checked(probabilities_b, targets)
    if first.shape != second.shape:
        raise ValueError(f"the two classifiers give probabilities of shapes {first.shape} and {second.shape}")
    counts = [confusion_matrix(targets, each.argmax(1), each.shape[1], groups) for each in (first, second)]
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    losses = {"log_loss": _log_losses(second, targets) - _log_losses(first, targets)}
    return _intervals(np.stack(counts, 1), names, losses, groups, seed, num_resamples)


def _intervals(
    counts: np.ndarray,
    names: Sequence[str],
    losses: dict[str, np.ndarray],
    groups: ArrayLike,
    seed: int,
    num_resamples: int,
) -> dict[str, Interval]:
    """Intervals of the named scores and of mean losses, all on the same draws of groups.

    Args:
        counts: (K, C, C) matrices per group; (K, 2, C, C) gives the differences of two classifiers' scores, b − a.
        losses: (n,) values by name.
    """

    def statistics(counts: np.ndarray, sums: np.ndarray) -> dict[str, np.ndarray]:
        scores = classification_scores(counts)
        results = {name: scores[name] if counts.ndim == 3 else np.diff(scores[name])[:, 0] for name in names}
        return results | dict(zip(losses, (sums[:, :-1] / sums[:, -1:]).T, strict=True))

    sums = group_sums(np.stack([*losses.values(), np.ones(len(next(iter(losses.values()))))], 1), groups)
    estimates = statistics(counts.sum(0, keepdims=True), sums.sum(0, keepdims=True))
    resamples = statistics(*(resample_sums(each, num_resamples, seed) for each in (counts, sums)))
    return {name: percentile_interval(estimates[name][0], resamples[name], 0.95, len(sums)) for name in estimates}


def _row_losses(probabilities: np.ndarray, targets: np.ndarray, prior: ArrayLike) -> dict[str, np.ndarray]:
    losses, prior = _log_losses(probabilities, targets), _shares(prior)
    gains = _log_losses(np.broadcast_to(prior, probabilities.shape), targets) - losses
    return {"log_loss": losses, "log_loss_gain": gains, "brier": _squared_errors(probabilities, targets)}


def _log_losses(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], SMALLEST_PROBABILITY))


def _squared_errors(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return ((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(1)


def _checked(probabilities: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The two as float64 (n, C) and int64 (n,)."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or not len(probabilities):
        raise ValueError(f"probabilities must have shape (n, C) with n ≥ 1; got {probabilities.shape}")
    targets = _classes(targets, probabilities.shape[1], "targets")
    if len(targets) != len(probabilities):
        raise ValueError(f"{len(targets)} targets and {len(probabilities)} rows of probabilities; need equal numbers")
    # 1e-2: half-precision softmax rows miss 1 by a few thousandths
    bad = ~((probabilities >= 0).all(1) & (np.abs(probabilities.sum(1) - 1) < 1e-2))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"row {row} holds no probabilities that sum to 1: {probabilities[row]}; pass softmax output")
    return probabilities, targets


def _classes(values: ArrayLike, num_classes: int, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a list of class numbers; got {values.dtype} of shape {values.shape}")
    bad = (values < 0) | (values >= num_classes)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{name} must be in 0 … {num_classes - 1}; row {row} holds {values[row]}")
    return values.astype(np.int64)


def _shares(prior: ArrayLike) -> np.ndarray:
    prior = np.asarray(prior, dtype=np.float64)
    if prior.ndim != 1 or not np.isfinite(prior).all() or (prior < 0).any() or prior.sum() <= 0:
        raise ValueError(f"prior must hold a count or share ≥ 0 for each class, not all 0; got {prior}")
    return prior / prior.sum()


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def average_ranks(values: ArrayLike) -> np.ndarray:
    """(n,) float64 ranks 1 … n of finite values, the mean rank where values are equal."""
    _, cell, counts = np.unique(_scores(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[cell]


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a random positive row scores above a random negative one, ties counting half; NaN without both.

    The area under the ROC curve, from the rank sum of the positives.

    Args:
        scores: (n,) finite numbers, higher for more likely positive.
        positive: (n,) bool.

    Raises:
        ValueError: for scores that are not finite, `positive` that is not bool, or unequal lengths.
    """
    scores, positive = _scored(scores, positive)
    num_positive = np.count_nonzero(positive)
    pairs = num_positive * (len(positive) - num_positive)
    won = average_ranks(scores)[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(won / pairs) if pairs else np.nan


def one_vs_rest_auc(probabilities: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """(C,) AUC of each class's probability against all other classes; NaN for a class that no or every row has.

    Args:
        probabilities: (n, C), rows summing to 1.
        targets: (n,) class numbers.
    """
    probabilities, targets = _checked(probabilities, targets)
    return np.array([auc(column, targets == number) for number, column in enumerate(probabilities.T)])


def auc_interval(
    scores: ArrayLike,
    positive: ArrayLike,
    groups: ArrayLike,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the AUC over whole groups: `bootstrap(auc, …)`, same draws, rows ranked once.

    A group drawn w times weighs w, so the pairs that positives of group k win against negatives of group l count
    w_k · w_l times: one (K, K) table of won pairs serves all draws, exactly. Takes K passes over the rows and
    8 · K² bytes; for rows that are independent of each other use `bootstrap(auc, …)`.

    Args:
        scores, positive: as `auc`.
        groups: (n,) labels of rows that belong together, for example `date_blocks(dates)`.

    Raises:
        ValueError: as `auc` and `bootstrap`; among them for rows of one class only.
    """
    scores, positive = _scored(scores, positive)
    sizes = group_sums(np.stack([positive, ~positive], 1).astype(np.float64), groups)
    won = _won_pairs(scores, positive, groups)

    def ratio(weights: np.ndarray) -> np.ndarray:
        pairs = (weights @ sizes).prod(1)
        return np.divide(((weights @ won) * weights).sum(1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    weights = resample_sums(np.eye(len(won)), num_resamples, seed)
    return percentile_interval(ratio(np.ones((1, len(won))))[0], ratio(weights), level, len(won))


def precision_at_coverage(
    scores: ArrayLike, positive: ArrayLike, coverages: Sequence[float] = (0.01, 0.05, 0.1, 0.2)
) -> list[dict[str, float]]:
    """Share of positives among the rows with the highest scores, for each share of rows that one may choose.

    Of rows that tie at the cut, the needed number counts with their common share of positives: what a random choice
    among them gives on average, whatever the order of the rows.

    Args:
        scores, positive: as `auc`.
        coverages: shares in (0, 1] of the n rows; at least one row is chosen.

    Returns:
        For each coverage: coverage, n (rows chosen), precision.
    """
    scores, positive = _scored(scores, positive)
    if not len(scores) or not all(0 < coverage <= 1 for coverage in coverages):
        raise ValueError(f"coverages must be in (0, 1], of at least one row; got {coverages} of {len(scores)} rows")
    sizes = [max(1, round(coverage * len(scores))) for coverage in coverages]
    descending = np.sort(scores)[::-1]
    return [
        {"coverage": coverage, "n": n, "precision": _precision_above(descending[n - 1], n, scores, positive)}
        for coverage, n in zip(coverages, sizes)
    ]


def _precision_above(cut: float, n: int, scores: np.ndarray, positive: np.ndarray) -> float:
    above = positive[scores > cut]
    return float((above.sum() + (n - len(above)) * positive[scores == cut].mean()) / n)


def _won_pairs(scores: np.ndarray, positive: np.ndarray, groups: ArrayLike) -> np.ndarray:
    """(K, K) pairs that positives of the row's group win against negatives of the column's group, ties half."""
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    cells = np.unique(scores, return_inverse=True)[1]
    num_groups, num_cells = labels.max() + 1, cells.max() + 1
    own, place = labels[positive], cells[positive]
    won = np.empty((num_groups, num_groups))
    for group in range(num_groups):
        negatives = np.bincount(cells[~positive & (labels == group)], minlength=num_cells)
        won[:, group] = np.bincount(own, (np.cumsum(negatives) - negatives / 2)[place], num_groups)
    return won


def _scored(scores: ArrayLike, positive: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores, positive = _scores(scores), np.asarray(positive)
    if positive.dtype != bool or positive.shape != scores.shape:
        raise ValueError(f"positive must be {len(scores)} bools; got {positive.dtype} of shape {positive.shape}")
    return scores, positive


def _scores(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"scores must be a list of finite numbers; got shape {values.shape}")
    return values

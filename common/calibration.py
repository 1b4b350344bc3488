"""Whether probabilities mean what they say, and the smallest correction that makes them: a temperature, biases.

A calibration is fitted on validation rows and judged on others.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

# Rows that can be separated have no finite optimum; the bounds keep such a fit, and its worst mistake, finite.
INVERSE_TEMPERATURES = (0.0, 100.0)  # of logits with standard deviation 1
BIASES = (-10.0, 10.0)


@dataclass(frozen=True)
class Calibration:
    """Probabilities from logits by softmax(inverse_temperature · logits + bias).

    Attributes:
        inverse_temperature: 1 / T ≥ 0; below 1 the model was too sure, at 0 its logits say nothing.
        bias: C numbers with sum 0, one per class; all 0 for a temperature alone.
    """

    inverse_temperature: float
    bias: tuple[float, ...]

    def __call__(self, logits: ArrayLike) -> np.ndarray:
        """(n, C) float64 probabilities of (n, C) logits."""
        logits = np.asarray(logits, dtype=np.float64)
        if logits.ndim != 2 or logits.shape[1] != len(self.bias):
            raise ValueError(f"logits must have shape (n, {len(self.bias)}), as fitted; got {logits.shape}")
        return softmax(self.inverse_temperature * logits + self.bias, axis=1)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bias": list(self.bias)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Calibration":
        return cls(record["inverse_temperature"], tuple(record["bias"]))


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> Calibration:
    """Temperature scaling: the T of least log loss, without biases; keeps every row's order of classes.

    Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599.

    Args:
        logits: (n, C) finite; log probabilities will do.
        targets: (n,) class numbers.

    Raises:
        ValueError: for no rows, unequal lengths, logits that are not finite or classes out of range.
    """
    return _fit(*_checked(logits, targets), bias_bounds=(0.0, 0.0))


def fit_vector(logits: ArrayLike, targets: ArrayLike) -> Calibration:
    """Bias-corrected temperature scaling: one T and a bias per class, of least log loss; mends wrong class shares too.

    Never above the log loss of `fit_temperature` on the rows of the fit. Vector scaling proper has a factor per class.

    Alexandari et al. 2020, Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift
    Adaptation, arXiv 1901.06852. Arguments and errors as `fit_temperature`.
    """
    return _fit(*_checked(logits, targets), bias_bounds=BIASES)


def reliability(
    probabilities: ArrayLike, targets: ArrayLike, num_bins: int = 10, target_class: int | None = None
) -> list[dict[str, float]]:
    """How often the model was right where it was that sure: one row for each of `num_bins` equal bins of confidence.

    Bins are open below and closed above, (0, 0.1] … (0.9, 1]; a confidence of 0 falls into the first.

    Args:
        probabilities: (n, C).
        targets: (n,) class numbers.
        target_class: judges this class's probability against all others; None judges the predicted class's.

    Returns:
        For each bin: low, high, n, confidence (mean), frequency (share of rows that were right, or of that class);
        the last two NaN in an empty bin.
    """
    probabilities, targets = _checked(probabilities, targets)
    if (probabilities < 0).any() or (probabilities > 1 + 1e-6).any():
        raise ValueError("probabilities must be in [0, 1]; pass softmax output")
    judged = probabilities.argmax(1) if target_class is None else np.full(len(targets), target_class)
    confidence, right = probabilities[np.arange(len(targets)), judged], judged == targets
    edges = np.arange(num_bins + 1) / num_bins
    place = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(place, minlength=num_bins)
    sums = np.stack([np.bincount(place, values, num_bins) for values in (confidence, right)])
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    columns = (edges[:-1], edges[1:], counts, *means)
    names = ("low", "high", "n", "confidence", "frequency")
    return [dict(zip(names, row)) for row in zip(*(column.tolist() for column in columns))]


def expected_calibration_error(table: list[dict[str, float]]) -> float:
    """Mean over the rows behind a `reliability` table of their bin's |frequency − mean confidence|, in [0, 1].

    Of a table for the predicted class this is the usual ECE (Guo et al. 2017: equal-width bins over the confidence of
    the predicted class); the mean over the tables of all classes is the class-wise ECE. Chance alone keeps it above 0:
    read it beside that of a constant predictor or of another calibration on the same rows.
    """
    filled = [row for row in table if row["n"]]
    gaps = [row["n"] * abs(row["frequency"] - row["confidence"]) for row in filled]
    return float(sum(gaps) / sum(row["n"] for row in filled))


def _fit(logits: np.ndarray, targets: np.ndarray, bias_bounds: tuple[float, float]) -> Calibration:
    """The calibration of least log loss within the bounds: a convex problem with an exact gradient."""
    actual = np.eye(logits.shape[1])[targets]
    spread = (logits - logits.mean(1, keepdims=True)).std() or 1.0  # so that the unit of the logits does not matter
    logits = logits / spread

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        log_odds = log_softmax(parameters[0] * logits + parameters[1:], axis=1)
        errors = (np.exp(log_odds) - actual) / len(logits)
        return -(log_odds * actual).sum() / len(logits), np.array([(errors * logits).sum(), *errors.sum(0)])

    start = np.append(1.0, np.zeros(logits.shape[1]))
    bounds = [INVERSE_TEMPERATURES] + [bias_bounds] * logits.shape[1]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9})
    inverse_temperature, bias = found.x[0], found.x[1:] - found.x[1:].mean()
    return Calibration(float(inverse_temperature / spread), tuple(bias.tolist()))


def _checked(values: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Logits or probabilities as float64 (n, C), and their (n,) class numbers."""
    values, targets = np.asarray(values, dtype=np.float64), np.asarray(targets)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"need finite numbers of shape (n, C) with n ≥ 1; got shape {values.shape}")
    if targets.shape != values.shape[:1] or targets.dtype.kind not in "iu":
        raise ValueError(f"need {len(values)} class numbers; got {targets.dtype} of shape {targets.shape}")
    if targets.min() < 0 or targets.max() >= values.shape[1]:
        raise ValueError(f"class numbers must be in 0 … {values.shape[1] - 1}; got {targets.min()} … {targets.max()}")
    return values, targets

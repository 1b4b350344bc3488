"""What every judge of lasps looks at: windows with their outcomes, and what a model said of them beforehand."""

from dataclasses import dataclass, fields

import numpy as np

CLASSES = ("SELL", "HOLD", "BUY")


@dataclass(frozen=True)
class Rows:
    """N windows with known outcome.

    Attributes:
        code: (N,) stock codes as text.
        date, label_end: (N,) datetime64[D], session t and the session that decides the label.
        label: (N,) int64. 0 sell, 1 hold, 2 buy.
        forward_return: (N,) float64, from the entry price to the close of `label_end`.
        sector: (N,) int64, as it was known at t.
        volatility: (N,) float64, average true range of 14 sessions / close, at t.
    """

    code: np.ndarray
    date: np.ndarray
    label_end: np.ndarray
    label: np.ndarray
    forward_return: np.ndarray
    sector: np.ndarray
    volatility: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, chosen: np.ndarray) -> "Rows":
        return Rows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@dataclass(frozen=True)
class Forecast:
    """What one model says of N windows.

    Attributes:
        name: as it stands in tables.
        score: (N,) float64, higher for a better expected return; P(BUY) − P(SELL) for a classifier.
        predicted: (N,) int64, the class it decides for.
        probabilities: (N, 3) float64, rows sum to 1; None for a rule that gives none.
    """

    name: str
    score: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None = None

    def __getitem__(self, chosen: np.ndarray) -> "Forecast":
        odds = None if self.probabilities is None else self.probabilities[chosen]
        return Forecast(self.name, self.score[chosen], self.predicted[chosen], odds)


def from_probabilities(name: str, probabilities: np.ndarray, prior: np.ndarray | None = None) -> Forecast:
    """The forecast of a classifier: the most probable class, or the one that gains most over `prior`.

    Args:
        probabilities: (N, 3).
        prior: (3,) shares of the classes in training; divides the probabilities before the class is chosen.
    """
    odds = probabilities if prior is None else probabilities / prior
    return Forecast(name, probabilities[:, 2] - probabilities[:, 0], odds.argmax(1), probabilities)

"""What a network has to beat: rules and classical classifiers on the same windows (lasps specification, section 12).

All of them see session t only, plus four returns that lead up to it, in columns without a unit. They learn from the
training windows; the validation windows choose a penalty and a number of trees, the test windows nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field

from common.errors import UserError
from common.metrics import log_loss
from lasps.data.dataset import StockDataset
from lasps.data.features import FEATURES
from lasps.judged import CLASSES, Forecast, from_probabilities
from lasps.normalise import relative

if TYPE_CHECKING:
    from lightgbm import Booster

RETURNS = (1, 5, 20, 60)  # sessions
TREND_SESSIONS = (5, 20, 60)
LEFT_OUT = (
    "close", "volume_ma20", "obv",  # 0 on the last session by construction
    "rsi", "bb_middle",  # copies of rsi_norm and ma20
    "month", "day",  # together they name the session, whose market move trees then learn by heart
)  # fmt: skip
LAST_SESSION = tuple(name for name in FEATURES if name not in LEFT_OUT)
COLUMNS = (*LAST_SESSION, *(f"return_{sessions}" for sessions in RETURNS))

CHUNK = 4096  # windows in memory at once: 28 MB
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Table:
    """N windows as one row each.

    Attributes:
        features: (N, F) float32, columns as in `COLUMNS`.
        label: (N,) int64. 0 sell, 1 hold, 2 buy.
    """

    features: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Table":
        return Table(self.features[chosen], self.label[chosen])

    def column(self, name: str) -> np.ndarray:
        """(N,) float32."""
        return self.features[:, COLUMNS.index(name)]


def tabulate_dataset(dataset: StockDataset) -> Table:
    """All windows of a data set, in its order, read in chunks.

    Raises:
        UserError: for a window in which a price is not positive or a volume negative.
    """
    features = np.empty((len(dataset), len(COLUMNS)), np.float32)
    for start in range(0, len(dataset), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(dataset)))
        features[rows] = tabulate(dataset.series(rows))
    bad = ~np.isfinite(features)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"window {row} of {len(dataset)}: {COLUMNS[column]} comes out as {features[row, column]}, so a price of "
            "its last sessions is not positive or a volume negative; mend the data or drop the window."
        )
    return Table(features, dataset.labels)


def tabulate(series: np.ndarray) -> np.ndarray:
    """(N, F) float32, columns as in `COLUMNS`, from raw windows (N, 60, 28): unchanged if all prices are scaled.

    The last session's features in the form of `lasps.normalise.Relative` before its z-scores, then the logarithmic
    returns of the close over 1, 5, 20 and 60 sessions, at most log(100).
    """
    last = relative(torch.from_numpy(series[:, -1:]))[:, 0].numpy()
    kept = [FEATURES.index(name) for name in LAST_SESSION]
    return np.concatenate([last[:, kept], _returns(series)], axis=1)


def _returns(series: np.ndarray) -> np.ndarray:
    """(N, 4) float32 logarithmic returns over `RETURNS` sessions."""
    close = series[..., FEATURES.index("close")].astype(np.float64)
    ma60 = series[..., FEATURES.index("ma60")].astype(np.float64)
    # the 61st close back is outside the window, but is what the 60-session mean lost at t; float32 leaves 1e-5 of it
    sixty_ago = close[:, -1] - 60 * (ma60[:, -1] - ma60[:, -2])
    earlier = np.stack([close[:, -2], close[:, -6], close[:, -21], sixty_ago], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a close of 0 is refused by name in `tabulate_dataset`
        return -np.log(np.maximum(earlier / close[:, -1:], 0.01)).astype(np.float32)


@dataclass(frozen=True)
class Trees:
    """Boosted decision trees of LightGBM (Ke et al. 2017), as many as the validation log loss asks for.

    Args:
        learning_rate: share of each tree's correction that is taken.
        num_leaves: leaves of a tree.
        min_data_in_leaf: training windows in each leaf at least.
        feature_fraction: share of the columns that a tree may use, drawn for each tree.
        max_trees: rounds at most, each of one tree per class.
        patience: rounds without a lower validation log loss before it stops.
        num_threads: leaves the result as it is.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    num_leaves: Annotated[int, Field(ge=2)] = 15
    min_data_in_leaf: Annotated[int, Field(ge=1)] = 200
    feature_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8
    max_trees: Annotated[int, Field(ge=1)] = 500
    patience: Annotated[int, Field(ge=1)] = 50
    num_threads: Annotated[int, Field(ge=1)] = 1

    def fit(self, train: Table, val: Table, seed: int) -> "Booster":
        """The booster at its best round; `predict(features)` gives (N, 3) probabilities.

        Raises:
            UserError: if LightGBM is not installed.
        """
        lightgbm = _extra("lightgbm")
        parameters = asdict(self)
        max_trees, patience = parameters.pop("max_trees"), parameters.pop("patience")
        fixed = {
            "objective": "multiclass", "num_class": len(CLASSES), "seed": seed, "deterministic": True,
            "force_row_wise": True, "verbosity": -1,
        }  # fmt: skip
        seen = lightgbm.Dataset(train.features, train.label, feature_name=list(COLUMNS))
        judged = lightgbm.Dataset(val.features, val.label, reference=seen)
        stop = lightgbm.early_stopping(patience, verbose=False)
        return lightgbm.train(parameters | fixed, seen, max_trees, valid_sets=[judged], callbacks=[stop])


def importances(booster: "Booster") -> dict[str, float]:
    """Share of each column in the total gain of all splits, largest first; all 0 if there was no split."""
    gain = booster.feature_importance("gain")
    shares = gain / max(gain.sum(), np.finfo(float).tiny)
    return {COLUMNS[column]: float(shares[column]) for column in np.argsort(-shares, kind="stable")}


def fit_baselines(train: Table, val: Table, test: Table, seed: int, trees: Trees = Trees()) -> list[Forecast]:
    """What every baseline says of the test windows, the constant predictor first; equal input gives equal bits.

    Classifiers come twice: deciding for the most probable class, and for the one that gains most over its share in
    training.

    Args:
        val: chooses the penalty of the logistic regression and the number of trees.

    Raises:
        UserError: if a class does not occur in training, or scikit-learn or LightGBM is not installed.
    """
    prior = class_shares(train)
    odds = {
        "volatility only": volatility_only(train, test),
        "logistic regression": logistic_regression(train, val, test),
        "LightGBM": trees.fit(train, val, seed).predict(test.features),
    }
    forecasts = [class_prior(train, test)]
    for sessions in TREND_SESSIONS:
        forecasts.append(trend(f"momentum {sessions}", f"return_{sessions}", 1, train, test))
        forecasts.append(trend(f"reversal {sessions}", f"return_{sessions}", -1, train, test))
    for name, probabilities in odds.items():
        forecasts.append(from_probabilities(f"{name}, argmax", probabilities))
        forecasts.append(from_probabilities(f"{name}, divided by prior", probabilities, prior))
    return forecasts


def class_shares(train: Table) -> np.ndarray:
    """(3,) shares of the classes.

    Raises:
        UserError: if one of them does not occur.
    """
    counts = np.bincount(train.label, minlength=len(CLASSES))
    if (counts == 0).any():
        missing = CLASSES[counts.argmin()]
        raise UserError(
            f"baselines: none of the {len(train)} training windows is labelled {missing}, so there is no share to "
            "divide by; give longer bars or a smaller data.windowing.threshold."
        )
    return counts / counts.sum()


def class_prior(train: Table, test: Table) -> Forecast:
    """Always the most frequent class of training, with the training shares as probabilities."""
    prior, num_rows = class_shares(train), len(test)
    return Forecast("class prior", np.zeros(num_rows), np.full(num_rows, prior.argmax()), np.tile(prior, (num_rows, 1)))


def trend(name: str, column: str, sign: int, train: Table, test: Table) -> Forecast:
    """`sign` times a column as the score; as many BUY and SELL at its ends as there are in training.

    The bounds are quantiles of the training windows' scores; beyond them, not on them, it is BUY or SELL.
    """
    sell, _, buy = class_shares(train)
    low, high = np.quantile(sign * train.column(column).astype(np.float64), [sell, 1 - buy])
    score = sign * test.column(column).astype(np.float64)
    return Forecast(name, score, 1 + (score > high).astype(np.int64) - (score < low))


def volatility_only(train: Table, test: Table, num_bins: int = 20) -> np.ndarray:
    """(N, 3) class shares of the training windows of like ATR / close, in equal-sized bins.

    One is added to each count (Laplace), so that no class is impossible.
    """
    bounds = np.quantile(train.column("atr"), np.arange(1, num_bins) / num_bins)
    cell = np.searchsorted(bounds, train.column("atr"), side="right") * len(CLASSES) + train.label
    counts = 1 + np.bincount(cell, minlength=num_bins * len(CLASSES)).reshape(num_bins, len(CLASSES))
    shares = counts / counts.sum(1, keepdims=True)
    return shares[np.searchsorted(bounds, test.column("atr"), side="right")]


def logistic_regression(train: Table, val: Table, test: Table, penalties: Sequence[float] = PENALTIES) -> np.ndarray:
    """(N, 3) probabilities of a multinomial logistic regression on z-scores of the training windows, within ±10.

    Args:
        penalties: inverse strengths of the L2 penalty; the one of lowest validation log loss is taken.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    linear_model = _extra("sklearn.linear_model")
    mean, std = train.features.mean(0, dtype=np.float64), train.features.std(0, dtype=np.float64)
    std[std < 1e-6] = 1  # below what float32 resolves: constant
    seen, judged, asked = (np.clip((table.features - mean) / std, -10, 10) for table in (train, val, test))
    # Newton's steps need a tenth of the time of the default solver: many more rows than coefficients
    fits = [
        linear_model.LogisticRegression(C=each, solver="newton-cholesky").fit(seen, train.label) for each in penalties
    ]
    best = min(fits, key=lambda fit: log_loss(fit.predict_proba(judged), val.label))
    return best.predict_proba(asked)


def _extra(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise UserError(
            f"the baselines need {module.split('.')[0]}, which is not installed; install the optional extra `lasps`: "
            "uv pip install -r pyproject.toml --extra lasps"
        ) from None

"""Methods compared over seeds, from the rows of summary.csv: paired differences, tests, negative transfer.

Source: ssmo specification, section 7.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr

from common.stats import Interval, holm, paired_difference, sign_flip_test

METHODS = (
    "independent", "naive_mutual", "ssmo_hard", "ssmo_soft", "notebook_parity", "random_mask", "ema_self", "ensemble",
    "loss_x2",
)  # fmt: skip
BASELINES = ("independent", "naive_mutual")
Row = dict[str, Any]


class Place(NamedTuple):
    """Where a model was trained: everything of a run but its method and seed."""

    task: str
    dataset: str
    condition: str
    model1: str
    model2: str
    slot: int

    @property
    def model(self) -> str:
        return self.model2 if self.slot == 2 else self.model1

    @property
    def peer(self) -> str:
        return self.model1 if self.slot == 2 else self.model2

    @property
    def short(self) -> str:
        return f"{self.dataset}, {self.condition}: {self.model} (with {self.peer})"


@dataclass
class Results:
    """The test metric of every method at one place, by seed.

    Attributes:
        metric, mode: its name, and whether more or less of it is better.
        scores: method → seed → metric of the epoch chosen on validation.
        diverged: method → seeds that have none.
        validation: the same on validation, to say which model of a pair is the stronger without the test split.
    """

    metric: str
    mode: str
    scores: dict[str, dict[int, float]]
    diverged: dict[str, list[int]]
    validation: dict[str, dict[int, float]]

    def gains(self, baseline: str, method: str) -> np.ndarray:
        """Improvements of `method` over `baseline`, positive where better, for every seed that both have."""
        ours, theirs = self.scores.get(method, {}), self.scores.get(baseline, {})
        sign = 1 if self.mode == "max" else -1
        return np.array([sign * (ours[seed] - theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())])


@dataclass
class Comparison:
    """One method against another at one place; figures are None where fewer than two seeds have both.

    Attributes:
        gain: mean improvement, positive where `method` is better, with its 95 % t interval.
        t_p, flip_p: p-values of the paired t test and of the exact sign-flip test; None where all gains are equal.
        holm_p: the t test's, corrected for all comparisons of the table; sign flips have too few values for that.
        effect: mean over standard deviation of the gains (Cohen's d_z).
    """

    place: Place
    method: str
    baseline: str
    n: int
    gain: Interval | None = None
    t_p: float | None = None
    flip_p: float | None = None
    holm_p: float | None = None
    effect: float | None = None

    @property
    def sure(self) -> bool:
        """Whether both tests find a difference: t after correction, sign flips, which assume nothing, without."""
        return self.holm_p is not None and self.holm_p < 0.05 and self.flip_p < 0.05


def gather(rows: Iterable[Row]) -> dict[Place, Results]:
    """Rows of summary.csv by place; an independent model is found wherever it was trained, for it knows no peer."""
    rows = list(rows)
    lone = {
        (row["task"], row["dataset"], row["condition_tag"], row[f"model{slot}"], slot, row["seed"]): row
        for row in rows
        for slot in (1, 2)
        if row["method"] == "independent"
    }
    places: dict[Place, Results] = {}
    for row in rows:
        for slot in (1, 2):
            place = Place(row["task"], row["dataset"], row["condition_tag"], row["model1"], row["model2"], slot)
            for source in (row, lone.get((*place[:3], place.model, slot, row["seed"]))):
                if source is not None:
                    _add(places, place, source)
    return places


def _add(places: dict[Place, Results], place: Place, row: Row) -> None:
    if row["status"] == "diverged":
        seeds = places.setdefault(place, Results("", "", {}, {}, {})).diverged.setdefault(row["method"], [])
        if row["seed"] not in seeds:
            seeds.append(row["seed"])
    if row["status"] != "done":
        return
    results = places.setdefault(place, Results("", "", {}, {}, {}))
    results.metric, results.mode = row["metric_name"], row["metric_mode"]
    results.scores.setdefault(row["method"], {})[row["seed"]] = row[f"best_metric_{place.slot}"]
    results.validation.setdefault(row["method"], {})[row["seed"]] = row[f"val_best_{place.slot}"]


def compare(
    places: dict[Place, Results], baselines: Sequence[str] = ("independent", "naive_mutual")
) -> list[Comparison]:
    """Every method against the baselines at every place; Holm's correction is over all of them."""
    found = [
        _compare(place, results, method, baseline)
        for place, results in places.items()
        for baseline in baselines
        for method in ordered(results.scores)
        if method not in ("independent", baseline) and baseline in results.scores
    ]
    adjusted = holm([math.nan if each.t_p is None else each.t_p for each in found]) if found else []
    for each, p in zip(found, adjusted, strict=True):
        each.holm_p = None if math.isnan(p) else float(p)
    return found


def _compare(place: Place, results: Results, method: str, baseline: str) -> Comparison:
    gains = results.gains(baseline, method)
    comparison = Comparison(place, method, baseline, len(gains))
    if len(gains) < 2:
        return comparison
    comparison.gain = paired_difference(np.zeros(len(gains)), gains)
    spread = gains.std(ddof=1)
    if spread > 0:
        comparison.effect = float(gains.mean() / spread)
        comparison.t_p = float(2 * stdtr(len(gains) - 1, -abs(comparison.effect) * math.sqrt(len(gains))))
        comparison.flip_p = sign_flip_test(gains)
    return comparison


def strong_slot(places: dict[Place, Results], place: Place) -> int | None:
    """The slot whose independent model is better on validation; None where that is unknown or the models are alike."""
    if place.model1 == place.model2:
        return None
    both = [places.get(place._replace(slot=slot)) for slot in (1, 2)]
    if any(each is None or not each.validation.get("independent") for each in both):
        return None
    means = [np.mean(list(each.validation["independent"].values())) for each in both]
    better: Callable = np.argmax if both[0].mode == "max" else np.argmin
    return int(better(means)) + 1


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods in the order of tables; unknown ones last."""
    return sorted(methods, key=lambda name: (METHODS.index(name) if name in METHODS else len(METHODS), name))

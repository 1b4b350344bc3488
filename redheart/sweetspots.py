"""The epoch each unit's parameters should come from, with reasons, doubts and everything they rest on.

`analyse_unit` puts the six analyses of the redheart specification, section 5, together; `analyse` does so for a run;
`write` leaves `module_metrics.json`, `analysis_report.md` and `visualizations/`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, nearest
from common.files import plain, read_json, write_json, write_text
from common.rundir import Run
from redheart.changepoints import ChangePoints, change_points
from redheart.gradient_health import GradientHealth, gradient_health
from redheart.mcda import WEIGHTS, Mcda, check_weights, mcda, stability
from redheart.plateau import Plateaus, plateaus
from redheart.records import METRICS, Records, UnitSeries, read_records
from redheart.task_score import TaskScore, task_score
from redheart.trend import prominence, running_median
from redheart.voting import BestSet, Vote, best_set, tally

SCHEMA = 1
WARMUP_SHARE = 0.05  # of the epochs: the learning rate's warm-up


@dataclass(frozen=True)
class Thresholds:
    """What the analysis may be told instead of taking it from the noise (redheart specification, section 10).

    Attributes:
        plateau_variance: largest standard deviation of the loss on a plateau; None sets no bound.
        improvement_rate: largest change of the loss per epoch that counts as flat; None takes it from the noise.
        stability_window: checkpoints over which the MCDA's stability is judged.
        mcda_weights: of loss, task, stability and gradient; they sum to 1.
        voting_confidence: what a pick needs to be accepted by the automation.
    """

    plateau_variance: float | None = None
    improvement_rate: float | None = None
    stability_window: int = 5
    mcda_weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    voting_confidence: float = 0.75

    def __post_init__(self):
        check_weights(self.mcda_weights, WEIGHTS)
        for name in ("plateau_variance", "improvement_rate", "stability_window", "voting_confidence"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or not value > 0):
                raise UserError(f"{name}: must be a number above 0; got {value!r}.")

    @classmethod
    def load(cls, path: Path) -> "Thresholds":
        """Those of a calibrated_thresholds.json; what else it records of their making is passed over.

        Raises:
            UserError: if the file cannot be read, names an unknown threshold or holds an impossible value.
        """
        try:
            record = read_json(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({error}).") from None
        known = [each.name for each in fields(cls)]
        for name in record:
            if name not in (*known, *PROVENANCE):
                raise UserError(f"{path}: {name} is no threshold.{nearest(name, known)} There are {', '.join(known)}.")
        try:
            return cls(**{name: record[name] for name in known if name in record})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


PROVENANCE = (
    "schema", "fitted_on", "objective", "cv_score", "cv_score_of_defaults", "n_runs", "created", "calibrated",
)  # fmt: skip


@dataclass(frozen=True)
class Recommendation:
    """The answer for one unit.

    Attributes:
        epoch: None where there are too few checkpoints.
        confidence: in [0, 1], of the votes; halved at the boundary.
        interval: first and last of the epochs that rows cannot tell from the best (`bootstrap.inside` lists them); None
            without losses per row.
        at_boundary: whether the epoch is the first or last saved one.
        reasons, abstained: in words.
    """

    epoch: int | None
    confidence: float
    interval: tuple[int, int] | None
    at_boundary: bool
    reasons: list[str]
    abstained: list[str]


@dataclass(frozen=True)
class UnitAnalysis:
    """All that is concluded of one unit; what follows `plateau` is None where there are too few checkpoints."""

    series: UnitSeries
    recommendation: Recommendation
    plateau: Plateaus
    changepoints: ChangePoints | None = None
    task: TaskScore | None = None
    gradient: GradientHealth | None = None
    mcda: Mcda | None = None
    votes: list[Vote] = field(default_factory=list)
    score: np.ndarray | None = None
    bootstrap: BestSet | None = None


@dataclass(frozen=True)
class GroupPick:
    """The one epoch for units that depend on each other: of those as good as the best in summed loss, the most votes.

    Attributes:
        extra_loss: (units, units) by how much the loss of a unit (row) at another's pick (column) exceeds that at its
            own, as a share; NaN where a pick is missing.
    """

    units: list[str]
    epoch: int | None
    extra_loss: np.ndarray


@dataclass(frozen=True)
class Analysis:
    """A run's sweet spots."""

    units: dict[str, UnitAnalysis]
    groups: dict[str, GroupPick]
    warnings: list[str]
    thresholds: Thresholds


def analyse(records: Records, thresholds: Thresholds | None = None) -> Analysis:
    """The sweet spots of all units and groups of a run."""
    thresholds = thresholds or Thresholds()
    units = {name: analyse_unit(series, thresholds) for name, series in records.units.items()}
    groups = {
        name: _pick_for_group([units[unit] for unit in members]) for name, members in records.groups.items() if members
    }
    return Analysis(units, groups, records.warnings, thresholds)


def analyse_unit(series: UnitSeries, thresholds: Thresholds | None = None) -> UnitAnalysis:
    """All six analyses of one unit, and the epoch they recommend."""
    told = thresholds or Thresholds()
    epochs, loss = series.epochs, series.loss
    changes = change_points(epochs, loss)
    flat = plateaus(epochs, loss, max_slope=told.improvement_rate, max_sd=told.plateau_variance, changes=changes)
    if flat.abstained:
        return UnitAnalysis(series, Recommendation(None, 0.0, None, False, [], [flat.abstained]), flat)
    task = task_score(epochs, series.task_metrics)
    gradient = gradient_health(epochs, series.grad_norm, series.update_ratio, series.dead_fraction, series.nan_count)
    criteria = {
        "loss": loss,
        "task": task.score,
        "stability": stability(loss, flat.noise, told.stability_window),
        "gradient": gradient.score,
    }
    several = mcda(epochs, criteria, told.mcda_weights, warmup=int(WARMUP_SHARE * epochs[-1]))
    votes = _votes(epochs, loss, flat, task, gradient, several)
    score = tally(epochs, votes, reach=2 * _spacing(epochs))
    rows = None if series.row_losses is None or series.n < 2 else best_set(series.row_losses)
    parts = {"plateau": flat, "changepoints": changes, "task": task, "gradient": gradient, "mcda": several}
    recommendation = _recommend(series, score, votes, rows, parts)
    return UnitAnalysis(series, recommendation, **parts, votes=votes, score=score, bootstrap=rows)


def _votes(
    epochs: np.ndarray, loss: np.ndarray, flat: Plateaus, task: TaskScore, gradient: GradientHealth, several: Mcda
) -> list[Vote]:
    """The votes of those who do not abstain: a plateau's range, a checkpoint to each side for the others.

    A plateau below which the loss falls later is flagged, but does not vote.
    """
    smooth = running_median(loss, 3)
    lowest = int(epochs[np.argmin(smooth)]), prominence(-smooth, flat.noise)
    points = {
        "task": (task.epoch, task.confidence),
        "gradient": (gradient.epoch, gradient.confidence),
        "mcda": (several.epoch, several.confidence),
        "loss": lowest,
    }
    first, last, side = int(epochs[0]), int(epochs[-1]), _spacing(epochs)
    votes = [
        Vote(voter, max(first, at - side), min(last, at + side), confidence)
        for voter, (at, confidence) in points.items()
        if at is not None
    ]
    best = flat.best
    return votes if best is None or best.ended else [Vote("plateau", best.start, best.end, best.confidence), *votes]


def _spacing(epochs: np.ndarray) -> int:
    return int(np.median(np.diff(epochs)))


def _recommend(
    series: UnitSeries, score: np.ndarray, votes: list[Vote], rows: BestSet | None, parts: dict[str, Any]
) -> Recommendation:
    """The member of the one-standard-error set with the highest vote."""
    epochs = series.epochs
    inside = np.ones(len(epochs), bool) if rows is None else rows.inside
    best = _most_votes(score, series.loss, inside)
    at_boundary = best in (0, len(epochs) - 1)
    good = epochs[inside]
    interval = None if rows is None else (int(good[0]), int(good[-1]))
    reasons = _reasons(series, best, votes, rows, **parts)
    if at_boundary:
        reasons.append("At the first saved epoch: overfits from the start." if best == 0 else
                       "At the last saved epoch: still improving, train longer.")  # fmt: skip
    confidence = float(score[best]) * (0.5 if at_boundary else 1)
    return Recommendation(int(epochs[best]), confidence, interval, at_boundary, reasons, _abstained(rows, **parts))


def _most_votes(score: np.ndarray, loss: np.ndarray, inside: np.ndarray) -> int:
    """Position inside with the highest vote; of equal votes the lower smoothed loss, then the earlier."""
    return int(np.lexsort((running_median(loss, 3), -score.round(9), ~inside))[0])


def _reasons(
    series: UnitSeries, best: int, votes: list[Vote], rows: BestSet | None, plateau: Plateaus,
    changepoints: ChangePoints, task: TaskScore, gradient: GradientHealth, mcda: Mcda,
) -> list[str]:  # fmt: skip
    """What speaks for an epoch, and what its voters said instead, in the order of the analyses."""
    confidence = {vote.voter: f"confidence {vote.confidence:.0%}" for vote in votes}
    lowest = series.epochs[np.argmin(running_median(series.loss, 3))]
    reasons = []
    if (flat := plateau.best) is not None:
        told = "the loss falls again after it: no vote" if flat.ended else confidence["plateau"]
        reasons.append(
            f"Plateau {flat.start} to {flat.end}, centre {flat.center}: mean loss {flat.mean:.4f}, slope "
            f"{flat.slope:+.1e} per epoch [{flat.slope_low:+.1e}, {flat.slope_high:+.1e}] ({told})."
        )
    if task.epoch is not None:
        top = running_median(task.score, 3).max()
        reasons.append(f"Task score highest at {task.epoch}, {top:.4f} ({confidence['task']}).")
    if gradient.epoch is not None:
        reasons.append(f"Gradients healthiest at {gradient.epoch} ({confidence['gradient']}).")
    if mcda.epoch is not None:
        other = series.epochs[np.nanargmax(mcda.topsis)]
        conflict = f"; TOPSIS prefers {other}" if mcda.method_conflict else ""
        reasons.append(f"MCDA prefers {mcda.epoch}, under {mcda.confidence:.0%} of random weights{conflict}.")
    reasons.append(f"Smoothed loss lowest at {lowest} ({confidence['loss']}); here it is {series.loss[best]:.4f}.")
    if rows is not None:
        reasons.append(
            f"Among {rows.inside.sum()} of {len(rows.inside)} epochs within one standard error of the best "
            f"({rows.n:,} rows); best in {rows.p_best[best]:.0%} of resamples."
        )
    for jump in changepoints.jumps:
        doubt = "" if jump.confirmed else ", which the piecewise linear fit does not confirm"
        reasons.append(f"The loss jumps {'up' if jump.direction > 0 else 'down'} at {jump.epoch}{doubt}.")
    return reasons


def _abstained(
    rows: BestSet | None, plateau: Plateaus, changepoints: ChangePoints, task: TaskScore, gradient: GradientHealth,
    mcda: Mcda,
) -> list[str]:  # fmt: skip
    """Which technique said nothing, and why."""
    said = {"task": task.abstained, "gradient": gradient.abstained, "mcda": mcda.abstained}
    if not plateau.detected:
        unproven = ", ".join(f"{each.start} to {each.end}" for each in plateau.unproven)
        said["plateau"] = f"not shown to be flat: {unproven}" if unproven else "no stretch without a trend"
    if rows is None:
        said["bootstrap"] = "no losses per row"
    return [f"{name}: {why}" for name, why in said.items() if why is not None]


def _pick_for_group(members: list[UnitAnalysis]) -> GroupPick:
    names = [member.series.name for member in members]
    picks = [member.recommendation.epoch for member in members]
    extra = np.array([[_extra_loss(member.series, own, at) for at in picks] for member, own in zip(members, picks)])
    if None in picks:
        return GroupPick(names, None, extra)
    common = np.array(sorted(set.intersection(*(set(member.series.epochs.tolist()) for member in members))), int)
    if not common.size:
        return GroupPick(names, None, extra)
    at = [np.searchsorted(member.series.epochs, common) for member in members]
    votes = np.sum([member.score[where] for member, where in zip(members, at)], axis=0)
    loss = np.sum([member.series.loss[where] for member, where in zip(members, at)], axis=0)
    rows = [member.series.row_losses for member in members]
    inside = np.ones(len(common), bool)
    if all(member.bootstrap is not None for member in members) and len({each.shape[1] for each in rows}) == 1:
        summed = np.sum([each[where] for each, where in zip(rows, at)], axis=0, dtype=np.float64)
        inside = best_set(summed).inside
    return GroupPick(names, int(common[_most_votes(votes, loss, inside)]), extra)


def _extra_loss(series: UnitSeries, own: int | None, other: int | None) -> float:
    at = {int(epoch): float(loss) for epoch, loss in zip(series.epochs, series.loss)}
    return at[other] / at[own] - 1 if own in at and other in at and at[own] else np.nan


def judge(runs: list[Run], split: str, output: Path, data_dir: str | None) -> dict[str, Any]:
    """The sweet spots of one collected run, as an analysis of `evaluate.py`: `split=val analysis=redheart/sweetspots`.

    Raises:
        UserError: for several runs, for a split other than val, or as `read_records`.
    """
    if len(runs) != 1:
        raise UserError(f"analysis=redheart/sweetspots chooses the epochs of one run; {len(runs)} given.")
    if split != "val":
        raise UserError(f"analysis=redheart/sweetspots chooses epochs, which {split} must not decide; pass split=val.")
    found = sorted(runs[0].path.rglob(METRICS))
    if len(found) != 1:
        raise UserError(f"{runs[0]}: {len(found)} files {METRICS} in it; train with the callback that collects units.")
    analysis = analyse(read_records(found[0].parent))
    write(analysis, output, str(runs[0]))
    picks = {name: unit.recommendation for name, unit in analysis.units.items()}
    return {
        "epochs": {name: pick.epoch for name, pick in picks.items()},
        "confidence": {name: pick.confidence for name, pick in picks.items()},
        "groups": {name: group.epoch for name, group in analysis.groups.items()},
        "warnings": analysis.warnings,
    }


def write(analysis: Analysis, output: Path, source: str) -> None:
    """Leave module_metrics.json, analysis_report.md and visualizations/ in `output`.

    Args:
        source: what was analysed, for the headings.
    """
    from redheart.sweetspot_figures import draw
    from redheart.sweetspot_report import report

    draw(analysis, output / "visualizations")
    write_text(output / "analysis_report.md", report(analysis, source))
    write_json(output / "module_metrics.json", summary(analysis, source))


def summary(analysis: Analysis, source: str) -> dict[str, Any]:
    """What module_metrics.json holds, as plain values."""
    return plain({
        "schema": SCHEMA,
        "run": source,
        "splits": {"select": {name: unit.series.n for name, unit in analysis.units.items()}},
        "units": {name: _unit_summary(unit) for name, unit in analysis.units.items()},
        "thresholds": asdict(analysis.thresholds),
        "groups": {name: asdict(group) for name, group in analysis.groups.items()},
        "warnings": analysis.warnings,
    })  # fmt: skip


def _unit_summary(unit: UnitAnalysis) -> dict[str, Any]:
    record = asdict(unit)
    del record["series"]["row_losses"], record["series"]["name"]
    record["voting"] = {"votes": record.pop("votes"), "score": record.pop("score")}
    return record

"""From records to a combined model without a hand: analyse, accept, combine, and fall back where nothing is gained.

Source: redheart specification, section 10. The test split is not read.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.evaluation import Split
from common.files import write_json, write_text
from common.report import format_table
from common.rundir import Run
from redheart.candidates import best_epoch, recipe_of
from redheart.combine import combine
from redheart.contributions import open_contributions
from redheart.records import read_records
from redheart.search import surely_better
from redheart.sweetspots import Analysis, Thresholds, UnitAnalysis, analyse

SCHEMA = 1
COMBINED = "combined"  # folder of the model below the output


@dataclass(frozen=True)
class GroupChoice:
    """The epoch of one dependency group.

    Attributes:
        confidence: of the least sure of its units.
        accepted: whether the epoch is the analysis's pick; else the group's loss on the select split is lowest there.
    """

    epoch: int
    confidence: float
    accepted: bool


def choose_groups(analysis: Analysis, saved: list[int]) -> dict[str, GroupChoice]:
    """The epoch of each group: the pick if all of its units reach `voting_confidence`, else that of the lowest loss.

    Args:
        saved: epochs with weights; no other is chosen.
    """
    chosen = {}
    for name, pick in analysis.groups.items():
        units = [analysis.units[unit] for unit in pick.units]
        confidence = min(unit.recommendation.confidence for unit in units)
        sure = confidence >= analysis.thresholds.voting_confidence and pick.epoch in saved
        chosen[name] = GroupChoice(pick.epoch if sure else _lowest(units, saved), confidence, sure)
    return chosen


def _lowest(units: list[UnitAnalysis], saved: list[int]) -> int:
    """The saved epoch at which the units' losses add up to the least; the last where none was recorded."""
    recorded = [dict(zip(unit.series.epochs.tolist(), unit.series.loss)) for unit in units]
    losses = {
        epoch: sum(each[epoch] for each in recorded) for epoch in saved if all(epoch in each for each in recorded)
    }
    return min(losses, key=losses.get, default=saved[-1])


def decide(run: Run, thresholds: Thresholds, output: Path, data_dir: str | None = None) -> dict[str, Any]:
    """Write the model to use to `output`/combined and the reasons to decision.json and report.md; returns the decision.

    That model is the combination if its fused loss on the select split is lower than that of the best single epoch by
    more than one paired standard error, else that epoch.

    Raises:
        UserError: as `open_contributions`, `read_records` and `combine`.
    """
    select = open_contributions(run, ("val",), data_dir)["val"]
    analysis = analyse(read_records(select.units.folder), thresholds)
    groups = choose_groups(analysis, list(select.units.saved))
    proposed = recipe_of(select, {name: choice.epoch for name, choice in groups.items()})
    best = best_epoch(select)
    single = select.units.everywhere(best)
    losses, baseline = (select.losses(select.fused(recipe)) for recipe in (proposed, single))
    gain, better = baseline - losses, surely_better(losses, baseline)
    error = float(gain.std(ddof=1) / len(gain) ** 0.5)
    combine(select.units.folder, proposed if better else single, output / COMBINED, overwrite=True)
    decision = {
        "schema": SCHEMA, "run": str(run), "decision": "proposed" if better else "best_single", "best_single": best,
        "select": {"n": len(gain), "proposed": float(losses.mean()), "best_single": float(baseline.mean()),
                   "gain": float(gain.mean()), "standard_error": error},
        "groups": {name: asdict(choice) for name, choice in groups.items()},
        "thresholds": asdict(thresholds), "model": COMBINED,
    }  # fmt: skip
    write_text(output / "report.md", report(decision))
    write_json(output / "decision.json", decision)
    return decision


def report(decision: dict[str, Any]) -> str:
    """The decision as markdown."""
    select = decision["select"]
    gain = f"{select['gain']:+.4f} ± {select['standard_error']:.4f} (one standard error, {select['n']:,} select rows)"
    if decision["decision"] == "proposed":
        told = f"The combination is used: it gains {gain} in fused loss on the best single epoch."
    else:
        told = f"Epoch {decision['best_single']} is used as a whole: the combination's gain of {gain} is not sure."
    rows = [
        [name, each["epoch"], f"{each['confidence']:.0%}", "analysis" if each["accepted"] else "lowest loss"]
        for name, each in decision["groups"].items()
    ]
    table = format_table(rows, ["Group", "Epoch proposed", "Least confidence", "By"])
    tail = "Whether that holds on rows used for no choice is for analysis=redheart/evaluate to say."
    return f"# Automatic sweet spots of {decision['run']}\n\n{told}\n\n{table}\n{tail}\n"


def judge(
    runs: list[Run], split: Split, output: Path, data_dir: str | None, thresholds: str | None = None
) -> dict[str, Any]:
    """`decide` for one run, as an analysis of `evaluate.py`.

    Raises:
        UserError: for several runs, for a split other than val, or as `decide`.
    """
    if len(runs) != 1:
        raise UserError(f"analysis=redheart/auto chooses the epochs of one run; {len(runs)} given.")
    if split != "val":
        raise UserError(f"analysis=redheart/auto chooses epochs, which {split} must not decide; leave split out.")
    told = Thresholds() if thresholds is None else Thresholds.load(Path(thresholds))
    decision = decide(runs[0], told, output, data_dir)
    return {name: decision[name] for name in ("decision", "best_single", "select", "groups")}

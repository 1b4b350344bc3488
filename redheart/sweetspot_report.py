"""The sweet spots in words: analysis_report.md."""

from common.report import format_table
from redheart.sweetspots import Analysis, UnitAnalysis

READING = """## How to read this

- **Recommended epoch**: among the epochs whose select loss lies within one paired standard error of the best, the one
  with the most votes. That set is the finding; the single epoch is a choice within it. The test split was not used.
- **As good**: the first and last epoch within that error, and how many there are. Many over a wide range mean that
  these rows cannot tell where the best one is.
- **Confidence**: weighted agreement of the techniques that voted, not a probability that the epoch is best. It is
  halved at the first and last saved epoch and lowered where fewer than three techniques voted.
- **Plateau**: a stretch without trend or jump whose 90 % slope interval lies within the tolerance. No plateau can mean
  that the loss moves, or that the noise is too large to tell: compare the smallest decline that would be found.
- Epochs were chosen by looking: whether a combination helps is for the test split to say, by `evaluate_combined`.
"""


def report(analysis: Analysis, source: str) -> str:
    """The report as markdown: a table of all units, warnings, a block for each unit, and how to read it."""
    parts = [f"# Sweet spots of {source}\n", _table(analysis), _groups(analysis), _warnings(analysis)]
    parts += [_block(name, unit) for name, unit in analysis.units.items()]
    return "\n".join([*filter(None, parts), READING])


def _table(analysis: Analysis) -> str:
    rows = []
    for name, unit in analysis.units.items():
        pick, flat = unit.recommendation, unit.plateau.best
        best = None if not len(unit.series.loss) else int(unit.series.epochs[unit.series.loss.argmin()])
        rows.append([
            name,
            pick.epoch,
            f"{pick.confidence:.0%}",
            _as_good(unit),
            f"{flat.start} to {flat.end}{', ended' if flat.ended else ''}" if flat else "none shown",
            best,
            f"{len(unit.votes)} of 5",
            "too few checkpoints" if pick.epoch is None else "boundary" if pick.at_boundary else "",
        ])  # fmt: skip
    headers = ["Unit", "Epoch", "Confidence", "As good", "Plateau", "Lowest loss", "Voters", "Flag"]
    enough = analysis.thresholds.voting_confidence
    sure = sum(unit.recommendation.confidence >= enough for unit in analysis.units.values())
    intro = f"{sure} of {len(rows)} units reach the confidence of {enough:.0%} that the automation asks for.\n"
    return f"{intro}\n{format_table(rows, headers)}"


def _as_good(unit: UnitAnalysis) -> str:
    if unit.bootstrap is None:
        return "unknown"
    first, last = unit.recommendation.interval
    return f"{first} to {last} ({unit.bootstrap.inside.sum()})"


def _groups(analysis: Analysis) -> str:
    if not analysis.groups:
        return ""
    rows = [[name, ", ".join(group.units), group.epoch] for name, group in analysis.groups.items()]
    intro = "## Dependency groups\n\nUnits of a group read each other's outputs and share one epoch.\n"
    return f"{intro}\n{format_table(rows, ['Group', 'Units', 'Epoch'])}"


def _warnings(analysis: Analysis) -> str:
    warnings = [f"- {line}" for line in analysis.warnings]
    for name, unit in analysis.units.items():
        flat = unit.plateau.best
        if flat is not None and flat.lag1 > 0.3:
            warnings.append(f"- {name}: the noise is autocorrelated ({flat.lag1:.2f}); p is from a block bootstrap.")
    return "\n".join(["## Warnings\n", *warnings, ""]) if warnings else ""


def _block(name: str, unit: UnitAnalysis) -> str:
    pick = unit.recommendation
    lines = [f"## [Module: {name}]\n", f"- Recommended epoch: {'none' if pick.epoch is None else pick.epoch}"]
    if pick.reasons:
        lines += ["- Reasons:", *(f"  {number}. {reason}" for number, reason in enumerate(pick.reasons, 1))]
    lines.append(f"- Confidence: {pick.confidence:.0%}")
    if pick.abstained:
        lines.append(f"- Abstained: {'; '.join(pick.abstained)}")
    if unit.plateau.detectable_slope is not None:
        lines.append(
            f"- Noise {unit.plateau.noise:.1e}; a decline below {unit.plateau.detectable_slope:.1e} per epoch would go "
            "unnoticed by the trend test in more than 20 % of windows."
        )
    return "\n".join([*lines, ""])

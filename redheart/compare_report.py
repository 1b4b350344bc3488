"""The comparison in words and in one picture."""

from pathlib import Path
from typing import Any

from common.plots import plot_intervals
from common.report import format_table
from redheart.candidates import BASELINE
from redheart.compare import ORACLE, Comparison, Primary

NAMES = {"loss": "fused loss (lower is better)", "score": "mean task score (higher is better)"}
# the founding document's expectations of the proposed combination
CLAIMS = {"loss": "−8 to −12 %", "score": "+5 to +10 %", "gap": "−20 %"}
READING = """## How to read this

- Every row was chosen on the select split and read on the test split once; only the oracle was chosen on the test
  split, to show what no choice can reach. `logit_ensemble` costs several times the compute.
- **Difference** is against the best single epoch, with its 95 % paired bootstrap interval over rows. **Over seeds** is
  Student's t interval over runs that differ in their seed, where there are three or more.
- **Verdict**: "improves" only if every interval lies on the better side of zero and no task score falls by more than
  its own standard error. Every row has a verdict of its own: of twenty without an effect, one interval excludes zero.
- **Optimism**: what the choice gained on the select split less what it gained on the test split. Above zero, the choice
  flattered itself.
- Task scores: macro-F1 of emotion; 1 − RMSE / RMSE of the constant predictor of bentham, or its pairwise accuracy;
  counterfactual accuracy of regret; PID accuracy of surd.
"""


def report(table: dict[str, Comparison], missing: dict[str, str], runs: list[str], answer: dict[str, Any]) -> str:
    """The report as markdown."""
    parts = [f"# Combinations against plain baselines: {', '.join(runs)}\n", _headline(table, answer), _main(table)]
    parts += [_tasks(table), _metrics(table), _choices(table, missing), READING]
    return "\n".join(parts)


def _headline(table: dict[str, Comparison], answer: dict[str, Any]) -> str:
    name = answer["candidate"]
    if name is None:
        return "There is no proposal to judge: see what is missing below.\n"
    own, base = table[name], table[BASELINE]
    seeds = "" if own.over_seeds is None else f"; over {own.over_seeds.n} seeds {own.over_seeds}"
    told = (
        f"**{name}: {answer['verdict']}** in {NAMES[answer['primary']]}: {own.difference} against the best single "
        f"epoch on {own.difference.n:,} test rows{seeds}.\n"
    )
    rows = [
        ["test loss", base.loss, own.loss, f"{own.relative_loss:+.1%}", CLAIMS["loss"]],
        ["mean task score", base.score, own.score, _relative(base.score, own.score), CLAIMS["score"]],
        ["overfitting gap: test − training loss", base.gap, own.gap, _relative(base.gap, own.gap), CLAIMS["gap"]],
    ]
    headers = ["", "Best single epoch", name, "Change", "The founding document expected"]
    return f"{told}\n{format_table(rows, headers)}"


def _relative(before: float | None, after: float | None) -> str:
    """The change as a share of what was before; nothing where that was not above 0."""
    return f"{after / before - 1:+.1%}" if before is not None and before > 0 else "–"


def _main(table: dict[str, Comparison]) -> str:
    rows = [
        [
            name, each.loss, f"{each.relative_loss:+.1%}", each.score, str(each.difference),
            None if each.over_seeds is None else str(each.over_seeds), each.optimism, _verdict(name, each),
        ]
        for name, each in _baseline_first(table).items()
    ]  # fmt: skip
    headers = ["Candidate", "Test loss", "Change", "Task score", "Difference", "Over seeds", "Optimism", "Verdict"]
    return format_table(rows, headers)


def _verdict(name: str, each: Comparison) -> str:
    return {BASELINE: "baseline", ORACLE: "unattainable"}.get(name) or each.verdict


def _baseline_first(table: dict[str, Comparison]) -> dict[str, Comparison]:
    return {BASELINE: table[BASELINE]} | table


def _tasks(table: dict[str, Comparison]) -> str:
    tasks = list(table[BASELINE].task_scores)
    rows = [
        [name, *(_change(each.task_scores[task]) for task in tasks)] for name, each in _baseline_first(table).items()
    ]
    intro = "## Task scores\n\nScore, and difference to the best single epoch ± its standard error.\n"
    return f"{intro}\n{format_table(rows, ['Candidate', *tasks])}"


def _change(score: dict[str, float]) -> str:
    return f"{score['score']:.4f} ({score['difference']:+.4f} ± {score['standard_error']:.4f})"


def _metrics(table: dict[str, Comparison]) -> str:
    names = [name for name in table[BASELINE].metrics if not name.endswith("rmse_constant")]
    rows = [[name, *(each.metrics[metric] for metric in names)] for name, each in _baseline_first(table).items()]
    return f"## All task metrics\n\n{format_table(rows, ['Candidate', *names])}"


def _choices(table: dict[str, Comparison], missing: dict[str, str]) -> str:
    rows = [[name, how] for name, each in table.items() for how in each.how]
    rows += [[name, f"not made: {why}"] for name, why in missing.items()]
    return f"## What was chosen\n\n{format_table(rows, ['Candidate', 'Choice, a line for each run'])}"


def draw(table: dict[str, Comparison], primary: Primary, folder: Path) -> None:
    """Write comparison.png: every candidate's difference to the best single epoch."""
    shown = {name: each for name, each in table.items() if name != BASELINE}
    labels = [f"{name} (unattainable)" if name == ORACLE else name for name in shown]
    plot_intervals(
        labels, [each.difference for each in shown.values()], folder / "comparison.png",
        title="Difference to the best single epoch on the test split", xlabel=f"Difference in {NAMES[primary]}",
        reference=0.0,
    )  # fmt: skip

"""Whether a combination beats plain baselines on rows that were used for no choice.

Source: redheart specification, section 9. Everything is chosen on the select split; the test split is read once, in the
end, and decides nothing but the verdict and the oracle, which is named unattainable.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.collect import config_hash
from common.errors import UserError
from common.evaluation import Split, log_look, refuse_unfinished
from common.files import write_json, write_text
from common.rundir import Run
from common.stats import Interval, paired_difference, percentile_interval, resample_sums
from common.unit_files import read_manifest
from redheart.candidates import BASELINE, Candidate, choose, exact_optimum
from redheart.combine import check
from redheart.contributions import Contributions, open_contributions, run_of
from redheart.crossover import draw_pairs, pair_losses
from redheart.records import read_records
from redheart.rows import TASKS, Task
from redheart.sweetspots import analyse
from redheart.task_sums import score_sums
from redheart.tasks import has_target

SCHEMA = 1
NUM_RESAMPLES, LEVEL = 2000, 0.95
MIN_SEEDS = 3
MODEL, PROPOSED, ORACLE = "model", "proposed", "oracle"
Primary = Literal["loss", "score"]
Verdict = Literal["improves", "no evidence", "harms"]


@dataclass(frozen=True)
class Figures:
    """One candidate in one run.

    Attributes:
        how: what was chosen, in words.
        select_loss: mean fused loss on the select split.
        losses: (n,) fused losses of the test rows.
        train_loss: mean fused loss on the training split; None where it was not asked for.
        metrics: all task metrics on the test split.
        scores: of each task on the test split, in [0, 1].
        resampled: (R,) the same of resampled rows, which are the same rows for every candidate and run.
    """

    how: str
    select_loss: float
    losses: np.ndarray
    metrics: dict[str, float]
    scores: dict[Task, float]
    resampled: dict[Task, np.ndarray]
    train_loss: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A candidate against the best single epoch, on the test split, means over all runs.

    Attributes:
        loss, score: fused loss, and mean of the task scores.
        relative_loss: difference of the loss as a share of the best single epoch's.
        difference: of the primary metric, candidate − best single epoch, over rows.
        over_seeds: the same over training seeds, where there are at least three.
        task_scores: by task: score, difference, and that difference's standard error.
        optimism: what the choice gained on the select split less what it gained on the test split, in loss.
        gap: by how much the test loss exceeds the training loss; None where the latter was not asked for.
        verdict: None of the oracle, which is chosen on the test split.
        how: what was chosen in each run, in words.
    """

    loss: float
    score: float
    relative_loss: float
    difference: Interval
    over_seeds: Interval | None
    task_scores: dict[Task, dict[str, float]]
    metrics: dict[str, float]
    optimism: float
    gap: float | None
    verdict: Verdict | None
    how: list[str]


def judge(
    runs: list[Run],
    split: Split,
    output: Path,
    data_dir: str | None,
    primary: Primary = "loss",
    model: str | None = None,
    pairs: bool = False,
) -> dict[str, Any]:
    """The table of all candidates, as an analysis of `evaluate.py`: one run, or runs that differ in their seed.

    Args:
        primary: what the verdict rests on, declared beforehand: the fused loss, or the mean of the task scores.
        model: folder of a combined model to compare as well.
        pairs: also draw how each unit does on every epoch of those it reads, see `redheart.crossover`.

    Raises:
        UserError: for a split other than test, runs of different configs, or as `open_contributions`.
    """
    if split != "test":
        raise UserError(f"analysis=redheart/evaluate judges on test what it chose on val; got split={split}.")
    if model is not None and len(runs) > 1:
        raise UserError(f"model={model}: a combined model is compared with one run; {len(runs)} given.")
    check_same_experiment(runs)
    figures, missing = [], {}
    for run in runs:
        drawn = output / "figures" / f"seed_{run.config.seed}" if pairs else None
        of_run, why = judge_run(run, data_dir, None if model is None else Path(model), drawn)
        figures.append(of_run)
        missing |= {name: f"{run}: {reason}" if len(runs) > 1 else reason for name, reason in why.items()}
    table = compare([{name: of_run[name] for name in of_run if name not in missing} for of_run in figures], primary)
    return write(table, missing, runs, primary, output)


def judge_model(model: Path, output: Path, folder: Path | None, primary: Primary, data_dir: str | None) -> str:
    """The report on a combined model, which is left in `output` as evaluation.md beside evaluation.json.

    Args:
        folder: the run that it was made of, or its units; None takes that of the first source in the manifest.

    Raises:
        UserError: if the folder holds no combined model, the run is gone, or as `judge`.
    """
    if folder is None:
        sources = read_manifest(model).get("sources")
        if not sources:
            raise UserError(f"{model}: its manifest names no sources; name the run it is from (--checkpoint-dir).")
        folder = Path(next(iter(sources.values()))[0]["file"])
    run = run_of(folder)
    refuse_unfinished(run)
    log_look(run, "redheart.evaluate_combined")
    judge([run], "test", output, data_dir, primary, str(model))
    os.replace(output / "report.md", output / "evaluation.md")
    return (output / "evaluation.md").read_text(encoding="utf-8")


def check_same_experiment(runs: list[Run]) -> None:
    """Raises UserError unless the runs are of one config but for their seeds, each of which occurs once."""
    configs = [run.config for run in runs]
    seeds = [config.seed for config in configs]
    for config in configs:
        config.seed = config.data.seed = 0
    for run, config in zip(runs, configs):
        if config_hash(config) != config_hash(configs[0]):
            raise UserError(f"{runs[0]} and {run}: of different configs; compare runs that differ in their seed alone.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{len(runs)} runs of seeds {', '.join(map(str, seeds))}: each seed may occur once.")


def judge_run(
    run: Run, data_dir: str | None, model: Path | None, pairs: Path | None
) -> tuple[dict[str, Figures], dict[str, str]]:
    """The figures of all candidates of one run, by name, and why the others could not be made.

    Args:
        model: folder of a combined model to compare as well.
        pairs: where to draw the losses of pairs of epochs.
    """
    kept = open_contributions(run, ("train", "val", "test"), data_dir)
    select, test = kept["val"], kept["test"]
    chosen = choose(select, analyse(read_records(select.units.folder)))
    if model is not None:
        chosen.found = {MODEL: _given(model, select)} | chosen.found
    if pairs is not None:
        draw_pairs(pair_losses(select), list(select.units.saved), pairs)
    recipe, how = exact_optimum(test)
    chosen.found[ORACLE] = Candidate([recipe], f"{how}, chosen on the test split")
    figures = {name: figures_of(candidate, select, test) for name, candidate in chosen.found.items()}
    for name in figures.keys() & {BASELINE, PROPOSED, MODEL}:
        train_loss = float(chosen.found[name].loss(kept["train"]).mean())
        figures[name] = replace(figures[name], train_loss=train_loss)
    return figures, chosen.missing


def _given(model: Path, select: Contributions) -> Candidate:
    """The combined model in a folder, if it fits the run."""
    recipe = select.units.everywhere(model)
    epoch, saved = next(iter(select.units.saved.items()))
    check(recipe, {epoch: read_manifest(saved), model: read_manifest(model)}, allow_cross_run=True)
    made_of = ", ".join(f"{unit} {source}" for unit, source in read_manifest(model).get("recipe", {}).items())
    return Candidate([recipe], made_of or f"{model}")


def figures_of(candidate: Candidate, select: Contributions, test: Contributions) -> Figures:
    """All figures of one candidate."""
    said = candidate.predictions(test)
    tasks = [task for task in TASKS if has_target(task, test.targets).any()]
    parts = {task: [score_sums(task, each[task], test.targets) for each in said] for task in tasks}
    metrics = [test.metrics(each) for each in said]
    return Figures(
        how=candidate.how,
        select_loss=float(candidate.loss(select).mean()),
        losses=np.mean([test.losses(each) for each in said], axis=0),
        metrics={name: float(np.mean([each[name] for each in metrics])) for name in metrics[0]},
        scores={task: float(np.mean([score(sums.sum(0)) for sums, score in each])) for task, each in parts.items()},
        resampled={
            task: np.mean([score(resample_sums(sums, NUM_RESAMPLES)) for sums, score in each], axis=0)
            for task, each in parts.items()
        },
    )


def compare(runs: list[dict[str, Figures]], primary: Primary) -> dict[str, Comparison]:
    """Every candidate against the best single epoch, from its figures in each run.

    Args:
        runs: figures by name of candidate; the names are the same in all runs.
    """
    return {name: _compare_one(name, runs, primary) for name in runs[0]}


def _compare_one(name: str, runs: list[dict[str, Figures]], primary: Primary) -> Comparison:
    own, base = [run[name] for run in runs], [run[BASELINE] for run in runs]
    losses = [np.mean([each.losses for each in figures], axis=0) for figures in (own, base)]
    scores = [np.array([np.mean(list(each.scores.values())) for each in figures]) for figures in (own, base)]
    if primary == "loss":
        difference = _row_interval(losses[0] - losses[1])
        by_seed = [[each.losses.mean() for each in figures] for figures in (base, own)]
    else:
        resampled = [_mean_resampled(figures) for figures in (own, base)]
        estimate = float(scores[0].mean() - scores[1].mean())
        difference = percentile_interval(estimate, resampled[0] - resampled[1], LEVEL, len(losses[0]), groups=False)
        by_seed = [scores[1], scores[0]]
    over_seeds = paired_difference(*by_seed) if len(runs) >= MIN_SEEDS else None
    by_task = {task: _task_score(task, own, base) for task in own[0].scores}
    gains = [(b.select_loss - o.select_loss) - (b.losses.mean() - o.losses.mean()) for o, b in zip(own, base)]
    return Comparison(
        loss=float(losses[0].mean()),
        score=float(scores[0].mean()),
        relative_loss=float(losses[0].mean() / losses[1].mean() - 1),
        difference=difference,
        over_seeds=over_seeds,
        task_scores=by_task,
        metrics={key: float(np.mean([each.metrics[key] for each in own])) for key in own[0].metrics},
        optimism=float(np.mean(gains)),
        gap=_gap(own),
        verdict=None if name in (BASELINE, ORACLE) else verdict(difference, over_seeds, by_task, primary),
        how=[each.how for each in own],
    )


def _gap(figures: list[Figures]) -> float | None:
    if any(each.train_loss is None for each in figures):
        return None
    return float(np.mean([each.losses.mean() - each.train_loss for each in figures]))


def _row_interval(differences: np.ndarray) -> Interval:
    """Of the mean of (n,) differences, over rows."""
    n = len(differences)
    resamples = resample_sums(differences[:, None], NUM_RESAMPLES)[:, 0] / n
    return percentile_interval(differences.mean(), resamples, LEVEL, n, groups=False)


def _mean_resampled(figures: list[Figures]) -> np.ndarray:
    """(R,) mean score over tasks and runs."""
    return np.mean([resamples for each in figures for resamples in each.resampled.values()], axis=0)


def _task_score(task: Task, own: list[Figures], base: list[Figures]) -> dict[str, float]:
    score, reference = (np.mean([each.scores[task] for each in figures]) for figures in (own, base))
    resampled = [np.mean([each.resampled[task] for each in figures], axis=0) for figures in (own, base)]
    error = (resampled[0] - resampled[1]).std(ddof=1)
    return {"score": float(score), "difference": float(score - reference), "standard_error": float(error)}


def verdict(
    difference: Interval, over_seeds: Interval | None, task_scores: Mapping[Task, Mapping[str, float]], primary: Primary
) -> Verdict:
    """`improves` only if every interval lies on the better side of 0 and no task's score falls by more than its
    standard error; `harms` if every interval lies on the other side.
    """
    intervals = [each for each in (difference, over_seeds) if each is not None]
    signs = {0 if not each.excludes(0) else (1 if each.low > 0 else -1) for each in intervals}
    better = -1 if primary == "loss" else 1
    falls = any(each["difference"] < -each["standard_error"] for each in task_scores.values())
    if signs == {better} and not falls:
        return "improves"
    return "harms" if signs == {-better} else "no evidence"


def write(
    table: dict[str, Comparison], missing: dict[str, str], runs: list[Run], primary: Primary, output: Path
) -> dict[str, Any]:
    """Leave evaluation.json, report.md and figures/ in `output`; returns the headline."""
    from redheart.compare_report import draw, report

    headline = next((name for name in (MODEL, PROPOSED) if name in table), None)
    answer = {
        "primary": primary, "candidate": headline, "verdict": table[headline].verdict if headline else "no evidence",
    }  # fmt: skip
    record = {
        "schema": SCHEMA, "runs": [str(run) for run in runs], "seeds": [run.config.seed for run in runs],
        "baseline": BASELINE, "num_test_rows": table[BASELINE].difference.n, **answer,
        "candidates": {name: asdict(each) for name, each in table.items()}, "missing": missing,
    }  # fmt: skip
    draw(table, primary, output / "figures")
    write_text(output / "report.md", report(table, missing, [str(run) for run in runs], answer))
    write_json(output / "evaluation.json", record)
    return answer

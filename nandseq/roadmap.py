"""The founding roadmap, step by step: what each reached, by its own conditions and by honest ones.

The founding conditions are checked on the quantities that the founding figures were (nandseq specification, section 6):
its "Invalid F1" is the F1 of the valid class, its strategy F1s are taken where no false alarm can occur. The honest
ones are checked on the corrected scores, and whatever never looks at a sequence must fail them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.files import write_json, write_text
from common.report import format_table, verdict
from common.rundir import Run
from common.stats import Interval, mean_spread, paired_difference, seed_interval
from nandseq.analysis import answers_of
from nandseq.metrics import Answers, Truth, best_constant, intervals, mean_answers, scores

NUM_SEEDS = 3  # a step passes on the mean of so many
GAIN = 0.02  # what step 4 must add
CEILING = 0.99  # what is reached where the state of the block is known
VOTE = 7


@dataclass(frozen=True)
class Step:
    """One step of the roadmap.

    Attributes:
        change: what it adds to the step before.
        reported: accuracy and "Invalid F1" of the founding table, None where it was open.
        founding: score and threshold of the founding condition; `peer_f1` stands for that of every strategy.
        honest: the same on the corrected scores; `f1_ovr` stands for that of every class.
        gain: points that accuracy must gain over the step before.
    """

    change: str
    reported: tuple[float, float] | None = None
    founding: Mapping[str, float] = field(default_factory=dict)
    honest: Mapping[str, float] = field(default_factory=dict)
    gain: float | None = None


STEPS = (
    Step("baseline", (0.52, 0.32)),
    Step("equal counts, hard-negative mining", (0.74, 0.00), {"peer_invalid_f1": 0.55}, {"f1_invalid": 0.55}),
    Step("focal loss", (0.55, 0.63), {"peer_invalid_f1": 0.65}, {"f1_invalid": 0.65}),
    Step("bidirectional GRU", (0.45, 0.55), {"accuracy": 0.75, "peer_f1": 0.70}, {"accuracy": 0.75, "f1_ovr": 0.70}),
    Step("embedding 64, hidden 256, dropout 0.3", gain=GAIN),
    Step("Δpage, Δtime, block statistics", honest={"f1_ovr": CEILING}),
    Step("validity of every command", honest={"f1_ovr": CEILING, "locate_at_1": CEILING}),
    Step("soft vote of the seeds", honest={"f1_ovr": CEILING, "locate_at_1": CEILING}),
)


@dataclass
class Judged:
    """The runs of one step on the common test set.

    Attributes:
        seeds: one per model; empty for a vote, which is one model made of all.
        models: answers of each, in the order of the seeds.
        scores: of each.
        leak: what its features give away.
        runs: their directories.
    """

    seeds: list[int]
    models: list[Answers]
    scores: list[dict[str, float]]
    features: list[str]
    leak: str
    runs: list[str]

    def add(self, seed: int, answers: Answers, truth: Truth, run: Run) -> None:
        self.seeds.append(seed)
        self.models.append(answers)
        self.scores.append(scores(truth, answers))
        self.runs.append(str(run.path))

    def values(self, name: str) -> list[float]:
        return [each[name] for each in self.scores if name in each]

    def mean(self, name: str) -> float | None:
        """Mean over the seeds; None where the step has no such score. `prefix` alone means the lowest of its kind."""
        if name in ("f1_ovr", "peer_f1"):
            return min((self.mean(each) for each in self.scores[0] if each.startswith(f"{name}/")), default=None)
        values = self.values(name)
        return float(np.mean(values)) if values else None


def roadmap(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """Judges the runs of nandseq_step0 … nandseq_step7, each over its seeds, on the one test set they share.

    Writes baseline_metrics.json, metrics_step1.json … and the report with the progress table. The vote of step 7 is
    taken over the runs of nandseq_step7, or over those of nandseq_step6, which train alike, where there are none.

    Raises:
        UserError: for runs of other experiments, two runs of a step with one seed, or runs with different test sets.
    """
    truth, num_ops, steps = _judge(runs, split, data_dir)
    constant = best_constant(truth, num_ops)
    records = {number: _record(number, steps, truth, constant) for number in sorted(steps)}
    for number, record in records.items():
        name = f"metrics_step{number}.json" if number else "baseline_metrics.json"
        write_json(output / name, {"split": split, "n": len(truth.label)} | record)
    shares = dict(zip(truth.names, np.bincount(truth.label, minlength=len(truth.names)).tolist()))
    write_text(output / "report.md", _report(split, shares, constant, records))
    return {"n": len(truth.label), "class_counts": shares, "constant_predictor": constant,
            "steps": {str(number): record for number, record in records.items()}}  # fmt: skip


def _judge(runs: list[Run], split: Split, data_dir: str | None) -> tuple[Truth, int, dict[int, Judged]]:
    """The common truth, the length of its sequences, and the runs of each step in the order of their seeds."""
    steps: dict[int, Judged] = {}
    first: LoadedRun | None = None
    last: LoadedRun | None = None
    for (number, seed), run in sorted(_by_step_and_seed(runs).items()):
        same = last is not None and last.config.facts.fingerprint == run.config.facts.fingerprint
        loaded = last = load_run(run, data_dir, last.data if same else None)
        first = first or loaded
        if loaded.data.facts["test_fingerprint"] != first.data.facts["test_fingerprint"]:
            raise UserError(f"{run}: another test set than {first.run}; train all steps on the same data settings.")
        data = loaded.data.datasets[split]
        if number not in steps:
            steps[number] = Judged([], [], [], loaded.data.features, loaded.data.facts["leak"], [])
        steps[number].add(seed, answers_of(loaded, data), data.truth, run)
    data = first.data.datasets[split]
    _vote(steps, data.truth)
    return data.truth, data.sequences.op.shape[1], steps


def _by_step_and_seed(runs: list[Run]) -> dict[tuple[int, int], Run]:
    found: dict[tuple[int, int], Run] = {}
    for run in runs:
        key = (_number(run), run.config.seed)
        if key in found:
            raise UserError(f"{run} and {found[key]}: both are step {key[0]} with seed {key[1]}; give one of them.")
        found[key] = run
    return found


def _number(run: Run) -> int:
    match = re.fullmatch(r"nandseq_step([0-7])", run.config.name)
    if match is None:
        raise UserError(f"{run}: experiment {run.config.name}; analysis=nandseq/roadmap reads nandseq_step0 … 7.")
    return int(match[1])


def _vote(steps: dict[int, Judged], truth: Truth) -> None:
    """Put one soft vote in place of the members of step 7; without at least two members there is no step 7."""
    members = steps.pop(VOTE, None) or steps.get(VOTE - 1)
    if members is not None and len(members.models) > 1:
        vote = mean_answers(members.models)
        steps[VOTE] = Judged([], [vote], [scores(truth, vote)], members.features, members.leak, members.runs)


def _record(number: int, steps: dict[int, Judged], truth: Truth, constant: dict[str, float]) -> dict[str, Any]:
    step, judged, before = STEPS[number], steps[number], steps.get(number - 1)
    by_sequence = intervals(truth, judged.models)
    gain = None if before is None else _gain(before, judged)
    record = {
        "step": number,
        "change": step.change,
        "features": judged.features,
        "leak": judged.leak,
        "runs": judged.runs,
        "seeds": judged.seeds,
        "scores": {name: _spread(judged.values(name)) for name in judged.scores[0]},
        "worst_f1": judged.mean("f1_ovr"),
        "intervals_over_sequences": by_sequence,
        "constant_predictor": {name: constant[name] for name in judged.scores[0] if name in constant},
        "gain_over_previous_step": None if gain is None else gain.as_dict(),
        "reported": step.reported,
        "founding_condition": _founding(step, judged, before),
        "honest_condition": _honest(step, judged, by_sequence, constant, gain),
    }
    return record | {"review": _review(record, gain)}


def _spread(values: list[float]) -> dict[str, Any]:
    mean, spread, n = mean_spread(values)
    interval = seed_interval(values) if n > 1 else None
    return {"mean": mean, "std": spread, "n": n, "low": interval and interval.low, "high": interval and interval.high}


def _gain(before: Judged, judged: Judged) -> Interval | None:
    """Accuracy gained over the step before, paired by seed; None without two seeds in common."""
    shared = sorted({*before.seeds} & {*judged.seeds})
    if len(shared) < 2:
        return None
    pair = [[each.scores[each.seeds.index(seed)]["accuracy"] for seed in shared] for each in (before, judged)]
    return paired_difference(*pair)


def _founding(step: Step, judged: Judged, before: Judged | None) -> dict[str, Any]:
    """The condition as the seed states it, on what its program would have printed."""
    if step.gain is not None:
        gained = None if before is None else judged.mean("accuracy") - before.mean("accuracy")
        return {"needs": f"accuracy + {step.gain:.2f}", "reached": {"gain": gained},
                "passed": None if gained is None else gained >= step.gain}  # fmt: skip
    reached = {name: judged.mean(name) for name in step.founding}
    passed = all(reached[name] >= least for name, least in step.founding.items()) if step.founding else None
    return {"needs": _needs(step.founding), "reached": reached, "passed": passed}


def _honest(
    step: Step, judged: Judged, by_sequence: dict[str, Any], constant: dict[str, float], gain: Interval | None
) -> dict[str, Any]:
    """The condition on corrected scores: mean of three seeds, and above what never looks at the sequence."""
    above = {name: by_sequence[name]["low"] > constant[name] for name in _named(step, judged)}
    if step.gain is not None:
        needs, reached = f"accuracy + {step.gain:.2f}, interval over seeds above 0", {"gain": gain and gain.estimate}
        enough = gain is not None and gain.estimate >= step.gain and gain.low > 0
    else:
        needs, reached = _needs(step.honest), {name: judged.mean(name) for name in step.honest}
        enough = all(value is not None and value >= step.honest[name] for name, value in reached.items())
    passed = enough and all(above.values()) if len(judged.runs) >= NUM_SEEDS else None
    needs = ", ".join(filter(None, [needs, "above the constant predictor"]))
    return {"needs": needs, "reached": reached, "above_constant": above, "passed": passed}


def _named(step: Step, judged: Judged) -> list[str]:
    """The scores that must be above the constant predictor's."""
    wanted = {*step.honest, "balanced_accuracy"}
    return [name for name in judged.scores[0] if name in wanted or name.partition("/")[0] in wanted]


def _needs(condition: Mapping[str, float]) -> str:
    every = {"f1_ovr": "every f1_ovr", "peer_f1": "every peer_f1"}
    return ", ".join(f"{every.get(name, name)} ≥ {least:.2f}" for name, least in condition.items())


def _review(record: dict[str, Any], gain: Interval | None) -> str:
    """What the step showed, in a few sentences."""
    founding, honest = record["founding_condition"], record["honest_condition"]
    mean = {name: value["mean"] for name, value in record["scores"].items()}
    told = [
        f"Accuracy {mean['accuracy']:.3f} (a constant predictor: {record['constant_predictor']['accuracy']:.3f}), "
        f"F1 of invalid {mean['f1_invalid']:.3f} ({record['constant_predictor']['f1_invalid']:.3f}), "
        f"{mean['false_alarms']:.1%} of valid sequences called invalid."
    ]
    if record["leak"] != "nothing":
        told.append(f"The features give away the {record['leak']}.")
    if gain is not None:
        told.append(verdict(gain, "the step raises accuracy"))
    if founding["passed"] and honest["passed"] is False:
        told.append("It passes the founding condition and not the honest one.")
    missed = [name for name, above in honest["above_constant"].items() if not above]
    if missed:
        told.append(f"Not above an answer that never looks at the sequence: {', '.join(missed)}.")
    if honest["passed"] is None:
        told.append(f"Undecided: a step is judged on the mean of {NUM_SEEDS} seeds.")
    return " ".join(told)


def _report(
    split: Split, shares: dict[str, int], constant: dict[str, float], records: dict[int, dict[str, Any]]
) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in shares.items())
    lines = [
        f"# The roadmap on the {split} split\n",
        f"{sum(shares.values())} sequences ({counts}), the same for all steps. Mean ± standard deviation over seeds. "
        "Invalid is the positive class.\n",
        "## Progress\n",
        format_table([_progress(record) for record in records.values()] + [_constant_row(constant)],
                     ["step", "change", "leak", "seeds", "accuracy", "F1 invalid", "macro F1", "lowest F1", "locate@1",
                      "false alarms", "reported acc / F1"]),
        "## Conditions\n",
        "The founding ones on the quantities that its figures were, the honest ones on corrected scores: mean of three "
        "seeds, and above the constant predictor by the interval over sequences.\n",
        format_table([_conditions(record) for record in records.values()],
                     ["step", "founding condition", "reached", "passed", "honest condition", "reached", "passed"]),
        "## Reviews\n",
        *[f"**Step {number}, {record['change']}.** {record['review']}\n" for number, record in records.items()],
    ]  # fmt: skip
    return "\n".join(lines)


def _progress(record: dict[str, Any]) -> list[Any]:
    told = [_mean_std(record["scores"].get(name)) for name in ("accuracy", "f1_invalid", "macro_f1")]
    rest = [_mean_std(record["scores"].get(name)) for name in ("locate_at_1", "false_alarms")]
    reported = "–" if record["reported"] is None else " / ".join(f"{value:.2f}" for value in record["reported"])
    worst = "–" if record["worst_f1"] is None else f"{record['worst_f1']:.3f}"
    seeds = ", ".join(map(str, record["seeds"])) or "vote"
    return [str(record["step"]), record["change"], record["leak"], seeds, *told, worst, *rest, reported]


def _constant_row(constant: dict[str, float]) -> list[Any]:
    told = [f"{constant[name]:.3f}" for name in ("accuracy", "f1_invalid", "macro_f1")]
    return ["–", "best constant predictor", "–", "–", *told, "0.000", f"{constant['locate_at_1']:.3f}", "–", "–"]


def _conditions(record: dict[str, Any]) -> list[str]:
    cells = [str(record["step"])]
    for name in ("founding_condition", "honest_condition"):
        condition = record[name]
        reached = [f"{value:.3f}" for value in condition["reached"].values() if value is not None]
        passed = {None: "–", True: "yes", False: "no"}[condition["passed"]]
        cells += [condition["needs"] or "none", ", ".join(reached) or "–", passed]
    return cells


def _mean_std(value: dict[str, Any] | None) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.3f}" if value["n"] == 1 else f"{value['mean']:.3f} ± {value['std']:.3f}"

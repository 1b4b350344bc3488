"""Runs beside each other, of any programme: what differs in their configs, their metrics, and intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import hash_record, read_json, write_text
from common.plots import plot_intervals
from common.report import format_table
from common.rundir import Run, flat_config
from common.stats import Interval, mean_spread, paired_difference, seed_interval

# where files lie and what runs them; `facts` follow from the data, of which the fingerprint is enough
LEFT_OUT = ("run_dir", "paths", "logger", "callbacks", "resume", "parents", "trial", "study", "pruner", "objectives",
            "facts", "seed")  # fmt: skip
REPEATED = ("module.network", "module.loss", "module.optimizer", "module.schedule", "module.trainable")


@dataclass
class Variant:
    """Runs that differ by their seed only.

    Attributes:
        name: a letter, A for that of the first run.
        settings: config by dotted key, and `data` fingerprint.
        runs: by seed.
    """

    name: str
    settings: dict[str, Any]
    runs: dict[int, Run]

    def values(self, metric: str) -> dict[int, float]:
        """The metric by seed, of the runs that have it."""
        found = {seed: run.summary["metrics"].get(metric, {}).get("value") for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def compare(runs: list[Run], split: str, output: Path, data_dir: str | None) -> dict:
    """Write report.md over the runs, the first's variant as the baseline; returns the tables as a summary.

    Metrics are those of each run's best epoch. Intervals over seeds are Student's t; those of earlier evaluations on
    `split` are taken from where these wrote them.

    Raises:
        UserError: for fewer than two runs, or one and the same run twice.
    """
    if len(runs) < 2:
        raise UserError("run: a comparison needs two runs or more: run=[DIR,DIR].")
    variants = group_variants(runs)
    differences = config_differences(variants)
    metrics = [_metric(variants, name) for name in _metric_names(variants)]
    evaluations = [row for variant in variants for row in _evaluated(variant, split)]
    lines = ["# Comparison", *_list_variants(variants), *_told_differences(variants, differences),
             *_told_metrics(variants, metrics)]  # fmt: skip
    if evaluations:
        rows = [[variant, seed, name, str(interval), interval.n, interval.method]
                for variant, seed, name, interval in evaluations]  # fmt: skip
        lines += [f"## Intervals of evaluations on the {split} split",
                  format_table(rows, ["variant", "seed", "figure", "interval", "n", "method"])]  # fmt: skip
    write_text(output / "report.md", "\n\n".join(lines) + "\n")
    _figure(variants, output / "figures")
    return {
        "variants": {v.name: {str(seed): str(run.path) for seed, run in v.runs.items()} for v in variants},
        "differences": differences,
        "metrics": metrics,
    }


def group_variants(runs: list[Run]) -> list[Variant]:
    """The runs by what they are besides their seed, in the order in which they were given."""
    variants: dict[str, Variant] = {}
    for run in runs:
        config = run.config
        settings = {key: value for key, value in flat_config(config).items() if key.split(".")[0] not in LEFT_OUT}
        settings = {key: value for key, value in settings.items() if not key.startswith(REPEATED) and not _is_seed(key)}
        settings["data (fingerprint)"] = config.facts.fingerprint
        variant = variants.setdefault(hash_record(settings), Variant(_letters(len(variants)), settings, {}))
        if config.seed in variant.runs:
            raise UserError(f"{run}: the same config and seed as {variant.runs[config.seed]}; compare it once.")
        variant.runs[config.seed] = run
    return list(variants.values())


def config_differences(variants: list[Variant]) -> dict[str, list[Any]]:
    """Values by key, one for each variant, of the keys in which they differ; None where a variant has no such key."""
    keys = dict.fromkeys(key for variant in variants for key in variant.settings)
    table = {key: [variant.settings.get(key) for variant in variants] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed"  # interpolated from the run's own


def _letters(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else _letters(number // 26 - 1) + _letters(number % 26)


def _metric_names(variants: list[Variant]) -> list[str]:
    """All metrics, the monitored ones first, then those that most variants have."""
    monitors = [run.summary["monitor"] for variant in variants for run in variant.runs.values()]
    names = [name for variant in variants for run in variant.runs.values() for name in run.summary["metrics"]]
    return sorted(dict.fromkeys(monitors + names), key=lambda name: (name not in monitors, name))


def _metric(variants: list[Variant], name: str) -> dict[str, Any]:
    """Of one metric by variant: mean, spread and number of seeds, and the difference to the first over shared seeds."""
    first, record = variants[0].values(name), {}
    for variant in variants:
        values = variant.values(name)
        if not values:
            continue
        record[variant.name] = dict(zip(("mean", "std", "seeds"), mean_spread(list(values.values()))))
        shared = sorted(first.keys() & values.keys())
        if variant is not variants[0] and len(shared) > 1:
            difference = paired_difference([first[seed] for seed in shared], [values[seed] for seed in shared])
            record[variant.name]["difference"] = difference.as_dict()
    return {"metric": name, "variants": record}


def _evaluated(variant: Variant, split: str) -> Iterator[tuple[str, int, str, Interval]]:
    """Variant, seed, name and interval of every figure with an interval in the newest evaluation of each kind."""
    for seed, run in variant.runs.items():
        newest = {}
        for path in sorted((run.path / "evaluations").glob("*/summary.json")):
            summary = read_json(path)
            if summary.get("split") == split:
                newest[summary["analysis"]] = summary
        for analysis, summary in newest.items():
            for name, interval in _intervals(summary, ""):
                yield variant.name, seed, f"{analysis}: {name}", interval


def _intervals(node: Any, path: str) -> Iterator[tuple[str, Interval]]:
    if isinstance(node, dict):
        if node.keys() == Interval.__dataclass_fields__.keys() and None not in node.values():
            yield path, Interval(**node)
        else:
            for key, value in node.items():
                yield from _intervals(value, f"{path}.{key}" if path and path != "intervals" else key)


def _list_variants(variants: list[Variant]) -> list[str]:
    rows = [[variant.name, run.summary["experiment"], seed, str(run)]
            for variant in variants for seed, run in variant.runs.items()]  # fmt: skip
    return [format_table(rows, ["variant", "experiment", "seed", "run"])]


def _told_differences(variants: list[Variant], differences: dict[str, list[Any]]) -> list[str]:
    if not differences:
        return ["The configs differ in nothing but the seed."]
    rows = [[key, *(str(value) for value in values)] for key, values in differences.items()]
    return ["## What differs", format_table(rows, ["key", *(variant.name for variant in variants)])]


def _told_metrics(variants: list[Variant], metrics: list[dict[str, Any]]) -> list[str]:
    rows = [[metric["metric"], *(_cell(metric["variants"].get(variant.name)) for variant in variants)]
            for metric in metrics]  # fmt: skip
    note = "Mean over seeds ± sample standard deviation (number of seeds); difference to A with its 95 % t interval."
    return ["## Metrics of the best epoch", note, format_table(rows, ["metric", *(v.name for v in variants)])]


def _cell(record: dict[str, Any] | None) -> str | None:
    if record is None:
        return None
    text = f"{record['mean']:.4g}"
    if record["seeds"] > 1:
        text += f" ± {record['std']:.2g} ({record['seeds']})"
    return text + (f", {Interval(**record['difference'])}" if "difference" in record else "")


def _figure(variants: list[Variant], folder: Path) -> None:
    """The monitored metric by variant over seeds, where all have the same and two seeds or more."""
    monitors = {run.summary["monitor"] for variant in variants for run in variant.runs.values()}
    if len(monitors) == 1 and all(len(variant.runs) > 1 for variant in variants):
        (name,) = monitors
        intervals = [seed_interval(list(variant.values(name).values())) for variant in variants]
        plot_intervals([v.name for v in variants], intervals, folder / "metric.png", f"{name} over seeds", name)

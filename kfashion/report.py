"""What the retrieval analyses found, in words and tables."""

from operator import itemgetter
from typing import Any

from common.evaluation import Split
from common.report import format_table, verdict
from common.stats import Interval
from kfashion.judging import Judged
from kfashion.retrieval import LEVELS

HEADLINE = ("hit_at_1", "hit_at_5", "hit_at_10", "mrr", "map")
SEARCHES = "similarity_search"  # folder of the grids
ENCODER, UNTRAINED = "attribute encoder", "untrained encoder"
DIRECTIONS = ("attributes → image", "image → attributes")


def retrieval_report(judged: Judged, summary: dict[str, Any], split: Split, searches: list[dict[str, Any]]) -> str:
    """The report of `kfashion.analysis.retrieval`, as markdown.

    Args:
        searches: that were drawn, each with its category and the name of its grid.
    """
    parts = [
        f"# {judged.loaded.config.name} on the {split} split\n",
        f"Run `{judged.loaded.run}`, {_about(summary)}",
        *_tables_of(summary),
    ]
    rows = []
    for level, table in summary["image_to_image"].items():
        if table:
            rows.append([f"{level}, chance", *(table[metric]["chance"] for metric in HEADLINE)])
            rows.append([f"{level}, image encoder", *(_with_interval(table[metric]) for metric in HEADLINE)])
    if rows:
        parts += ["\n## image → image: without the query's group\n", format_table(rows, ["", *HEADLINE])]
    parts += _verdicts(summary)
    categories = [
        [row["category"], row["n"], *(_with_interval(row[name]) for name in HEADLINE), row["hit_at_5"]["chance"]]
        for row in summary["by_category"]
    ]
    batch, similarity = summary["inbatch_16"], summary["similarity"]
    quality = summary["quality"]["attribute"]
    grids = {each["category"]: each["grid"] for each in searches}
    found = ", ".join(f"[{category}](results/{SEARCHES}/{grid})" for category, grid in grids.items())
    return "\n".join([
        *parts,
        "\n## By category, equal records\n",
        format_table(categories, ["category", "n", *HEADLINE, "chance of hit_at_5"]),
        "\n## Vectors\n",
        f"Cosine with the own image {similarity['positive_mean']:.3f} ± {similarity['positive_std']:.3f}, with those "
        f"of other records {similarity['negative_mean']:.3f} ± {similarity['negative_std']:.3f}. Largest error of "
        f"length {quality['norm_error']:.1e}, effective rank {quality['effective_rank']:.1f}, hubness "
        f"{_number(summary['hubness'])}.",
        f"\nIn batches of 16, as the original measured, own crop: Hit@5 {_number(batch['hit_at_5'])} "
        f"(chance {batch['chance']:.3f}; the original published 0.641). In the whole gallery it is "
        f"{summary['models'][ENCODER][DIRECTIONS[0]]['instance']['hit_at_5']['value']:.3f}.",
        *targets_table(summary["targets"]),
        f"\n## Figures\n\nWhat {len(searches)} records bring up, a grid for each category: {found}.\n",
        "![Hit@5](results/hit_at_5.png)\n![similarities](results/similarities.png)",
        "![training](results/training_charts.png)\n",
    ])  # fmt: skip


def seeds_report(judged: Judged, summary: dict[str, Any], split: Split) -> str:
    """The report of `kfashion.analysis.seeds`, as markdown.

    Args:
        judged: any one of the runs.
    """
    spread = [
        [f"{direction}: {level}", *levels[level].values()]
        for direction, levels in summary["std_over_seeds"].items()
        for level in LEVELS
    ]
    return "\n".join([
        f"# {judged.loaded.config.name} on the {split} split, seeds {', '.join(map(str, summary['seeds']))}\n",
        f"Means over the seeds, {_about(summary)}",
        *_tables_of(summary),
        "\n## Standard deviation of the attribute encoder over the seeds\n",
        format_table(spread, ["", *HEADLINE]),
        *_verdicts(summary),
        *targets_table(summary["targets"]),
        "",
    ])  # fmt: skip


def targets_table(rows: list[dict[str, Any]]) -> list[str]:
    """The table of `kfashion.targets.target_rows`, under its heading."""
    achieved = {None: "not judged: synthetic data", True: "yes", False: "no"}
    table = [[row["target"], row["wanted"], row["value"], achieved[row["achieved"]]] for row in rows]
    return ["\n## Targets of the founding document\n", format_table(table, ["target", "wanted", "value", "achieved"])]


def _about(summary: dict[str, Any]) -> str:
    kind = "**synthetic data**" if summary["data_source"] == "synthetic" else "real data"
    beyond = ", ".join(map(str, summary["k_beyond_gallery"]))
    small = f" K = {beyond} is more than the gallery holds and counts as all of it." if beyond else ""
    return (
        f"{kind} (fingerprint {summary['fingerprint']}), image encoder {summary['encoder']}. {summary['n']:,} "
        f"garments, {summary['num_records']:,} different records, {summary['num_groups']:,} groups; every query "
        f"against all {summary['gallery']:,} garments of the gallery. Intervals: 95 %, bootstrap of groups.{small}\n"
    )


def _tables_of(summary: dict[str, Any]) -> list[str]:
    """A table for each direction and level: chance, the encoder, rivals."""
    parts = []
    for direction in DIRECTIONS:
        for level in LEVELS:
            what = {"instance": "own crop", "attr": "equal record (headline)", "category": "same category"}[level]
            tables = {name: table[direction][level] for name, table in summary["models"].items()}
            if not tables[ENCODER]:  # for no query there is anything relevant
                continue
            rows = [_row(name, table) for name, table in tables.items()]
            chance = ["chance", *(tables[ENCODER][each]["chance"] for each in HEADLINE)]
            parts += [f"\n## {direction}: {what}\n", format_table([chance, *rows], ["", *HEADLINE])]
    return parts


def _verdicts(summary: dict[str, Any]) -> list[str]:
    return ["\n## Against rivals, equal records\n"] + [
        f"- {direction}: {verdict(Interval(**table[direction]['hit_at_5']), f'the encoder beats {rival} in Hit@5')}"
        for rival, table in summary["differences"].items()
        for direction in DIRECTIONS
        if table[direction]["hit_at_5"] is not None
    ]


def _row(name: str, table: dict[str, Any]) -> list[Any]:
    cell = _with_interval if name == ENCODER else itemgetter("value")
    return [name, *(cell(table[metric]) for metric in HEADLINE)]


def _with_interval(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.4f}{interval}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

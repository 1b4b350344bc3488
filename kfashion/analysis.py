"""`analysis=kfashion/retrieval`: how well records find images in the whole gallery, beside chance and rivals."""

import csv
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from hydra.utils import instantiate

from common.errors import UserError
from common.evaluation import Split
from common.files import plain, write_json, write_text
from common.plots import plot_intervals
from common.report import format_table, verdict
from common.rundir import Run
from common.stats import Interval
from kfashion.baselines import rivals
from kfashion.export import save_encoder
from kfashion.figures import plot_similarities, plot_training, save_grid
from kfashion.judging import Judged, judge, one_run, point_latest, results, stamped, view_rows
from kfashion.retrieval import (
    LEVELS,
    Items,
    Ranking,
    embedding_quality,
    hubness,
    mean_intervals,
    rank,
    similarities,
    summarise,
)

HEADLINE = ("hit_at_1", "hit_at_5", "hit_at_10", "mrr", "map")
ENCODER, UNTRAINED = "attribute encoder", "untrained encoder"
STRONGEST = ("ridge", "attribute classifiers")
DIRECTIONS = ("attributes → image", "image → attributes")
SHOWN = 5  # images per query in a grid
ROWS_PER_GRID = 6
MOST_DRAWN = 100
TARGETS = (  # what, the metric at the level of equal records, the target
    ("stage 1, sample: Hit@5", "hit_at_5", 0.70),
    ("stage 2: Hit@5", "hit_at_5", 0.70),
    ("stage 3, production: Hit@5", "hit_at_5", 0.90),
    ("all queries: Recall@10", "recall_at_10", 0.75),
)


def retrieval(
    runs: list[Run],
    split: Split,
    output: Path,
    data_dir: str | None,
    num_queries: int = 20,
    distractors: bool = False,
) -> dict[str, Any]:
    """Judge one run on a split: all metrics at three levels in both directions, rivals, categories, targets, a search.

    Args:
        num_queries: records whose search results are drawn, at most 100.
        distractors: whether the garments of the other splits stand in the gallery too, see `kfashion.retrieval.rank`.

    Raises:
        UserError: for more than one run, a split without garments, or too many records to be drawn.
    """
    if not 1 <= num_queries <= MOST_DRAWN:
        raise UserError(f"analysis.num_queries={num_queries}: draw 1 to {MOST_DRAWN}.")
    judged = judge(one_run(runs, "retrieval"), split, data_dir)
    offered = _offered(judged) if distractors else judged
    rankings = {ENCODER: _both(offered.attribute, offered.image, offered.items, len(judged.rows))}
    for name, (queries, gallery) in _rival_vectors(offered).items():
        rankings[name] = _both(queries, gallery, offered.items, len(judged.rows))
    positive, negative = similarities(judged.attribute, judged.image, judged.items.attr_key)
    stamp = stamped(judged, split)
    summary = {
        **stamp,
        "n": len(judged.rows),
        "gallery": len(offered.rows),
        "num_records": len(np.unique(judged.items.attr_key)),
        "num_groups": len(np.unique(judged.items.group)),
        "models": {name: _table(each, judged.items) for name, each in rankings.items()},
        "image_to_image": _image_to_image(judged),
        "differences": {name: _differences(rankings, name, judged.items) for name in (*STRONGEST, UNTRAINED)},
        "by_category": _by_category(rankings[ENCODER][DIRECTIONS[0]]["attr"], judged),
        "similarity": {
            "positive_mean": positive.mean(), "positive_std": positive.std(),
            "negative_mean": negative.mean(), "negative_std": negative.std(),
        },
        "quality": {"attribute": embedding_quality(judged.attribute), "image": embedding_quality(judged.image)},
        "hubness": hubness(judged.attribute, judged.image),
        "inbatch_16": inbatch_hit(judged, 16),
    }  # fmt: skip
    summary["targets"] = _targets(summary)
    summary = plain(summary)
    folder = results(output)
    _figures(judged, summary, positive, negative, folder)
    _result_files(judged, summary, stamp, folder)
    searches = _searches(judged, num_queries, folder / "similarity_search")
    write_json(folder / "similarity_search" / "results.json", {**stamp, "queries": searches})
    save_encoder(output / "checkpoints" / "best_model.pt", judged, {"hit_at_5": _headline(summary)["hit_at_5"]})
    write_text(output / "report.md", _report(judged, summary, split))
    point_latest(output)
    return summary


def inbatch_hit(judged: Judged, size: int, rounds: int = 10) -> dict[str, float]:
    """Hit@5 among random batches only, as the original measured it: for comparison with its 64.1 %, not a result."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(rounds):
        order = rng.permutation(len(judged.rows))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            items = judged.items[rows]
            found = rank(judged.attribute[rows], judged.image[rows], items, items, ["instance"])["instance"]
            hits.append(found.metrics["hit_at_5"].mean())
    return {"batch_size": size, "hit_at_5": float(np.mean(hits)) if hits else np.nan, "chance": 5 / size}


def _offered(judged: Judged) -> Judged:
    """The garments judged, and behind them all others."""
    others = np.setdiff1d(np.arange(len(judged.data.records)), judged.rows)
    return view_rows(judged.loaded, np.concatenate([judged.rows, others]), judged.loaded.module.network)


def _both(attribute: np.ndarray, image: np.ndarray, items: Items, count: int) -> dict[str, dict[str, Ranking]]:
    """Rankings of the first `count` garments by direction and level; the others are distractors."""
    asked, more = items[:count], np.arange(len(items)) >= count if count < len(items) else None
    return {
        DIRECTIONS[0]: rank(attribute[:count], image, asked, items, distractors=more),
        DIRECTIONS[1]: rank(image[:count], attribute, asked, items, distractors=more),
    }


def _image_to_image(judged: Judged) -> dict[str, Any]:
    """How images find images by the frozen encoder alone, the query's own group left out, by level."""
    items = judged.items
    found = rank(judged.image, judged.image, items, items, ["attr", "category"], others_only=True)
    return {level: summarise(each, items.group, items.category) for level, each in found.items()}


def _rival_vectors(judged: Judged) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    data, config = judged.data, judged.loaded.config
    records, train = data.records, data.datasets["train"].index
    found = rivals(
        records.codes, data.vocabulary.sizes, data.vectors.numpy(), train, records.group.numpy(), judged.rows
    )
    lightning.seed_everything(config.seed + 1, verbose=False)
    untrained = view_rows(judged.loaded, judged.rows, instantiate(config.model, _convert_="all"))
    return {name: (each.queries, each.gallery) for name, each in found.items()} | {
        UNTRAINED: (untrained.attribute, judged.image)
    }


def _table(rankings: dict[str, dict[str, Ranking]], items: Items) -> dict[str, Any]:
    return {
        direction: {level: summarise(each, items.group, items.category) for level, each in levels.items()}
        for direction, levels in rankings.items()
    }


def _differences(rankings: dict[str, Any], rival: str, items: Items) -> dict[str, Any]:
    """The encoder less a rival, query by query, by direction and metric; intervals over groups."""
    found = {}
    for direction in DIRECTIONS:
        ours, theirs = (rankings[name][direction]["attr"].metrics for name in (ENCODER, rival))
        table = np.stack([ours[name] - theirs[name] for name in HEADLINE], 1)
        intervals = mean_intervals(table, items.group) or [None] * len(HEADLINE)
        found[direction] = {name: each and each.as_dict() for name, each in zip(HEADLINE, intervals, strict=True)}
    return found


def _by_category(ranking: Ranking, judged: Judged) -> list[dict[str, Any]]:
    rows = []
    for name in np.unique(judged.category):
        own = judged.category == name
        table = summarise(ranking[own], judged.items.group[own], judged.items.category[own])
        rows.append({"category": name, "n": int(own.sum()), **{metric: table[metric] for metric in HEADLINE}})
    return rows


def _headline(summary: dict[str, Any], level: str = "attr", name: str = ENCODER) -> dict[str, Any]:
    return summary["models"][name][DIRECTIONS[0]][level]


def _targets(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets of the founding requirements; figures of generated data are not entered."""
    real, rows = summary["data_source"] == "real", []
    for what, metric, target in TARGETS:
        value = _headline(summary)[metric]["value"] if real else None
        rows.append(
            {"target": what, "wanted": target, "value": value, "achieved": None if value is None else value >= target}
        )
    return rows


def _figures(judged: Judged, summary: dict[str, Any], positive: np.ndarray, negative: np.ndarray, folder: Path) -> None:
    plot_similarities(positive, negative, folder / "similarities.png")
    plot_training(_epochs(judged.loaded.run), folder / "training_charts.png")
    rows = {name: _headline(summary, name=name)["hit_at_5"] for name in summary["models"]}
    if all(row["low"] is not None for row in rows.values()):
        groups = summary["num_groups"]
        intervals = [
            Interval(row["value"], row["low"], row["high"], 0.95, groups, "bootstrap of groups")
            for row in rows.values()
        ]
        chance = rows[ENCODER]["chance"]
        title = f"Hit@5 of an equal record among {summary['n']:,} images (dashed: chance)"
        plot_intervals(list(rows), intervals, folder / "hit_at_5.png", title, "Hit@5", reference=chance)


def _result_files(judged: Judged, summary: dict[str, Any], stamp: dict[str, Any], folder: Path) -> None:
    epochs = _epochs(judged.loaded.run)
    write_json(folder / "training_results.json", {**stamp, "epochs": epochs, "evaluation": summary["models"][ENCODER]})
    final = {
        name: {key: row[key] for key in ("value", "low", "high", "chance")} for name, row in _headline(summary).items()
    }
    write_json(folder / "training_summary.json", {
        **stamp, "top_1_accuracy": final["hit_at_1"], "top_5_accuracy": final["hit_at_5"], "mrr": final["mrr"],
        "positive_similarity": summary["similarity"]["positive_mean"],
        "negative_similarity": summary["similarity"]["negative_mean"],
        "norm_error": summary["quality"]["attribute"]["norm_error"], "epochs": len(epochs),
        "instance_top_5_accuracy": _headline(summary, "instance")["hit_at_5"],
    })  # fmt: skip


def _epochs(run: Run) -> list[dict[str, float]]:
    with open(run.path / "metrics.csv", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _searches(judged: Judged, num_queries: int, folder: Path) -> list[dict[str, Any]]:
    """Draws what random records of every category bring up, each record once: a grid for each category and a table."""
    rng, found, names = np.random.default_rng(0), [], np.unique(judged.category)
    for number, name in enumerate(names):
        own = np.flatnonzero(judged.category == name)
        own = own[np.unique(judged.items.attr_key[own], return_index=True)[1]]
        count = min(len(own), ROWS_PER_GRID, num_queries // len(names) + (number < num_queries % len(names)))
        rows = np.sort(rng.choice(own, count, replace=False))
        grid = []
        for row in rows:
            scores = judged.attribute[row] @ judged.image.T
            best = np.argsort(-scores, kind="stable")[:SHOWN]
            right = judged.items.attr_key[best] == judged.items.attr_key[row]
            found.append({
                "item_id": judged.item_id[row], "category": name,
                "record": judged.data.vocabulary.decode(judged.data.records.codes, int(judged.rows[row])),
                "results": [{"rank": place + 1, "item_id": judged.item_id[each], "similarity_score": scores[each],
                             "relevant": bool(yes)} for place, (each, yes) in enumerate(zip(best, right))],
            })  # fmt: skip
            pictures = [(judged.data.catalogue.crop(int(judged.rows[row])), f"own: {judged.item_id[row][:16]}", None)]
            grid.append(pictures + [
                (judged.data.catalogue.crop(int(judged.rows[each])), f"{place + 1}: {scores[each]:.3f}", bool(yes))
                for place, (each, yes) in enumerate(zip(best, right))
            ])  # fmt: skip
        if grid:
            shown = name if name.isascii() else f"category {number + 1}"
            title = f"{shown}: the {SHOWN} images nearest to a record (solid frame: same record)"
            save_grid(grid, folder / f"{number + 1:02d}.png", title)
    return plain(found)


def _report(judged: Judged, summary: dict[str, Any], split: Split) -> str:
    kind = "**synthetic data**" if summary["data_source"] == "synthetic" else "real data"
    parts = [
        f"# {judged.loaded.config.name} on the {split} split\n",
        f"Run `{judged.loaded.run}`, {kind} (fingerprint {summary['fingerprint']}), image encoder "
        f"{summary['encoder']}. {summary['n']:,} garments, {summary['num_records']:,} different records, "
        f"{summary['num_groups']:,} groups; every query against all {summary['gallery']:,} garments of the gallery. "
        "Intervals: 95 %, bootstrap of groups.\n",
    ]
    for direction in DIRECTIONS:
        for level in LEVELS:
            what = {"instance": "own crop", "attr": "equal record (headline)", "category": "same category"}[level]
            rows = [_row(name, table[direction][level]) for name, table in summary["models"].items()]
            rows = [row for row in rows if row]
            chance = ["chance", *(summary["models"][ENCODER][direction][level][each]["chance"] for each in HEADLINE)]
            parts += [f"\n## {direction}: {what}\n", format_table([chance, *rows], ["", *HEADLINE])]
    rows = []
    for level, table in summary["image_to_image"].items():
        if table:
            rows.append([f"{level}, chance", *(table[metric]["chance"] for metric in HEADLINE)])
            rows.append([f"{level}, image encoder", *(_with_interval(table[metric]) for metric in HEADLINE)])
    if rows:
        parts += ["\n## image → image: without the query's group\n", format_table(rows, ["", *HEADLINE])]
    parts += ["\n## Against rivals, equal records\n"]
    for rival, table in summary["differences"].items():
        for direction in DIRECTIONS:
            each = table[direction]["hit_at_5"]
            if each is not None:
                parts.append(f"- {direction}: {verdict(Interval(**each), f'the encoder beats {rival} in Hit@5')}")
    categories = [
        [row["category"], row["n"], *(_with_interval(row[name]) for name in HEADLINE), row["hit_at_5"]["chance"]]
        for row in summary["by_category"]
    ]
    batch, similarity = summary["inbatch_16"], summary["similarity"]
    quality = summary["quality"]["attribute"]
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
        f"{_headline(summary, 'instance')['hit_at_5']['value']:.3f}.",
        "\n## Targets\n",
        format_table([[row["target"], row["wanted"], row["value"],
                       "not judged: synthetic data" if row["achieved"] is None else "yes" if row["achieved"] else "no"]
                      for row in summary["targets"]], ["target", "wanted", "value", "achieved"]),
        "\n![Hit@5](results/hit_at_5.png)\n![similarities](results/similarities.png)\n",
    ])  # fmt: skip


def _row(name: str, table: dict[str, Any]) -> list[Any]:
    if not table:
        return []
    if name != ENCODER:
        return [name, *(table[metric]["value"] for metric in HEADLINE)]
    return [name, *(_with_interval(table[metric]) for metric in HEADLINE)]


def _with_interval(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.4f}{interval}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

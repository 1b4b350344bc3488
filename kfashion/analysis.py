"""How well records find images in the whole gallery, beside chance and rivals.

`analysis=kfashion/retrieval` of one run, `analysis=kfashion/seeds` of several seeds put together.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf

from common.errors import UserError
from common.evaluation import Split
from common.files import plain, write_json, write_text
from common.plots import plot_intervals
from common.rundir import Run
from common.stats import Interval, mean_spread
from kfashion.baselines import rivals
from kfashion.export import save_encoder
from kfashion.figures import plot_similarities, plot_training, save_grid, shown_name
from kfashion.judging import Judged, epochs_of, judge, one_run, point_latest, results, stamped, view_rows
from kfashion.report import DIRECTIONS, ENCODER, HEADLINE, SEARCHES, UNTRAINED, retrieval_report, seeds_report
from kfashion.retrieval import (
    KS,
    Items,
    Ranking,
    embedding_quality,
    hubness,
    mean_intervals,
    rank,
    similarities,
    summarise,
)
from kfashion.targets import target_rows

STRONGEST = ("ridge", "attribute classifiers")
SHOWN = 5  # images per query in a grid
ROWS_PER_GRID = 6
MOST_DRAWN = 100


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
        **_sizes(judged, offered),
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
        "targets": target_rows(judged, rankings[ENCODER][DIRECTIONS[0]]["attr"]),
    }  # fmt: skip
    summary = plain(summary)
    folder = results(output)
    _figures(judged, summary, positive, negative, folder)
    _result_files(judged, summary, stamp, folder)
    searches = _searches(judged, num_queries, folder / SEARCHES)
    write_json(folder / SEARCHES / "results.json", {**stamp, "queries": searches})
    save_encoder(output / "checkpoints" / "best_model.pt", judged, {"hit_at_5": _headline(summary)["hit_at_5"]})
    write_text(output / "report.md", retrieval_report(judged, summary, split, searches))
    point_latest(output)
    return summary


def seeds(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """Judge runs that differ in their seed alone as one: every metric is the mean over the seeds, query by query.

    The intervals are over groups, as those of one run; how far the seeds lie apart stands beside them. Rivals do not
    depend on the seed, but for the untrained encoder, which is that of the first run.

    Raises:
        UserError: for fewer than two runs, two of one seed, or runs that differ in more than that.
    """
    judged = _of_seeds(runs, split, data_dir)
    first = judged[0]
    alone = [_both(each.attribute, each.image, first.items, len(first.rows)) for each in judged]
    rankings = {ENCODER: _mean_over_seeds(alone)}
    for name, (queries, gallery) in _rival_vectors(first).items():
        rankings[name] = _both(queries, gallery, first.items, len(first.rows))
    summary = plain({
        **stamped(first, split),
        "seed": None,
        "seeds": [each.loaded.config.seed for each in judged],
        **_sizes(first, first),
        "models": {name: _table(each, first.items) for name, each in rankings.items()},
        "std_over_seeds": _spread(alone),
        "differences": {name: _differences(rankings, name, first.items) for name in (*STRONGEST, UNTRAINED)},
        "targets": target_rows(first, rankings[ENCODER][DIRECTIONS[0]]["attr"]),
    })  # fmt: skip
    write_json(results(output) / "seeds.json", summary)
    write_text(output / "report.md", seeds_report(first, summary, split))
    point_latest(output)
    return summary


def _of_seeds(runs: list[Run], split: Split, data_dir: str | None) -> list[Judged]:
    if len(runs) < 2:
        raise UserError("analysis=kfashion/seeds puts several runs together; pass run=[DIR,DIR,…], or run=SWEEP.")
    judged = [judge(runs[0], split, data_dir)]
    judged += [judge(run, split, data_dir, judged[0].data) for run in runs[1:]]
    configs = [each.loaded.config for each in judged]
    for run, config in zip(runs[1:], configs[1:]):
        for key in ("name", "model", "loss", "optim", "phase", "module", "data.batch_size", "data.balanced"):
            if OmegaConf.select(config, key) != OmegaConf.select(configs[0], key):
                raise UserError(f"{run}: another {key} than {runs[0]}; pass runs that differ in their seed alone.")
    found = [config.seed for config in configs]
    if len(set(found)) < len(found):
        raise UserError(f"seeds {', '.join(map(str, found))}: one is there twice; pass each once.")
    return judged


def _mean_over_seeds(alone: list[dict[str, dict[str, Ranking]]]) -> dict[str, dict[str, Ranking]]:
    """Rankings by direction and level whose metrics are the means of those of the seeds, query by query."""
    return {
        direction: {
            level: replace(ranking, metrics={
                name: np.mean([each[direction][level].metrics[name] for each in alone], 0) for name in ranking.metrics
            })
            for level, ranking in levels.items()
        }
        for direction, levels in alone[0].items()
    }  # fmt: skip


def _spread(alone: list[dict[str, dict[str, Ranking]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Standard deviation over the seeds, by direction, level and metric."""
    return {
        direction: {
            level: {
                name: mean_spread([np.nanmean(each[direction][level].metrics[name]) for each in alone])[1]
                for name in HEADLINE
            }
            for level in levels
        }
        for direction, levels in alone[0].items()
    }


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


def _sizes(judged: Judged, offered: Judged) -> dict[str, Any]:
    return {
        "n": len(judged.rows),
        "gallery": len(offered.rows),
        "k_beyond_gallery": [k for k in KS if k > len(offered.rows)],
        "num_records": len(np.unique(judged.items.attr_key)),
        "num_groups": len(np.unique(judged.items.group)),
    }


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


def _figures(judged: Judged, summary: dict[str, Any], positive: np.ndarray, negative: np.ndarray, folder: Path) -> None:
    plot_similarities(positive, negative, folder / "similarities.png")
    plot_training(epochs_of(judged.loaded.run), folder / "training_charts.png")
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
    epochs = epochs_of(judged.loaded.run)
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
                "item_id": judged.item_id[row], "category": name, "grid": f"{number + 1:02d}.png",
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
            title = f"{shown_name(name, names)}: the {SHOWN} images nearest to a record (solid frame: same record)"
            save_grid(grid, folder / found[-1]["grid"], title)
    return plain(found)

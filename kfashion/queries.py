"""Which garments are central, and whether queries of central garments do better than others.

Centrality stands in for sales, which nobody has seen: a garment near the mean image is taken to be popular. Centre and
shares come from the training split, so the split that is judged has no say in them. Source: kfashion specification,
section 5.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.stats import kurtosis, skew, spearmanr

from common.errors import UserError
from common.evaluation import Split
from common.files import locate_data, plain, write_json, write_text
from common.report import format_table
from common.rundir import Run
from common.stats import Interval, group_sums, percentile_interval, resample_sums
from kfashion.figures import plot_centrality
from kfashion.judging import Judged, judge, one_run, point_latest, results, stamped
from kfashion.query_sets import centrality_scores, most_central, query_sets
from kfashion.report import targets_table
from kfashion.retrieval import NUM_RESAMPLES, Ranking, rank, summarise
from kfashion.targets import target_rows

METRICS = ("hit_at_1", "recall_at_5", "recall_at_10")
Share = Annotated[float, Field(gt=0, lt=1)]


def centrality(
    runs: list[Run],
    split: Split,
    output: Path,
    data_dir: str | None,
    anchor_share: Share = 0.1,
    sales: str | None = None,
) -> dict[str, Any]:
    """How near every garment of a split is to the centre of the training images, by category, with the anchors.

    Args:
        anchor_share: of the garments, the most central.
        sales: CSV with `item_id` and `units` to hold the proxy against; relative to the data directory.

    Raises:
        UserError: for more than one run, or sales that cannot be read.
    """
    judged = judge(one_run(runs, "centrality"), split, data_dir)
    scores = centrality_scores(judged)
    anchors = most_central(scores, judged.item_id, anchor_share)
    threshold = float(scores[anchors].min())
    summary = {
        **stamped(judged, split),
        "centre_excludes_split": split != "train",
        "centred": judged.data.projection is not None and bool(judged.data.projection.mean.any()),
        "all": describe(scores),
        "anchors": describe(scores[anchors]) | {"threshold": threshold, "share": anchor_share},
        "by_category": [
            {"category": name, **describe(scores[own]), "anchor_share": float(anchors[own].mean())}
            for name in np.unique(judged.category)
            for own in [judged.category == name]
        ],
        "validation": "not validated: no sales" if sales is None else _against_sales(scores, judged, sales, data_dir),
        "failed": [] if scores[anchors].mean() >= scores.mean() else ["anchors are less central than the rest"],
    }
    summary = plain(summary)
    folder = results(output)
    plot_centrality(scores, judged.category, threshold, folder / "centrality.png")
    items = [{"item_id": name, "centrality": float(score), "anchor": bool(anchor)}
             for name, score, anchor in zip(judged.item_id, scores, anchors)]  # fmt: skip
    write_json(folder / "centrality.json", {**summary, "items": items})
    write_text(output / "report.md", _centrality_report(summary, split, scores, anchors))
    point_latest(output)
    return summary


def _centrality_report(summary: dict[str, Any], split: Split, scores: np.ndarray, anchors: np.ndarray) -> str:
    """The centralities as markdown, of (N,) scores and whether each is an anchor's."""
    columns = ("category", "count", "mean", "std", "min", "median", "max", "anchor_share")
    everything = {"category": "all", **summary["all"], "anchor_share": float(anchors.mean())}
    rows = [[row[each] for each in columns] for row in (everything, *summary["by_category"])]
    valid, threshold = summary["validation"], summary["anchors"]["threshold"]
    centred = ["The image vectors went through a projection that takes their mean away: what is left of a centre says "
               "little. Take an encoder of 512 dimensions.\n"] * summary["centred"]  # fmt: skip
    return "\n".join([
        f"# Centrality on the {split} split\n",
        "Cosine of each image with the mean of the training images: a proxy of popularity, "
        f"{valid if isinstance(valid, str) else 'held against sales below'}.\n",
        *centred,
        format_table(rows, ["category", "n", "mean", "std", "min", "median", "max", "share of anchors"]),
        f"\nAnchors: {int(anchors.sum())} above {threshold:.4f}, mean {scores[anchors].mean():.4f} "
        f"(all {scores.mean():.4f}); skewness {skew(scores):.3f}, kurtosis {kurtosis(scores):.3f}.",
        "" if isinstance(valid, str) else f"\nSpearman with sales {valid['spearman']:.3f} (p {valid['p_value']:.2g}, "
        f"n = {valid['n']}); {valid['precision']:.1%} of the anchors are true best sellers.",
        "\n![by category](results/centrality.png)\n",
    ])  # fmt: skip


def query_aware(
    runs: list[Run], split: Split, output: Path, data_dir: str | None, anchor_share: Share = 0.1
) -> dict[str, Any]:
    """Retrieval by kinds of queries against one gallery: all, anchors, tail, well described, balanced by category.

    That anchors do better is a hypothesis: the summary says confirmed, refuted or inconclusive, and fails for none.

    Raises:
        UserError: for more than one run.
    """
    judged = judge(one_run(runs, "query_aware"), split, data_dir)
    sets = {name: chosen for name, chosen in query_sets(judged, anchor_share).items() if chosen.any()}
    found = rank(judged.attribute, judged.image, judged.items, judged.items, ["instance", "attr"])
    table = {
        level: {name: _scores(ranking, chosen, judged) for name, chosen in sets.items()}
        for level, ranking in found.items()
    }
    differences = {
        level: {name: contrast(ranking.metrics[name], sets["anchor"], judged.items.group) for name in METRICS}
        for level, ranking in found.items()
    }
    summary = plain({
        **stamped(judged, split),
        "sets": {name: int(chosen.sum()) for name, chosen in sets.items()},
        "metrics": table,
        "anchor_less_others": differences,
        "targets": target_rows(judged, found["attr"]),
    })  # fmt: skip
    write_json(results(output) / "query_aware.json", summary)
    rows = [
        [level, name, summary["sets"][name], *(_cell(each[metric]) for metric in METRICS)]
        for level, own in summary["metrics"].items()
        for name, each in own.items()
    ]
    verdicts = [
        f"- {level}, {metric}: **{each['verdict']}** ({Interval(**each['interval'])}, p {each['p_value']:.3g})"
        for level, own in summary["anchor_less_others"].items()
        for metric, each in own.items()
        if each["interval"] is not None
    ]
    write_text(output / "report.md", "\n".join([
        f"# Kinds of queries on the {split} split\n",
        "Every set searches the same gallery. Intervals: 95 %, bootstrap of groups.\n",
        format_table(rows, ["relevant", "queries", "n", *METRICS]),
        "\n## Do anchors find more than the others?\n", *verdicts, *targets_table(summary["targets"]), "",
    ]))  # fmt: skip
    point_latest(output)
    return summary


def contrast(metric: np.ndarray, chosen: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """The mean over the chosen queries less that over the others, with interval, p and verdict.

    Groups are resampled. p is two-sided, from the share of resamples on the other side of zero.
    """
    known = np.isfinite(metric)
    value, chosen, group = metric[known], chosen[known], group[known]
    sums = group_sums(np.stack([value * chosen, chosen, value * ~chosen, ~chosen], 1), group)
    if len(sums) < 2 or not chosen.any() or chosen.all():
        return {"interval": None, "p_value": None, "verdict": "inconclusive"}
    draws = resample_sums(sums, NUM_RESAMPLES, 0)
    draws = draws[(draws[:, 1] > 0) & (draws[:, 3] > 0)]
    resamples = draws[:, 0] / draws[:, 1] - draws[:, 2] / draws[:, 3]
    interval = percentile_interval(value[chosen].mean() - value[~chosen].mean(), resamples, 0.95, len(sums))
    beyond = 1 + min((resamples <= 0).sum(), (resamples >= 0).sum())
    verdict: Literal["confirmed", "refuted", "inconclusive"] = (
        "confirmed" if interval.low > 0 else "refuted" if interval.high < 0 else "inconclusive"
    )
    return {"interval": interval.as_dict(), "p_value": min(1.0, 2 * beyond / (1 + len(resamples))), "verdict": verdict}


def describe(scores: np.ndarray) -> dict[str, float | int]:
    """Count, mean, standard deviation, extremes, median, skewness and kurtosis."""
    varied = np.ptp(scores) > 0
    return {
        "count": len(scores), "mean": scores.mean(), "std": scores.std(ddof=1) if len(scores) > 1 else np.nan,
        "min": scores.min(), "max": scores.max(), "median": np.median(scores),
        "skewness": skew(scores) if varied else np.nan, "kurtosis": kurtosis(scores) if varied else np.nan,
    }  # fmt: skip


def _scores(ranking: Ranking, chosen: np.ndarray, judged: Judged) -> dict[str, Any]:
    table = summarise(ranking[chosen], judged.items.group[chosen], judged.items.category[chosen])
    return {name: table[name] for name in METRICS}


def _against_sales(scores: np.ndarray, judged: Judged, path: str, data_dir: str | None) -> dict[str, float | int]:
    """Raises UserError if sales cannot be read, are of too few garments or all alike; rows of one garment add up."""
    file = locate_data(path, data_dir)
    try:
        table = pd.read_csv(file, dtype={"item_id": str})
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{file}: no sales can be read ({str(error).splitlines()[0][:160]}).") from None
    if not {"item_id", "units"} <= set(table):
        raise UserError(f"{file}: sales need columns item_id and units; it has {', '.join(map(str, table))}.")
    sold_by_item = pd.to_numeric(table["units"], errors="coerce").groupby(table["item_id"]).sum(min_count=1)
    units = sold_by_item.reindex(judged.item_id).to_numpy(float)
    known = np.isfinite(units)
    if known.sum() < 10:
        raise UserError(f"{file}: sales of {known.sum()} of the {len(units)} garments of this split; need at least 10.")
    if not np.ptp(units[known]):
        raise UserError(f"{file}: all garments were sold equally often; there is nothing to compare with.")
    names = judged.item_id[known]
    sold, central = most_central(units[known], names, 0.1), most_central(scores[known], names, 0.1)
    test = spearmanr(scores[known], units[known])
    return {"n": int(known.sum()), "spearman": test.statistic, "p_value": test.pvalue,
            "precision": float(sold[central].mean())}  # fmt: skip


def _cell(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{interval}, chance {row['chance']:.3f}"

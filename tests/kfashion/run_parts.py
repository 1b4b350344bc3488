"""Run directories with what evaluations and studies leave in them, for tests of the dashboard."""

import os

from omegaconf import OmegaConf

from common.files import write_json, write_text
from common.rundir import Run

RECORD = {"category": "레트로", "style": ["모던"], "silhouette": None, "material": [], "detail": []}
STAMP = {"timestamp": "2026-01-01T00:00:00+00:00", "split": "test", "data_source": "synthetic"}
DISTRIBUTION = {"count": 4, "mean": 0.5, "std": 0.1, "min": 0.25, "max": 0.75, "median": 0.5, "skewness": None,
                "kurtosis": None}  # fmt: skip
CENTRALITY = {
    **STAMP, "all": DISTRIBUTION, "anchors": {**DISTRIBUTION, "threshold": 0.625, "share": 0.1},
    "by_category": [{**DISTRIBUTION, "category": "레트로", "anchor_share": 0.25}],
    "validation": "not validated: no sales",
}  # fmt: skip
ESTIMATE = {"value": 0.5, "low": 0.25, "high": 0.75, "chance": 0.125}
METRICS = ("hit_at_1", "recall_at_5", "recall_at_10")
CONTRAST = {"interval": {"estimate": 0.1, "low": -0.1, "high": 0.3}, "p_value": 0.25, "verdict": "inconclusive"}
QUERY_AWARE = {
    **STAMP, "sets": {"all": 4, "anchor": 1},
    "metrics": {"attr": {kind: dict.fromkeys(METRICS, ESTIMATE) for kind in ("all", "anchor")}},
    "anchor_less_others": {"attr": dict.fromkeys(METRICS, CONTRAST)},
    "targets": [{"target": "all queries: Recall@10", "wanted": 0.75, "value": None, "achieved": None}],
}  # fmt: skip
HEADER = "epoch,step,train/loss,val/loss,val/hit_at_1,val/hit_at_5,val/chance_hit_at_5,val/mrr,val/norm_mean\n"


def make_run(folder, name="kfashion_stage2", lr=1e-3, epochs=4, metrics=HEADER, parent=None):
    schedule = {"_target_": "common.schedules.step", "_partial_": True, "every_epochs": 1, "factor": 0.5}
    config = {
        "name": name, "seed": 3, "monitor": "val/loss", "mode": "min", "data": {"batch_size": 64},
        "optim": {"_target_": "torch.optim.AdamW", "lr": lr}, "phase": {"epochs": epochs, "schedule": schedule},
        "model": {"_target_": "x", "field_dim": 8}, "loss": {"temperature": 0.07},
        "facts": {"num_samples": {"train": 8, "val": 2, "test": 0}, "categories": {"레트로": 10},
                  "data_source": "synthetic", "encoder": "pixels"},
    }  # fmt: skip
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    write_text(folder / "metrics.csv", metrics)
    write_json(folder / "environment.json", {"parent": parent and {"run": str(parent)}})
    return Run(folder)


def add_evaluation(run, analysis, time="2026-01-01_00-00-00", age_s=0, **summary):
    folder = run.path / "evaluations" / f"{time}_kfashion_{analysis}"
    write_json(folder / "summary.json", {"runs": [str(run.path)], "run": str(run.path), **summary})
    written = (folder / "summary.json").stat().st_mtime - age_s
    os.utime(folder / "summary.json", (written, written))
    return folder


def add_retrieval(run):
    folder = add_evaluation(run, "retrieval")
    write_json(folder / "results" / "training_summary.json", {
        "split": "test", "top_1_accuracy": {**ESTIMATE, "value": 0.25}, "top_5_accuracy": ESTIMATE,
        "mrr": {**ESTIMATE, "value": 0.375},
        "positive_similarity": 0.6, "negative_similarity": 0.1,
    })  # fmt: skip
    result = {"rank": 1, "item_id": "item01", "similarity_score": 0.9, "relevant": True}
    query = {"item_id": "q", "category": "레트로", "record": RECORD, "results": [result]}
    write_json(folder / "results" / "similarity_search" / "results.json", {"queries": [query]})


def add_report(outputs, study, experiment, age_s):
    make_run(outputs / "studies" / study / "0", experiment)
    report = outputs / "sweep" / study
    best = {"trial": 1, "values": [0.75], "params": {"optim.lr": 0.001}}
    objectives = {"study": study, "objectives": ["val/hit_at_5"], "best": [best], "importances": {}}
    write_json(report / "summary.json", objectives)
    write_text(report / "trials.csv", "trial,state,val/hit_at_5,optim.lr\n0,pruned,,0.01\n1,complete,0.75,0.001\n")
    written = (report / "summary.json").stat().st_mtime - age_s
    os.utime(report / "summary.json", (written, written))
    return report


def full_run(folder):
    """A run with all that evaluations and a study leave."""
    run = make_run(folder, metrics=HEADER + "0,2,3.0,2.0,0.1,0.3,0.05,0.2,1.0\n")
    add_retrieval(run)
    add_report(folder.parents[1], "study", "kfashion_stage2", 0)
    add_evaluation(run, "centrality", **CENTRALITY)
    add_evaluation(run, "query_aware", **QUERY_AWARE)
    sample = {"kind": "json", "method": "mixing", "original": RECORD, "augmented": {**RECORD, "style": []}}
    picture = {"kind": "image", "method": "view", "original": "0.jpg", "augmented": "0_view.jpg"}
    add_evaluation(run, "augmentation", augmented_samples=[sample, picture])
    return run

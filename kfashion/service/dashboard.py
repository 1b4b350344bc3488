"""The dashboard: what a run, its evaluations, its tuning and the service itself have measured; a record and a page.

What nobody has measured is null. Source: kfashion specification, section 8.
"""

import csv
import math
from collections.abc import Callable, Collection
from datetime import datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal
from urllib.parse import quote

import pandas as pd
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi import Path as Parameter
from fastapi.responses import FileResponse, HTMLResponse
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import BaseModel

from common.evaluation import Split
from common.files import plain, read_json, write_json
from common.rundir import Run, flat_config
from kfashion.fields import FIELDS
from kfashion.judging import one_run, point_latest, results
from kfashion.samples import PICTURES
from kfashion.service.recommend import Recommender

PAGE = Path(__file__).parent / "page"
SCHEMA_VERSION = 1
ASSETS = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "charts.js": "text/javascript",
          "labels.js": "text/javascript", "icon.svg": "image/svg+xml"}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


class Kpi(BaseModel):
    """Figures of the cards.

    Attributes:
        accuracy_source: of accuracies, MRR and similarities: the newest retrieval evaluation, else the epoch that the
            run keeps; `accuracy_split` says of which split.
        chance_top_5: what a random order would find.
    """

    total_items: int | None = None
    categories: dict[str, int] = {}
    train_split: int | None = None
    validation_split: int | None = None
    current_epoch: int | None = None
    total_epochs: int | None = None
    progress_percentage: float | None = None
    current_stage: str | None = None
    status: str | None = None
    accuracy_source: Literal["evaluation", "training"] | None = None
    accuracy_split: Literal["train", "val", "test"] | None = None
    top_1_accuracy: float | None = None
    top_5_accuracy: float | None = None
    mrr: float | None = None
    positive_similarity_avg: float | None = None
    negative_similarity_avg: float | None = None
    embedding_l2_norm: float | None = None
    chance_top_5: float | None = None
    ci95_top_5: tuple[float, float] | None = None


class Epoch(BaseModel):
    """One epoch of a stage; `lr` is the rate that it starts with."""

    epoch: int
    stage: str
    train_loss: float | None
    val_loss: float | None
    lr: float | None
    l2_norm_mean: float | None
    l2_norm_std: float | None


class Found(BaseModel):
    """A garment that was found; `image_url` is null where the service has no picture of it."""

    rank: int
    item_id: str
    image_url: str | None
    similarity_score: float
    relevant: bool


class Query(BaseModel):
    item_id: str
    image_url: str | None
    fields: dict[str, str | list[str] | None]


class Search(BaseModel):
    """What one record of the evaluation brought up."""

    query: Query
    category: str
    results: list[Found]


class Tuning(BaseModel):
    """The newest report on a study of this experiment; `best_value` is of the first objective."""

    study: str
    objectives: list[str]
    n_trials: int
    best_value: float | None
    best_params: dict[str, Any]
    importances: dict[str, float]
    trials: list[dict[str, Any]]


class Hyperparams(BaseModel):
    current: dict[str, Any]
    tuning: Tuning | None


class Sample(BaseModel):
    """A record, or the address of a picture, beside what augmentation makes of it."""

    kind: Literal["image", "json"]
    method: str
    original: dict[str, str | list[str] | None] | str
    augmented: dict[str, str | list[str] | None] | str


class Dashboard(BaseModel):
    """All that the page shows; `api_metrics`, `centrality` and `query_aware` as their own files have them."""

    schema_version: int
    timestamp: str
    run: str
    data_source: Literal["real", "synthetic"] | None
    kpi: Kpi
    loss_curve: list[Epoch]
    top_k_images: list[Search]
    hyperparams: Hyperparams
    augmented_samples: list[Sample]
    api_metrics: dict[str, Any] | None
    centrality: dict[str, Any] | None
    query_aware: dict[str, Any] | None


def build_dashboard(
    run: Run,
    tuning: Path | None = None,
    api_metrics: dict[str, Any] | None = None,
    pictured: Callable[[list[str]], Collection[str]] = lambda item_ids: (),
) -> Dashboard:
    """What is known of a run today, finished or not.

    Args:
        tuning: folder of a report on a study (`analysis=sweep`), see `newest_tuning`.
        api_metrics: measured by the service.
        pictured: tells of which garments the service has pictures.

    Raises:
        UserError: if the directory is none of a run.
    """
    config = _config(run)
    retrieval = newest_evaluation(run, "retrieval")
    return Dashboard(
        schema_version=SCHEMA_VERSION,
        timestamp=datetime.now().astimezone().isoformat(timespec="seconds"),
        run=run.path.name,
        data_source=config.get("facts", {}).get("data_source"),
        kpi=_kpi(run, config, retrieval),
        loss_curve=[row for each in _lineage(run) for row in _curve(each)],
        top_k_images=_searches(retrieval, pictured),
        hyperparams=Hyperparams(current=_hyperparams(config), tuning=None if tuning is None else _tuning(tuning)),
        augmented_samples=_samples(run),
        api_metrics=api_metrics,
        centrality=_summary(newest_evaluation(run, "centrality")),
        query_aware=_summary(newest_evaluation(run, "query_aware")),
    )


def write_dashboard(runs: list[Run], split: Split, output: Path, data_dir: str | None) -> dict[str, Any]:
    """`analysis=kfashion/dashboard`: the same as a file, results/dashboard.json, without what only a service measures.

    Args:
        split, data_dir: not read.

    Raises:
        UserError: for more than one run.
    """
    run = one_run(runs, "dashboard")
    found = build_dashboard(run, run_tuning(run)).model_dump()
    write_json(results(output) / "dashboard.json", found)
    point_latest(output)
    return found["kpi"]


def newest_evaluation(run: Run, name: str) -> Path | None:
    """The folder of a run's last finished evaluation by `analysis=kfashion/<name>`."""
    found = run.path.glob(f"evaluations/*_kfashion_{name}/summary.json")
    return max((path.parent for path in found), default=None, key=_written)


def newest_tuning(output_dir: Path, experiment: str) -> Path | None:
    """The folder of the last report on a study of an experiment; the runs of a study say of which it is."""
    for report in sorted((path.parent for path in output_dir.glob("sweep/*/summary.json")), key=_written, reverse=True):
        study = output_dir / "studies" / _summary(report)["study"]
        trial = next(study.glob("*/config.yaml"), None)
        if trial is not None and _config(Run(trial.parent)).name == experiment:
            return report
    return None


def run_tuning(run: Run) -> Path | None:
    """The folder of the last report on a study of a run's experiment, among the outputs where the run is."""
    return newest_tuning(run.path.parents[1], _config(run).name)


router = APIRouter()


def served_run(request: Request) -> Run:
    """Raises HTTPException 503 while the service does not know its run."""
    run = getattr(request.app.state, "run", None)
    if run is None:
        raise HTTPException(503, "The run is being looked for; ask again in a moment.")
    return run


def served_recommender(request: Request) -> Recommender:
    """Raises HTTPException 503 while nothing is loaded."""
    if request.app.state.recommender is None:
        raise HTTPException(503, "The models and the index are being loaded; ask again in a moment.")
    return request.app.state.recommender


ServedRun = Annotated[Run, Depends(served_run)]
Service = Annotated[Recommender, Depends(served_recommender)]


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
def page(run: ServedRun) -> HTMLResponse:
    template = Template((PAGE / "index.html").read_text(encoding="utf-8"))
    return HTMLResponse(template.substitute(run=escape(run.path.name)), headers=HEADERS)


@router.get("/page/{name}", include_in_schema=False)
def asset(name: str) -> FileResponse:
    if name not in ASSETS:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(PAGE / name, media_type=ASSETS[name], headers=HEADERS)


@router.get("/api/dashboard/kpi", tags=["dashboard"])
def kpi(request: Request, run: ServedRun) -> Dashboard:
    """All that the dashboard shows; what nobody has measured is null."""
    tuning = run_tuning(run)
    service: Recommender | None = request.app.state.recommender
    if service is None:
        return build_dashboard(run, tuning)
    return build_dashboard(run, tuning, service.metrics.snapshot(), service.store.find)


@router.get(
    "/api/dashboard/samples/{name}", tags=["dashboard"], response_class=FileResponse,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
def sample(run: ServedRun, name: Annotated[str, Parameter(pattern=r"^\d{1,4}(_view)?\.jpg$")]) -> FileResponse:
    """A picture of the last samples of augmentation, a JPEG."""
    folder = newest_evaluation(run, "augmentation")
    path = None if folder is None else folder / "results" / PICTURES / name
    if path is None or not path.is_file():
        raise HTTPException(404, "There is no such sample.")
    return FileResponse(path, media_type="image/jpeg")


@router.get("/api/dashboard/live", tags=["dashboard"])
def live(service: Service) -> dict[str, Any]:
    """What the service has measured of itself alone, for those who ask often."""
    return service.metrics.snapshot()


@router.get("/api/dashboard/vocabulary", tags=["dashboard"])
def vocabulary(service: Service) -> dict[str, list[str]]:
    """The tokens of every field that a search by attributes may name."""
    tokens = service.encoder.vocabulary.tokens
    return {field: list(tokens[field]) for field in FIELDS}


def _kpi(run: Run, config: DictConfig, retrieval: Path | None) -> Kpi:
    rows, facts = _rows(run), config.get("facts", {})
    sizes, done, planned = facts.get("num_samples", {}), len(rows), config.phase.epochs
    return Kpi(
        total_items=sum(sizes.values()) if sizes else None,
        categories=dict(facts.get("categories", {})),
        train_split=sizes.get("train"),
        validation_split=sizes.get("val"),
        current_epoch=done,
        total_epochs=planned,
        progress_percentage=100 * done / planned,
        current_stage=config.name,
        status=run.status.get("status"),
        embedding_l2_norm=rows[-1].get("val/norm_mean") if rows else None,
        **(_trained(rows, config) if retrieval is None else _judged(retrieval)),
    )


def _judged(retrieval: Path) -> dict[str, Any]:
    found = read_json(retrieval / "results" / "training_summary.json")
    top_5 = found["top_5_accuracy"]
    return {
        "accuracy_source": "evaluation",
        "accuracy_split": found["split"],
        "top_1_accuracy": found["top_1_accuracy"]["value"],
        "top_5_accuracy": top_5["value"],
        "chance_top_5": top_5["chance"],
        "ci95_top_5": None if top_5["low"] is None else (top_5["low"], top_5["high"]),
        "mrr": found["mrr"]["value"],
        "positive_similarity_avg": found["positive_similarity"],
        "negative_similarity_avg": found["negative_similarity"],
    }


def _trained(rows: list[dict[str, float]], config: DictConfig) -> dict[str, Any]:
    """The figures of the epoch that the run keeps."""
    known = [row for row in rows if config.monitor in row]
    if not known:
        return {}
    best = {"min": min, "max": max}[config.mode](known, key=lambda row: row[config.monitor])
    return {
        "accuracy_source": "training",
        "accuracy_split": "val",
        "top_1_accuracy": best.get("val/hit_at_1"),
        "top_5_accuracy": best.get("val/hit_at_5"),
        "chance_top_5": best.get("val/chance_hit_at_5"),
        "mrr": best.get("val/mrr"),
        "positive_similarity_avg": best.get("val/positive_similarity"),
        "negative_similarity_avg": best.get("val/negative_similarity"),
    }


def _lineage(run: Run) -> list[Run]:
    """The run and, before it, the one whose weights it began with, where that still exists."""
    path = run.path / "environment.json"
    parent = (read_json(path).get("parent") if path.is_file() else None) or {}
    first = Run(parent["run"]) if parent.get("run") else None
    return [run] if first is None or not (first.path / "config.yaml").is_file() else [first, run]


def _curve(run: Run) -> list[Epoch]:
    config = _config(run)
    schedule, epochs = instantiate(config.phase.schedule), config.phase.epochs
    return [
        Epoch(
            epoch=int(row["epoch"]) + 1,
            stage=config.name,
            train_loss=row.get("train/loss"),
            val_loss=row.get("val/loss"),
            lr=config.optim.lr * schedule(row["epoch"], epochs),
            l2_norm_mean=row.get("val/norm_mean"),
            l2_norm_std=row.get("val/norm_std"),
        )
        for row in _rows(run)
    ]


def _rows(run: Run) -> list[dict[str, float]]:
    """The epochs trained so far: what was measured in each, without cells that are empty or not finite."""
    path = run.path / "metrics.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8") as file:
        table = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if math.isfinite(value)} for row in table]


def _searches(retrieval: Path | None, pictured: Callable[[list[str]], Collection[str]]) -> list[Search]:
    if retrieval is None:
        return []
    queries = read_json(retrieval / "results" / "similarity_search" / "results.json")["queries"]
    found = pictured(sorted({each["item_id"] for query in queries for each in (query, *query["results"])}))

    def url(item_id: str) -> str | None:
        return f"/images/{quote(item_id, safe='')}" if item_id in found else None

    return [
        Search(
            query=Query(item_id=each["item_id"], image_url=url(each["item_id"]), fields=each["record"]),
            category=each["category"],
            results=[Found(**result, image_url=url(result["item_id"])) for result in each["results"]],
        )
        for each in queries
    ]


def _samples(run: Run) -> list[dict[str, Any]]:
    summary = _summary(newest_evaluation(run, "augmentation")) or {"augmented_samples": []}
    sides = ("original", "augmented")
    return [
        each | {side: f"/api/dashboard/samples/{each[side]}" for side in sides if each["kind"] == "image"}
        for each in summary["augmented_samples"]
    ]


def _hyperparams(config: DictConfig) -> dict[str, Any]:
    values = flat_config(config)
    chosen = {"batch_size": "data.batch_size", "epochs": "phase.epochs", "learning_rate": "optim.lr",
              "weight_decay": "optim.weight_decay", "patience": "phase.patience", "seed": "seed",
              "optimizer": "optim._target_", "image_encoder": "facts.encoder"}  # fmt: skip
    found = {name: values.get(key) for name, key in chosen.items()}
    rest = {key.split(".", 1)[1]: value for key, value in values.items()
            if key.startswith(("model.", "loss.")) and "_target_" not in key and "vocab_sizes" not in key}  # fmt: skip
    return {name: value for name, value in (found | rest).items() if value is not None}


def _tuning(report: Path) -> Tuning:
    summary = _summary(report)
    best = summary["best"][0]
    trials = plain(pd.read_csv(report / "trials.csv").to_dict("records"))
    return Tuning(
        study=summary["study"],
        objectives=summary["objectives"],
        n_trials=len(trials),
        best_value=best["values"][0],
        best_params=best["params"],
        importances=summary["importances"],
        trials=trials,
    )


def _config(run: Run) -> DictConfig:
    path = run.path / "config.yaml"
    return _read_config(run.path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=16)  # reading one takes a quarter of a second
def _read_config(path: Path, written_ns: int) -> DictConfig:
    return Run(path).config


def _summary(folder: Path | None) -> dict[str, Any] | None:
    """What an analysis wrote, without the paths of this machine."""
    if folder is None:
        return None
    return {name: value for name, value in read_json(folder / "summary.json").items() if name not in ("run", "runs")}


def _written(folder: Path) -> float:
    return (folder / "summary.json").stat().st_mtime

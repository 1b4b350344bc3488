"""The dashboard: what a run, its evaluations, its tuning and the service itself have measured; a record and a page.

What nobody has measured is null. Source: kfashion specification, section 8.
"""

import csv
import math
from collections.abc import Callable, Collection
from datetime import datetime
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi import Path as Parameter
from fastapi.responses import FileResponse, HTMLResponse
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import ValidationError

from common.errors import UserError
from common.files import plain, write_json
from common.rundir import Run, flat_config
from kfashion.service.dashboard_schemas import (
    ApiMetrics,
    AugmentationFile,
    Centrality,
    Dashboard,
    EnvironmentFile,
    Epoch,
    Found,
    Hyperparams,
    Kpi,
    Problem,
    Query,
    QueryAware,
    RetrievalFile,
    Sample,
    Search,
    SearchFile,
    Section,
    StatusFile,
    SweepFile,
    Tuning,
    Vocabulary,
)
from kfashion.service.recommend import Recommender
from kfashion.views import PICTURES

if TYPE_CHECKING:
    from common.evaluation import Split

T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
SCHEMA_VERSION = 1
MEDIA = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
ASSETS = {path.name: MEDIA[path.suffix] for path in PAGE.iterdir() if path.suffix in MEDIA}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


class Reader:
    """Reads files that may be gone or damaged; `problems` tells of those that could not be read."""

    def __init__(self):
        self.problems: list[Problem] = []

    def __call__(self, section: Section, path: Path | None, parse: Callable[[bytes], T]) -> T | None:
        """What `parse` makes of the file; None without a path, or if that fails."""
        try:
            return None if path is None else parse(path.read_bytes())
        except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
            name = "/".join(path.parts[-3:])  # the rest is of this machine
            self.problems.append(Problem(section=section, reason=f"{name}: {_reason(error)}"))
            return None


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
    config, read = _config(run), Reader()
    facts = config.get("facts", {})
    environment = read("loss_curve", _expected(run, "environment.json"), EnvironmentFile.model_validate_json)
    environment = environment or EnvironmentFile()
    rows = read("loss_curve", _expected(run, "metrics.csv"), _epochs)
    retrieval = newest_evaluation(run, "retrieval")
    return Dashboard(
        schema_version=SCHEMA_VERSION,
        timestamp=datetime.now().astimezone().isoformat(timespec="seconds"),
        run=run.path.name,
        git_commit=environment.git_commit,
        seed=config.get("seed"),
        data_source=facts.get("data_source"),
        fingerprint=facts.get("fingerprint"),
        kpi=_kpi(run, config, rows, retrieval, read),
        loss_curve=_parent_curve(environment, read) + _curve(config, rows or []),
        top_k_images=_searches(retrieval, pictured, read),
        hyperparams=Hyperparams(current=_hyperparams(config), tuning=tuning and _tuning(tuning, read)),
        augmented_samples=_samples(run, read),
        api_metrics=api_metrics,
        centrality=read("centrality", _summary(run, "centrality"), Centrality.model_validate_json),
        query_aware=read("query_aware", _summary(run, "query_aware"), QueryAware.model_validate_json),
        problems=read.problems,
    )


def write_dashboard(runs: list[Run], split: "Split", output: Path, data_dir: str | None) -> dict[str, Any]:
    """`analysis=kfashion/dashboard`: the same as a file, results/dashboard.json, without what only a service measures.

    Args:
        split, data_dir: not read.

    Raises:
        UserError: for more than one run.
    """
    from kfashion.judging import one_run, point_latest, results  # Lightning, which the service can do without

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
        found = Reader()("tuning", report / "summary.json", SweepFile.model_validate_json)
        trial = found and next((output_dir / "studies" / found.study).glob("*/config.yaml"), None)
        if trial and _experiment(Run(trial.parent)) == experiment:
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
    service: Recommender | None = request.app.state.recommender
    own = () if service is None else (service.metrics.snapshot(), service.store.find)
    try:
        return build_dashboard(run, run_tuning(run), *own)
    except UserError:
        raise HTTPException(503, f"The config of the run {run.path.name} cannot be read.") from None


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
def live(service: Service) -> ApiMetrics:
    """What the service has measured of itself alone, for those who ask often."""
    return ApiMetrics(**service.metrics.snapshot())


@router.get("/api/dashboard/vocabulary", tags=["dashboard"])
def vocabulary(service: Service) -> Vocabulary:
    """The tokens of every field that a search by attributes may name."""
    return Vocabulary(**service.encoder.vocabulary.tokens)


def _kpi(
    run: Run, config: DictConfig, rows: list[dict[str, float]] | None, retrieval: Path | None, read: Reader
) -> Kpi:
    facts, planned = config.get("facts", {}), config.phase.epochs
    sizes, done = facts.get("num_samples", {}), None if rows is None else len(rows)
    summary = retrieval and retrieval / "results" / "training_summary.json"
    judged = read("kpi", summary, RetrievalFile.model_validate_json)
    status = read("kpi", _expected(run, "status.json"), StatusFile.model_validate_json)
    return Kpi(
        total_items=sum(sizes.values()) if sizes else None,
        categories=dict(facts.get("categories", {})) or None,
        train_split=sizes.get("train"),
        validation_split=sizes.get("val"),
        current_epoch=done,
        total_epochs=planned,
        progress_percentage=None if done is None else 100 * done / planned,
        current_stage=config.name,
        status=status and status.status,
        embedding_l2_norm=rows[-1].get("val/norm_mean") if rows else None,
        **(_trained(rows or [], config) if judged is None else _judged(judged)),
    )


def _judged(found: RetrievalFile) -> dict[str, Any]:
    top_5 = found.top_5_accuracy
    return {
        "accuracy_source": "evaluation",
        "accuracy_split": found.split,
        "top_1_accuracy": found.top_1_accuracy.value,
        "top_5_accuracy": top_5.value,
        "chance_top_5": top_5.chance,
        "ci95_top_5": None if None in (top_5.low, top_5.high) else (top_5.low, top_5.high),
        "mrr": found.mrr.value,
        "positive_similarity_avg": found.positive_similarity,
        "negative_similarity_avg": found.negative_similarity,
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


def _parent_curve(environment: EnvironmentFile, read: Reader) -> list[Epoch]:
    """The curve of the run whose weights this one began with, where that still exists."""
    parent = Run(environment.parent.run) if environment.parent and environment.parent.run else None
    if parent is None or _experiment(parent) is None:
        return []
    return _curve(_config(parent), read("loss_curve", _expected(parent, "metrics.csv"), _epochs) or [])


def _curve(config: DictConfig, rows: list[dict[str, float]]) -> list[Epoch]:
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
        for row in rows
    ]


def _epochs(raw: bytes) -> list[dict[str, float]]:
    """The epochs of metrics.csv: what was measured in each, without cells that are empty or not finite.

    Raises:
        ValueError, TypeError: if it is no table of numbers by epoch.
    """
    cells = csv.DictReader(raw.decode("utf-8").splitlines())
    table = [{name: float(cell) for name, cell in row.items() if cell} for row in cells]
    table = [{name: value for name, value in row.items() if math.isfinite(value)} for row in table]
    if "epoch" not in (cells.fieldnames or ()) or not all("epoch" in row for row in table):
        raise ValueError("no table of epochs")
    return table


def _searches(retrieval: Path | None, pictured: Callable[[list[str]], Collection[str]], read: Reader) -> list[Search]:
    path = retrieval and retrieval / "results" / "similarity_search" / "results.json"
    table = read("top_k_images", path, SearchFile.model_validate_json)
    queries = table.queries if table else []
    found = pictured(sorted({each.item_id for query in queries for each in (query, *query.results)}))

    def url(item_id: str) -> str | None:
        return f"/images/{quote(item_id, safe='')}" if item_id in found else None

    return [
        Search(
            query=Query(item_id=each.item_id, image_url=url(each.item_id), fields=each.record),
            category=each.category,
            results=[Found(**dict(result), image_url=url(result.item_id)) for result in each.results],
        )
        for each in queries
    ]


def _samples(run: Run, read: Reader) -> list[Sample]:
    table = read("augmented_samples", _summary(run, "augmentation"), AugmentationFile.model_validate_json)
    return [
        each if each.kind == "json" else each.model_copy(
            update={side: f"/api/dashboard/samples/{getattr(each, side)}" for side in ("original", "augmented")})
        for each in (table.augmented_samples if table else [])
    ]  # fmt: skip


def _hyperparams(config: DictConfig) -> dict[str, Any]:
    values = flat_config(config)
    chosen = {"batch_size": "data.batch_size", "epochs": "phase.epochs", "learning_rate": "optim.lr",
              "weight_decay": "optim.weight_decay", "patience": "phase.patience", "seed": "seed",
              "optimizer": "optim._target_", "image_encoder": "facts.encoder"}  # fmt: skip
    found = {name: values.get(key) for name, key in chosen.items()}
    rest = {key.split(".", 1)[1]: value for key, value in values.items()
            if key.startswith(("model.", "loss.")) and "_target_" not in key and "vocab_sizes" not in key}  # fmt: skip
    return {name: value for name, value in (found | rest).items() if value not in (None, {})}


def _tuning(report: Path, read: Reader) -> Tuning | None:
    import pandas as pd  # only a study has such a table

    found = read("tuning", report / "summary.json", SweepFile.model_validate_json)
    trials = read("tuning", report / "trials.csv", lambda raw: plain(pd.read_csv(BytesIO(raw)).to_dict("records")))
    if found is None or trials is None:
        return None
    return Tuning(
        study=found.study,
        objectives=found.objectives,
        n_trials=len(trials),
        best_value=found.best[0].values[0],
        best_params=found.best[0].params,
        importances=found.importances,
        trials=trials,
    )


def _expected(run: Run, name: str) -> Path | None:
    """A file that a finished run has and a young one may lack."""
    path = run.path / name
    return path if run.finished or path.is_file() else None


def _summary(run: Run, analysis: str) -> Path | None:
    folder = newest_evaluation(run, analysis)
    return folder and folder / "summary.json"


def _experiment(run: Run) -> str | None:
    """The name of its experiment; None where it has no readable config."""
    try:
        return _config(run).name
    except UserError:
        return None


def _config(run: Run) -> DictConfig:
    path = run.path / "config.yaml"
    return _read_config(run.path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=16)  # reading one takes a quarter of a second
def _read_config(path: Path, written_ns: int) -> DictConfig:
    return Run(path).config


def _written(folder: Path) -> float:
    return (folder / "summary.json").stat().st_mtime


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
    return getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__

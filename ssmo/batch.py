"""A batch of experiments: names of its runs, independent runs that pairs share, and summary.csv.

Source: ssmo specification, section 6.
"""

import csv
import hashlib
import io
import json
import logging
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from common.files import write_text
from common.matrix import Cell
from common.rundir import Run, first_line
from common.schema import locate
from ssmo.curves import lines_of

log = logging.getLogger(__name__)

COLUMNS = (
    "run_id", "seed", "task", "dataset", "method", "model1", "model2", "best_metric_1", "best_metric_2",
    "final_metric_1", "final_metric_2", "condition_tag", "wall_time_sec", "metric_name", "metric_mode", "val_best_1",
    "val_best_2", "best_epoch_1", "best_epoch_2", "epochs", "steps", "params_1", "params_2", "device", "config_hash",
    "status",
)  # fmt: skip
IDENTITY = ("data", "model", "loss", "optim", "phase", "module", "seed")  # what makes a run; not where it runs


def config_hash(config: DictConfig) -> str:
    """First 8 hexadecimal digits of the SHA-256 of what makes the run, as canonical JSON."""
    record = OmegaConf.to_container(config, resolve=False)
    text = json.dumps({key: record[key] for key in IDENTITY}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def describe(config: DictConfig) -> dict[str, Any]:
    """What a run is, by the names of summary.csv, from its config alone, before the facts of the data are in it."""
    data = locate("data", config.data._target_)
    model1, model2 = (config.model[slot]._target_.rpartition(".")[2].lower() for slot in ("first", "second"))
    return {
        "seed": config.seed, "task": data.task, "dataset": _dataset(data, config),
        "method": config.loss.name, "model1": model1, "model2": model2, "condition_tag": condition_tag(config),
        "config_hash": config_hash(config),
    }  # fmt: skip


def _dataset(data: type, config: DictConfig) -> str:
    """Of files of the user, their name, as the data module has it."""
    return getattr(data, "dataset", None) or Path(config.data.path).stem.lower()


def condition_tag(config: DictConfig) -> str:
    """The condition, its strength where it is not the default, and a weak peer by capacity: `clean`, `missing0.3`."""
    strength = "" if config.data.strength is None else f"{config.data.strength:g}"
    quarter = "" if config.model.quarter is None else f"+quarter{config.model.quarter}"
    return f"{config.data.condition}{strength}{quarter}"


def run_id(config: DictConfig) -> str:
    """Directory name of a run: task-dataset-pair-method-condition-seed-hash."""
    it = describe(config)
    pair = f"{it['model1']}_{it['model2']}"
    return "-".join(
        [it["task"], it["dataset"], pair, it["method"], it["condition_tag"], f"s{it['seed']}", it["config_hash"]]
    )


def share_independent(cells: list[Cell]) -> list[Cell]:
    """The cells without those `independent` ones whose two models other independent ones train in the same slots.

    An independent model does not depend on its peer, so it is looked up in any run that has it.
    """
    lone = {cell.name: _parts(cell) for cell in cells if cell.config.loss.name == "independent"}
    places = Counter(part for parts in lone.values() for part in parts)
    for cell in sorted((cell for cell in cells if cell.name in lone), key=lambda cell: _alike(cell.config)):
        if all(places[part] > 1 for part in lone[cell.name]):
            places.subtract(lone.pop(cell.name))
    return [cell for cell in cells if cell.name in lone or cell.config.loss.name != "independent"]


def _alike(config: DictConfig) -> bool:
    return config.model.first == config.model.second


def _parts(cell: Cell) -> set[str]:
    """What each slot of an independent run trains, and on what."""
    config = cell.config
    rest = OmegaConf.to_container(config, resolve=False)
    rest = {key: rest[key] for key in IDENTITY if key != "model"} | {"quarter": config.model.quarter}
    return {json.dumps([slot, OmegaConf.to_container(config.model[slot]), rest], sort_keys=True)
            for slot in ("first", "second")}  # fmt: skip


def collect(folder: Path) -> None:
    """Write summary.csv of a batch from its run directories, which are the truth; a damaged one is replaced."""
    with FileLock(folder / ".summary.lock"):
        rows = [_known_row(path.parent, _changed(path.parent)) for path in sorted(folder.glob("*/config.yaml"))]
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / "summary.csv", table.getvalue())


def _changed(folder: Path) -> int:
    status = folder / "status.json"
    return status.stat().st_mtime_ns if status.exists() else 0


@cache
def _known_row(folder: Path, changed: int) -> dict[str, Any]:
    """A row, read once for every time at which the status changed: a batch asks again after every run."""
    try:
        # config.yaml is resolved and would give another hash than the one in the name
        return row(Run(folder)) | {"config_hash": folder.name.rpartition("-")[2]}
    except Exception as error:  # whatever befell the files of one run, the batch goes on
        log.warning(f"{folder}: unreadable: {first_line(error)}")
        return {"run_id": folder.name, "status": "unreadable"}


def row(run: Run) -> dict[str, Any]:
    """A run's line of summary.csv.

    `best_metric` is the test metric of the epoch whose validation metric was best, per model; `final_metric` that of
    the last epoch. Only finished runs have figures.
    """
    # a run killed just after its summary never came to write `done`
    status, config = "done" if run.finished else run.status.get("status", "unknown"), run.config
    record = {"run_id": run.path.name, **describe(config), "status": status}
    if not run.finished:
        return record
    curves, seconds = np.load(run.path / "curves.npz"), lines_of(run, "train")[-1]["time_sec"]
    task = locate("facts.task", config.facts.task._target_)
    record |= {
        "wall_time_sec": seconds, "metric_name": task.metric, "metric_mode": task.mode,
        "epochs": len(curves["epoch"]), "steps": int(curves["step"][-1]), "device": run.environment["device"],
        "params_1": int(curves["params"][0]), "params_2": int(curves["params"][1]),
    }  # fmt: skip
    for slot in (1, 2):
        val, test = curves[f"val_curve_{slot}"], curves[f"test_curve_{slot}"]
        best = int(np.argmin(val) if task.mode == "min" else np.argmax(val))
        record |= {
            f"val_best_{slot}": float(val[best]), f"best_epoch_{slot}": best, f"best_metric_{slot}": float(test[best]),
            f"final_metric_{slot}": float(test[-1]),
        }  # fmt: skip
    return record

"""A run's vectors of the garments it is judged on."""

import csv
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.rundir import Run
from kfashion.data import NO_CATEGORY, GarmentData
from kfashion.records import FIELDS, Codes, code_keys
from kfashion.retrieval import Items

ENCODED_AT_ONCE = 4096
RESULT_FOLDERS = ("checkpoints", "results", "temp_logs")


@dataclass
class Judged:
    """The garments of one split as a run sees them.

    Attributes:
        rows: (n,) numbers of the garments in the data.
        attribute, image: (n, 512) float32 of length 1.
        items: what decides relevance.
        category: (n,) name of each garment's category; NO_CATEGORY for those that have none.
    """

    loaded: LoadedRun
    rows: np.ndarray
    attribute: np.ndarray
    image: np.ndarray
    items: Items
    category: np.ndarray

    @property
    def data(self) -> GarmentData:
        return self.loaded.data

    @property
    def item_id(self) -> np.ndarray:
        return self.data.records.item_id[self.rows]


def judge(run: Run, split: Split, data_dir: str | None, data: GarmentData | None = None) -> Judged:
    """The vectors of one run on one split.

    Args:
        data: the run's data if it is loaded already.

    Raises:
        UserError: if the split has no garments.
    """
    loaded = load_run(run, data_dir, data)
    return view(loaded, split, loaded.module.network)


def view(loaded: LoadedRun, split: Split, network: nn.Module) -> Judged:
    """The garments of a split through any encoder of the run's vocabulary."""
    rows = loaded.data.datasets[split].index
    if not len(rows):
        raise UserError(f"split={split}: has no garments; give it a share in data.shares, or take split=val.")
    return view_rows(loaded, rows, network)


def view_rows(loaded: LoadedRun, rows: np.ndarray, network: nn.Module) -> Judged:
    """The garments of some rows of the data through any encoder of the run's vocabulary."""
    data: GarmentData = loaded.data
    records, chosen = data.records, torch.from_numpy(rows)
    codes = {field: records.codes[field][chosen].long() for field in FIELDS}
    # words, not codes: all words that training lacks have one code
    category = np.array(pc.fill_null(data.catalogue.items["category"], NO_CATEGORY).to_pylist())[rows]
    number = np.where(category == NO_CATEGORY, -1, np.unique(category, return_inverse=True)[1])
    items = Items(rows, records.attr_key[chosen].numpy(), number, records.group[chosen].numpy())
    return Judged(loaded, rows, encode(network, codes), data.vectors[chosen].numpy(), items, category)


@torch.inference_mode()
def encode(network: nn.Module, codes: Codes) -> np.ndarray:
    """(N, 512) float32 vectors of records; equal codes get one and the same vector, to the last bit."""
    _, first, place = np.unique(code_keys(codes).numpy(), return_index=True, return_inverse=True)
    device = next(network.parameters()).device
    network.eval()
    vectors = [
        network({field: codes[field][part].to(device) for field in FIELDS}).float().cpu()
        for part in torch.from_numpy(first).split(ENCODED_AT_ONCE)
    ]
    return torch.cat(vectors).numpy()[place]


def one_run(runs: list[Run], analysis: str) -> Run:
    """Raises UserError if there is more than one."""
    if len(runs) != 1:
        raise UserError(f"analysis=kfashion/{analysis} judges one run; {len(runs)} given.")
    return runs[0]


def epochs_of(run: Run) -> list[dict[str, float]]:
    """The metrics of every epoch of a run; what an epoch did not measure is left out."""
    with open(run.path / "metrics.csv", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def stamped(judged: Judged, split: Split) -> dict:
    """What every result file opens with."""
    environment = judged.loaded.run.environment
    return {
        "schema_version": 1,
        "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
        "git_commit": environment["git_commit"],
        "run": str(judged.loaded.run.path),
        "seed": judged.loaded.config.seed,
        "split": split,
        "data_source": judged.data.data_source,
        "fingerprint": judged.data.fingerprint,
        "encoder": judged.data.facts["encoder"],
        "vocabulary": judged.data.vocabulary.hash,
    }


def results(output: Path) -> Path:
    """The folder of result files, as the founding requirements name it."""
    return output / "results"


def point_latest(output: Path) -> None:
    """Make `latest/` beside the evaluation lead to its result files, each under the name that the specification gives.

    Files of other analyses stay, so that `latest/results/` holds the newest of each.
    """
    latest = output.parent / "latest"
    for folder in RESULT_FOLDERS:
        for file in sorted((output / folder).rglob("*")):
            link = latest / file.relative_to(output)
            if file.is_dir():
                link.mkdir(parents=True, exist_ok=True)
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(file, link.parent))

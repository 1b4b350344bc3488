"""A run's vectors of the garments it is judged on."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.rundir import Run
from kfashion.data import GarmentData
from kfashion.records import FIELDS, Codes
from kfashion.retrieval import Items

ENCODED_AT_ONCE = 4096


@dataclass
class Judged:
    """The garments of one split as a run sees them.

    Attributes:
        rows: (n,) numbers of the garments in the data.
        attribute, image: (n, 512) float32 of length 1.
        items: what decides relevance.
        category: (n,) name of each garment's category.
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
    data: GarmentData = loaded.data
    rows = data.datasets[split].index
    if not len(rows):
        raise UserError(f"split={split}: has no garments; give it a share in data.shares, or take split=val.")
    records = data.records
    chosen = torch.from_numpy(rows)
    codes = {field: records.codes[field][chosen].long() for field in FIELDS}
    keys, category = records.attr_key[chosen].numpy(), codes["category"].numpy()
    items = Items(rows, keys, category, records.group[chosen].numpy())
    names = np.array(["(padding)", "(unknown)", "(none)", *data.vocabulary.tokens["category"]])
    return Judged(loaded, rows, encode(network, codes, keys), data.vectors[chosen].numpy(), items, names[category])


@torch.inference_mode()
def encode(network: nn.Module, codes: Codes, keys: np.ndarray) -> np.ndarray:
    """(N, 512) float32 vectors of records; equal keys get one and the same vector, to the last bit."""
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
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

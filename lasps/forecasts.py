"""What runs say of windows: logits, calibrated probabilities, and the windows' outcomes beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.calibration import Calibration, fit_vector
from common.checkpoints import hash_weights, load_network, network_weights, read_checkpoint
from common.errors import UserError
from common.evaluation import LoadedRun, Split, load_run
from common.files import read_json, write_json
from common.rundir import Run
from common.stats import date_blocks
from lasps.data.dataset import StockDataset, WindowBatch
from lasps.data.features import FEATURES
from lasps.data.view import View
from lasps.judged import Rows
from lasps.module import LaspsModule
from lasps.phase2 import KEPT, SKIPPED
from lasps.ranking import MIN_BLOCKS

BATCH = 64  # always, padded: with equal shapes a window's logits do not depend on what else is predicted
ATR, CLOSE = FEATURES.index("atr"), FEATURES.index("close")


@dataclass
class Predictions:
    """What a model says of N windows.

    Attributes:
        logits: (N, 3) float32.
        probabilities: (N, 3) float64, rows sum to 1.
        loss: mean training loss of the run's own loss function.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    loss: float


def predict(loaded: LoadedRun, split: Split) -> Predictions:
    """Predictions of a loaded run for all windows of a split, in the data set's order."""
    dataset = loaded.data.datasets[split]
    logits = torch.from_numpy(logits_of(loaded.module, loaded.data.view, dataset))
    labels = torch.as_tensor(dataset.labels)
    loss = loaded.module.loss.cpu().per_sample(logits, labels).double().mean().item()
    return Predictions(logits.numpy(), logits.double().softmax(1).numpy(), loss)


def logits_of(module: LaspsModule, view: View, dataset: StockDataset) -> np.ndarray:
    """(N, 3) float32 logits of a module in evaluation mode, in the data set's order.

    A window's logits depend on that window alone, bit for bit: not on the others, their number or their order.
    """

    def of_batch(index: np.ndarray) -> np.ndarray:
        return _batch_logits(module, view, dataset[index])

    return _in_padded_batches(of_batch, len(dataset))


def logits_of_windows(module: LaspsModule, view: View, series: np.ndarray, sector: np.ndarray) -> np.ndarray:
    """As `logits_of`, from raw windows (N, 60, 28) and sectors (N,)."""

    def of_batch(index: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(sector[index])
        return _batch_logits(module, view, WindowBatch(torch.from_numpy(series[index]), None, ids, ids))

    return _in_padded_batches(of_batch, len(series))


def _in_padded_batches(logits: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """(count, 3) logits of indices 0 … count − 1, asked for in batches of equal size."""
    found = np.empty((count, 3), np.float32)
    for start in range(0, count, BATCH):
        index = np.minimum(np.arange(start, start + BATCH), count - 1)
        found[start : start + BATCH] = logits(index)[: count - start]
    return found


@torch.inference_mode()
def _batch_logits(module: LaspsModule, view: View, batch: WindowBatch) -> np.ndarray:
    batch = view(batch.to(module.device), module.network.use_chart_cnn)
    return module.logits(batch).float().cpu().numpy()


def rows_of(dataset: StockDataset, name: str) -> Rows:
    """The windows of a split with their outcomes.

    Raises:
        UserError: if they have no dates or returns; `name` says whose they are.
    """
    if dataset.date is None or dataset.label_end is None or dataset.forward_return is None:
        raise UserError(f"{name}: windows without dates and forward returns can be neither ranked nor traded.")
    chunks = (np.arange(start, min(start + 4096, len(dataset))) for start in range(0, len(dataset), 4096))
    last = np.concatenate([dataset.series(chunk)[:, -1, [ATR, CLOSE]] for chunk in chunks]).astype(np.float64)
    return Rows(
        code=dataset.codes, date=dataset.date, label_end=dataset.label_end, label=dataset.labels,
        forward_return=dataset.forward_return.astype(np.float64), sector=dataset.sector_ids,
        volatility=last[:, 0] / last[:, 1],
    )  # fmt: skip


def parent_of(loaded: LoadedRun) -> LoadedRun | None:
    """What a run started from, judged with the head that it had trained; None if it was random weights."""
    parent = loaded.run.environment["parent"]
    if parent is None:
        return None
    if not Path(parent["checkpoint"]).is_file():
        raise UserError(f"{loaded.run}: its parent checkpoint {parent['checkpoint']} is gone.")
    before = load_run(loaded.run, data=loaded.data)
    load_network(before.module, Path(parent["checkpoint"]))
    before.module.head = "sector" if before.module.network.heads_trained.any() else "common"
    return before


def shared_head_of(loaded: LoadedRun) -> LoadedRun | None:
    """The run in the line of parents that trained the common head; None if there is none, or it is the run itself."""
    run = loaded.run
    while run.environment["parent"] is not None:
        run = Run(Path(run.environment["parent"]["checkpoint"]).parent.parent)
        if not (run.path / "config.yaml").is_file():
            return None
        if run.config.module.head == "common":
            return load_run(run, data=loaded.data)
    return None


def head_status(run: Run) -> dict[int, str]:
    """What phase 2 did with each sector's head; empty for a run of another phase."""
    epochs = read_checkpoint(run.best)["state_dict"].get("head_epoch")
    if epochs is None:
        return {}
    words = {SKIPPED: "skipped (too few samples)", KEPT: "shared (none beat it)"}
    return {sector: words.get(epoch, f"trained (epoch {epoch})") for sector, epoch in enumerate(epochs.tolist())}


def calibration_of(run: Run, data_dir: str | None, loaded: LoadedRun | None = None) -> Calibration:
    """The calibration of a run's probabilities, fitted on its validation windows and kept in calibration.json.

    Args:
        loaded: the run if it is loaded already; otherwise it is, with its data, where nothing valid is kept.
    """
    path, weights = run.path / "calibration.json", hash_weights(network_weights(run.best))
    if path.is_file() and (kept := read_json(path))["weights"] == weights:
        return Calibration.from_dict(kept["calibration"])
    loaded = loaded or load_run(run, data_dir)
    calibration = fit_vector(predict(loaded, "val").logits, loaded.data.datasets["val"].labels)
    write_json(path, {"weights": weights, "split": "val", "calibration": calibration.as_dict()})
    return calibration


def session_blocks(dataset: StockDataset) -> np.ndarray | None:
    """(N,) number of the block of five sessions of each window; None without dates or with fewer than 10 blocks."""
    if dataset.date is None:
        return None
    blocks = date_blocks(dataset.date)
    return blocks if blocks.max() + 1 >= MIN_BLOCKS else None

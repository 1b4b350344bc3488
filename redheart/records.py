"""The records of a run, checked before anything is concluded from them. No weights are opened."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from common.errors import UserError

METRICS, ROW_LOSSES = "metrics.jsonl", "row_losses.npz"
SPLITS = ("train", "select")
QUANTITIES = ("grad_norm", "update_ratio", "dead_fraction", "nan_count")
COPIED_EPOCHS = 3


@dataclass(frozen=True)
class UnitSeries:
    """What was recorded of one unit over E checkpoints, NaN where it was not.

    Attributes:
        epochs: (E,) int64, ascending: those with a select loss.
        loss: (E,) on the select split, over `n` rows.
        train_loss: (E,).
        task_metrics: (E,) each, on the select split.
        grad_norm, update_ratio, dead_fraction, nan_count: (E,).
        row_losses: (E, n) float16 of the select split, or None.
    """

    name: str
    epochs: np.ndarray
    n: int
    loss: np.ndarray
    train_loss: np.ndarray
    task_metrics: dict[str, np.ndarray]
    grad_norm: np.ndarray
    update_ratio: np.ndarray
    dead_fraction: np.ndarray
    nan_count: np.ndarray
    row_losses: np.ndarray | None


@dataclass(frozen=True)
class Records:
    """All units of a run, in the order of the file, their dependency groups, and what was odd but not wrong."""

    units: dict[str, UnitSeries]
    groups: dict[str, list[str]]
    warnings: list[str]


def read_records(folder: Path) -> Records:
    """The checked records below `folder`: metrics.jsonl and, where they are, row_losses.npz and a manifest's groups.

    Raises:
        UserError: if the file is missing, empty or not strict JSON; for a row that lacks a key, repeats another or
            names a split other than train and select; for a validation loss copied from training; for a loss that never
            changes or a constant target; for a metric, its tolerance or its rows that change during the run; for row
            losses that do not fit.
    """
    path = folder / METRICS
    rows = _read_lines(path)
    row_losses = _read_row_losses(folder / ROW_LOSSES)
    units, warnings = {}, []
    if row_losses is None:
        warnings.append(f"no {ROW_LOSSES}: without losses per row the set of equally good epochs is unknown.")
    for unit in dict.fromkeys(row["unit"] for row in rows):
        of_unit = [row for row in rows if row["unit"] == unit]
        units[unit] = _series(path, unit, of_unit, row_losses, warnings)
    return Records(units, _read_groups(folder, units), warnings)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason}); point to the folder a collected run wrote.") from None
    rows, seen = [], {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        row = _checked(_parse(line, where), where)
        key = row["epoch"], row["unit"], row["split"]
        if key in seen:
            raise UserError(f"{where}: repeats epoch {key[0]}, unit {key[1]}, split {key[2]} of line {seen[key]}.")
        seen[key] = number
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no record; was the run collected?")
    return rows


def _parse(line: str, where: str) -> Any:
    def refuse(name: str):
        raise UserError(f"{where}: {name} is not strict JSON; a value that could not be computed is null.")

    try:
        return json.loads(line, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg}); if the run was killed there, remove the line.") from None


def _checked(row: Any, where: str) -> dict[str, Any]:
    """The row, if its keys have the types of the redheart specification, section 4."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: must be an object with the keys epoch, unit, split, n, loss.")
    kinds = {"epoch": int, "unit": str, "split": str, "n": int, "loss": float, "task_metrics": dict}
    kinds |= dict.fromkeys((*QUANTITIES, "target_spread"), float)
    for key, kind in kinds.items():
        if key not in row and key in ("epoch", "unit", "split", "n", "loss"):
            raise UserError(f"{where}: lacks {key}.")
        if not _is(row.get(key), kind, nullable=key not in ("epoch", "unit", "split", "n")) and key in row:
            raise UserError(f"{where}: {key} is {row[key]!r}; must be {_NAMES[kind]}.")
    for name, value in (row.get("task_metrics") or {}).items():
        if not _is(value, float, nullable=True):
            raise UserError(f"{where}: task_metrics.{name} is {value!r}; must be a number or null.")
    if row["split"] not in SPLITS:
        raise UserError(f"{where}: split {row['split']}; only {' and '.join(SPLITS)} may be looked at before the test.")
    return row


_NAMES = {int: "a whole number", float: "a number or null", str: "a text", dict: "an object"}


def _is(value: Any, kind: type, nullable: bool) -> bool:
    if value is None:
        return nullable
    return isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)


def _series(
    path: Path, unit: str, rows: list[dict], row_losses: dict[str, np.ndarray] | None, warnings: list[str]
) -> UnitSeries:
    of = {split: {row["epoch"]: row for row in rows if row["split"] == split} for split in SPLITS}
    epochs = sorted(epoch for epoch, row in of["select"].items() if row["loss"] is not None)
    missing = sorted({row["epoch"] for row in rows} - set(epochs))
    if missing:
        warnings.append(f"{unit}: no select loss at epoch {', '.join(map(str, missing))}; left out.")
    select, train = [of["select"][epoch] for epoch in epochs], [of["train"].get(epoch, {}) for epoch in epochs]
    _refuse_changes(path, unit, select)
    loss, train_loss = _column(select, "loss"), _column(train, "loss")
    _refuse_copy(path, unit, epochs, loss, train_loss)
    if len(loss) > 2 and np.ptp(loss) == 0:
        raise UserError(
            f"{path}: unit {unit}: the select loss is {loss[0]} at all {len(loss)} epochs: constant target?"
        )
    names = dict.fromkeys(name for row in select for name in row.get("task_metrics") or {})
    metrics = {name: _column([row["task_metrics"] for row in select], name) for name in names}
    # gradients belong to training, whichever of the two rows carries them
    own = {key: _first(_column(train, key), _column(select, key)) for key in QUANTITIES}
    n = select[0]["n"] if select else 0
    at = np.array(epochs, dtype=np.int64)
    of_rows = _rows_of(path.with_name(ROW_LOSSES), unit, at, row_losses)
    return UnitSeries(unit, at, n, loss, train_loss, metrics, **own, row_losses=of_rows)


def _refuse_changes(path: Path, unit: str, rows: list[dict]) -> None:
    """Raises UserError if what is measured changes on the way, or if a target does not vary."""
    for before, row in pairwise(rows):
        where = f"{path}: unit {unit}, epoch {row['epoch']}"
        old, new = ((each.get("task_metrics") or {}) for each in (before, row))
        if before["n"] != row["n"]:
            raise UserError(f"{where}: n is {row['n']}, before {before['n']}; the select split must not change.")
        if old.keys() != new.keys():
            changed = ", ".join(sorted(old.keys() ^ new.keys()))
            raise UserError(f"{where}: task_metrics hold other names than before ({changed}); they must not change.")
        for name in old:
            if name.endswith("tolerance") and old[name] != new[name]:
                raise UserError(f"{where}: {name} is {new[name]}, before {old[name]}; metrics must not change meaning.")
    constant = next((row for row in rows if row.get("target_spread") == 0), None)
    if constant is not None:
        raise UserError(f"{path}: unit {unit}, epoch {constant['epoch']}: the target is constant (target_spread 0).")


def _refuse_copy(path: Path, unit: str, epochs: list[int], loss: np.ndarray, train_loss: np.ndarray) -> None:
    run = 0
    for epoch, same in zip(epochs, loss == train_loss):
        run = run + 1 if same else 0
        if run == COPIED_EPOCHS:
            raise UserError(
                f"{path}: unit {unit}, epoch {epoch}: the select loss equals the training loss to the last digit at "
                f"{COPIED_EPOCHS} epochs in a row: a copy, not a validation. Record null where none was made."
            )


def _column(rows: Iterable[dict], key: str) -> np.ndarray:
    return np.array([math.nan if row.get(key) is None else row[key] for row in rows], dtype=np.float64)


def _first(preferred: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(preferred), other, preferred)


def _read_row_losses(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it to go on without losses per row.") from None


def _rows_of(path: Path, unit: str, epochs: np.ndarray, arrays: dict[str, np.ndarray] | None) -> np.ndarray | None:
    """(E, n) of one unit at its epochs; None where the file holds none."""
    if arrays is None or unit not in arrays:
        return None
    saved, losses = arrays.get("epochs", np.array([])), arrays[unit]
    if losses.ndim != 2 or losses.shape[0] != len(saved) or not np.isin(epochs, saved).all():
        raise UserError(f"{path}: {unit} has shape {losses.shape}, epochs {saved.shape}; need a row for each epoch.")
    chosen = losses[np.searchsorted(saved, epochs)]
    if not np.isfinite(chosen).all():
        raise UserError(f"{path}: {unit} holds losses that are not finite.")
    return chosen


def _read_groups(folder: Path, units: Iterable[str]) -> dict[str, list[str]]:
    """The dependency groups that the newest manifest names; none without a manifest."""
    manifest = max(folder.glob("epoch_*/manifest.json"), default=None)
    if manifest is None:
        return {}
    try:
        groups = json.loads(manifest.read_text(encoding="utf-8"))["groups"]
    except (json.JSONDecodeError, KeyError, OSError) as error:
        raise UserError(f"{manifest}: names no groups ({error}); was it written by the collection?") from None
    return {name: [unit for unit in members if unit in units] for name, members in groups.items()}

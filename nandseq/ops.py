"""A trace as columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from common.errors import UserError
from nandseq.codes import UNKNOWN_OP, Op

TYPES = {"op": np.int8, "t_ns": np.int64, "mode": np.int8, "status": np.int8}  # the others are int32
ABSENT = -1  # in an optional column: not said in this row
NAMES = {op.name.lower(): int(op) for op in Op}


@dataclass
class Ops:
    """One trace of n commands, a column per field; nandseq specification, section 2.

    Values outside a column's type become -1, so that they stay outside every geometry.

    Attributes:
        op: (n,) int8 numbers of `Op`, -1 for what is none.
        die, plane, block, page: (n,) int32; `block` counts within the plane; `page` is ignored for erase.
        t_ns: (n,) int64 issue time.
        group: (n,) int32; consecutive rows of one number ≥ 0 form a multi-plane group.
        mode: (n,) int8 cell mode, any numbering.
        src_block, src_page: (n,) int32 source that a copyback program claims.
        status: (n,) int8; 1 for a read that failed.

    Raises:
        UserError: if the columns differ in length.
    """

    op: np.ndarray
    die: np.ndarray
    plane: np.ndarray
    block: np.ndarray
    page: np.ndarray
    t_ns: np.ndarray | None = None
    group: np.ndarray | None = None
    mode: np.ndarray | None = None
    src_block: np.ndarray | None = None
    src_page: np.ndarray | None = None
    status: np.ndarray | None = None

    def __post_init__(self):
        for name in COLUMNS:
            column = getattr(self, name)
            if column is not None:
                setattr(self, name, as_type(np.asarray(column), TYPES.get(name, np.int32)))
                if getattr(self, name).shape != (len(self),):
                    raise UserError(f"column {name}: shape {np.shape(column)}; op has {len(self)} rows.")

    def __len__(self) -> int:
        return len(self.op)

    def __getitem__(self, rows: slice) -> "Ops":
        """The rows of a slice, without copying."""
        return Ops(*(None if column is None else column[rows] for column in (getattr(self, name) for name in COLUMNS)))

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> "Ops":
        """A trace from rows `(op, die, plane, block, page[, t_ns])` or dicts of columns; `op` a name or a number.

        A dict may leave out all but `op`: addresses are then 0, the rest is absent.
        """
        records = [row if isinstance(row, Mapping) else dict(zip(COLUMNS, row)) for row in rows]
        present = [name for name in COLUMNS if name in COLUMNS[:5] or any(name in row for row in records)]
        missing = {name: 0 if name in (*COLUMNS[:5], "t_ns") else ABSENT for name in present}
        columns = {name: [row.get(name, missing[name]) for row in records] for name in present}
        columns["op"] = [_number(op) for op in columns["op"]]
        return cls(**{name: np.array(column, object) for name, column in columns.items()})


COLUMNS = [field.name for field in fields(Ops)]


def _number(op: Any) -> int:
    return NAMES.get(op.lower(), UNKNOWN_OP) if isinstance(op, str) else op


def as_type(column: np.ndarray, kind: type[np.signedinteger]) -> np.ndarray:
    """The column in that type; values it cannot hold become -1."""
    if column.dtype == kind:
        return np.ascontiguousarray(column)
    info = np.iinfo(kind)
    inside = (column >= info.min) & (column <= info.max)
    return np.ascontiguousarray(np.where(inside, column, -1).astype(kind))

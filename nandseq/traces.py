"""Trace files: CSV, JSONL (either may be gzipped) and Parquet, read in chunks and written.

A file of any length is read in pieces of about a megabyte, so memory does not grow with it. Plain columns go through
pyarrow; a piece that it cannot read, or would read otherwise than written here (nandseq specification, section 8), goes
through Python row by row, which decides what is right and which row is wrong:

- Columns `op`, `block`, `page` are needed; a missing or empty `die` or `plane` is 0; `page` (and `block`) may be empty
  where the command has no use for it; other columns are optional, and what is empty there was not said.
- Numbers are decimal or 0x hexadecimal. Addresses too large for the engine become -1 and so stay outside every
  geometry; any other number out of range makes the row bad.
- Commands: names and short names of any case, command bytes (`80h`, `0x80`), or the plain decimal numbers of `Op`.
  Unknown commands are not bad rows: the engine answers ADDR_RANGE.
- Times are ns unless the column's name says otherwise (`t_us`, `time (ms)`); they start at 0 or later. Only units
  above ns may have decimals; what is below 1 ns is rounded.
- `#` begins a comment; empty lines are skipped. A comma, semicolon or tab separates, as in the header.
- The first object of JSONL names the columns; later ones may leave out optional ones but not add any.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from common.errors import UserError, nearest
from common.files import write_atomic
from nandseq.codes import KIND, UNKNOWN_OP, Kind, Op
from nandseq.ops import ABSENT, COLUMNS, TYPES, Ops

PIECE = 2**20  # bytes; also the longest line
SMALL = 2**14  # bytes; odd pieces are halved down to this
ROWS = 2**16  # in a chunk that is not cut by bytes
MAX_SORTED = 10_000_000  # commands; sorting takes about 100 bytes of memory for each
MAX_TIME = 2**62  # ns, 146 years: sums with array times stay inside int64
EXAMPLES = 5  # of bad rows and of unknown commands that are kept for messages

OP_NAMES = {op.name.lower(): int(op) for op in Op} | {
    name: int(op)
    for op, names in {
        Op.ERASE: "e er ers block_erase 60h",
        Op.PROGRAM: "p pgm prog w wr write 80h",
        Op.READ: "r rd 00h",
        Op.COPYBACK_READ: "cb_read 35h",
        Op.COPYBACK_PROGRAM: "cb_program cb_pgm 85h",
        Op.CACHE_READ: "31h",
        Op.CACHE_PROGRAM: "15h",
        Op.CACHE_READ_END: "3fh",
        Op.SUSPEND: "erase_suspend program_suspend",
        Op.RESUME: "erase_resume program_resume",
        Op.RESET: "rst ffh fch fah",
        Op.STATUS: "70h 78h",
    }.items()
    for name in names.split()
}
COLUMN_NAMES = {
    "op": "op cmd command opcode operation",
    "die": "die lun",
    "plane": "plane pl pln",
    "block": "block blk",
    "page": "page pg",
    "group": "group grp",
    "mode": "mode",
    "src_block": "src_block src_blk",
    "src_page": "src_page src_pg",
    "status": "status",
}
ALIASES = {alias: name for name, aliases in COLUMN_NAMES.items() for alias in aliases.split()}
TIME_NAME = re.compile(r"(?:t|ts|time|timestamp)(?:_(ns|us|µs|μs|ms|s))?")
DIGITS = {"ns": 0, "us": 3, "µs": 3, "μs": 3, "ms": 6, "s": 9}
WORDS = {
    "mode": {"slc": 1, "mlc": 2, "tlc": 3, "qlc": 4},
    "status": {"ok": 0, "pass": 0, "passed": 0, "fail": 1, "failed": 1},
}
NUMBER = re.compile(r"[+-]?[0-9]+|0[xX][0-9a-fA-F]+")
DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
COMMENT = re.compile(rb"#[^\n]*")
QUOTED = re.compile(rb'(?<![^,;\t\n])"([\w .+-]*)"(?![^,;\t\r\n])')  # a whole cell that means the same unquoted
JSON = json.JSONDecoder(parse_float=str)  # so that decimals of times stay exact
STARTS_JSONL = re.compile(rb"(?:\s|#[^\n]*\n)*\{")
ADDRESS = COLUMNS[1:5]
OPTIONAL = COLUMNS[6:]
LIMITS = {name: (ABSENT, np.iinfo(TYPES.get(name, np.int32)).max) for name in OPTIONAL} | {"t_ns": (0, MAX_TIME)}
ORDER = ["t_ns", *COLUMNS[:5], *OPTIONAL]  # of columns in files
NEEDS_BLOCK = np.array([KIND[op] <= Kind.READ for op in Op] + [False])  # the last is for UNKNOWN_OP
NEEDS_PAGE = np.array([KIND[op] in (Kind.PROGRAM, Kind.READ) or op == Op.SET_RETRY for op in Op] + [False])


@dataclass
class Notes:
    """What was met while reading a trace and is worth a warning.

    Attributes:
        bad_rows: rows left out.
        first_bad: messages of the first of them.
        unknown_ops: some names of commands that are none.
        unused: columns whose name means nothing here.
    """

    bad_rows: int = 0
    first_bad: list[str] = field(default_factory=list)
    unknown_ops: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


@dataclass
class Chunk:
    """Consecutive commands of a trace.

    Attributes:
        lines: (n,) int64 line of each in its file, from 1; in Parquet the row.
    """

    ops: Ops
    lines: np.ndarray


@dataclass(frozen=True)
class Layout:
    """Which column is which.

    Attributes:
        names: what each column of the file means, None for unused ones.
        digits: decimals of the time column that make it whole ns.
    """

    names: tuple[str | None, ...]
    digits: int = 0


class BadRow(Exception):
    """What is wrong in a row, beginning with the name of the field."""


class Unsorted(Exception):
    """A time is smaller than one before it."""


def read_trace(path: Path, skip_bad: bool = False) -> Ops:
    """All commands of a trace, in the order of the file.

    Raises:
        UserError: as `read_chunks`, or if there are none.
    """
    return _joined(list(read_chunks(path, Notes(), skip_bad))).ops


def read_chunks(path: Path, notes: Notes, skip_bad: bool = False, time_unit: str = "ns") -> Iterator[Chunk]:
    """The commands of a trace in the order of the file, a chunk at a time.

    Args:
        notes: filled while the trace is read.
        skip_bad: leave rows that cannot be read out and count them.
        time_unit: of a time column whose name says none.

    Raises:
        UserError: for a file or row that cannot be read, naming line and field, or a trace without commands.
    """
    path, num_ops = Path(path), 0
    for chunk in _parse(path, notes, skip_bad, time_unit):
        num_ops += len(chunk.ops)
        if len(chunk.ops):
            yield chunk
    if not num_ops:
        left_out = f", {notes.bad_rows} bad rows left out ({notes.first_bad[0]})" if notes.bad_rows else ""
        raise UserError(f"{path}: holds no commands{left_out}.")


def in_time_order(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks as they come.

    Raises:
        Unsorted: at the first time that goes back.
    """
    before = 0
    for chunk in chunks:
        if chunk.ops.t_ns is not None:
            times = np.concatenate(([before], chunk.ops.t_ns))
            back = np.flatnonzero(times[1:] < times[:-1])
            if len(back):
                at = back[0]
                raise Unsorted(f"line {chunk.lines[at]}: time goes back from {times[at]} to {times[at + 1]} ns")
            before = times[-1]
        yield chunk


def sorted_by_time(chunks: Iterable[Chunk], path: Path, max_rows: int = MAX_SORTED) -> Iterator[Chunk]:
    """The commands of a whole trace ordered by time; equal times keep their order.

    Raises:
        UserError: if there are more than `max_rows`, so that memory stays bounded.
    """
    kept, num_ops = [], 0
    for chunk in chunks:
        kept.append(chunk)
        num_ops += len(chunk.ops)
        if num_ops > max_rows:
            raise UserError(
                f"{path}: not in order of time, and with more than {max_rows:,} commands too long to be sorted in "
                "memory. Sort it first by time, keeping the order of equal times; a CSV file with time in column 1: "
                "(head -n 1 IN; tail -n +2 IN | sort -s -t, -k1,1n) > OUT"
            )
    whole = _joined(kept)
    order = np.argsort(whole.ops.t_ns, kind="stable")
    for start in range(0, num_ops, ROWS):
        rows = order[start : start + ROWS]
        yield Chunk(whole.ops[rows], whole.lines[rows])


def write_trace(chunks: Iterable[Ops], path: Path) -> None:
    """Write a trace, atomically, as its name says: .csv, .jsonl (either with .gz) or .parquet.

    Raises:
        UserError: for another name.
    """
    path = Path(path)
    form = Path(path.name.removesuffix(".gz")).suffix
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if form not in writers or path.name.endswith(".parquet.gz"):
        raise UserError(f"{path}: name it .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet.")
    tables = map(_table, chunks)

    def write(file: BinaryIO) -> None:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                writers[form](tables, packed)
        else:
            writers[form](tables, file)

    write_atomic(path, write)


@lru_cache(maxsize=4096)
def op_number(text: str) -> int:
    """Number of a command as traces name it, -1 for none."""
    name = re.sub(r"[\s-]+", "_", text.strip().lower())
    if name.isascii() and name.isdigit():
        return int(name) if len(name) < 4 and int(name) < len(Op) else UNKNOWN_OP
    return OP_NAMES.get(re.sub(r"^0x([0-9a-f]{2})$", r"\1h", name), UNKNOWN_OP)


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    columns = {name: [getattr(chunk.ops, name) for chunk in chunks] for name in COLUMNS}
    ops = Ops(*(None if parts[0] is None else np.concatenate(parts) for parts in columns.values()))
    return Chunk(ops, np.concatenate([chunk.lines for chunk in chunks]))


def _parse(path: Path, notes: Notes, skip_bad: bool, time_unit: str) -> Iterator[Chunk]:
    try:
        with open(path, "rb") as plain:
            magic = plain.read(4)
            plain.seek(0)
            if magic == b"PAR1":
                yield from _parse_parquet(plain, path, notes, skip_bad, time_unit)
                return
            with gzip.open(plain) if magic[:2] == b"\x1f\x8b" else plain as file:
                start = file.read(PIECE).removeprefix(b"\xef\xbb\xbf")
                parse = _parse_jsonl if STARTS_JSONL.match(start) else _parse_csv
                yield from parse(_pieces(file, start, path), path, notes, skip_bad, time_unit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); make it anew.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _pieces(file: BinaryIO, rest: bytes, path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number of its first line, whole lines) for each piece of the file, of which `rest` was read already."""
    line = 1
    while rest:
        more = file.read(PIECE)
        end = rest.rfind(b"\n") + 1 if more else len(rest)
        if end:
            yield line, rest[:end]
            line += rest.count(b"\n", 0, end)
        elif len(rest) > PIECE:
            raise UserError(f"{path}, line {line}: longer than {PIECE:,} bytes; this is no trace.")
        rest = rest[end:] + more


def _parse_csv(
    pieces: Iterator[tuple[int, bytes]], path: Path, notes: Notes, skip_bad: bool, time_unit: str
) -> Iterator[Chunk]:
    layout, delimiter = None, ","
    for line, piece in pieces:
        if layout is None:
            header, line, piece = _cut_header(line, piece, path)
            if not header:
                continue
            delimiter = max(",;\t", key=header.count)
            layout = _layout(_titles(header, delimiter, path), f"{path}, line {line - 1}", time_unit, notes)
        for number, part, chunk in _plain_parts(piece, line, layout, delimiter, notes):
            if chunk is None:
                rows = _csv_rows(part, number, layout, delimiter)
                chunk = _parse_rows(rows, layout, f"{path}, line", notes, skip_bad)
            yield chunk


def _cut_header(line: int, piece: bytes, path: Path) -> tuple[str, int, bytes]:
    """First line that is neither empty nor a comment ("" for none), number of the line after it, and the rest."""
    while piece:
        first, _, piece = piece.partition(b"\n")
        line += 1
        try:
            text = first.partition(b"#")[0].decode().strip()
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {line - 1}: not UTF-8 text; is this a trace?") from None
        if text:
            return text, line, piece
    return "", line, piece


def _titles(header: str, delimiter: str, path: Path) -> list[str]:
    try:
        return _split(header, delimiter)
    except csv.Error as error:
        raise UserError(f"{path}: the header cannot be read ({error}).") from None


def _layout(header: Sequence[str], where: str, time_unit: str, notes: Notes) -> Layout:
    names, digits = [], 0
    for title in header:
        key = re.sub(r"[\s\[\](){}-]+", "_", title.lower()).strip("_")
        if time := TIME_NAME.fullmatch(key):
            digits = DIGITS[time[1] or time_unit]
        names.append("t_ns" if time else ALIASES.get(key))
    for at, name in enumerate(names):
        if name is not None and name in names[:at]:
            raise UserError(f"{where}: columns {header[names.index(name)]} and {header[at]} mean the same ({name}).")
    notes.unused = [title for title, name in zip(header, names) if name is None and title]
    for name in ("op", "block", "page"):
        if name not in names:
            hint = nearest(name, notes.unused)
            raise UserError(f"{where}: no column {name}; name it one of {COLUMN_NAMES[name]}.{hint}")
    return Layout(tuple(names), digits)


def _plain_parts(
    piece: bytes, line: int, layout: Layout, delimiter: str, notes: Notes
) -> Iterator[tuple[int, bytes, Chunk | None]]:
    """(first line, lines, what pyarrow makes of them or None) of the piece, halved around what is not plain."""
    chunk = _parse_plain(piece, line, layout, delimiter, notes)
    middle = piece.find(b"\n", len(piece) // 2) + 1
    if chunk is not None or len(piece) < SMALL or not 0 < middle < len(piece):
        yield line, piece, chunk
        return
    yield from _plain_parts(piece[:middle], line, layout, delimiter, notes)
    yield from _plain_parts(piece[middle:], line + piece.count(b"\n", 0, middle), layout, delimiter, notes)


def _parse_plain(piece: bytes, line: int, layout: Layout, delimiter: str, notes: Notes) -> Chunk | None:
    """What pyarrow reads, None if the piece holds anything that wants a closer look."""
    piece = COMMENT.sub(b"", piece) if b"#" in piece else piece
    piece = QUOTED.sub(rb"\1", piece) if b'"' in piece else piece
    hexadecimal = b"x" in piece or b"X" in piece  # which pyarrow takes for the bits of a signed number
    if b'"' in piece or piece.count(b"\r") != piece.count(b"\r\n"):
        return None
    if hexadecimal and any(name in layout.names for name in OPTIONAL):
        return None
    columns = [f"{at}" if name is None else name for at, name in enumerate(layout.names)]
    wanted = [name for name in layout.names if name is not None]
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(piece),
            pa.csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(piece) + 1),
            pa.csv.ParseOptions(delimiter=delimiter, quote_char=False),
            pa.csv.ConvertOptions(
                column_types={name: _arrow_type(name, layout.digits) for name in wanted},
                include_columns=wanted, null_values=[""], strings_can_be_null=False,
            ),
        )  # fmt: skip
    except pa.ArrowInvalid:
        return None
    lines = line + _filled(piece)
    if table.num_rows != len(lines):
        return None
    ops = _from_arrow({name: table.column(name).combine_chunks() for name in wanted}, notes)
    return None if ops is None else Chunk(ops, lines)


def _filled(piece: bytes) -> np.ndarray:
    """Numbers, from 0, of the lines that are not empty."""
    ends = np.flatnonzero(np.frombuffer(piece.replace(b"\r", b"") + b"\n", np.uint8) == ord("\n"))
    return np.flatnonzero(np.diff(ends, prepend=-1) > 1)


def _arrow_type(name: str, digits: int) -> pa.DataType:
    if name == "op":
        return pa.dictionary(pa.int32(), pa.string())
    if name == "t_ns":
        return pa.decimal128(38, digits) if digits else pa.int64()
    return pa.int64() if name in OPTIONAL else pa.int32()


def _from_arrow(columns: dict[str, pa.Array], notes: Notes) -> Ops | None:
    """The commands, None if a row is bad or a value wants a closer look."""
    names = columns["op"].dictionary.to_pylist()
    numbers = np.array([op_number(name) for name in names] + [UNKNOWN_OP], np.int8)
    if columns["op"].null_count or not all(map(str.strip, names)):
        return None
    arrays = {"op": numbers[columns["op"].indices.to_numpy()]}
    for name, column in columns.items():
        if column.null_count and not _may_be_empty(name, arrays["op"], column):
            return None
        if name == "t_ns":
            arrays[name] = _whole_ns(column)
        elif name != "op":
            arrays[name] = column.fill_null(ABSENT if name in OPTIONAL else 0).to_numpy()
    for name in arrays.keys() & LIMITS.keys():
        low, high = LIMITS[name]
        if ((arrays[name] < low) | (arrays[name] > high)).any():
            return None
    _note_unknown((name for name, number in zip(names, numbers) if number == UNKNOWN_OP), notes)
    num_rows = len(arrays["op"])
    return Ops(**{name: np.zeros(num_rows, np.int32) for name in ("die", "plane")} | arrays)


def _may_be_empty(name: str, op: np.ndarray, column: pa.Array) -> bool:
    needed = {"block": NEEDS_BLOCK, "page": NEEDS_PAGE, "t_ns": np.ones_like(NEEDS_PAGE)}
    return name not in needed or not needed[name][op[column.is_null().to_numpy(zero_copy_only=False)]].any()


def _whole_ns(column: pa.Array) -> np.ndarray:
    if pa.types.is_integer(column.type):
        return column.to_numpy()
    words = np.frombuffer(column.buffers()[1], np.int64).reshape(-1, 2)[column.offset : column.offset + len(column)]
    return np.where(words[:, 1] == 0, words[:, 0], -1)  # the low halves of 128 bits, which count ns


def _note_unknown(names: Iterable[str], notes: Notes) -> None:
    for name in names:
        if len(notes.unknown_ops) < EXAMPLES and name not in notes.unknown_ops:
            notes.unknown_ops.append(name)


def _csv_rows(piece: bytes, line: int, layout: Layout, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(line number, fields by name) for each row that is not empty; what is wrong in place of the fields."""
    for number, raw in enumerate(piece.split(b"\n"), line):
        try:
            text = raw.partition(b"#")[0].decode().strip(" \r")
        except UnicodeDecodeError:
            yield number, BadRow("not UTF-8 text")
            continue
        if text.strip():
            yield number, _fields(text, layout, delimiter)


def _fields(text: str, layout: Layout, delimiter: str) -> dict[str, Any] | BadRow:
    try:
        cells = _split(text, delimiter)
    except csv.Error as error:
        return BadRow(str(error))
    if len(cells) != len(layout.names):
        return BadRow(f"{len(cells)} fields; the header has {len(layout.names)}")
    return {name: cell for name, cell in zip(layout.names, cells) if name is not None}


def _split(text: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([text], delimiter=delimiter, strict=True)) if '"' in text else text.split(delimiter)
    return [cell.strip() for cell in cells]


def _parse_jsonl(
    pieces: Iterator[tuple[int, bytes]], path: Path, notes: Notes, skip_bad: bool, time_unit: str
) -> Iterator[Chunk]:
    layout, keys = None, {}
    for line, piece in pieces:
        if layout is None:
            number, first = next(_json_rows(piece, line), (line, {}))
            if not first:
                continue
            if isinstance(first, BadRow):
                raise UserError(f"{path}, line {number}: {first}; the first object names the columns.")
            layout = _layout(list(first), f"{path}, line {number}", time_unit, notes)
            keys = dict(zip(first, layout.names))
        rows = [(number, _renamed(record, keys)) for number, record in _json_rows(piece, line)]
        yield _plain_rows(rows, layout, notes) or _parse_rows(rows, layout, f"{path}, line", notes, skip_bad)


def _plain_rows(rows: Sequence[tuple[int, dict[str, Any] | BadRow]], layout: Layout, notes: Notes) -> Chunk | None:
    """The commands of rows of whole numbers and names, None if there are others."""
    names = [name for name in layout.names if name is not None]
    try:
        columns = {name: pa.array([record[name] for _, record in rows]) for name in names}
    except (TypeError, KeyError, OverflowError, pa.ArrowException):  # bad rows, keys left out, values of mixed types
        return None
    ops = _from_typed(columns, layout, notes)
    return None if ops is None else Chunk(ops, np.array([number for number, _ in rows], np.int64))


def _json_rows(piece: bytes, line: int) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    for number, raw in enumerate(piece.split(b"\n"), line):
        if not raw.strip() or raw.lstrip().startswith(b"#"):
            continue
        try:
            record = JSON.decode(raw.decode())
        except (ValueError, RecursionError) as error:
            yield number, BadRow(f"not JSON ({error})")
            continue
        yield number, record if isinstance(record, dict) else BadRow("not a JSON object")


def _renamed(record: dict[str, Any] | BadRow, keys: dict[str, str | None]) -> dict[str, Any] | BadRow:
    if isinstance(record, BadRow):
        return record
    if not record.keys() <= keys.keys():
        unknown = next(key for key in record if key not in keys)
        return BadRow(f"{unknown}: not a key of the first object; name it there, with null for its value")
    return {keys[key]: value for key, value in record.items() if keys[key] is not None}


def _parse_parquet(file: BinaryIO, path: Path, notes: Notes, skip_bad: bool, time_unit: str) -> Iterator[Chunk]:
    try:
        table, row = pa.parquet.ParquetFile(file), 1
        layout = _layout(table.schema_arrow.names, str(path), time_unit, notes)
        wanted = [title for title, name in zip(table.schema_arrow.names, layout.names) if name is not None]
        names = [name for name in layout.names if name is not None]
        for batch in table.iter_batches(ROWS, columns=wanted):
            columns = {name: batch.column(title) for name, title in zip(names, wanted)}
            ops = _from_typed(columns, layout, notes)
            if ops is None:
                records = zip(*(column.to_pylist() for column in columns.values()))
                rows = ((number, dict(zip(names, record))) for number, record in enumerate(records, row))
                yield _parse_rows(rows, layout, f"{path}, row", notes, skip_bad)
            else:
                yield Chunk(ops, np.arange(row, row + batch.num_rows))
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged Parquet file ({' '.join(str(error).split())}).") from None


def _from_typed(columns: dict[str, pa.Array], layout: Layout, notes: Notes) -> Ops | None:
    """The commands of columns of whole numbers and names, None if there are others."""
    if not all(pa.types.is_integer(column.type) for name, column in columns.items() if name != "op"):
        return None
    try:
        op = columns["op"].cast(pa.string()).dictionary_encode()
        others = {name: columns[name].cast(_arrow_type(name, layout.digits)) for name in columns if name != "op"}
    except pa.ArrowInvalid:
        return None
    return _from_arrow({"op": op} | others, notes)


def _parse_rows(
    rows: Iterable[tuple[int, dict[str, Any] | BadRow]], layout: Layout, where: str, notes: Notes, skip_bad: bool
) -> Chunk:
    """The commands of rows in plain Python.

    Raises:
        UserError: for the first bad row, unless `skip_bad`.
    """
    present = [name for name in COLUMNS if name in layout.names or name in ADDRESS]
    lines, values = [], []
    for number, record in rows:
        try:
            if isinstance(record, BadRow):
                raise record
            values.append(_numbers(record, present, layout.digits, notes))
            lines.append(number)
        except BadRow as bad:
            message = f"{where} {number}: {bad}"
            if not skip_bad:
                raise UserError(f"{message}; correct it, or leave such rows out with --skip-bad.") from None
            notes.bad_rows += 1
            notes.first_bad = [*notes.first_bad, message][:EXAMPLES]
    columns = zip(*values) if values else [()] * len(present)
    ops = Ops(**{name: np.array(column, object) for name, column in zip(present, columns)})
    return Chunk(ops, np.array(lines, np.int64))


def _numbers(record: dict[str, Any], present: Sequence[str], digits: int, notes: Notes) -> list[int]:
    """The values of a row, one for each column that is present."""
    name = record.get("op")
    if name is None or isinstance(name, bool) or not str(name).strip():
        raise BadRow("op: empty")
    op = op_number(str(name))
    if op == UNKNOWN_OP:
        _note_unknown([str(name)], notes)
    numbers = [op]
    for column in present[1:]:
        value = record.get(column)
        text = "" if value is None else str(value).strip()
        if text:
            numbers.append(_number(text, column, digits))
        elif column == "t_ns" or (column == "block" and NEEDS_BLOCK[op]) or (column == "page" and NEEDS_PAGE[op]):
            raise BadRow(f"{column}: empty")
        else:
            numbers.append(ABSENT if column in OPTIONAL else 0)
    return numbers


def _number(text: str, column: str, digits: int) -> int:
    if column == "t_ns" and digits:
        if not DECIMAL.fullmatch(text):
            raise BadRow(f"{column}: {_short(text)} is not a number")
        value = Decimal(text).scaleb(digits)
        number = int(value.to_integral_value()) if abs(value) <= MAX_TIME else -1
    elif NUMBER.fullmatch(text):
        number = int(text, 16 if text[:2] in ("0x", "0X") else 10) if len(text) < 100 else 10**100
    else:
        number = WORDS.get(column, {}).get(text.lower())
        if number is None:
            raise BadRow(f"{column}: {_short(text)} is not a whole number")
    if column in LIMITS and not LIMITS[column][0] <= number <= LIMITS[column][1]:
        raise BadRow(f"{column}: {_short(text)} is out of range")
    return number


def _short(text: str) -> str:
    return repr(text if len(text) < 40 else text[:40] + "…")


def _table(ops: Ops) -> pa.Table:
    names = [*(op.name.lower() for op in Op), "unknown"]
    columns = {name: getattr(ops, name) for name in ORDER if getattr(ops, name) is not None}
    indices = np.where(ops.op < 0, len(Op), ops.op).astype(np.int8)
    return pa.table(columns | {"op": pa.DictionaryArray.from_arrays(indices, names)})


def _write_csv(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    for number, table in enumerate(tables):
        if number == 0:
            file.write((",".join(table.column_names) + "\n").encode())
        text = io.BytesIO()
        pa.csv.write_csv(table.cast(_plain_schema(table)), text, options)
        file.write(text.getbuffer())


def _plain_schema(table: pa.Table) -> pa.Schema:
    return pa.schema([pa.field(name, pa.string() if name == "op" else pa.int64()) for name in table.column_names])


def _write_jsonl(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for table in tables:
        file.write("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()).encode())


def _write_parquet(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    writer = None
    for table in tables:
        table = table.cast(_plain_schema(table))
        writer = writer or pa.parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()

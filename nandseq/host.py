"""Host-level block traces as NAND commands, through a page-mapped translation layer with greedy garbage collection.

python -m nandseq.host HOST_TRACE OUT.csv --profile NAME|FILE.yaml

The layer: logical page p lives on plane p mod (number of planes). Each plane fills one open block page after page; it
erases a block right before opening it, takes the least worn free block, and when that was the last free one it first
moves what is still valid in the full block with the fewest valid pages. A page of an open block that is nearer to the
newest one than `min_read_distance` is still in the controller's buffer: reading it gives no command.

The result is judged by the rule engine before it is handed out, so it is legal under the profile it was made for, and
with it under every profile that differs only in switching rules off. Profiles whose `read_offset_limit` is not 0 (seed,
compat) forbid reading old data, which no storage can do without; they are refused. So are those whose rules ask for
more than this layer does: `one_shot` groups, closing blocks in time (`open_block_age_ns`), or an `endurance` that the
trace uses up. With `timing`, commands to a die wait for the one before, for the longest time of its kind; without,
they carry the arrival of their request.
"""

import argparse
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from common.errors import UserError
from nandseq.codes import Op, Rule
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import check, rule_name

SECTOR = 512  # bytes
FIELDS = ("arrival", "device", "first LBA", "size", "type")
LIMITS = (2**62, 2**20, 2**40, 2**31, 2)
ERASE, PROGRAM, READ = int(Op.ERASE), int(Op.PROGRAM), int(Op.READ)
NOWHERE = -1
MAX_PAGES = 2**27  # accesses; about 40 bytes of memory for each


@dataclass
class Requests:
    """N host requests, in order of arrival.

    Attributes:
        arrival: (N,) int64 ns.
        first, size: (N,) int64 sectors of 512 bytes; those of different devices lie apart.
        is_read: (N,) bool.
    """

    arrival: np.ndarray
    first: np.ndarray
    size: np.ndarray
    is_read: np.ndarray


@dataclass
class Replay:
    """NAND commands of a host trace, and what they cost.

    Attributes:
        num_written: logical pages that the host wrote; a part of a page counts as a page.
        num_moved: pages that garbage collection moved.
        num_unmapped, num_buffered: page reads that gave no command: never written in this trace; still in the buffer.
    """

    ops: Ops
    num_written: int
    num_moved: int
    num_unmapped: int
    num_buffered: int

    @property
    def write_amplification(self) -> float:
        """Pages programmed for each page that the host wrote, NaN if it wrote none."""
        return (self.num_written + self.num_moved) / self.num_written if self.num_written else np.nan


class Layer(NamedTuple):
    """The translation layer: P planes of B blocks of `pages` pages; logical page l is the (l // P)-th of plane l % P.

    where (L,) int64 physical page in the plane, -1; owner (P, B·pages) int64 logical page of each physical one, -1;
    valid, wear (P, B) int32; free (P, B) bool; open, next (P,) block and page written next.
    """

    where: np.ndarray
    owner: np.ndarray
    valid: np.ndarray
    wear: np.ndarray
    free: np.ndarray
    open: np.ndarray
    next: np.ndarray


def read_requests(path: Path) -> Requests:
    """The requests of an SSDsim or MQSim trace, sorted by arrival; the file may be gzipped.

    Each line has five numbers: arrival in ns, device, first sector, sectors, and 0 for a write or 1 for a read.

    Raises:
        UserError: for a file or line that cannot be read, naming line and field, or without requests.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if packed else open(path, encoding="utf-8") as file:
            rows = np.array(list(_rows(file, path)), np.int64).reshape(-1, 5)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if not len(rows):
        raise UserError(f"{path}: holds no requests.")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Requests(rows[:, 0], rows[:, 1] * LIMITS[2] + rows[:, 2], rows[:, 3], rows[:, 4] == 1)


def _rows(lines: Iterator[str], path: Path) -> Iterator[list[int]]:
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != len(FIELDS):
            raise UserError(f"{path}, line {number}: {len(words)} fields; need five: {', '.join(FIELDS)}.")
        for name, word, limit in zip(FIELDS, words, LIMITS):
            if not (word.isascii() and word.isdigit()) or len(word) > 19 or int(word) >= limit:
                raise UserError(f"{path}, line {number}: {name}: {word!r} is no whole number from 0 to {limit - 1}.")
        yield [int(word) for word in words]


def from_host(requests: Requests, profile: Profile, page_bytes: int = 16384, spare: float = 0.07) -> Replay:
    """The NAND commands with which a page-mapped layer serves the requests, legal under the profile.

    Logical pages are numbered anew in the order of their addresses, without those never accessed, so the trace may come
    from a larger drive. Reads of pages that it never wrote give no command.

    Args:
        page_bytes: of user data in a page.
        spare: share of each plane that holds no user data; two blocks at least are kept.

    Raises:
        UserError: if the profile asks for what the layer does not do, or the pages written do not fit.
    """
    if profile.read_offset_limit:
        raise UserError(
            f"profile {profile.name}: read_offset_limit={profile.read_offset_limit} forbids reading older data, which "
            "every host does; use realistic, or set read_offset_limit=0."
        )
    request, page = _pages_of(requests, page_bytes)
    is_read = requests.is_read[request]
    written = np.unique(page[~is_read])
    logical = np.searchsorted(written, page)
    mapped = np.isin(page, written)
    layer = _new_layer(profile, len(written), spare)
    times, reads, logical = requests.arrival[request][mapped], is_read[mapped], logical[mapped]
    distance = profile.min_read_distance
    length, *_ = _serve(logical, reads, distance, profile.pages, _copy(layer), np.empty((4, 0), np.int64))
    rows = np.empty((4, length), np.int64)
    _, num_moved, num_early, num_buffered = _serve(logical, reads, distance, profile.pages, layer, rows)
    ops = _as_ops(rows, times, profile)
    _confirm(ops, profile)
    return Replay(ops, int((~is_read).sum()), num_moved, int((~mapped).sum()) + num_early, num_buffered)


def _pages_of(requests: Requests, page_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """(request, logical page) of each page that a request touches; requests of no sectors touch none."""
    if page_bytes < SECTOR or page_bytes % SECTOR:
        raise UserError(f"page_bytes={page_bytes}: must be a multiple of {SECTOR}.")
    sectors = page_bytes // SECTOR
    first, last = requests.first // sectors, (requests.first + requests.size - 1) // sectors
    counts = np.where(requests.size > 0, last - first + 1, 0)
    if counts.sum() > MAX_PAGES:
        raise UserError(f"{counts.sum():,} pages accessed; replay a shorter part of the trace.")
    request = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
    return request, first[request] + within


def _new_layer(profile: Profile, num_logical: int, spare: float) -> Layer:
    planes, blocks, pages = profile.dies * profile.planes, profile.blocks, profile.pages
    free = np.ones((planes, blocks), bool)
    for die, plane, block in profile.bad_blocks:
        free[die * profile.planes + plane, block] = False
    good = int(free.sum(1).min())
    capacity = planes * min(int((1 - spare) * good * pages), (good - 2) * pages)
    if num_logical > capacity:
        raise UserError(
            f"profile {profile.name}: {num_logical:,} different pages are written; {planes} planes with {good} good "
            f"blocks of {pages} pages hold {max(capacity, 0):,} at spare={spare:g}; use more blocks or larger pages."
        )
    return Layer(
        where=np.full(num_logical, NOWHERE, np.int64),
        owner=np.full((planes, blocks * pages), NOWHERE, np.int64),
        valid=np.zeros((planes, blocks), np.int32),
        wear=np.zeros((planes, blocks), np.int32),
        free=free,
        open=np.full(planes, NOWHERE, np.int64),
        next=np.full(planes, pages, np.int64),
    )


def _copy(layer: Layer) -> Layer:
    return Layer(*(array.copy() for array in layer))


@njit(cache=True)
def _serve(logical, is_read, distance, pages, layer, rows):
    """Commands as rows (access, op, plane, physical page) while there is room; how many there are, and three counts."""
    count, moved, early, buffered = 0, 0, 0, 0
    planes = layer.open.size
    for i in range(logical.size):
        plane, where = logical[i] % planes, layer.where[logical[i]]
        if not is_read[i]:
            count, more = _write(i, logical[i], plane, pages, layer, rows, count)
            moved += more
        elif where < 0:
            early += 1
        elif where // pages == layer.open[plane] and _is_unsettled(where % pages, layer.next[plane], pages, distance):
            buffered += 1
        else:
            count = _emit(i, READ, plane, where, rows, count)
    return count, moved, early, buffered


@njit(cache=True)
def _is_unsettled(page, following, pages, distance):
    return following < pages and following - 1 - page < distance


@njit(cache=True)
def _emit(i, op, plane, where, rows, count):
    if count < rows.shape[1]:
        rows[0, count], rows[1, count], rows[2, count], rows[3, count] = i, op, plane, where
    return count + 1


@njit(cache=True)
def _write(i, logical, plane, pages, layer, rows, count):
    moved = 0
    if layer.next[plane] == pages:
        count = _open_block(i, plane, pages, layer, rows, count)
        if not layer.free[plane].any():
            count, moved = _collect(i, plane, pages, layer, rows, count)
    return _program(i, logical, plane, pages, layer, rows, count), moved


@njit(cache=True)
def _open_block(i, plane, pages, layer, rows, count):
    block = -1
    for candidate in range(layer.free.shape[1]):
        if layer.free[plane, candidate] and (block < 0 or layer.wear[plane, candidate] < layer.wear[plane, block]):
            block = candidate
    layer.free[plane, block] = False
    layer.wear[plane, block] += 1
    layer.open[plane], layer.next[plane] = block, 0
    layer.owner[plane, block * pages : (block + 1) * pages] = NOWHERE
    return _emit(i, ERASE, plane, block * pages, rows, count)


@njit(cache=True)
def _collect(i, plane, pages, layer, rows, count):
    """Free the full block with the fewest valid pages; they fit the open block, which is empty."""
    victim = -1
    for block in range(layer.valid.shape[1]):
        full = layer.wear[plane, block] > 0 and block != layer.open[plane]  # bad blocks have no wear, none is free
        if full and (victim < 0 or layer.valid[plane, block] < layer.valid[plane, victim]):
            victim = block
    moved = layer.valid[plane, victim]
    for where in range(victim * pages, (victim + 1) * pages):
        logical = layer.owner[plane, where]
        if logical >= 0:
            count = _emit(i, READ, plane, where, rows, count)
            count = _program(i, logical, plane, pages, layer, rows, count)
    layer.free[plane, victim] = True
    return count, moved


@njit(cache=True)
def _program(i, logical, plane, pages, layer, rows, count):
    old = layer.where[logical]
    if old >= 0:
        layer.owner[plane, old] = NOWHERE
        layer.valid[plane, old // pages] -= 1
    where = layer.open[plane] * pages + layer.next[plane]
    layer.next[plane] += 1
    layer.where[logical], layer.owner[plane, where] = where, logical
    layer.valid[plane, where // pages] += 1
    return _emit(i, PROGRAM, plane, where, rows, count)


def _as_ops(rows: np.ndarray, times: np.ndarray, profile: Profile) -> Ops:
    access, op, plane, where = rows
    die, issued = plane // profile.planes, times[access]
    if profile.timing is not None:
        lasting = np.array([profile.timing.erase_ns, max(profile.timing.program_ns), max(profile.timing.read_ns)])
        _wait(op, die, lasting, np.zeros(profile.dies, np.int64), issued)
    order = np.argsort(issued, kind="stable")
    columns = (op, die, plane % profile.planes, where // profile.pages, np.where(op == ERASE, 0, where % profile.pages))
    return Ops(*(column[order] for column in columns), t_ns=issued[order])


@njit(cache=True)
def _wait(op, die, lasting, ready, issued):
    """Move each command to where its die is ready, in place."""
    for i in range(op.size):
        issued[i] = max(issued[i], ready[die[i]])
        ready[die[i]] = issued[i] + lasting[op[i]]


def _confirm(ops: Ops, profile: Profile) -> None:
    bad = np.flatnonzero((verdicts := check(ops, profile)).violated)
    if len(bad):
        rule = rule_name(Rule(int(verdicts.primary[bad[0]])), profile)
        raise UserError(
            f"profile {profile.name}: the replay would break {rule} ({len(bad):,} of {len(ops):,} commands), which "
            "this layer cannot avoid; switch that rule off, or use a shorter trace."
        )


def main(words: list[str] | None = None) -> None:
    from common.cli import fail
    from nandseq.traces import write_trace

    parser = argparse.ArgumentParser(prog="python -m nandseq.host", description="Replay a host trace on NAND blocks.")
    parser.add_argument("requests", type=Path, help="SSDsim or MQSim trace of five columns")
    parser.add_argument("out", type=Path, help=".csv, .jsonl (either with .gz) or .parquet")
    parser.add_argument("--profile", required=True, metavar="NAME|FILE.yaml")
    parser.add_argument("--page-bytes", type=int, default=16384, help="user data in a page (default: 16384)")
    arguments = parser.parse_args(words)
    try:
        requests = read_requests(arguments.requests)
        replay = from_host(requests, Profile.load(arguments.profile), arguments.page_bytes)
        write_trace([replay.ops], arguments.out)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{arguments.out}: cannot be written ({error.strerror or error}).")
    print(
        f"{arguments.out}: {len(replay.ops):,} commands for {len(requests.arrival):,} requests; write amplification "
        f"{replay.write_amplification:.2f}; without a command: {replay.num_unmapped:,} reads of pages never written, "
        f"{replay.num_buffered:,} from the buffer"
    )


if __name__ == "__main__":
    main()

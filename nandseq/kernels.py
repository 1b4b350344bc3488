"""The base rules over many commands, compiled with numba (nandseq specification, sections 3 and 9).

Pages 0 … last of a block were programmed once each, unless the block has a row in `counts`, which then says how often
each page was. A row is taken at the first command that breaks the pattern: a hop, a second program, a step back. An
erase keeps the row for the block, inactive, as -2 - row.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from nandseq.codes import KIND, Flag, Kind, Op, Rule
from nandseq.profiles import Profile

KINDS = np.array([KIND[op] for op in Op], np.int8)
NUM_OPS = len(Op)
ERASE, PROGRAM, READ = int(Kind.ERASE), int(Kind.PROGRAM), int(Kind.READ)
KNOWN, PAGE_PROGRAMMED, INDETERMINATE = int(Flag.KNOWN), int(Flag.PAGE_PROGRAMMED), int(Flag.INDETERMINATE)
ADDR_RANGE, NOT_ERASED, REPROGRAM = Rule.ADDR_RANGE.bit, Rule.NOT_ERASED.bit, Rule.REPROGRAM.bit
PAGE_ORDER, READ_UNWRITTEN = Rule.PAGE_ORDER.bit, Rule.READ_UNWRITTEN.bit
READ_STALE, READ_TOO_CLOSE = Rule.READ_STALE.bit, Rule.READ_TOO_CLOSE.bit
NO_ROW, UNKNOWN = -1, -1


class Blocks(NamedTuple):
    """State of N sequences of S blocks each.

    known (N, S) bool; last, erase_count, row (N, S) int32; counts (R, pages) uint8; used (1,) int64, rows taken.
    """

    known: np.ndarray
    last: np.ndarray
    erase_count: np.ndarray
    row: np.ndarray
    counts: np.ndarray
    used: np.ndarray


class Limits(NamedTuple):
    """What the base rules need of a profile, as numbers."""

    pages: int
    stale: int
    distance: int
    programs: int
    strict_order: bool
    monotone: bool
    strict_start: bool
    compat: bool
    ignore: bool
    stop: bool


class Verdict(NamedTuple):
    """Columns of the answer: mask uint32, last int32, flags uint8; (N, L) each."""

    mask: np.ndarray
    last: np.ndarray
    flags: np.ndarray


def limits_of(profile: Profile) -> Limits:
    return Limits(
        pages=profile.pages,
        stale=profile.read_offset_limit,
        distance=profile.min_read_distance,
        programs=profile.programs_per_page,
        strict_order=profile.page_order == "strict",
        monotone=profile.page_order == "monotone",
        strict_start=profile.initial_state == "strict",
        compat=profile.compat_update,
        ignore=profile.on_violation == "ignore",
        stop=profile.on_violation == "stop",
    )


# numba's cache notices changes of this file only: after a change in codes.py save this one too
@njit(cache=True, inline="always")
def judge_program(known, last, count, page, limits):
    """Mask of a program of a page that was programmed `count` times since the erase."""
    mask = 0 if known else NOT_ERASED
    if count >= limits.programs:
        return mask | REPROGRAM
    if limits.strict_order:
        in_order = page == last + 1 or (page == last and count > 0)
    else:
        in_order = page >= last or not limits.monotone
    return mask if in_order else mask | PAGE_ORDER


@njit(cache=True, inline="always")
def judge_read(known, last, count, page, limits):
    """Mask of a read of a page that was programmed `count` times since the erase."""
    mask = 0 if known else NOT_ERASED
    if count == 0:
        return mask | READ_UNWRITTEN
    age = last - page
    if limits.stale > 0 and age >= limits.stale:
        mask |= READ_STALE
    if age < limits.distance and limits.distance > 0 and last < limits.pages - 1:
        mask |= READ_TOO_CLOSE
    return mask


@njit(cache=True)
def take_row(blocks, n, slot):
    """The number of a row of `counts`, now the block's, that holds what it was programmed with so far."""
    row = blocks.row[n, slot]
    if row == NO_ROW:
        row = blocks.used[0]
        blocks.used[0] += 1
    else:
        row = -2 - row
    blocks.row[n, slot] = row
    end = blocks.last[n, slot] + 1
    blocks.counts[row, :end] = 1
    blocks.counts[row, end:] = 0
    return row


@njit(cache=True)
def program_page(blocks, n, slot, page, count, limits):
    """Program a page that was programmed `count` times, where that is not simply the next one."""
    row = blocks.row[n, slot]
    if row < 0:
        row = take_row(blocks, n, slot)
    if count < limits.programs:
        blocks.counts[row, page] += 1
    last = blocks.last[n, slot]
    blocks.last[n, slot] = page if limits.compat else max(page, last)


@njit(cache=True, inline="always")
def program_acts(mask, page, last, limits):
    """Whether a program with this mask under the base rules changes a known block."""
    if mask == 0:
        return True
    if limits.ignore or limits.stop:
        return False
    return limits.compat or (mask == PAGE_ORDER and page > last)


@njit(cache=True)
def check_base(op, slot, page, begin, blocks, stopped, limits, out):
    """Judge commands from flat position `begin` on, in time order within each of N sequences.

    Stops where a row might be needed and none is left.

    Args:
        op, slot, page: (N, L) int8, int32, int32; a slot outside [0, S) is an address outside the geometry.
        stopped: (N,) bool, sequences that met their first violation with on_violation=stop.

    Returns:
        The position reached; N · L when done.
    """
    num_sequences, length = op.shape
    num_slots, num_rows = np.uint64(blocks.last.shape[1]), blocks.counts.shape[0]
    # locals: an attribute read inside the loop would count a reference each time
    knowns, lasts, rows, erases, counts = blocks.known, blocks.last, blocks.row, blocks.erase_count, blocks.counts
    masks, last_pages, all_flags = out.mask, out.last, out.flags
    used = blocks.used[0]
    first, offset = begin // max(length, 1), begin % max(length, 1)
    for n in range(first, num_sequences):
        for i in range(offset, length):
            code, s, p = np.int64(op[n, i]), np.uint64(slot[n, i]), np.int64(page[n, i])
            kind = code if 0 <= code <= READ else (KINDS[code] if READ < code < NUM_OPS else UNKNOWN)
            mask, last, flags = 0, np.int64(-1), 0
            if kind == UNKNOWN or s >= num_slots or (PROGRAM <= kind <= READ and not 0 <= p < limits.pages):
                mask = ADDR_RANGE
            elif kind <= READ:
                known, last, row = knowns[n, s], np.int64(lasts[n, s]), np.int64(rows[n, s])
                flags = KNOWN if known else 0
                if kind == ERASE:
                    if not stopped[n]:
                        knowns[n, s], lasts[n, s] = True, -1
                        erases[n, s] += 1
                        if row >= 0:
                            rows[n, s] = -2 - row
                else:
                    count = np.int64(counts[row, p]) if row >= 0 else np.int64(p <= last)
                    if count > 0:
                        flags |= PAGE_PROGRAMMED
                    if not known and not limits.strict_start:
                        flags |= INDETERMINATE
                    elif kind == READ:
                        mask = judge_read(known, last, count, p, limits)
                    else:
                        mask = judge_program(known, last, count, p, limits)
                        if known and not stopped[n] and program_acts(mask, p, last, limits):
                            if row < 0 and p == last + 1:
                                lasts[n, s] = p
                            elif used == num_rows:
                                return n * length + i
                            else:
                                program_page(blocks, n, s, p, count, limits)
                                used = blocks.used[0]
            if mask and limits.stop:
                mask = 0 if stopped[n] else mask
                stopped[n] = True
            masks[n, i], last_pages[n, i], all_flags[n, i] = mask, last, flags
        offset = 0
    return num_sequences * length

"""The base rules for one command of many sequences at a time, in NumPy: the live state of a generator.

Same state and same answers as `rules.check_batch`, which is faster when all commands are known beforehand.
"""

import numpy as np

from nandseq.codes import KIND, Flag, Kind, Op, Rule
from nandseq.kernels import NO_ROW
from nandseq.profiles import Profile
from nandseq.rules import Verdicts
from nandseq.state import State

UNKNOWN = len(Kind)
KINDS = np.array([*(KIND[op] for op in Op), UNKNOWN])  # the last answers every other number


def step(state: State, op: np.ndarray, slot: np.ndarray, page: np.ndarray, profile: Profile) -> Verdicts:
    """Verdicts of one command of each of N sequences, under the base rules; the state is advanced in place.

    Args:
        state: from `State.batch`, N sequences of S blocks.
        op, slot, page: (N,) integers; a slot outside [0, S) is an address outside the geometry.
    """
    blocks, lanes = state.blocks, np.arange(len(op))
    kind = KINDS[np.where((op >= 0) & (op < len(Op)), op, len(Op))]
    inside = (slot >= 0) & (slot < blocks.last.shape[1]) & (kind != UNKNOWN)
    paged = (kind == Kind.PROGRAM) | (kind == Kind.READ)
    inside &= ~paged | ((page >= 0) & (page < profile.pages))
    slot, page = np.where(inside, slot, 0), np.where(inside & paged, page, 0)

    known, last = blocks.known[lanes, slot], blocks.last[lanes, slot]
    count = _times_programmed(state, lanes, slot, page)
    on_page = inside & paged
    open_question = on_page & ~known & (profile.initial_state != "strict")
    by_program, by_read = (judge(last, count, page, profile) for judge in (_program_mask, _read_mask))
    mask = np.where(kind == Kind.PROGRAM, by_program, by_read)
    mask = np.where(known, mask, mask | Rule.NOT_ERASED.bit)
    mask = np.where(on_page & ~open_question, mask, 0)
    mask = np.where(inside, mask, Rule.ADDR_RANGE.bit).astype(np.uint32)

    _erase(state, lanes, slot, inside & (kind == Kind.ERASE) & ~state.stopped)
    acts = _acts(mask, page > last, profile) & on_page & (kind == Kind.PROGRAM) & known & ~state.stopped
    _program(state, lanes[acts], slot[acts], page[acts], count[acts], profile)

    if profile.on_violation == "stop":
        mask, state.stopped = np.where(state.stopped, 0, mask).astype(np.uint32), state.stopped | (mask != 0)
    on_array = inside & (kind <= Kind.READ)
    flags = Flag.KNOWN * known + Flag.PAGE_PROGRAMMED * (paged & (count > 0)) + Flag.INDETERMINATE * open_question
    return Verdicts(mask, np.where(on_array, last, -1), np.where(on_array, flags, 0).astype(np.uint8))


def check_steps(op: np.ndarray, slot: np.ndarray, page: np.ndarray, profile: Profile, state: State) -> Verdicts:
    """Verdicts (N, L) of whole sequences, stepped through column by column; the state is advanced in place."""
    columns = [step(state, op[:, i], slot[:, i], page[:, i], profile) for i in range(op.shape[1])]
    return Verdicts(*(np.stack([getattr(column, name) for column in columns], 1) for name in ("mask", "last", "flags")))


def _times_programmed(state: State, lanes: np.ndarray, slot: np.ndarray, page: np.ndarray) -> np.ndarray:
    row = state.blocks.row[lanes, slot]
    plain = page <= state.blocks.last[lanes, slot]
    return np.where(row >= 0, state.blocks.counts[np.maximum(row, 0), page], plain).astype(np.int64)


def _program_mask(last: np.ndarray, count: np.ndarray, page: np.ndarray, profile: Profile) -> np.ndarray:
    match profile.page_order:
        case "strict":
            in_order = (page == last + 1) | ((page == last) & (count > 0))
        case "monotone":
            in_order = page >= last
        case "free":
            in_order = np.True_
    exceeded = count >= profile.programs_per_page
    return np.where(exceeded, Rule.REPROGRAM.bit, np.where(in_order, 0, Rule.PAGE_ORDER.bit))


def _read_mask(last: np.ndarray, count: np.ndarray, page: np.ndarray, profile: Profile) -> np.ndarray:
    age, limit, distance = last - page, profile.read_offset_limit, profile.min_read_distance
    mask = np.zeros(len(last), np.int64)
    if limit:
        mask |= np.where(age >= limit, Rule.READ_STALE.bit, 0)
    if distance:
        mask |= np.where((age < distance) & (last < profile.pages - 1), Rule.READ_TOO_CLOSE.bit, 0)
    return np.where(count > 0, mask, Rule.READ_UNWRITTEN.bit)


def _acts(mask: np.ndarray, ahead: np.ndarray, profile: Profile) -> np.ndarray:
    """Whether a program with this mask changes a known block."""
    if profile.on_violation != "physical":
        return mask == 0
    return (mask == 0) | profile.compat_update | ((mask == Rule.PAGE_ORDER.bit) & ahead)


def _erase(state: State, lanes: np.ndarray, slot: np.ndarray, where: np.ndarray) -> None:
    at = lanes[where], slot[where]
    blocks = state.blocks
    blocks.known[at], blocks.last[at] = True, -1
    blocks.erase_count[at] += 1
    row = blocks.row[at]
    blocks.row[at] = np.where(row >= 0, -2 - row, row)


def _program(
    state: State, lanes: np.ndarray, slot: np.ndarray, page: np.ndarray, count: np.ndarray, profile: Profile
) -> None:
    at, last = (lanes, slot), state.blocks.last[lanes, slot]
    irregular = page != last + 1
    _take_rows(state, lanes[irregular], slot[irregular])
    row = state.blocks.row[at]
    counted = (row >= 0) & (count < profile.programs_per_page)
    state.blocks.counts[row[counted], page[counted]] += 1
    state.blocks.last[at] = page if profile.compat_update else np.maximum(page, last)


def _take_rows(state: State, lanes: np.ndarray, slot: np.ndarray) -> None:
    """Give each block without an active row one that holds what it was programmed with so far."""
    row = state.blocks.row[lanes, slot]
    lanes, slot, row = lanes[row < 0], slot[row < 0], row[row < 0]
    fresh = row == NO_ROW
    used = int(state.blocks.used[0])
    while used + fresh.sum() > len(state.blocks.counts):
        state.grow()
    row = np.where(fresh, used + np.cumsum(fresh) - 1, -2 - row)
    state.blocks.used[0] += fresh.sum()
    state.blocks.row[lanes, slot] = row
    pages = np.arange(state.blocks.counts.shape[1])
    state.blocks.counts[row] = pages <= state.blocks.last[lanes, slot][:, None]

"""One bad command in a legal sequence (nandseq specification, section 4).

A corruption names the command it makes bad, the rule that command then breaks, and, with `repair`, moves what follows
so that nothing else is illegal. `confirm` lets the rule engine say whether that came true. `corrupt_compat` is the
older generator's corruption, whose labels are wrong about once in eight.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from nandseq.codes import Rule
from nandseq.machines import (
    COPYBACK_PROGRAM,
    COPYBACK_READ,
    ERASE,
    READ,
    UNKNOWN,
    Drawn,
    below,
    between,
    follow,
    newest,
    oldest,
    programs,
    readable,
    uniform,
    world_of,
)  # fmt: skip
from nandseq.profiles import Profile

VALID = "valid"
STRATEGIES = {
    "page_hop": Rule.PAGE_ORDER,
    "read_unwritten": Rule.READ_UNWRITTEN,
    "stale_read": Rule.READ_STALE,
    "reprogram": Rule.REPROGRAM,
    "no_erase": Rule.NOT_ERASED,
}
NAMES = (VALID, *STRATEGIES)
COMPAT_NAMES = NAMES[:4]
COMPAT_SHARES = {VALID: 0.5, "page_hop": 0.2175, "read_unwritten": 0.2135, "stale_read": 0.069}
RULES = np.array([Rule.OK, *STRATEGIES.values()])
PAGE_HOP, READ_UNWRITTEN, STALE_READ, REPROGRAM, NO_ERASE = range(1, len(NAMES))
NEAR = 3  # pages; a read further beyond the newest page is a far one
NONE = -1


def admitted(profile: Profile) -> tuple[str, ...]:
    """The corruptions whose rule the profile has."""
    possible = {
        "page_hop": profile.page_order == "strict",
        "read_unwritten": True,
        "stale_read": profile.read_offset_limit > 0,
        "reprogram": profile.programs_per_page == 1,
        "no_erase": profile.initial_state not in ("erased", "unknown"),
    }
    return tuple(name for name in STRATEGIES if possible[name])


@dataclass
class Corruption:
    """What was done to N sequences.

    Attributes:
        target: (N,) int32 command made bad; of an erase left out, the first one that misses it; -1 for none.
        offset: (N,) int32 pages between the bad command's page and the nearest legal one, 0 where that has no meaning.
    """

    target: np.ndarray
    offset: np.ndarray


def corrupt(
    drawn: Drawn, strategy: np.ndarray, hard: np.ndarray, keys: np.ndarray, profile: Profile, hop_max: int, repair: bool
) -> Corruption:
    """Corrupt legal sequences in place; a target of -1 where a sequence has no command that fits.

    Args:
        strategy: (N,) number in `NAMES`, 0 leaves the sequence as it is.
        hard: (N,) bool; the fault is as close to legal as can be: hop by one page, read of the page after the newest,
            of the newest stale one, second program of the newest page.
        hop_max: pages skipped by a hop at most.
        repair: shift the block's later commands after a hop or second program, so that they stay legal.
    """
    made = Corruption(np.empty(len(keys), np.int32), np.empty(len(keys), np.int32))
    _corrupt(keys, strategy, hard, hop_max, repair, world_of(profile), drawn, made.target, made.offset)
    return made


def corrupt_compat(drawn: Drawn, strategy: np.ndarray, keys: np.ndarray, profile: Profile) -> Corruption:
    """The older corruption, in place: any command at or after index S gets another page, legal or not."""
    made = Corruption(np.empty(len(keys), np.int32), np.zeros(len(keys), np.int32))
    _corrupt_compat(keys, strategy, world_of(profile), drawn, made.target)
    return made


def confirm(made: Corruption, strategy: np.ndarray, codes: np.ndarray, repair: bool) -> np.ndarray:
    """(N,) bool, whether the first bad command is the target and breaks the strategy's rule.

    With `repair` it must also be the only one, except where an erase is missing: that makes all that follows bad.

    Args:
        codes: (N, L) primary rule broken by each command.
    """
    rows, bad = np.arange(len(strategy)), codes > 0
    count, first = bad.sum(1), bad.argmax(1)
    as_meant = (first == made.target) & (codes[rows, first] == RULES[strategy]) & (count > 0)
    single = (count == 1) | (strategy == NO_ERASE) if repair else True
    return np.where(strategy == 0, count == 0, as_meant & single)


# numba's cache notices changes of this file only: after a change in machines.py save this one too
@njit(cache=True)
def _corrupt(keys, strategy, hard, hop_max, repair, worlds, drawn, target, offset):
    length, w = drawn.op.shape[1], worlds[0]
    found, before = np.empty(length, np.int64), np.empty(length, np.int64)
    for n in range(len(keys)):
        w.rng = keys[n]
        target[n], offset[n] = NONE, 0
        if strategy[n] == 0:
            continue
        op, block, page, start = drawn.op[n], drawn.block[n], drawn.page[n], drawn.start[n]
        count = candidates(strategy[n], hard[n], w, op, block, page, start, found, before)
        if count == 0:
            continue
        i = found[below(w, count)]
        if strategy[n] == NO_ERASE:
            target[n] = leave_out_erase(i, w, op, block, page, start)
            continue
        offset[n] = distance(strategy[n], hard[n], w, before[i], hop_max)
        target[n] = i
        make_bad(strategy[n], i, before[i], offset[n], w, page)
        if repair and programs(op[i]):
            shift_rest(strategy[n], i, before[i], offset[n], op, block, page)


@njit(cache=True)
def candidates(strategy, hard, w, op, block, page, start, found, before):
    """Fill `found` with the commands that the strategy can make bad, `before` with the newest page before each command.

    Returns: their number.
    """
    spare = 0 if hard else 1  # a fault further away needs room
    w.last[: len(start)] = start
    count = 0
    for i in range(len(op)):
        last = w.last[block[i]]
        before[i] = last
        if programs(op[i]):
            fits = (strategy == PAGE_HOP and last + 2 + spare < w.pages) or (strategy == REPROGRAM and last >= spare)
        elif op[i] == READ or op[i] == COPYBACK_READ:
            fits = (strategy == READ_UNWRITTEN and last + 1 + spare < w.pages) or (
                strategy == STALE_READ and w.stale > 0 and last >= w.stale + spare
            )
        else:
            fits = strategy == NO_ERASE and op[i] == ERASE and last == UNKNOWN
        if fits:
            found[count] = i
            count += 1
        follow(w, op[i], block[i], page[i])
    return count


@njit(cache=True)
def distance(strategy, hard, w, last, hop_max):
    """How many pages the fault is away from what is legal."""
    if hard:
        return np.int64(1)
    if strategy == PAGE_HOP:
        return between(w, 2, min(hop_max, w.pages - 2 - last))
    if strategy == READ_UNWRITTEN:
        return unwritten_distance(w, w.pages - 1 - last)
    if strategy == STALE_READ:
        return between(w, 2, min(NEAR + 1, last - w.stale + 1))
    return between(w, 2, last + 1)


@njit(cache=True)
def unwritten_distance(w, room):
    """Near in one of four cases, else log-uniform up to the end of the block.

    With a third of all faults at distance 1, that makes half of them near.
    """
    if room <= NEAR or uniform(w) < 0.25:
        return between(w, 2, min(NEAR, room))
    low, high = np.log(NEAR + 1.0), np.log(room + 1.0)
    return min(np.int64(np.exp(low + uniform(w) * (high - low))), room)


@njit(cache=True)
def make_bad(strategy, i, last, offset, w, page):
    if strategy == PAGE_HOP:
        page[i] = last + 1 + offset
    elif strategy == READ_UNWRITTEN:
        page[i] = last + offset
    elif strategy == STALE_READ:
        page[i] = last - w.stale + 1 - offset
    else:
        page[i] = last + 1 - offset


@njit(cache=True)
def shift_rest(strategy, i, last, offset, op, block, page):
    """Move the block's commands after i, up to its next erase, along with its newest page."""
    for j in range(i + 1, len(op)):
        if block[j] != block[i] or op[j] > COPYBACK_PROGRAM:
            continue
        if op[j] == ERASE:
            return
        if strategy == REPROGRAM:
            page[j] = max(page[j] - 1, 0)
        elif last - offset < page[j] <= last:
            page[j] = last + 1 + offset  # it would fall on a skipped page
        else:
            page[j] += offset


@njit(cache=True)
def leave_out_erase(i, w, op, block, page, start):
    """Put a legal read of another block in place of the erase at i; the first command that then misses it, or -1."""
    w.last[: len(start)] = start
    for j in range(i):
        follow(w, op[j], block[j], page[j])
    erased, others = block[i], 0
    for b in range(len(start)):
        others += readable(w, b)
    if others == 0:
        return NONE
    chosen = below(w, others)
    for b in range(len(start)):
        if readable(w, b):
            if chosen == 0:
                op[i], block[i], page[i] = READ, b, between(w, oldest(w, b), newest(w, b))
                break
            chosen -= 1
    for j in range(i + 1, len(op)):
        if block[j] == erased:
            return NONE if op[j] == ERASE else j
    return NONE


@njit(cache=True)
def _corrupt_compat(keys, strategy, worlds, drawn, target):
    length, num_blocks, w = drawn.op.shape[1], drawn.start.shape[1], worlds[0]
    for n in range(len(keys)):
        w.rng = keys[n]
        target[n] = NONE
        if strategy[n] == 0:
            continue
        op, block, page = drawn.op[n], drawn.block[n], drawn.page[n]
        w.last[:num_blocks] = drawn.start[n]
        i = between(w, num_blocks, length - 1)
        for j in range(i):
            follow(w, op[j], block[j], page[j])
        last = w.last[block[i]]
        if strategy[n] == PAGE_HOP:
            page[i] += 1
        elif strategy[n] == READ_UNWRITTEN:
            page[i] = between(w, max(last, -1) + 1, w.pages - 1)
        elif last >= w.stale:
            page[i] = last - w.stale
        else:
            continue
        target[n] = i

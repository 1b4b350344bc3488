"""The machines behind the scenarios, compiled with numba (nandseq specification, section 8).

A machine emits one legal command per step: an op, a block and a page. It looks at nothing but its own few numbers and
the newest page of each of its blocks. Every machine programs the page after the newest one, reads inside the window
that the profile allows, and erases before a block's first program.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from nandseq.codes import Op
from nandseq.profiles import Profile

NAMES = (
    "seq_write", "gc_loop", "hot_block", "random_read", "mixed", "read_verify", "wear_level", "compat", "idle_resume",
)  # fmt: skip
SEQ_WRITE, GC_LOOP, HOT_BLOCK, RANDOM_READ, MIXED, READ_VERIFY, WEAR_LEVEL, COMPAT, IDLE_RESUME = range(len(NAMES))
ERASE, PROGRAM, READ, SUSPEND, RESUME = (int(op) for op in (Op.ERASE, Op.PROGRAM, Op.READ, Op.SUSPEND, Op.RESUME))
COPYBACK_READ, COPYBACK_PROGRAM = int(Op.COPYBACK_READ), int(Op.COPYBACK_PROGRAM)
NOTHING = -1
UNKNOWN = -2  # in place of the newest page: no erase was seen
EDGE_READ, RE_ERASE, INTERLEAVED = 1, 2, 4  # bits of `traits`
TRAITS = {"edge_read": EDGE_READ, "re_erase": RE_ERASE, "interleaved": INTERLEAVED}
MAX_BLOCKS = 64  # of one sequence
MOST_TRIES = 100
GOLDEN, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32, S11 = (np.uint64(bits) for bits in (27, 30, 31, 32, 11))


# Records, not tuples of arrays: numba counts a reference for each array that it passes on, a record is one pointer.
WORLD = np.dtype(
    [
        ("rng", np.uint64), ("pages", np.int64), ("stale", np.int64), ("distance", np.int64),
        ("last", np.int64, MAX_BLOCKS),  # newest page of each block
        ("goal", np.int64, MAX_BLOCKS),  # the page at which a machine is done with the block
        ("opened", np.int8, MAX_BLOCKS),  # whether a machine has begun on it
        ("popularity", np.float64, MAX_BLOCKS),  # cumulated
    ],
    align=True,
)  # fmt: skip
PARAMETERS = [
    ("least", np.int64), ("most", np.int64), ("longest", np.int64), ("cycles", np.int64), ("verify", np.float64),
    ("valid", np.float64), ("read", np.float64), ("erase", np.float64), ("suspend", np.float64), ("copyback", np.int64),
]  # fmt: skip
MACHINE = np.dtype(
    [
        ("kind", np.int64), ("first", np.int64), ("count", np.int64),  # the blocks it owns
        *PARAMETERS,  # of its scenario; those it lacks are 0
        ("block", np.int64), ("phase", np.int64), ("page", np.int64), ("due", np.int64), ("left", np.int64),
    ],
    align=True,
)  # fmt: skip


class Plan(NamedTuple):
    """Which machines may run, as numbers.

    machines (K,) of `MACHINE`, one per scenario; weights (K,) float64, cumulated, of those that may join another;
    needs (K,) int64 blocks; alone (K,) bool, no other machine may run beside it.
    """

    machines: np.ndarray
    weights: np.ndarray
    needs: np.ndarray
    alone: np.ndarray
    max_streams: int
    start_page: int
    highest_start: int


class Drawn(NamedTuple):
    """Legal sequences: op int8, block, page int32 (N, L), blocks numbered 0 … S - 1 by no order.

    start (N, S) int32 newest page before the first command, -2 unknown; streams int8, traits uint8 (N,).
    """

    op: np.ndarray
    block: np.ndarray
    page: np.ndarray
    start: np.ndarray
    streams: np.ndarray
    traits: np.ndarray


def world_of(profile: Profile) -> np.ndarray:
    """(1,) of `WORLD`, with the numbers of the profile."""
    world = np.zeros(1, WORLD)
    world["pages"], world["stale"] = profile.pages, profile.read_offset_limit
    world["distance"] = profile.min_read_distance
    return world


# numba's cache notices changes of this file only: after a change in codes.py save this one too
@njit(cache=True)
def random(w):
    """Next 64 random bits (splitmix64: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators)."""
    w.rng += GOLDEN
    z = w.rng
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@njit(cache=True)
def below(w, count):
    """A whole number in [0, count)."""
    return np.int64(((random(w) >> S32) * np.uint64(count)) >> S32)


@njit(cache=True)
def between(w, low, high):
    """A whole number in [low, high]; low where high is less."""
    return low + below(w, high - low + 1) if high > low else np.int64(low)


@njit(cache=True)
def uniform(w):
    """A number in [0, 1)."""
    return np.float64(random(w) >> S11) * 2.0**-53


@njit(cache=True)
def oldest(w, b):
    """The oldest page of a block that may be read."""
    return max(w.last[b] - w.stale + 1, 0) if w.stale > 0 else np.int64(0)


@njit(cache=True)
def newest(w, b):
    """The newest page of a block that may be read; less than `oldest` where none may."""
    return w.last[b] if w.last[b] == w.pages - 1 else w.last[b] - w.distance


@njit(cache=True)
def readable(w, b):
    return w.last[b] >= 0 and newest(w, b) >= oldest(w, b)


@njit(cache=True)
def begin(w, m, b):
    """Set how far a block will be written from here; whether it must be erased first."""
    erase_first = w.opened[b] or w.last[b] == UNKNOWN
    w.opened[b] = 1
    w.goal[b] = min((-1 if erase_first else w.last[b]) + between(w, m.least, m.most), w.pages - 1)
    return erase_first


@njit(cache=True)
def next_block(w, m):
    """Go on to the next block where this one is done; whether it must be erased first."""
    b = m.first + m.block
    if w.opened[b] and w.last[b] < w.goal[b]:
        return False
    m.block = (m.block + w.opened[b]) % m.count
    return begin(w, m, m.first + m.block)


@njit(cache=True)
def programs(op):
    return op in (PROGRAM, COPYBACK_PROGRAM)


@njit(cache=True)
def follow(w, op, b, page):
    """Keep the newest page of the block up to date through a legal command."""
    if op == ERASE:
        w.last[b] = -1
    elif programs(op):
        w.last[b] = page


@njit(cache=True)
def erase(b):
    return ERASE, b, np.int64(0)


@njit(cache=True)
def program(w, b):
    return PROGRAM, b, w.last[b] + 1


@njit(cache=True)
def any_read(w, b):
    return READ, b, between(w, oldest(w, b), newest(w, b))


@njit(cache=True)
def write_or_erase(w, b):
    """The next page, or an erase where there is none."""
    return erase(b) if w.last[b] == UNKNOWN or w.last[b] == w.pages - 1 else program(w, b)


@njit(cache=True)
def seq_write(w, m):
    """due: whether the page just written is to be verified."""
    b = m.first + m.block
    if m.due and readable(w, b):
        m.due = 0
        return READ, b, newest(w, b)
    m.due = uniform(w) < m.verify
    if next_block(w, m):
        m.due = 0
        return erase(m.first + m.block)
    return program(w, m.first + m.block)


@njit(cache=True)
def move(w, m, source, target, share):
    """Copy pages of `source` from `page` on, each with chance `share`; `due`: one is read and not yet programmed."""
    if m.due:
        m.due = 0
        return COPYBACK_PROGRAM if m.copyback else PROGRAM, target, w.last[target] + 1
    while m.page <= newest(w, source) and w.last[target] < w.pages - 1:
        m.page += 1
        if uniform(w) < share:
            m.due = 1
            return COPYBACK_READ if m.copyback else READ, source, m.page - 1
    return NOTHING, source, np.int64(0)


@njit(cache=True)
def gc_loop(w, m):
    """block: the victim; phase: whether it is being emptied."""
    victim, target = m.first + m.block, m.first + (m.block + 1) % m.count
    if not w.opened[victim] and begin(w, m, victim):
        return erase(victim)
    if not m.phase:
        if w.last[victim] < w.goal[victim]:
            return program(w, victim)
        m.phase, m.page = 1, oldest(w, victim)
    if not w.opened[target] and begin(w, m, target):
        return erase(target)
    moved = move(w, m, victim, target, m.valid)
    if moved[0] != NOTHING:
        return moved
    begin(w, m, victim)
    m.block, m.phase = target - m.first, 0
    return erase(victim)


@njit(cache=True)
def hot_block(w, m):
    chosen, rank = uniform(w) * w.popularity[m.count - 1], 0
    while w.popularity[rank] < chosen:
        rank += 1
    b = m.first + rank
    if (not w.opened[b] or w.last[b] >= w.goal[b]) and begin(w, m, b):
        return erase(b)
    if readable(w, b) and uniform(w) < m.read:
        return any_read(w, b)
    return program(w, b)


@njit(cache=True)
def random_read(w, m):
    """block: how many are written."""
    while m.block < m.count:
        b = m.first + m.block
        if not w.opened[b] and begin(w, m, b):
            return erase(b)
        if w.last[b] < w.goal[b]:
            return program(w, b)
        m.block += 1
    b = m.first + below(w, m.count)
    return any_read(w, b) if readable(w, b) else write_or_erase(w, b)


@njit(cache=True)
def mixed(w, m):
    b = m.first + below(w, m.count)
    if w.last[b] >= 0 and uniform(w) < m.erase:
        return erase(b)
    if readable(w, b) and uniform(w) < m.read:
        return any_read(w, b)
    return write_or_erase(w, b)


@njit(cache=True)
def read_verify(w, m):
    """left: pages of the burst still to write; due: those to read back then."""
    b = m.first + m.block
    while m.left == 0 and m.due > 0:
        m.due -= 1
        page = w.last[b] - m.due
        if oldest(w, b) <= page <= newest(w, b) and uniform(w) < m.verify:
            return READ, b, page
    if m.left == 0:
        if next_block(w, m):
            return erase(m.first + m.block)
        b = m.first + m.block
        m.due = m.left = min(between(w, 1, m.longest), w.goal[b] - w.last[b])
    m.left -= 1
    return program(w, b)


@njit(cache=True)
def wear_level(w, m):
    """block: the cold one; phase: whether it is moving; left: cycles of the hot block before that."""
    cold, hot = m.first + m.block, m.first + (m.block + 1) % m.count
    if not w.opened[cold] and begin(w, m, cold):
        return erase(cold)
    if not m.phase:
        if w.last[cold] < w.goal[cold]:
            m.left = between(w, 1, m.cycles)
            return program(w, cold)
        if w.opened[hot] and w.last[hot] < w.goal[hot]:
            return any_read(w, hot) if readable(w, hot) and uniform(w) < m.read else program(w, hot)
        if m.left > 0:
            m.left -= 1
            return erase(hot) if begin(w, m, hot) else program(w, hot)
        m.phase, m.page = 1, oldest(w, cold)
        begin(w, m, hot)
        return erase(hot)
    moved = move(w, m, cold, hot, 1.0)
    if moved[0] != NOTHING:
        return moved
    begin(w, m, cold)
    m.block, m.phase, m.left = hot - m.first, 0, 1
    return erase(cold)


@njit(cache=True)
def compat(w, m):
    """block: how many are erased (nandseq specification, section 4)."""
    while m.block < m.count:
        m.block += 1
        if w.last[m.first + m.block - 1] == UNKNOWN:
            return erase(m.first + m.block - 1)
    b = m.first + below(w, m.count)
    full = w.last[b] == w.pages - 1
    if readable(w, b) and (full or uniform(w) < 0.5):
        return any_read(w, b)
    return write_or_erase(w, b)


@njit(cache=True)
def idle_resume(w, m):
    """due: whether a program was just begun; phase: whether it is suspended."""
    b = m.first + m.block
    if m.phase:
        other = m.first + (m.block + 1) % m.count
        if readable(w, other) and uniform(w) < m.read:
            return any_read(w, other)
        m.phase = 0
        return RESUME, b, np.int64(0)
    if m.due:
        m.due, m.phase = 0, uniform(w) < m.suspend
        if m.phase:
            return SUSPEND, b, np.int64(0)
    if next_block(w, m):
        return erase(m.first + m.block)
    m.due = 1
    return program(w, m.first + m.block)


@njit(cache=True)
def step(w, m):
    """The next command of a machine: op, block, page."""
    kind = m.kind
    if kind == SEQ_WRITE:
        return seq_write(w, m)
    if kind == GC_LOOP:
        return gc_loop(w, m)
    if kind == HOT_BLOCK:
        return hot_block(w, m)
    if kind == RANDOM_READ:
        return random_read(w, m)
    if kind == MIXED:
        return mixed(w, m)
    if kind == READ_VERIFY:
        return read_verify(w, m)
    if kind == WEAR_LEVEL:
        return wear_level(w, m)
    if kind == IDLE_RESUME:
        return idle_resume(w, m)
    return compat(w, m)


@njit(cache=True)
def cast(w, scenario, plan, num_blocks, machines):
    """Set up the machines that run at once; their number."""
    weight = plan.weights[-1]
    alone = plan.alone[scenario] or weight == 0
    streams = np.int64(1) if alone else between(w, 1, min(plan.max_streams, num_blocks))
    # the first gets what an even split leaves over
    while num_blocks // streams + num_blocks % streams < plan.needs[scenario]:
        streams -= 1
    size, extra = num_blocks // streams, num_blocks % streams
    for s in range(streams):
        kind = scenario if s == 0 else np.searchsorted(plan.weights, uniform(w) * weight, side="right")
        machines[s] = plan.machines[kind]
        machines[s].first, machines[s].count = (0, size + extra) if s == 0 else (s * size + extra, size)
    return streams


@njit(cache=True)
def draw(keys, scenario, hard, bits, plan, worlds, machines, out):
    """Fill `out` with a sequence per key, which begins with the machine of its scenario.

    Each try of a hard one must have a trait drawn from `bits`; after `MOST_TRIES` it is left without.
    """
    num_blocks, w = out.start.shape[1], worlds[0]
    cycled = np.zeros(num_blocks, np.bool_)
    for n in range(len(keys)):
        w.rng = keys[n]
        for _ in range(MOST_TRIES):
            for b in range(num_blocks):
                if plan.start_page > 0:
                    out.start[n, b] = between(w, plan.start_page, plan.highest_start)
                w.last[b], w.opened[b], cycled[b] = out.start[n, b], 0, False
            streams = cast(w, scenario[n], plan, num_blocks, machines)
            traits = run(w, machines, streams, cycled, out.op[n], out.block[n], out.page[n])
            out.streams[n], out.traits[n] = streams, traits
            if not hard[n] or traits & bits[below(w, len(bits))]:
                break


@njit(cache=True)
def run(w, machines, streams, cycled, ops, blocks, pages):
    """Fill the columns of one sequence; its traits. `cycled`: which blocks were erased with pages in them."""
    written, traits = np.int64(-1), 0
    for i in range(len(ops)):
        op, b, page = step(w, machines[below(w, streams) if streams > 1 else 0])
        if op == ERASE:
            cycled[b] = w.last[b] >= 0
        elif programs(op):
            if page == 0:
                traits |= RE_ERASE if cycled[b] else 0
            elif written != b:
                traits |= INTERLEAVED
            written = b
        elif op == READ and w.last[b] - page == w.stale - 1:
            traits |= EDGE_READ
        follow(w, op, b, page)
        ops[i], blocks[i], pages[i] = op, b, page
    return traits

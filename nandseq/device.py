"""The extended rules, which couple blocks or need time, compiled with numba (nandseq specification, section 7).

One command after the other, several times slower than the base kernel, and used only where a profile asks for it.
What is meant by each rule is written in `nandseq.reference`, with which this agrees command by command.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from nandseq.codes import VIOLATIONS as ALL_VIOLATIONS
from nandseq.codes import Op, Rule
from nandseq.kernels import (  # fmt: skip
    ADDR_RANGE,
    ERASE,
    INDETERMINATE,
    KINDS,
    KNOWN,
    NUM_OPS,
    PAGE_PROGRAMMED,
    PROGRAM,
    READ,
    UNKNOWN,
    judge_program,
    judge_read,
    program_acts,
    program_page,
)
from nandseq.profiles import Profile

VIOLATIONS = np.uint32(ALL_VIOLATIONS)
LONG_AGO = -(2**63)
OP_READ, COPYBACK_READ, COPYBACK_PROGRAM = int(Op.READ), int(Op.COPYBACK_READ), int(Op.COPYBACK_PROGRAM)
OP_PROGRAM, CACHE_READ, CACHE_PROGRAM = int(Op.PROGRAM), int(Op.CACHE_READ), int(Op.CACHE_PROGRAM)
CACHE_READ_END, SUSPEND, RESUME = int(Op.CACHE_READ_END), int(Op.SUSPEND), int(Op.RESUME)
RESET, SET_RETRY, POWER_LOSS = int(Op.RESET), int(Op.SET_RETRY), int(Op.POWER_LOSS)
BAD_BLOCK, PE_LIMIT, BUSY, PE_WARN = Rule.BAD_BLOCK.bit, Rule.PE_LIMIT.bit, Rule.BUSY.bit, Rule.PE_WARN.bit
MP_PLANE, MP_PAGE, MP_OP = Rule.MP_PLANE.bit, Rule.MP_PAGE.bit, Rule.MP_OP.bit
COPYBACK_PLANE, CACHE_SEQ, SUSPEND_STATE = Rule.COPYBACK_PLANE.bit, Rule.CACHE_SEQ.bit, Rule.SUSPEND_STATE.bit
PARTIAL_ERASE, WL_ORDER, OPEN_BLOCK_AGE = Rule.PARTIAL_ERASE.bit, Rule.WL_ORDER.bit, Rule.OPEN_BLOCK_AGE.bit
READ_RETRY, MODE, PAIR_RISK = Rule.READ_RETRY.bit, Rule.MODE.bit, Rule.PAIR_RISK.bit
READ_DISTURB = Rule.READ_DISTURB.bit

# columns of Device.blocks
READS, OPENED, BLOCK_MODE, PARTIAL = range(4)
# columns of Device.planes; a block is given by its slot; of a suspended job, SUSPENDED_END is the time left
(FREE_AT, JOB, JOB_SLOT, JOB_PAGE, JOB_END, SUSPENDED, SUSPENDED_SLOT, SUSPENDED_PAGE, SUSPENDED_END, REGISTER_BLOCK,
 REGISTER_PAGE, CHAIN, CHAIN_SLOT, LINE_SLOT, LINE) = range(15)  # fmt: skip
# columns of Device.dies
SUSPENDS, RETRY_LEVEL, FAILED_SLOT, FAILED_PAGE = range(4)
# columns of Settings.pages
PROGRAM_NS, READ_NS, LINE_OF, BIT, LOWER, ENDS_LINE, MARK = range(7)
# entries of Device.group
GROUP, GROUP_OP, GROUP_DIE, GROUP_BLOCK, GROUP_PAGE, GROUP_PLANES, GROUP_REFUSED = range(7)
NO_JOB = -1


class Device(NamedTuple):
    """State of the extended rules, int64: blocks (S, 4), planes (D · P, 15), dies (D, 4), group (7,)."""

    blocks: np.ndarray
    planes: np.ndarray
    dies: np.ndarray
    group: np.ndarray


class Settings(NamedTuple):
    """What the extended rules need of a profile: numbers, `pages` (pages, 7) int64, and `bad` (S,) bool.

    One table, not seven: each array costs a counted reference wherever the tuple is passed.
    """

    planes: int
    blocks: int
    busy: bool
    own_plane: bool
    suspend: bool
    max_suspends: int
    suspend_ns: int
    reset_ns: int
    timed: bool
    multi_plane: bool
    same_block: bool
    copyback: bool
    parity: bool
    cache: bool
    partial_erase: bool
    word_line_order: bool
    one_shot: bool
    endurance: int
    disturb: int
    open_age: int
    retry: bool
    mode: bool
    erase_ns: int
    pages: np.ndarray
    bad: np.ndarray


class Columns(NamedTuple):
    """The columns of a trace beside op, slot and page, all present."""

    die: np.ndarray
    plane: np.ndarray
    block: np.ndarray
    t_ns: np.ndarray
    group: np.ndarray
    mode: np.ndarray
    src_block: np.ndarray
    src_page: np.ndarray
    status: np.ndarray


def initial_device(profile: Profile) -> Device:
    """A device on which nothing runs."""
    num_planes = profile.dies * profile.planes
    device = Device(
        blocks=np.tile(np.array([0, LONG_AGO, -1, 0]), (profile.num_blocks, 1)),
        planes=np.empty((num_planes, 15), np.int64),
        dies=np.empty((profile.dies, 4), np.int64),
        group=np.full(7, -1),
    )
    for plane in range(num_planes):
        clear_plane(device, plane, LONG_AGO)
    device.dies[:] = 0, 0, -1, -1
    return device


@lru_cache(maxsize=8)  # a trace may come in many chunks
def settings_of(profile: Profile) -> Settings:
    bad = np.zeros((profile.dies, profile.planes, profile.blocks), bool)
    for address in profile.bad_blocks:
        bad[address] = True
    timing = profile.timing
    return Settings(
        planes=profile.planes,
        blocks=profile.blocks,
        busy=profile.busy != "off",
        own_plane=profile.busy == "plane",
        suspend=profile.suspend,
        max_suspends=profile.max_suspends,
        suspend_ns=timing.suspend_ns if timing else 0,
        reset_ns=timing.reset_ns if timing else 0,
        timed=timing is not None,
        multi_plane=profile.multi_plane,
        same_block=profile.multi_plane_same_block,
        copyback=profile.copyback != "off",
        parity=profile.copyback == "parity",
        cache=profile.cache,
        partial_erase=profile.partial_erase,
        word_line_order=profile.word_line_order,
        one_shot=profile.one_shot,
        endurance=profile.endurance,
        disturb=profile.read_disturb_limit,
        open_age=profile.open_block_age_ns,
        retry=profile.read_retry,
        mode=profile.mode,
        erase_ns=timing.erase_ns if timing else 0,
        pages=_page_table(profile),
        bad=bad.reshape(-1),
    )


def _page_table(profile: Profile) -> np.ndarray:
    line, bit = word_lines(profile)
    lower, ends_line = _neighbours(line, bit)
    timing = profile.timing
    program_ns, read_ns = (timing.program_ns, timing.read_ns) if timing else ((0,), (0,))
    times = np.array(program_ns)[bit % len(program_ns)], np.array(read_ns)[bit % len(read_ns)]
    mark = np.isin(np.arange(profile.pages), profile.bad_mark_pages)
    return np.stack([*times, line, bit, lower, ends_line, mark], 1).astype(np.int64)


def word_lines(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """(pages,) int64 word line and bit of each page; at stride 3 a line is named by its lower page."""
    page = np.arange(profile.pages)
    if profile.pairing == "adjacent":
        return page // profile.bits_per_cell, page % profile.bits_per_cell
    upper = (page % 2 == 0) & (page > 0)
    partner = np.where(upper, np.maximum(page - 3, 0), page)
    partner[-1] = profile.pages - 3
    upper[-1] = True
    return partner, upper.astype(np.int64)


def _neighbours(line: np.ndarray, bit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next lower page of each page's word line (-1: none), and whether no page lies above it there."""
    place = {key: page for page, key in enumerate(zip(line.tolist(), bit.tolist()))}
    lower = np.array([place.get((each, level - 1), -1) for each, level in place])
    ends_line = np.array([(each, level + 1) not in place for each, level in place])
    return lower, ends_line


# numba's cache notices changes of this file only: after a change in codes.py or kernels.py save this one too
@njit(cache=True)
def clear_plane(device, plane, free_at):
    device.planes[plane, :] = -1
    device.planes[plane, FREE_AT] = free_at
    device.planes[plane, JOB] = NO_JOB
    device.planes[plane, SUSPENDED] = NO_JOB


@njit(cache=True)
def any_busy(device, first, last, now):
    busy = False
    for plane in range(first, last):
        busy |= now < device.planes[plane, FREE_AT]
    return busy


@njit(cache=True)
def any_suspended(device, first, last):
    suspended = False
    for plane in range(first, last):
        suspended |= device.planes[plane, SUSPENDED] != NO_JOB
    return suspended


@njit(cache=True)
def suspend(device, die, now, settings):
    first, last = die * settings.planes, (die + 1) * settings.planes
    running = False
    for plane in range(first, last):
        running |= device.planes[plane, JOB] != NO_JOB and now < device.planes[plane, JOB_END]
    worn_out = 0 < settings.max_suspends <= device.dies[die, SUSPENDS]
    if any_suspended(device, first, last) or worn_out or not running:
        return SUSPEND_STATE
    device.dies[die, SUSPENDS] += 1
    for plane in range(first, last):
        state = device.planes[plane]
        if state[JOB] != NO_JOB and now < state[JOB_END]:
            state[SUSPENDED : SUSPENDED_END + 1] = state[JOB : JOB_END + 1]
            state[SUSPENDED_END] -= now
            state[JOB] = NO_JOB
        state[FREE_AT] = now + settings.suspend_ns
    return 0


@njit(cache=True)
def resume(device, die, now, settings):
    first, last = die * settings.planes, (die + 1) * settings.planes
    if not any_suspended(device, first, last):
        return SUSPEND_STATE
    if settings.busy and any_busy(device, first, last, now):
        return BUSY
    for plane in range(first, last):
        state = device.planes[plane]
        if state[SUSPENDED] != NO_JOB:
            state[JOB : JOB_END + 1] = state[SUSPENDED : SUSPENDED_END + 1]
            state[JOB_END] += now
            state[FREE_AT] = state[JOB_END]
            state[SUSPENDED] = NO_JOB
    return 0


@njit(cache=True)
def cut_job(blocks, device, kind, slot, page, settings):
    if not settings.partial_erase:
        return 0
    if kind == PROGRAM:
        return PAIR_RISK if settings.pages[page, BIT] > 0 else 0
    blocks.known[0, slot], blocks.last[0, slot] = False, -1
    if blocks.row[0, slot] >= 0:
        blocks.row[0, slot] = -2 - blocks.row[0, slot]
    device.blocks[slot, PARTIAL] = 1
    return 0


@njit(cache=True)
def cut(blocks, device, die, now, delay, settings):
    mask = 0
    for plane in range(die * settings.planes, (die + 1) * settings.planes):
        state = device.planes[plane]
        if state[JOB] != NO_JOB and now < state[JOB_END]:
            mask |= cut_job(blocks, device, state[JOB], state[JOB_SLOT], state[JOB_PAGE], settings)
        if state[SUSPENDED] != NO_JOB:
            mask |= cut_job(blocks, device, state[SUSPENDED], state[SUSPENDED_SLOT], state[SUSPENDED_PAGE], settings)
        clear_plane(device, plane, now + delay)
    device.dies[die, SUSPENDS], device.dies[die, RETRY_LEVEL], device.dies[die, FAILED_SLOT] = 0, 0, -1
    return mask


@njit(cache=True)
def control(blocks, device, code, die, plane, page, now, ignore, settings):
    """Mask of a command that names no page; it takes effect."""
    if code == SUSPEND and settings.suspend:
        return suspend(device, die, now, settings)
    if code == RESUME and settings.suspend:
        return resume(device, die, now, settings)
    if code == RESET:
        return cut(blocks, device, die, now, settings.reset_ns, settings)
    mask = 0
    if code == POWER_LOSS:
        for each in range(len(device.dies)):
            mask |= cut(blocks, device, each, now, 0, settings)
    elif code == SET_RETRY and settings.retry:
        mask = READ_RETRY if page > 0 and device.dies[die, FAILED_SLOT] < 0 else 0
        if not (mask and ignore):
            device.dies[die, RETRY_LEVEL] = page
    elif code == CACHE_READ_END and settings.cache:
        mask = 0 if device.planes[plane, CHAIN] == CACHE_READ else CACHE_SEQ
        if not (mask and ignore):
            device.planes[plane, CHAIN] = -1
    return mask


@njit(cache=True)
def join_group(device, code, kind, die, plane_of_die, block, page, settings):
    """Mask of a command that belongs to the group of the one before."""
    group, mask = device.group, 0
    if code != group[GROUP_OP]:
        mask |= MP_OP
    if die != group[GROUP_DIE] or group[GROUP_PLANES] >> plane_of_die & 1:
        mask |= MP_PLANE
    both_paged = kind != ERASE and group[GROUP_OP] != ERASE
    if (both_paged and page != group[GROUP_PAGE]) or (settings.same_block and block != group[GROUP_BLOCK]):
        mask |= MP_PAGE
    group[GROUP_PLANES] |= 1 << plane_of_die
    return mask if settings.multi_plane else 0


@njit(cache=True)
def refused_as_busy(device, kind, die, plane, now, joined, settings):
    if joined and die == device.group[GROUP_DIE]:
        return device.group[GROUP_REFUSED] == 1
    if settings.own_plane and kind == READ:
        busy = any_busy(device, plane, plane + 1, now)
    else:
        busy = any_busy(device, die * settings.planes, (die + 1) * settings.planes, now)
    if not joined:
        device.group[GROUP_REFUSED] = busy
    return busy


@njit(cache=True)
def disturbs_suspended(device, kind, die, slot, page, settings):
    for plane in range(die * settings.planes, (die + 1) * settings.planes):
        state = device.planes[plane]
        if state[SUSPENDED] == NO_JOB:
            continue
        if kind == ERASE:
            return True
        if slot == state[SUSPENDED_SLOT]:
            if kind == PROGRAM or state[SUSPENDED] == ERASE:
                return True
            if settings.pages[page, LINE_OF] == settings.pages[state[SUSPENDED_PAGE], LINE_OF]:
                return True
    return False


@njit(cache=True)
def times_programmed(blocks, slot, page):
    row = blocks.row[0, slot]
    if row >= 0:
        return np.int64(blocks.counts[row, page])
    return np.int64(page <= blocks.last[0, slot])


@njit(cache=True)
def judge_wear(blocks, device, kind, slot, page, now, mode, limits, settings):
    """Mask of the rules of a block's age, mode and word lines."""
    mask, state = 0, device.blocks[slot]
    if kind == ERASE:
        erases = blocks.erase_count[0, slot] + 1
        if settings.endurance and erases > settings.endurance:
            return PE_LIMIT
        return PE_WARN if settings.endurance and 10 * erases > 9 * settings.endurance else 0
    if not blocks.known[0, slot]:
        return 0
    if settings.mode and mode != -1 and state[BLOCK_MODE] != -1 and mode != state[BLOCK_MODE]:
        mask |= MODE
    is_open = 0 <= blocks.last[0, slot] < limits.pages - 1
    if settings.open_age and is_open and state[OPENED] != LONG_AGO and now - state[OPENED] > settings.open_age:
        mask |= OPEN_BLOCK_AGE
    if kind == READ and 0 < settings.disturb <= state[READS]:
        mask |= READ_DISTURB
    if kind == PROGRAM and settings.word_line_order:
        below = settings.pages[page, LOWER]
        while below >= 0:
            if times_programmed(blocks, slot, below) == 0:
                mask |= WL_ORDER
            below = settings.pages[below, LOWER]
    return mask


@njit(cache=True)
def judge_plane(device, code, kind, die, plane, slot, page, src_block, src_page, settings):
    """Mask of the rules of what plane and die were doing before; blocks of a plane are compared by slot."""
    mask, state = 0, device.planes[plane]
    on_line = kind == PROGRAM and slot == state[LINE_SLOT] and settings.pages[page, LINE_OF] == state[LINE]
    if settings.one_shot and state[LINE] >= 0 and not on_line:
        mask |= WL_ORDER
    if settings.copyback and code == COPYBACK_PROGRAM:
        held_block, held_page = state[REGISTER_BLOCK], state[REGISTER_PAGE]
        other = (src_block != -1 and src_block != held_block) or (src_page != -1 and src_page != held_page)
        if held_page < 0 or other or (settings.parity and held_page % 2 != page % 2):
            mask |= COPYBACK_PLANE
    if settings.cache:
        here = state[CHAIN_SLOT] == slot
        if state[CHAIN] == CACHE_PROGRAM:
            continues = here and code in (OP_PROGRAM, CACHE_PROGRAM)
        else:
            continues = code != CACHE_READ or (here and state[CHAIN] >= 0)
        mask |= 0 if continues else CACHE_SEQ
    if settings.retry and device.dies[die, RETRY_LEVEL] > 0:
        failed = device.dies[die, FAILED_SLOT] == slot and device.dies[die, FAILED_PAGE] == page
        mask |= 0 if kind == READ and failed else READ_RETRY
    return mask


@njit(cache=True)
def apply_base(blocks, kind, slot, page, base, limits):
    if kind == ERASE:
        blocks.known[0, slot], blocks.last[0, slot] = True, -1
        blocks.erase_count[0, slot] += 1
        if blocks.row[0, slot] >= 0:
            blocks.row[0, slot] = -2 - blocks.row[0, slot]
    elif kind == PROGRAM and blocks.known[0, slot]:
        last = blocks.last[0, slot]
        if program_acts(base, page, last, limits):
            if blocks.row[0, slot] < 0 and page == last + 1:
                blocks.last[0, slot] = page
            else:
                program_page(blocks, 0, slot, page, times_programmed(blocks, slot, page), limits)


@njit(cache=True)
def leave_behind(blocks, device, code, kind, die, plane, slot, block, page, now, mode, status, settings):
    """What an array command leaves behind beside the pages."""
    state = device.planes[plane]
    if kind == ERASE:
        device.blocks[slot, READS], device.blocks[slot, OPENED] = 0, LONG_AGO
        device.blocks[slot, BLOCK_MODE], device.blocks[slot, PARTIAL] = mode, 0
    elif kind == READ:
        device.blocks[slot, READS] += blocks.known[0, slot]
        device.dies[die, FAILED_SLOT], device.dies[die, FAILED_PAGE] = slot if status == 1 else -1, page
    elif blocks.last[0, slot] >= 0 and device.blocks[slot, OPENED] == LONG_AGO:
        device.blocks[slot, OPENED] = now
    if settings.timed:
        occupy(device, kind, die, plane, slot, page, now, settings)
    state[REGISTER_BLOCK] = block if code == COPYBACK_READ else -1
    state[REGISTER_PAGE] = page if code == COPYBACK_READ else -1
    state[CHAIN] = code if code in (OP_READ, CACHE_READ, CACHE_PROGRAM) else -1
    state[CHAIN_SLOT] = slot
    unfinished = kind == PROGRAM and not settings.pages[page, ENDS_LINE]
    state[LINE], state[LINE_SLOT] = settings.pages[page, LINE_OF] if unfinished else -1, slot


@njit(cache=True)
def occupy(device, kind, die, plane, slot, page, now, settings):
    state = device.planes[plane]
    if kind == ERASE:
        time = settings.erase_ns
    else:
        time = settings.pages[page, PROGRAM_NS] if kind == PROGRAM else settings.pages[page, READ_NS]
    state[FREE_AT] = now + time
    state[JOB] = NO_JOB
    if kind != READ:
        state[JOB], state[JOB_SLOT], state[JOB_PAGE], state[JOB_END] = kind, slot, page, now + time
        if not any_suspended(device, die * settings.planes, (die + 1) * settings.planes):
            device.dies[die, SUSPENDS] = 0


@njit(cache=True)
def check_device(op, slots, pages, begin, blocks, device, stopped, limits, settings, columns, out):
    """As `kernels.check_base`, for one trace (1, n) under all rules.

    Returns:
        The position reached: n when done, less where no row of `counts` is left.
    """
    keep = limits.ignore or limits.stop
    for i in range(begin, op.shape[1]):
        if blocks.used[0] == blocks.counts.shape[0]:
            return i
        out.mask[0, i], out.last[0, i], out.flags[0, i] = 0, -1, 0
        code, slot, page, now = op[0, i], np.int64(slots[0, i]), np.int64(pages[0, i]), columns.t_ns[i]
        kind = KINDS[code] if 0 <= code < NUM_OPS else UNKNOWN
        if kind == UNKNOWN or slot < 0 or (PROGRAM <= kind <= READ and not 0 <= page < limits.pages):
            out.mask[0, i] = 0 if stopped[0] else ADDR_RANGE
            stopped[0] |= limits.stop
            continue
        plane = slot // settings.blocks
        die = plane // settings.planes
        if kind > READ:
            if not stopped[0]:
                mask = control(blocks, device, code, die, plane, page, now, keep, settings)
                out.mask[0, i] = mask
                stopped[0] |= limits.stop and mask & VIOLATIONS != 0
            continue

        page = page if kind != ERASE else 0
        known, last = blocks.known[0, slot], blocks.last[0, slot]
        count = times_programmed(blocks, slot, page) if kind != ERASE else 0
        flags = (KNOWN if known else 0) | (PAGE_PROGRAMMED if count > 0 else 0)
        block, mode = slot % settings.blocks, columns.mode[i]
        out.last[0, i] = last
        group = columns.group[i]
        joined = group >= 0 and group == device.group[GROUP]
        mask = 0
        if joined:
            mask = join_group(device, code, kind, die, plane % settings.planes, block, page, settings)
        else:
            device.group[GROUP], device.group[GROUP_OP], device.group[GROUP_DIE] = group, code, die
            device.group[GROUP_BLOCK], device.group[GROUP_PAGE], device.group[GROUP_REFUSED] = block, page, 0
            device.group[GROUP_PLANES] = 1 << (plane % settings.planes)
        refused = 0
        if settings.busy and refused_as_busy(device, kind, die, plane, now, joined, settings):
            refused |= BUSY
        if settings.suspend and disturbs_suspended(device, kind, die, slot, page, settings):
            refused |= SUSPEND_STATE
        mask |= refused
        if not refused:
            base = 0
            mark_read = code == OP_READ and not known and settings.bad[slot] and settings.pages[page, MARK]
            if not mark_read:
                mask |= BAD_BLOCK if settings.bad[slot] else 0
                if device.blocks[slot, PARTIAL] and kind != ERASE:
                    mask |= PARTIAL_ERASE
                elif kind != ERASE and not known and not limits.strict_start:
                    flags |= INDETERMINATE
                elif kind == PROGRAM:
                    base = judge_program(known, last, count, page, limits)
                elif kind == READ:
                    base = judge_read(known, last, count, page, limits)
            mask |= base | judge_wear(blocks, device, kind, slot, page, now, mode, limits, settings)
            source = columns.src_block[i], columns.src_page[i]
            mask |= judge_plane(device, code, kind, die, plane, slot, page, source[0], source[1], settings)
            if not stopped[0] and not (keep and mask & VIOLATIONS):
                apply_base(blocks, kind, slot, page, base, limits)
                status = columns.status[i]
                leave_behind(blocks, device, code, kind, die, plane, slot, block, page, now, mode, status, settings)
        out.flags[0, i] = flags
        if not stopped[0]:
            out.mask[0, i] = mask
            stopped[0] |= limits.stop and mask & VIOLATIONS != 0
    return op.shape[1]

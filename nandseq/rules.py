"""Which commands of a trace break which rule: the public entry of the rule engine.

Base rules (nandseq specification, section 3) run in a compiled kernel (`kernels`), rules that couple blocks or need
time (section 7) in a second one (`device`). The plain-Python `reference` gives the same answers.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from common.errors import UserError
from nandseq.codes import KIND, VIOLATIONS, Flag, Kind, Op, Rule
from nandseq.device import Columns, check_device, initial_device, settings_of
from nandseq.kernels import Verdict, check_base, limits_of
from nandseq.ops import ABSENT, TYPES, Ops, as_type
from nandseq.profiles import Profile
from nandseq.state import State, geometry

LAST_WITH_BLOCK = int(Op.CACHE_PROGRAM)
BY_DIE = tuple(int(op) for op in Op if KIND[op] in (Kind.DIE, Kind.NOWHERE))
NOWHERE = tuple(int(op) for op in Op if KIND[op] == Kind.NOWHERE)


@dataclass
class Verdicts:
    """What the rules say of each command; arrays of n commands, or (N, L) for many sequences.

    Attributes:
        mask: uint32, bit r set where rule r is broken, warnings included.
        last: int32, highest programmed page of the block before the command, -1 if none.
        flags: uint8, bits of `Flag`.
    """

    mask: np.ndarray
    last: np.ndarray
    flags: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Verdicts":
        return cls(np.empty(shape, np.uint32), np.empty(shape, np.int32), np.empty(shape, np.uint8))

    @property
    def violated(self) -> np.ndarray:
        """Whether the command breaks a rule; warnings do not count."""
        return self.mask & np.uint32(VIOLATIONS) != 0

    @property
    def primary(self) -> np.ndarray:
        """uint8, the smallest code of a broken rule, 0 for none."""
        broken = self.mask & np.uint32(VIOLATIONS)
        lowest = broken & (~broken + np.uint32(1))
        return np.where(broken, np.bitwise_count(lowest - np.uint32(1)), 0).astype(np.uint8)

    @property
    def known(self) -> np.ndarray:
        return self.flags & Flag.KNOWN != 0

    @property
    def page_programmed(self) -> np.ndarray:
        return self.flags & Flag.PAGE_PROGRAMMED != 0

    @property
    def indeterminate(self) -> np.ndarray:
        """Whether nothing can be said, as no erase of the block was seen and `initial_state` is not strict."""
        return self.flags & Flag.INDETERMINATE != 0


def check(ops: Ops, profile: Profile, state: State | None = None) -> Verdicts:
    """Verdicts of one trace.

    Args:
        state: where the trace begins, advanced in place; None is the profile's initial state. Checking a trace in
            chunks with one state gives what checking it whole gives.

    Raises:
        UserError: if `state` has another geometry, or a rule needs a column that the trace lacks.
    """
    state = State.initial(profile) if state is None else state
    if state.geometry != geometry(profile) or state.blocks.last.shape != (1, profile.num_blocks):
        raise UserError(f"state of geometry {state.geometry}; profile {profile.name} has {geometry(profile)}.")
    columns = ops.op[None], block_slots(ops, profile)[None], ops.page[None]
    verdicts = _run_device(*columns, ops, profile, state) if profile.extended else _run(*columns, profile, state)
    return Verdicts(verdicts.mask[0], verdicts.last[0], verdicts.flags[0])


def check_batch(
    op: np.ndarray, slot: np.ndarray, page: np.ndarray, profile: Profile, state: State | None = None
) -> Verdicts:
    """Verdicts of N sequences of L commands under the base rules.

    Args:
        op, slot, page: (N, L) integers; `slot` numbers the blocks of each sequence from 0.
        state: from `State.batch`, advanced in place; None starts each sequence at the profile's initial state, with
            as many slots as the largest number needs.

    Raises:
        UserError: if the profile has rules that need more than a slot, or shapes disagree.
    """
    if profile.extended:
        raise UserError(f"profile {profile.name}: its extended rules need addresses; check each trace with `check`.")
    if not op.shape == slot.shape == page.shape or op.ndim != 2:
        raise UserError(f"op, slot, page: shapes {op.shape}, {slot.shape}, {page.shape}; all must be (N, L).")
    if state is None:
        state = State.batch(profile, len(op), max(int(slot.max(initial=0)) + 1, 1))
    if state.geometry[3] != profile.pages or len(state.blocks.last) != len(op):
        raise UserError(f"state of {len(state.blocks.last)} sequences for {len(op)}, or of other pages per block.")
    return _run(as_type(op, np.int8), as_type(slot, np.int32), as_type(page, np.int32), profile, state)


def _run(op: np.ndarray, slot: np.ndarray, page: np.ndarray, profile: Profile, state: State) -> Verdicts:
    verdicts, limits = Verdicts.empty(op.shape), limits_of(profile)
    out = Verdict(verdicts.mask, verdicts.last, verdicts.flags)
    position = check_base(op, slot, page, 0, state.blocks, state.stopped, limits, out)
    while position < op.size:
        state.grow()
        position = check_base(op, slot, page, position, state.blocks, state.stopped, limits, out)
    return verdicts


def _run_device(
    op: np.ndarray, slot: np.ndarray, page: np.ndarray, ops: Ops, profile: Profile, state: State
) -> Verdicts:
    if state.device is None:
        state.device = initial_device(profile)
    verdicts, limits, settings = Verdicts.empty(op.shape), limits_of(profile), settings_of(profile)
    columns, out = _all_columns(ops, profile), Verdict(verdicts.mask, verdicts.last, verdicts.flags)
    position = 0
    while position < op.size:
        position = check_device(
            op, slot, page, position, state.blocks, state.device, state.stopped, limits, settings, columns, out
        )
        if position < op.size:
            state.grow()
    return verdicts


def _all_columns(ops: Ops, profile: Profile) -> Columns:
    for name, needed in (("t_ns", profile.timed), ("mode", profile.mode), ("status", profile.read_retry)):
        if needed and getattr(ops, name) is None:
            raise UserError(f"profile {profile.name} has rules that need the column {name}; add it or switch them off.")
    columns = {name: getattr(ops, name) for name in Columns._fields}
    absent = {"t_ns": np.zeros(len(ops), np.int64)}
    for name, column in columns.items():
        if column is None:
            columns[name] = absent.get(name, np.full(len(ops), ABSENT, TYPES.get(name, np.int32)))
    return Columns(**columns)


def block_slots(ops: Ops, profile: Profile) -> np.ndarray:
    """(n,) int32 number of each command's block among all blocks, -1 outside the geometry.

    Commands that address a whole die get its first block, those without an address block 0.
    """
    slots = np.empty(len(ops), np.int32)
    _flatten(ops.op, ops.die, ops.plane, ops.block, profile.dies, profile.planes, profile.blocks, slots)
    return slots


@njit(cache=True)
def _flatten(op, die, plane, block, dies, planes, blocks, slots):
    for i in range(op.size):
        d, p, b = die[i], plane[i], block[i]
        if op[i] > LAST_WITH_BLOCK:
            d = 0 if op[i] in NOWHERE else d
            p = 0 if op[i] in BY_DIE else p
            b = 0
        inside = 0 <= d < dies and 0 <= p < planes and 0 <= b < blocks
        slots[i] = (d * planes + p) * blocks + b if inside else -1


def expected_pages(op: np.ndarray, verdicts: Verdicts, profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """First and last page that each command could have named lawfully; first > last where there is none.

    Programs: the page after `last`. Reads: the closed interval of ages that are legal; pages skipped by a hop lie in it
    all the same. Other commands: none.
    """
    kinds = np.array([*(KIND[each] for each in Op), Kind.NOWHERE])[np.asarray(op)]  # -1 finds the last
    last, next_page = verdicts.last, verdicts.last + 1
    oldest = np.maximum(last - profile.read_offset_limit + 1, 0) if profile.read_offset_limit else 0 * last
    newest = np.where(last < profile.pages - 1, last - profile.min_read_distance, last)
    first = np.where(kinds == Kind.PROGRAM, next_page, np.where(kinds == Kind.READ, oldest, 1))
    final = np.where(kinds == Kind.PROGRAM, next_page, np.where(kinds == Kind.READ, newest, 0))
    final = np.where(final < profile.pages, final, 0)
    return np.where(verdicts.known, first, 1), np.where(verdicts.known, final, 0)


def rule_name(rule: int, profile: Profile) -> str:
    """Name of a rule as reports print it."""
    if rule == Rule.REPROGRAM and profile.programs_per_page > 1:
        return "NOP_EXCEEDED"
    return Rule(rule).name

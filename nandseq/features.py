"""What a network is told of each command (nandseq specification, section 5).

Feature sets are named, so that a config and a result say what was given away: `raw`, `abs` and `delta` follow from the
commands alone, `state` takes the block's state from the rule engine, `oracle` the verdict itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from common.errors import UserError
from nandseq.codes import Op
from nandseq.profiles import Profile
from nandseq.rules import Verdicts, check_batch
from nandseq.state import State

FeatureSet = Literal["raw", "abs", "delta", "state", "oracle"]
LEAKS = {"raw": "nothing", "abs": "nothing", "delta": "nothing", "state": "block state", "oracle": "verdict"}
NUM_OPS = 3
NUM_SLOTS = 16  # blocks told apart in one sequence; further ones share the last number
CLIP = 16  # page differences are told apart in [-16, 15]
NUM_DELTAS = 2 * CLIP
EXACT_PAGES = 128  # from here on pages are told apart by powers of two only
NUM_PAGES = EXACT_PAGES + 10
NUM_GAPS = 16
NUM_TIMES = 32


class Commands(Protocol):
    """The columns of N sequences of L commands that features are made of.

    Attributes:
        op, die, plane, block, page: (N, L) integers.
        slot: (N, L) the sequence's blocks, numbered in the order of first appearance.
        t_ns: (N, L) int64 issue time, or None.
        initial_last: (N, S) last page programmed in each slot before the first command, -1 for none; None where a
            sequence begins as the profile says.
    """

    op: np.ndarray
    die: np.ndarray
    plane: np.ndarray
    block: np.ndarray
    page: np.ndarray
    slot: np.ndarray
    t_ns: np.ndarray | None
    initial_last: np.ndarray | None


@dataclass
class Features:
    """Features of N sequences of L commands.

    Attributes:
        categories: (N, L, K) int16, column k in [0, sizes[k]).
        numbers: (N, L, D) float32, about [0, 1].
        names: K names of the categories, then D names of the numbers.
        sizes: K.
    """

    categories: np.ndarray
    numbers: np.ndarray
    names: list[str]
    sizes: list[int]


Columns = dict[str, tuple[np.ndarray, int]]  # values (N, L) and how many there can be; 0 for a number


def compute_features(commands: Commands, sets: Sequence[FeatureSet], profile: Profile) -> Features:
    """The columns of all `sets`, each once.

    Raises:
        UserError: for no or an unknown set, or commands other than erase, program and read.
    """
    if not sets or not set(sets) <= MAKERS.keys():
        raise UserError(f"features={list(sets)}: choose from {', '.join(MAKERS)}.")
    other = commands.op[(commands.op < 0) | (commands.op >= NUM_OPS)]
    if other.size:
        raise UserError(f"features: op {other[0]} is none of erase (0), program (1) and read (2); leave such rows out.")
    columns: Columns = {}
    for name in sets:
        columns |= MAKERS[name](commands, profile)
    categories = {name: column for name, column in columns.items() if column[1]}
    numbers = [values for values, size in columns.values() if not size]
    shape = commands.op.shape
    return Features(
        np.stack([values.astype(np.int16) for values, _ in categories.values()], -1),
        np.stack(numbers, -1).astype(np.float32) if numbers else np.zeros((*shape, 0), np.float32),
        [*categories, *(name for name in columns if name not in categories)],
        [size for _, size in categories.values()],
    )


def leak(sets: Sequence[FeatureSet]) -> str:
    """The most that the sets give away: "nothing", "block state" or "verdict"."""
    return max((LEAKS[name] for name in sets), key=["nothing", "block state", "verdict"].index)


def start_state(commands: Commands, profile: Profile) -> State | None:
    """The state before the first command, or None where the profile's initial one holds."""
    last = commands.initial_last
    return None if last is None else State.batch(profile, *last.shape, last)


def block_order(slot: np.ndarray) -> np.ndarray:
    """(N, L) order that brings each block's commands together and keeps them in time: `take_along_axis(x, order, 1)`.

    The way back is `put_along_axis(y, order, x, 1)`.
    """
    return np.argsort(slot, axis=1, kind="stable")


def _raw(commands: Commands, profile: Profile) -> Columns:
    return {
        "op": (commands.op, NUM_OPS),
        "die": (commands.die, profile.dies),
        "plane": (commands.plane, profile.planes),
        "block": (commands.block / max(profile.blocks - 1, 1), 0),
        "page": (commands.page / max(profile.pages - 1, 1), 0),
    }


def _abs(commands: Commands, profile: Profile) -> Columns:
    page = commands.page
    # frexp gives the exponent e of 2^(e-1) ≤ page < 2^e: one number per power of two
    coarse = EXACT_PAGES + np.frexp(page)[1] - EXACT_PAGES.bit_length()
    number = np.where(page < EXACT_PAGES, page, np.minimum(coarse, NUM_PAGES - 1))
    return _who(commands) | {"page_id": (number, NUM_PAGES)}


def _delta(commands: Commands, profile: Profile) -> Columns:
    """Page steps within a block, an erase counting as page -1; commands since the block's last one; time since."""
    order = block_order(commands.slot)
    first = _first_of_block(np.take_along_axis(commands.slot, order, 1))
    page = np.take_along_axis(np.where(commands.op == Op.ERASE, -1, commands.page), order, 1)
    step = _clip(np.diff(page, axis=1, prepend=0))
    gap = np.frexp(np.diff(order, axis=1, prepend=0))[1]
    delta = np.empty((2, *order.shape), np.int16)
    np.put_along_axis(delta[0], order, np.where(first, NUM_DELTAS, step), 1)
    np.put_along_axis(delta[1], order, np.where(first, 0, np.minimum(gap, NUM_GAPS - 1)), 1)
    columns = {"page_step": (delta[0], NUM_DELTAS + 1), "ops_since": (delta[1], NUM_GAPS)}
    return _who(commands) | columns | {"time_step": (_time_step(commands), NUM_TIMES)}


def _state(commands: Commands, profile: Profile) -> Columns:
    """Page relative to the newest one, whether the block is known, and what the sequence did to the block so far."""
    verdicts = _verdicts(commands, profile)
    ahead = np.where(commands.op == Op.ERASE, 0, commands.page - verdicts.last)
    columns = {"page_ahead": (_clip(ahead), NUM_DELTAS), "known": (verdicts.known, 2)}
    return _who(commands) | columns | {f"{op.name.lower()}s": (_times(commands, op), 0) for op in list(Op)[:NUM_OPS]}


def _oracle(commands: Commands, profile: Profile) -> Columns:
    """The first model's input: address and four bits that hold the verdict; a block not seen yet counts as erased."""
    verdicts, op, page = _verdicts(commands, profile), commands.op, commands.page
    written = verdicts.page_programmed
    age = verdicts.last - page
    bits = {
        "block_is_erased": verdicts.last == -1,
        "page_is_written": written,
        "is_next_page": (op == Op.PROGRAM) & (age == -1),
        "is_read_in_window": (op == Op.READ) & written & (age < profile.read_offset_limit),
    }
    return _raw(commands, profile) | {name: (bit, 0) for name, bit in bits.items()}


MAKERS: Mapping[str, Callable[[Commands, Profile], Columns]] = {
    "raw": _raw, "abs": _abs, "delta": _delta, "state": _state, "oracle": _oracle,
}  # fmt: skip


def _who(commands: Commands) -> Columns:
    return {"op": (commands.op, NUM_OPS), "slot": (np.minimum(commands.slot, NUM_SLOTS - 1), NUM_SLOTS)}


def _clip(difference: np.ndarray) -> np.ndarray:
    """Page differences as numbers in [0, 32)."""
    return np.clip(difference, -CLIP, CLIP - 1) + CLIP


def _first_of_block(grouped_slot: np.ndarray) -> np.ndarray:
    return np.diff(grouped_slot, axis=1, prepend=-1) != 0


def _time_step(commands: Commands) -> np.ndarray:
    if commands.t_ns is None:
        return np.zeros(commands.op.shape, np.int16)
    step = np.diff(commands.t_ns, axis=1, prepend=commands.t_ns[:, :1])
    return np.clip(np.frexp(step.astype(np.float64))[1], 0, NUM_TIMES - 1)


def _times(commands: Commands, op: Op) -> np.ndarray:
    """How often the sequence has done `op` to the block before, on a logarithmic scale: 0 never, 1 about 50 times."""
    order = block_order(commands.slot)
    done = np.take_along_axis(commands.op == op, order, 1)
    before = np.cumsum(done, 1) - done
    first = _first_of_block(np.take_along_axis(commands.slot, order, 1))
    before -= np.maximum.accumulate(np.where(first, before, 0), 1)  # what earlier blocks had; never decreases
    times = np.empty(order.shape, np.float32)
    np.put_along_axis(times, order, np.log1p(before).astype(np.float32) / 4, 1)
    return times


def _verdicts(commands: Commands, profile: Profile) -> Verdicts:
    return check_batch(commands.op, commands.slot, commands.page, profile, start_state(commands, profile))

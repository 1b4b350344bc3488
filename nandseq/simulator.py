"""Labelled command sequences: scenarios, faults, balance (nandseq specification, sections 4 and 8).

`make_sequences` gives arrays for training and tests, `NANDSimulator` one sequence at a time. Three choices are made by
counting, never by chance: how many sequences have which fault, how many of each are hard, and which scenario they come
from, so that none of these gives another away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import cycle
from typing import Annotated, Literal, get_args

import numpy as np
from numba import njit
from pydantic import Field

from common.errors import UserError, nearest
from nandseq import corruption
from nandseq.codes import Op
from nandseq.corruption import COMPAT_NAMES, COMPAT_SHARES, VALID, Corruption
from nandseq.machines import MAX_BLOCKS, NAMES, Drawn
from nandseq.ops import Ops
from nandseq.profiles import Profile
from nandseq.rules import Verdicts, check_batch
from nandseq.scenarios import KINDS, MIXTURE, UNSEEN_MIXTURE, Compat, Scenario, Source
from nandseq.state import State

Stream = Literal["train", "val", "test", "long", "wide", "scenario", "late"]
STREAMS = get_args(Stream)
EXTRA_SETS = {
    "long": {"seq_len": 200},
    "wide": {"num_blocks": 8},
    "scenario": {"mixture": UNSEEN_MIXTURE},
    "late": {"start_page": 1000},
}
CLASS_SHARES = dict.fromkeys(COMPAT_NAMES, 0.25)
MAX_DRAWS = 300
BATCH = 2048  # sequences drawn at once: few enough for the caches and for the memory that hops take
STEP = np.uint64(0xD1342543DE82EF95)  # between the keys of two draws; unlike the random numbers' own step
LOWEST = {"count": 1, "seed": 0, "hop_max": 2}
CHUNK = 256  # sequences that `NANDSimulator` makes at once


@dataclass
class Sequences:
    """N sequences of L commands on up to S blocks each.

    Attributes:
        op: (N, L) int8 numbers of `Op`.
        slot: (N, L) int8 block within the sequence, numbered in the order of first appearance.
        page: (N, L) int32, 0 for erase.
        address: (N, S, 3) int32 die, plane and block of each slot; all differ.
        label: (N,) int8 number in `names`: what was done to the sequence.
        names: of the classes, `valid` first.
        bad_index: (N,) int32 first bad command, -1 where all are legal.
        rule: (N,) uint8 `Rule` that the first bad command breaks, 0 for none.
        codes: (N, L) uint8 primary rule broken by each command, 0 for none.
        hard: (N,) bool, close to the border: see `make_sequences`.
        offset: (N,) int32 pages between the bad command's page and the nearest legal one; 0 where that has no meaning.
        scenario: (N,) int8 number in `machines.NAMES` of the one that runs first.
        streams: (N,) int8 scenarios that run at once.
        traits: (N,) uint8 bits of `machines.TRAITS`, which the sequence had before it was corrupted.
        initial_last: (N, S) int32 newest page of each slot before the first command; None where the profile's initial
            state holds.
        t_ns: (N, L) int64 issue times at which no command waits for another; None if the profile has no times.
    """

    op: np.ndarray
    slot: np.ndarray
    page: np.ndarray
    address: np.ndarray
    label: np.ndarray
    names: tuple[str, ...]
    bad_index: np.ndarray
    rule: np.ndarray
    codes: np.ndarray
    hard: np.ndarray
    offset: np.ndarray
    scenario: np.ndarray
    streams: np.ndarray
    traits: np.ndarray
    initial_last: np.ndarray | None = None
    t_ns: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.op)

    def __getitem__(self, rows: slice | np.ndarray) -> "Sequences":
        """Some of the sequences."""
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        return Sequences(**{key: each[rows] if isinstance(each, np.ndarray) else each for key, each in columns.items()})

    @property
    def die(self) -> np.ndarray:
        """(N, L) int32."""
        return self._field(0)

    @property
    def plane(self) -> np.ndarray:
        """(N, L) int32."""
        return self._field(1)

    @property
    def block(self) -> np.ndarray:
        """(N, L) int32 block within the plane."""
        return self._field(2)

    def _field(self, number: int) -> np.ndarray:
        return np.take_along_axis(self.address[:, :, number], self.slot.astype(np.intp), 1)

    def trace(self, number: int) -> Ops:
        """One sequence as a trace."""
        address = self.address[number][self.slot[number]].T
        return Ops(self.op[number], *address, self.page[number], None if self.t_ns is None else self.t_ns[number])

    def check(self, profile: Profile) -> Verdicts:
        """Verdicts of all commands."""
        last = self.initial_last
        return check_batch(
            self.op, self.slot, self.page, profile, None if last is None else State.batch(profile, *last.shape, last)
        )


def make_sequences(
    count: Annotated[int, Field(ge=1)],
    profile: str | Mapping | Profile = "seed",
    mixture: Mapping[str, float] | None = None,
    class_shares: Mapping[str, float] | None = None,
    seq_len: Annotated[int, Field(ge=2)] = 50,
    num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)] = 3,
    seed: Annotated[int, Field(ge=0)] = 0,
    stream: Stream = "train",
    max_streams: Annotated[int, Field(ge=1)] = 2,
    hard_share: Annotated[float, Field(ge=0, le=1)] = 1 / 3,
    hop_max: Annotated[int, Field(ge=2)] = 3,
    repair: bool = True,
    start_page: Annotated[int, Field(ge=0)] = 0,
    parameters: tuple[Scenario, ...] = (),
) -> Sequences:
    """Labelled sequences, each class and each difficulty in exactly its share.

    A profile with `compat_update` gives the older generator's sequences and corruptions, with its wrong labels.

    Args:
        mixture: weight of each scenario; None is all but one that the stream `scenario` is made of. Within each class
            and difficulty every scenario has its share, too.
        class_shares: of `valid` and the corruptions, by name; None is equal shares of those of `CLASS_SHARES` that the
            profile has a rule for, or those of the older generator.
        stream: sequences of different streams come from different random numbers.
        max_streams: scenarios at once; each sequence draws a number up to that.
        hard_share: of sequences whose legal part has one of the traits that look illegal (a read of the oldest page
            allowed, an erase and start over, blocks written in turn), and whose fault is off by one page. The faults of
            all others are off by more.
        hop_max: pages that a hop skips at most.
        repair: whether the commands after a fault are moved so that it is the only one.
        start_page: if positive, all blocks start with at least so many pages; see `initial_last`.
        parameters: scenarios with parameters of their own.

    Raises:
        UserError: for unknown names, impossible settings, or a fault that the profile's rules or so short a sequence
            do not admit.
    """
    _check_numbers(stream, hard_share, {"count": count, "seed": seed, "hop_max": hop_max})
    profile = Profile.load(profile)
    older = profile.compat_update
    if older:
        hard_share, max_streams = 0.0, 1
    mixture = _mixture(mixture, stream, older, num_blocks)
    source = Source(profile, mixture, seq_len, num_blocks, max_streams, start_page, parameters)
    names, shares = _classes(class_shares, profile)
    if older and seq_len <= num_blocks:
        raise UserError(f"seq_len={seq_len}: profile {profile.name} erases num_blocks={num_blocks} first; give more.")
    if start_page and "no_erase" in names:
        raise UserError("class_shares.no_erase: with start_page no block needs an erase; leave the class out.")
    rng = np.random.default_rng([seed, STREAMS.index(stream)])
    rows = _count_out(rng, count, names, shares, hard_share, source.weights)
    drawn, made, codes = _draw(rng, rows, source, hop_max, repair)
    return _finish(rng, rows, names, source, drawn, made, codes)


def _check_numbers(stream: str, hard_share: float, numbers: dict[str, int]) -> None:
    if stream not in STREAMS:
        raise UserError(f"stream: {stream}: unknown.{nearest(stream, STREAMS)} Known: {', '.join(STREAMS)}.")
    if not 0 <= hard_share <= 1:
        raise UserError(f"hard_share={hard_share}: give a share in [0, 1].")
    for name, number in numbers.items():
        if number < LOWEST[name]:
            raise UserError(f"{name}={number}: give {LOWEST[name]} or more.")


def _mixture(mixture: Mapping[str, float] | None, stream: Stream, older: bool, num_blocks: int) -> Mapping[str, float]:
    if older and mixture is not None and set(mixture) != {Compat.name}:
        raise UserError("mixture: a profile with compat_update has the older generator's sequences only; leave it out.")
    if older:
        return {Compat.name: 1.0}
    if mixture is not None:
        return mixture
    mixture = UNSEEN_MIXTURE if stream == "scenario" else MIXTURE
    return {name: weight for name, weight in mixture.items() if KINDS[name].min_blocks <= num_blocks}


def _classes(shares: Mapping[str, float] | None, profile: Profile) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes, `valid` first, and the share of each."""
    known = COMPAT_NAMES if profile.compat_update else corruption.NAMES
    admitted = (VALID, *corruption.admitted(profile))
    if shares is None:
        shares = COMPAT_SHARES if profile.compat_update else {name: 1.0 for name in CLASS_SHARES if name in admitted}
    for name in shares:
        if name not in known:
            raise UserError(f"class_shares: {name}: unknown.{nearest(name, known)} Known: {', '.join(known)}.")
        if name not in admitted and shares[name]:
            rule = corruption.STRATEGIES[name].name
            raise UserError(f"class_shares: {name}: profile {profile.name} has no rule {rule}; leave the class out.")
    names = (VALID, *(name for name in shares if name != VALID))
    values = np.array([shares.get(name, 0.0) for name in names], float)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.sum() > 0):
        raise UserError(f"class_shares: {dict(shares)}; give shares of 0 or more, one of them above 0.")
    return names, values / values.sum()


@dataclass
class Rows:
    """What N sequences shall be: number of the class, of the corruption and of the scenario; whether hard."""

    label: np.ndarray
    strategy: np.ndarray
    scenario: np.ndarray
    hard: np.ndarray

    def take(self, index: np.ndarray) -> "Rows":
        return Rows(self.label[index], self.strategy[index], self.scenario[index], self.hard[index])


def split(count: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers that add up to `count`, each within 1 of its share (largest remainders)."""
    exact = shares * count
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: count - counts.sum()]] += 1
    return counts


def _count_out(
    rng: np.random.Generator,
    count: int,
    names: tuple[str, ...],
    shares: np.ndarray,
    hard_share: float,
    weights: np.ndarray,
) -> Rows:
    """Every class in its share; in each the share of hard ones; in each of those, every scenario in its weight."""
    parts = [
        (label, scenario, hard, number)
        for label, of_class in enumerate(split(count, shares))
        for hard, of_both in enumerate(split(of_class, np.array([1 - hard_share, hard_share])))
        for scenario, number in enumerate(split(of_both, weights))
    ]
    *kinds, numbers = np.array(parts).T
    label, scenario, hard = rng.permutation(np.repeat(kinds, numbers, axis=1), axis=1)
    return Rows(label, np.array([corruption.NAMES.index(name) for name in names])[label], scenario, hard.astype(bool))


def _draw(
    rng: np.random.Generator, rows: Rows, source: Source, hop_max: int, repair: bool
) -> tuple[Drawn, Corruption, np.ndarray]:
    """Sequences that are what `rows` ask for, as the rule engine confirms; those that are not are drawn again."""
    count = len(rows.label)
    luck = rng.integers(0, 2**64, (2, count), np.uint64)
    made = Corruption(np.empty(count, np.int32), np.empty(count, np.int32))
    done = source.blank(count), made, np.empty((count, source.seq_len), np.uint8)
    pending, draws = np.arange(count), np.zeros(count, np.int64)
    while len(pending) and draws[pending[0]] < MAX_DRAWS:
        now, later = pending[:BATCH], pending[BATCH:]
        keys = luck[:, now] + draws[now].astype(np.uint64) * STEP
        good, *parts = _attempt(keys, rows.take(now), source, hop_max, repair)
        for column, part in zip(_columns(*done), _columns(*parts), strict=True):
            column[now[good]] = part[good]
        draws[now] += 1
        pending = np.concatenate([later, now[~good]])
    if not len(pending):
        return done
    worst = rows.strategy[pending[0]], rows.scenario[pending[0]]
    raise UserError(
        f"{corruption.NAMES[worst[0]]} in scenario {NAMES[worst[1]]}: none in {MAX_DRAWS} draws; raise "
        f"seq_len={source.seq_len}, or leave the class or the scenario out."
    )


def _columns(drawn: Drawn, made: Corruption, codes: np.ndarray) -> list[np.ndarray]:
    return [*drawn, made.target, made.offset, codes]


def _attempt(
    keys: np.ndarray, rows: Rows, source: Source, hop_max: int, repair: bool
) -> tuple[np.ndarray, Drawn, Corruption, np.ndarray]:
    """One sequence for each row, and whether it is what the row asks for.

    Args:
        keys: (2, N) uint64, of the sequence and of the corruption.
    """
    profile, strategy = source.profile, rows.strategy
    drawn = source.draw(keys[0], rows.scenario, rows.hard)
    if profile.compat_update:
        made = corruption.corrupt_compat(drawn, strategy, keys[1], profile)
    else:
        made = corruption.corrupt(drawn, strategy, rows.hard, keys[1], profile, hop_max, repair)
    state = State.batch(profile, *drawn.start.shape, drawn.start) if source.start_page else None
    codes = check_batch(drawn.op, drawn.block, drawn.page, profile, state).primary
    if profile.compat_update:
        good = (strategy == 0) | (made.target >= 0)
    else:
        good = corruption.confirm(made, strategy, codes, repair)
    good &= ~rows.hard | (drawn.traits > 0)
    return good, drawn, made, codes


def _finish(
    rng: np.random.Generator,
    rows: Rows,
    names: tuple[str, ...],
    source: Source,
    drawn: Drawn,
    made: Corruption,
    codes: np.ndarray,
) -> Sequences:
    slot, order = np.empty(drawn.op.shape, np.int8), np.empty(drawn.start.shape, np.int64)
    _number_slots(drawn.block, slot, order)
    bad_index = np.where(codes.any(1), (codes > 0).argmax(1), -1).astype(np.int32)
    return Sequences(
        drawn.op,
        slot,
        drawn.page,
        _addresses(rng, rows.scenario, source),
        rows.label.astype(np.int8),
        names,
        bad_index,
        rule=np.where(bad_index < 0, 0, codes[np.arange(len(codes)), bad_index]).astype(np.uint8),
        codes=codes,
        hard=rows.hard,
        offset=made.offset,
        scenario=rows.scenario.astype(np.int8),
        streams=drawn.streams,
        traits=drawn.traits,
        initial_last=np.take_along_axis(drawn.start, order, 1) if source.start_page else None,
        t_ns=_issue_times(drawn.op, source.profile),
    )


@njit(cache=True)
def _number_slots(block, slot, order):
    """Number the blocks of each sequence by first appearance; those that never appear come last."""
    num_blocks = order.shape[1]
    number = np.empty(num_blocks, np.int64)
    for n in range(len(block)):
        number[:], used = -1, 0
        for i in range(block.shape[1]):
            b = block[n, i]
            if number[b] < 0:
                number[b], order[n, used] = used, b
                used += 1
            slot[n, i] = number[b]
        for b in range(num_blocks):
            if number[b] < 0:
                order[n, used] = b
                used += 1


def _addresses(rng: np.random.Generator, scenario: np.ndarray, source: Source) -> np.ndarray:
    """(N, S, 3) distinct blocks for each sequence, uniform among all, or among those of one plane where they must."""
    profile, shape = source.profile, (len(scenario), source.num_blocks)
    chosen = distinct(rng, *shape, profile.num_blocks)
    together = source.in_one_plane[scenario]
    if together.any():
        plane = rng.integers(0, profile.dies * profile.planes, shape[0])[:, None]
        inside = plane * profile.blocks + distinct(rng, *shape, profile.blocks)
        chosen = np.where(together[:, None], inside, chosen)
    return np.stack(np.unravel_index(chosen, (profile.dies, profile.planes, profile.blocks)), -1).astype(np.int32)


def distinct(rng: np.random.Generator, count: int, size: int, total: int) -> np.ndarray:
    """(count, size) numbers below `total`, distinct in each row (Floyd's sampling, then shuffled)."""
    chosen = np.empty((count, size), np.int64)
    for j, top in enumerate(range(total - size, total)):
        drawn = rng.integers(0, top + 1, count)
        taken = (chosen[:, :j] == drawn[:, None]).any(1)
        chosen[:, j] = np.where(taken, top, drawn)
    return rng.permuted(chosen, axis=1)


def _issue_times(op: np.ndarray, profile: Profile) -> np.ndarray | None:
    """(N, L) times at which each command has ended when the next one comes, but one that is suspended: half-way."""
    timing = profile.timing
    if timing is None:
        return None
    writing = max(timing.erase_ns, *timing.program_ns)
    reading, programming = max(timing.read_ns), max(timing.program_ns)
    times = {
        Op.ERASE: timing.erase_ns, Op.PROGRAM: programming, Op.READ: reading, Op.COPYBACK_READ: reading,
        Op.COPYBACK_PROGRAM: programming, Op.SUSPEND: timing.suspend_ns, Op.RESUME: writing,
    }  # fmt: skip
    lasting = np.array([times.get(kind, 0) for kind in Op])[op]
    interrupted = op[:, 1:] == Op.SUSPEND
    lasting[:, :-1][interrupted] = min(timing.program_ns) // 2
    return np.cumsum(lasting, 1) - lasting


class NANDSimulator:
    """One sequence at a time, as the founding roadmap calls it.

    Args:
        strategies: corruptions that `generate_invalid` takes in turn, so that each occurs equally often; None is the
            first three, as far as the profile has a rule for them.
        others: as in `make_sequences`.
    """

    def __init__(
        self,
        profile: str | Mapping | Profile = "seed",
        mixture: Mapping[str, float] | None = None,
        seq_len: Annotated[int, Field(ge=2)] = 50,
        num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)] = 3,
        seed: Annotated[int, Field(ge=0)] = 0,
        strategies: tuple[str, ...] | None = None,
    ):
        self.settings = {
            "profile": Profile.load(profile), "mixture": mixture, "seq_len": seq_len, "num_blocks": num_blocks
        }  # fmt: skip
        self.rng = np.random.default_rng(seed)
        admitted = corruption.admitted(self.settings["profile"])
        self.turns = cycle([name for name in COMPAT_NAMES if name in admitted] if strategies is None else strategies)
        self.ready: dict[str, list[Ops]] = {}

    def generate_valid(self) -> Ops:
        """A legal sequence."""
        return self._next(VALID)

    def generate_invalid(self, strategy: str | None = None) -> tuple[Ops, str]:
        """A sequence with a fault, and the name of its strategy; the next one in turn where none is asked for.

        With a profile of the older generator the sequence may be legal all the same.
        """
        name = next(self.turns) if strategy is None else strategy
        if name == VALID:
            raise UserError(f"generate_invalid: {VALID} is no corruption. Known: {', '.join(corruption.STRATEGIES)}.")
        return self._next(name), name

    def _next(self, name: str) -> Ops:
        if not self.ready.get(name):
            seed = int(self.rng.integers(2**63))
            made = make_sequences(CHUNK, class_shares={name: 1.0}, seed=seed, **self.settings)
            self.ready[name] = [made.trace(number) for number in range(CHUNK)]
        return self.ready[name].pop()

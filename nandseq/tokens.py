"""Command sequences as relative actions: the vocabulary of the generator, and which of its words the rules allow.

nandseq specification, section 9. An action names a slot, the model's handle on one of a few live blocks, and counts
pages from the block's newest one, so that no token depends on an address: `erase s`, `program s` (the page after the
newest), `read s age a` (a pages behind it), `open s` (the slot turns to a block not used before; no command), `end`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numba import njit
from torch import Tensor

from common.errors import UserError
from nandseq.codes import Op, Rule
from nandseq.profiles import Profile

ERASE, PROGRAM, READ = int(Op.ERASE), int(Op.PROGRAM), int(Op.READ)
OPEN, END = 3, 4  # kinds of token that stand for no command
PAD = -1
UNKNOWN = -2  # in place of a block's newest page: no erase was seen; an erased block has -1
FAULT_PROGRAMS, FAULT_READS, STALE_READS = (-2, -1, 0, 2, 3, 4), (1, 2, 3), 4


@dataclass(frozen=True)
class Vocabulary:
    """The V = S·(3 + A) + 1 tokens for S slots and reads of age 0 … A − 1, followed by F moves that break rules.

    The moves (programs and reads of other pages near the newest) are no words of the model: they are what a fault on
    demand is drawn from, beside the tokens that are illegal at that moment.

    Attributes:
        kind: (V + F,) erase 0, program 1, read 2, open 3, end 4.
        slot, offset: (V + F,) the slot, and the page less the newest page of its block.
    """

    num_slots: int
    num_ages: int

    @classmethod
    def of(cls, profile: Profile, num_slots: int, num_ages: int | None = None) -> "Vocabulary":
        """The vocabulary for a profile; without `num_ages`, as many as the profile's limit makes legal.

        Raises:
            UserError: if the profile has rules that tokens cannot express, or no legal read would have a token.
        """
        ages = profile.read_offset_limit if num_ages is None else num_ages
        if profile.extended:
            raise UserError(f"profile {profile.name}: its extended rules need addresses; tokens express base rules.")
        if ages <= profile.min_read_distance:
            raise UserError(
                f"profile {profile.name}: {ages} read ages leave no legal read; set num_ages above "
                f"min_read_distance={profile.min_read_distance}."
            )
        return cls(num_slots, ages)

    def __len__(self) -> int:
        return self.num_slots * (3 + self.num_ages) + 1

    @property
    def end(self) -> int:
        return len(self) - 1

    @cached_property
    def _moves(self) -> np.ndarray:
        slots = range(self.num_slots)
        moves = [(kind, s, offset) for kind, offset in ((ERASE, 0), (PROGRAM, 1)) for s in slots]
        moves += [(READ, s, -age) for s in slots for age in range(self.num_ages)]
        moves += [(OPEN, s, 0) for s in slots] + [(END, 0, 0)]
        reads = [*FAULT_READS, *(-age for age in range(self.num_ages, self.num_ages + STALE_READS))]
        faults = [(PROGRAM, offset) for offset in FAULT_PROGRAMS] + [(READ, offset) for offset in reads]
        return np.array(moves + [(kind, s, offset) for kind, offset in faults for s in slots], np.int64).T

    @property
    def kind(self) -> np.ndarray:
        return self._moves[0]

    @property
    def slot(self) -> np.ndarray:
        return self._moves[1]

    @property
    def offset(self) -> np.ndarray:
        return self._moves[2]

    def name(self, token: int) -> str:
        """A token as reports print it, for example `read 0 age 2`."""
        kind, slot, offset = self._moves[:, token].tolist()
        if kind == END:
            return "end"
        if kind == OPEN:
            return f"open {slot}"
        extra = {ERASE: "", PROGRAM: "" if offset == 1 else f" newest{offset:+d}", READ: f" age {-offset}"}
        return f"{Op(kind).name.lower()} {slot}{extra[kind]}"

    @cached_property
    def nearest(self) -> np.ndarray:
        """(V + F,) the token that is most like each token or move: what the model is told was done."""
        tokens = np.arange(len(self.kind))
        age = np.clip(-self.offset, 0, self.num_ages - 1)
        as_read = 2 * self.num_slots + self.slot * self.num_ages + age
        like = np.where(self.kind == PROGRAM, self.num_slots + self.slot, as_read)
        return np.where(tokens < len(self), tokens, like)


@dataclass
class Walks:
    """N command sequences of up to L commands, without addresses.

    Attributes:
        op: (N, L) int8, erase, program or read; erase after the end.
        block: (N, L) int32, blocks of a sequence by order of first appearance; 0 after the end.
        page: (N, L) int32; 0 for erase and after the end.
        length: (N,) int64 commands of each.
    """

    op: np.ndarray
    block: np.ndarray
    page: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.op)

    def __getitem__(self, rows: slice | np.ndarray) -> "Walks":
        return Walks(self.op[rows], self.block[rows], self.page[rows], self.length[rows])

    @property
    def present(self) -> np.ndarray:
        """(N, L) bool, where there is a command."""
        return np.arange(self.op.shape[1]) < self.length[:, None]

    @classmethod
    def whole(cls, op: np.ndarray, block: np.ndarray, page: np.ndarray) -> "Walks":
        """Sequences that all have L commands."""
        return cls(op, block, page, np.full(len(op), op.shape[1]))


def fresh(profile: Profile) -> int:
    """The newest page of a block that no command has named yet: UNKNOWN, or -1 where blocks start erased."""
    return -1 if profile.initial_state == "erased" else UNKNOWN


def encode(walks: Walks, vocabulary: Vocabulary, profile: Profile, start: np.ndarray | None = None) -> np.ndarray:
    """(N, T) int16 tokens of legal sequences, PAD after each one's last; `decode` gives the sequences back.

    A sequence shorter than L closes with `end`; one that fills all L columns was cut there and does not. A block takes
    the lowest slot not used yet, else the slot whose block is never named again, the one longest idle.

    Args:
        start: (N, B) newest page of each block when the sequence begins, for those that do not begin `fresh`.

    Raises:
        UserError: for a command that no token expresses: another kind, a program out of order, a read of an unwritten
            page or of an age without token, more live blocks than slots.
    """
    num_rows, length = walks.op.shape
    num_blocks = max(int(walks.block.max(initial=0)) + 1, 1)
    if start is None:
        start = np.full((num_rows, num_blocks), fresh(profile))
    tokens = np.full((num_rows, 2 * length + 1), PAD, np.int16)
    status = np.zeros(3, np.int64)
    _encode(walks.op, walks.block, walks.page, walks.length, start.astype(np.int64), vocabulary.num_slots,
            vocabulary.num_ages, tokens, status)  # fmt: skip
    problem, row, column = status.tolist()
    if problem:
        reason = ENCODE_PROBLEMS[problem].format(slots=vocabulary.num_slots, ages=vocabulary.num_ages)
        raise UserError(f"sequence {row}, command {column}: {reason}.")
    return tokens[:, : max(int((tokens != PAD).sum(1).max(initial=0)), 1)]


ENCODE_PROBLEMS = {
    1: "neither erase, program nor read",
    2: "a program of another page than the next one has no token",
    3: "a read of an unwritten page, or {ages} pages or more behind the newest, has no token; raise num_ages",
    4: "a further block while all {slots} slots hold blocks that are used again; raise num_slots",
}


@njit(cache=True)
def _encode(op, block, page, length, start, num_slots, num_ages, tokens, status):
    num_blocks = start.shape[1]
    held, idle_since = np.empty(num_slots, np.int64), np.empty(num_slots, np.int64)
    slot_of, final = np.empty(num_blocks, np.int64), np.empty(num_blocks, np.int64)
    for n in range(op.shape[0]):
        newest = start[n].copy()
        held[:], slot_of[:], at, bound = -1, -1, 0, 0
        for t in range(length[n]):
            final[block[n, t]] = t
        for t in range(length[n]):
            b, kind = block[n, t], op[n, t]
            if slot_of[b] < 0:
                s = bound
                if bound == num_slots:
                    s = -1
                    for k in range(num_slots):
                        if final[held[k]] < t and (s < 0 or idle_since[k] < idle_since[s]):
                            s = k
                    if s < 0:
                        status[:] = 4, n, t
                        return
                    tokens[n, at] = num_slots * (2 + num_ages) + s
                    at += 1
                else:
                    bound += 1
                held[s], slot_of[b] = b, s
            s = slot_of[b]
            idle_since[s] = t
            if kind == ERASE:
                tokens[n, at], newest[b] = s, -1
            elif kind == PROGRAM:
                if newest[b] < -1 or page[n, t] != newest[b] + 1:
                    status[:] = 2, n, t
                    return
                tokens[n, at] = num_slots + s
                newest[b] += 1
            elif kind == READ:
                age = newest[b] - page[n, t]
                if page[n, t] < 0 or age < 0 or age >= num_ages:
                    status[:] = 3, n, t
                    return
                tokens[n, at] = 2 * num_slots + s * num_ages + age
            else:
                status[:] = 1, n, t
                return
            at += 1
        if length[n] < op.shape[1]:
            tokens[n, at] = num_slots * (3 + num_ages)


def decode(
    tokens: np.ndarray, vocabulary: Vocabulary, profile: Profile, start: np.ndarray | None = None,
    num_ops: int | None = None,
) -> Walks:  # fmt: skip
    """The commands that tokens (N, T) stand for, legal or not; a read older than the block has a negative page.

    Args:
        start: (N, S) newest page of each slot's first block, where it is not `fresh`.
        num_ops: columns of the result, at least the commands of the longest sequence; None: as many.
    """
    going = np.cumsum((tokens < 0) | (tokens == vocabulary.end), 1) == 0
    longest = int((going & (vocabulary.kind[tokens] <= READ)).sum(1).max(initial=0))
    shape = (len(tokens), num_ops or max(longest, 1))
    op, block, page = np.zeros(shape, np.int8), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    length = np.zeros(len(tokens), np.int64)
    if start is None:
        start = np.full((len(tokens), vocabulary.num_slots), fresh(profile))
    _decode(tokens.astype(np.int64), vocabulary.kind, vocabulary.slot, vocabulary.offset, start.astype(np.int64),
            fresh(profile), profile.pages, profile.on_violation == "physical", op, block, page, length)  # fmt: skip
    return Walks(op, block, page, length)


@njit(cache=True)
def _decode(tokens, kinds, slots, offsets, start, fresh, pages, physical, op, block, page, length):
    newest, number = np.empty(start.shape[1], np.int64), np.empty(start.shape[1], np.int64)
    for n in range(tokens.shape[0]):
        newest[:] = start[n]
        number[:] = -1
        met, at = 0, 0
        for t in range(tokens.shape[1]):
            token = tokens[n, t]
            if token < 0 or kinds[token] == END:
                break
            kind, s = kinds[token], slots[token]
            if kind == OPEN:
                if number[s] >= 0:
                    newest[s], number[s] = fresh, -1
                continue
            if number[s] < 0:
                number[s], met = met, met + 1
            op[n, at], block[n, at] = kind, number[s]
            if kind != ERASE:
                page[n, at] = max(newest[s], -1) + offsets[token]
            newest[s] = _after(newest[s], kind, offsets[token], pages, physical)
            at += 1
        length[n] = at


@njit(cache=True)
def _after(newest, kind, offset, pages, physical):
    if kind == ERASE:
        return -1
    ahead = kind == PROGRAM and newest >= -1 and offset > 0 and newest + offset < pages
    return newest + offset if ahead and (offset == 1 or physical) else newest


class LiveState:
    """What a decoder knows from its own output so far: the newest page of every slot's block, for N sequences.

    Attributes:
        newest: (N, S) int64, UNKNOWN before the first erase, -1 when erased.
        oldest: (N, S) int64, pages below it are not offered for reading; a program that hops raises it, as what it
            skipped is not written.
        used: (N, S) bool, whether the slot's block was named since it was opened.
    """

    def __init__(
        self, num_sequences: int, vocabulary: Vocabulary, profile: Profile, device: torch.device | str = "cpu",
        start: Tensor | None = None,
    ):  # fmt: skip
        shape = (num_sequences, vocabulary.num_slots)
        self.vocabulary, self.profile, self.fresh = vocabulary, profile, fresh(profile)
        self.newest = torch.full(shape, self.fresh, device=device) if start is None else start.to(device, torch.int64)
        self.oldest = torch.zeros(shape, dtype=torch.int64, device=device)
        self.used = torch.zeros(shape, dtype=torch.bool, device=device)
        self.kind, self.slot, self.offset = (
            torch.from_numpy(table).to(device) for table in (vocabulary.kind, vocabulary.slot, vocabulary.offset)
        )
        self.is_op = self.kind <= READ
        self.ages = torch.arange(vocabulary.num_ages, device=device)
        self.lanes = torch.arange(num_sequences, device=device)

    def codes(self) -> Tensor:
        """(N, V + F) int64, the smallest code of a rule that each token or move would break now; 0 for none."""
        newest, oldest = self.newest[:, self.slot], self.oldest[:, self.slot]
        page = newest.clamp(min=-1) + self.offset
        codes = torch.where(self.kind == PROGRAM, self._of_programs(newest, page), self._of_reads(newest, oldest, page))
        codes[newest == UNKNOWN] = int(Rule.NOT_ERASED)
        codes[(page < 0) | (page >= self.profile.pages)] = int(Rule.ADDR_RANGE)
        return torch.where((self.kind == PROGRAM) | (self.kind == READ), codes, 0)

    def _of_programs(self, newest: Tensor, page: Tensor) -> Tensor:
        return int(Rule.REPROGRAM) * (page <= newest) + int(Rule.PAGE_ORDER) * (page > newest + 1)

    def _of_reads(self, newest: Tensor, oldest: Tensor, page: Tensor) -> Tensor:
        profile, age = self.profile, newest - page
        codes = torch.zeros_like(page)
        if profile.min_read_distance:
            codes[(age < profile.min_read_distance) & (newest < profile.pages - 1)] = int(Rule.READ_TOO_CLOSE)
        if profile.read_offset_limit:
            codes[age >= profile.read_offset_limit] = int(Rule.READ_STALE)
        codes[(page > newest) | (page < oldest)] = int(Rule.READ_UNWRITTEN)
        return codes

    def legal(self) -> Tensor:
        """(N, V) bool: the mask of the grammar. An erase is always in it; a slot is opened only after use.

        The same as codes of 0, in a tenth of the time.
        """
        pages, limit, distance = self.profile.pages, self.profile.read_offset_limit, self.profile.min_read_distance
        program = (self.newest > UNKNOWN) & (self.newest + 1 < pages)
        read = self.ages <= (self.newest - self.oldest)[..., None]
        if limit:
            read &= self.ages < limit
        if distance:
            read &= (self.ages >= distance) | (self.newest == pages - 1)[..., None]
        always = torch.ones_like(self.used)
        return torch.cat([always, program, read.flatten(1), self.used, always[:, :1]], 1)

    def advance(self, token: Tensor) -> None:
        """Take one token or move (N,) of each sequence into account, illegal ones as the profile's rules have them."""
        kind, slot, offset = self.kind[token], self.slot[token], self.offset[token]
        newest = self.newest[self.lanes, slot]
        page = newest + offset
        ahead = (kind == PROGRAM) & (newest >= -1) & (offset > 0) & (page < self.profile.pages)
        hops = ahead & (offset > 1)
        if self.profile.on_violation != "physical":
            ahead, hops = ahead & ~hops, torch.zeros_like(hops)
        opened = (kind == OPEN) & self.used[self.lanes, slot]
        newest = torch.where(ahead, page, torch.where(kind == ERASE, -1, torch.where(opened, self.fresh, newest)))
        oldest = torch.where(hops, page, self.oldest[self.lanes, slot])
        self.oldest[self.lanes, slot] = torch.where(opened | (kind == ERASE), 0, oldest)
        self.newest[self.lanes, slot] = newest
        self.used[self.lanes, slot] = torch.where(kind == END, self.used[self.lanes, slot], self.is_op[token])


def replay(
    tokens: np.ndarray, vocabulary: Vocabulary, profile: Profile, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """State before each token of given sequences: newest pages (N, T, S) int32 and the legal mask (N, T, V).

    Args:
        tokens: (N, T) with PAD, which changes nothing.
        start: as in `decode`.
    """
    first = None if start is None else torch.from_numpy(np.asarray(start, np.int64)).clone()
    state = LiveState(len(tokens), vocabulary, profile, start=first)
    shape = tokens.shape
    newest = np.empty((*shape, vocabulary.num_slots), np.int32)
    legal = np.empty((*shape, len(vocabulary)), bool)
    steps = torch.from_numpy(np.where(tokens == PAD, vocabulary.end, tokens).astype(np.int64))
    for t in range(shape[1]):
        newest[:, t], legal[:, t] = state.newest.numpy(), state.legal().numpy()
        state.advance(steps[:, t])
    return newest, legal

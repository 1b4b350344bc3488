"""The protocol in plain Python, straight from the specification: the oracle that the fast engines are tested against.

It shares no code with them beyond the numbers of commands and rules. Where the specification (sections 3 and 7) leaves
a choice, the choice is written here:

- A command outside the geometry gets ADDR_RANGE and no other rule.
- Each rule is judged from what is known: on a block that was never erased a read is NOT_ERASED and READ_UNWRITTEN, a
  program of a page other than 0 is NOT_ERASED and PAGE_ORDER.
- With on_violation=stop the first bad command and all later ones change nothing.
- Extended rules, in the words of the specification; BUSY and SUSPEND_STATE refuse the command, which then does nothing
  and is judged by no other rule of its block. All others leave its effect to the base rules.
- A group is a run of consecutive array commands with one number ≥ 0. Its first command sets what the others must
  agree with, and whether they are refused as BUSY.
- Cache chains and copyback registers belong to a plane.
- A suspend interrupts every program and erase that runs on the die; the time left starts again at the resume.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nandseq.codes import KIND, Flag, Kind, Op, Rule
from nandseq.ops import Ops
from nandseq.profiles import Profile

NO_FLAG = Flag(0)
# how many of die, plane, block, page count
FIELDS = {Kind.ERASE: 3, Kind.PROGRAM: 4, Kind.READ: 4, Kind.PLANE: 2, Kind.DIE: 1, Kind.NOWHERE: 0}


@dataclass
class Block:
    """`programs` counts the programs of each page since the erase; what follows it serves extended rules only."""

    known: bool = False
    last: int = -1
    programs: dict[int, int] = field(default_factory=dict)
    erases: int = 0
    reads: int = 0
    opened_at: int | None = None
    mode: int = -1
    partial: bool = False


@dataclass
class Verdict:
    rules: set[Rule] = field(default_factory=set)
    last: int = -1
    flags: Flag = NO_FLAG

    @property
    def mask(self) -> int:
        return sum(rule.bit for rule in self.rules)


class Reference:
    """The device before the next command."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.blocks: dict[Any, Block] = {}
        self.stopped = False

    def check(self, op: int, die: int, plane: int, block: int, page: int) -> Verdict:
        """Verdict of one command, which then takes effect."""
        if not self.in_range(op, die, plane, block, page):
            return self.finish(Verdict({Rule.ADDR_RANGE}))
        kind = KIND[op]
        if kind > Kind.READ:
            return Verdict()
        state = self.blocks.setdefault((die, plane, block), Block(known=self.profile.initial_state == "erased"))
        verdict = Verdict(last=state.last, flags=Flag.KNOWN if state.known else NO_FLAG)
        if kind != Kind.ERASE and page in state.programs:
            verdict.flags |= Flag.PAGE_PROGRAMMED
        if kind != Kind.ERASE and not state.known and self.profile.initial_state != "strict":
            verdict.flags |= Flag.INDETERMINATE
            return verdict
        verdict.rules = self.broken(kind, state, page)
        if not self.stopped and not (verdict.rules and self.profile.on_violation != "physical"):
            self.apply(kind, state, page, verdict.rules)
        return self.finish(verdict)

    def finish(self, verdict: Verdict) -> Verdict:
        if self.stopped:
            verdict.rules = set()
        if verdict.rules and self.profile.on_violation == "stop":
            self.stopped = True
        return verdict

    def in_range(self, op: int, die: int, plane: int, block: int, page: int) -> bool:
        if not 0 <= op < len(Op):
            return False
        profile, needed = self.profile, FIELDS[KIND[op]]
        sizes = (profile.dies, profile.planes, profile.blocks, profile.pages)
        return all(0 <= at < size for at, size in zip((die, plane, block, page)[:needed], sizes))

    def broken(self, kind: Kind, state: Block, page: int) -> set[Rule]:
        """Base rules that the command breaks."""
        if kind == Kind.ERASE:
            return set()
        rules = set() if state.known else {Rule.NOT_ERASED}
        if kind == Kind.PROGRAM:
            return rules | self.broken_by_program(state, page)
        return rules | self.broken_by_read(state, page)

    def broken_by_program(self, state: Block, page: int) -> set[Rule]:
        done = state.programs.get(page, 0)
        if done >= self.profile.programs_per_page:
            return {Rule.REPROGRAM}
        if self.profile.page_order == "free" or (page == state.last and done):
            return set()
        allowed = page == state.last + 1 if self.profile.page_order == "strict" else page > state.last
        return set() if allowed else {Rule.PAGE_ORDER}

    def broken_by_read(self, state: Block, page: int) -> set[Rule]:
        if page not in state.programs:
            return {Rule.READ_UNWRITTEN}
        profile, rules, age = self.profile, set(), state.last - page
        if profile.read_offset_limit and age >= profile.read_offset_limit:
            rules.add(Rule.READ_STALE)
        is_open = state.last < profile.pages - 1
        if profile.min_read_distance and is_open and age < profile.min_read_distance:
            rules.add(Rule.READ_TOO_CLOSE)
        return rules

    def apply(self, kind: Kind, state: Block, page: int, rules: set[Rule]) -> None:
        """The effect of the command; base rules it breaks decide what is left of it."""
        if kind == Kind.ERASE:
            state.known, state.last, state.programs = True, -1, {}
        if kind != Kind.PROGRAM or not state.known:
            return
        hop = rules == {Rule.PAGE_ORDER} and page > state.last
        if rules and not hop and not self.profile.compat_update:
            return
        if Rule.REPROGRAM not in rules:
            state.programs[page] = state.programs.get(page, 0) + 1
        state.last = page if self.profile.compat_update else max(state.last, page)


@dataclass
class Job:
    """A program or erase that runs until `end`; of a suspended one, `end` is the time left."""

    kind: Kind
    key: tuple[int, int, int]
    page: int
    end: int


@dataclass
class Plane:
    """`chain` is (command that made its last link, block); `line` the word line that must be programmed on with."""

    free_at: int | None = None
    job: Job | None = None
    suspended: Job | None = None
    register: tuple[int, int] | None = None
    chain: tuple[Op, int] | None = None
    line: tuple[int, int] | None = None


@dataclass
class Die:
    planes: list[Plane]
    suspends: int = 0
    retry_level: int = 0
    failed: tuple[int, int, int, int] | None = None


@dataclass
class Group:
    """What the first command of a group fixes, and the planes seen so far."""

    number: int
    op: Op
    die: int
    block: int
    page: int
    planes: set[int]
    refused: bool = False


@dataclass
class Command:
    op: Op
    die: int
    plane: int
    block: int
    page: int
    t_ns: int = 0
    group: int = -1
    mode: int = -1
    src_block: int = -1
    src_page: int = -1
    status: int = -1

    @property
    def key(self) -> tuple[int, int, int]:
        return self.die, self.plane, self.block

    @property
    def kind(self) -> Kind:
        return KIND[self.op]


class DeviceReference(Reference):
    """With the extended rules of section 7."""

    def __init__(self, profile: Profile):
        super().__init__(profile)
        self.dies = [Die([Plane() for _ in range(profile.planes)]) for _ in range(profile.dies)]
        self.group: Group | None = None

    def check(self, op: int, die: int, plane: int, block: int, page: int, *rest: int) -> Verdict:
        if not self.in_range(op, die, plane, block, page):
            return self.finish(Verdict({Rule.ADDR_RANGE}))
        command = Command(Op(op), die, plane, block, page, *rest)
        if command.kind > Kind.READ:
            return self.finish(Verdict(self.control(command)))
        return self.array(command)

    def acts(self, rules: set[Rule]) -> bool:
        broken = any(not rule.is_warning for rule in rules)
        return not self.stopped and not (broken and self.profile.on_violation != "physical")

    def finish(self, verdict: Verdict) -> Verdict:
        if self.stopped:
            verdict.rules = set()
        if self.profile.on_violation == "stop" and any(not rule.is_warning for rule in verdict.rules):
            self.stopped = True
        return verdict

    # commands that name no page

    def control(self, command: Command) -> set[Rule]:
        match command.op:
            case Op.SUSPEND if self.profile.suspend:
                return self.suspend(self.dies[command.die], command.t_ns)
            case Op.RESUME if self.profile.suspend:
                return self.resume(self.dies[command.die], command.t_ns)
            case Op.RESET:
                delay = self.profile.timing.reset_ns if self.profile.timing else 0
                return self.cut(self.dies[command.die], command.t_ns, delay)
            case Op.POWER_LOSS:
                return set().union(*(self.cut(die, command.t_ns, 0) for die in self.dies))
            case Op.SET_RETRY if self.profile.read_retry:
                return self.set_retry(self.dies[command.die], command.page)
            case Op.CACHE_READ_END if self.profile.cache:
                return self.end_cache_read(self.dies[command.die].planes[command.plane])
        return set()

    def suspend(self, die: Die, now: int) -> set[Rule]:
        running = [plane for plane in die.planes if plane.job and now < plane.job.end]
        nested = any(plane.suspended for plane in die.planes)
        worn_out = 0 < self.profile.max_suspends <= die.suspends
        if nested or worn_out or not running:
            return {Rule.SUSPEND_STATE}
        if self.acts(set()):
            die.suspends += 1
            for plane in running:
                plane.job.end -= now
                plane.suspended, plane.job = plane.job, None
            for plane in die.planes:
                plane.free_at = now + self.profile.timing.suspend_ns
        return set()

    def resume(self, die: Die, now: int) -> set[Rule]:
        suspended = [plane for plane in die.planes if plane.suspended]
        if not suspended:
            return {Rule.SUSPEND_STATE}
        if self.profile.busy != "off" and any(is_busy(plane, now) for plane in die.planes):
            return {Rule.BUSY}
        if self.acts(set()):
            for plane in suspended:
                plane.job, plane.suspended = plane.suspended, None
                plane.job.end += now
                plane.free_at = plane.job.end
        return set()

    def cut(self, die: Die, now: int, delay: int) -> set[Rule]:
        """Reset or power loss: what runs or is suspended ends unfinished."""
        if not self.acts(set()):
            return set()
        rules = set()
        for number, plane in enumerate(die.planes):
            running = plane.job if plane.job and now < plane.job.end else None
            for job in (running, plane.suspended):
                if job and self.profile.partial_erase:
                    rules |= self.cut_job(job)
            die.planes[number] = Plane(free_at=now + delay)
        die.suspends, die.retry_level, die.failed = 0, 0, None
        return rules

    def cut_job(self, job: Job) -> set[Rule]:
        if job.kind == Kind.PROGRAM:
            return {Rule.PAIR_RISK} if self.word_line(job.page)[1] > 0 else set()
        state = self.blocks[job.key]
        state.known, state.last, state.programs, state.partial = False, -1, {}, True
        return set()

    def set_retry(self, die: Die, level: int) -> set[Rule]:
        rules = {Rule.READ_RETRY} if level > 0 and die.failed is None else set()
        if self.acts(rules):
            die.retry_level = level
        return rules

    def end_cache_read(self, plane: Plane) -> set[Rule]:
        rules = set() if plane.chain and plane.chain[0] == Op.CACHE_READ else {Rule.CACHE_SEQ}
        if self.acts(rules):
            plane.chain = None
        return rules

    # erases, programs and reads

    def array(self, command: Command) -> Verdict:
        profile, page = self.profile, command.page
        first = Block(known=profile.initial_state == "erased")
        state = self.blocks.setdefault(command.key, first)
        verdict = Verdict(last=state.last, flags=Flag.KNOWN if state.known else NO_FLAG)
        if command.kind != Kind.ERASE and page in state.programs:
            verdict.flags |= Flag.PAGE_PROGRAMMED
        joined = command.group >= 0 and self.group is not None and self.group.number == command.group
        if not joined:
            planes = {command.plane}
            self.group = Group(command.group, command.op, command.die, command.block, command.page, planes)
        rules = self.broken_by_group(command) if joined else set()
        refused = self.refused(command, joined)
        if refused:
            verdict.rules = rules | refused
            return self.finish(verdict)
        base, flag = self.broken_in_block(command, state)
        verdict.flags |= flag
        base_only = base - {Rule.BAD_BLOCK, Rule.PARTIAL_ERASE}
        rules |= base | self.broken_by_wear(command, state) | self.broken_on_plane(command, state)
        if self.acts(rules):
            self.apply(command.kind, state, page, base_only)
            self.after(command, state)
        verdict.rules = rules
        return self.finish(verdict)

    def broken_by_group(self, command: Command) -> set[Rule]:
        group, rules = self.group, set()
        if command.op != group.op:
            rules.add(Rule.MP_OP)
        if command.die != group.die or command.plane in group.planes:
            rules.add(Rule.MP_PLANE)
        other_page = Kind.ERASE not in (command.kind, KIND[group.op]) and command.page != group.page
        if other_page or (self.profile.multi_plane_same_block and command.block != group.block):
            rules.add(Rule.MP_PAGE)
        group.planes.add(command.plane)
        return rules if self.profile.multi_plane else set()

    def refused(self, command: Command, joined: bool) -> set[Rule]:
        rules, planes = set(), self.dies[command.die].planes
        if self.profile.busy != "off" and self.is_refused_as_busy(command, joined):
            rules.add(Rule.BUSY)
        if self.profile.suspend and any(self.disturbs(command, plane.suspended) for plane in planes):
            rules.add(Rule.SUSPEND_STATE)
        return rules

    def is_refused_as_busy(self, command: Command, joined: bool) -> bool:
        if joined and command.die == self.group.die:
            return self.group.refused
        planes = self.dies[command.die].planes
        own_only = self.profile.busy == "plane" and command.kind == Kind.READ
        waits_for = [planes[command.plane]] if own_only else planes
        busy = any(is_busy(plane, command.t_ns) for plane in waits_for)
        if not joined:
            self.group.refused = busy
        return busy

    def disturbs(self, command: Command, job: Job | None) -> bool:
        if job is None:
            return False
        if command.kind == Kind.ERASE:
            return True
        if command.key != job.key:
            return False
        same_line = self.word_line(command.page)[0] == self.word_line(job.page)[0]
        return command.kind == Kind.PROGRAM or job.kind == Kind.ERASE or same_line

    def broken_in_block(self, command: Command, state: Block) -> tuple[set[Rule], Flag]:
        """Rules of the block's content; INDETERMINATE where it is unknown."""
        profile, rules = self.profile, set()
        if command.key in profile.bad_blocks:
            if command.op == Op.READ and not state.known and command.page in profile.bad_mark_pages:
                return set(), NO_FLAG
            rules.add(Rule.BAD_BLOCK)
        if state.partial and command.kind != Kind.ERASE:
            return rules | {Rule.PARTIAL_ERASE}, NO_FLAG
        if command.kind != Kind.ERASE and not state.known and profile.initial_state != "strict":
            return rules, Flag.INDETERMINATE
        return rules | self.broken(command.kind, state, command.page), NO_FLAG

    def broken_by_wear(self, command: Command, state: Block) -> set[Rule]:
        """Rules of the block's age, mode and word lines."""
        profile, rules = self.profile, set()
        if command.kind == Kind.ERASE:
            erases = state.erases + 1
            if profile.endurance and erases > profile.endurance:
                rules.add(Rule.PE_LIMIT)
            elif profile.endurance and 10 * erases > 9 * profile.endurance:
                rules.add(Rule.PE_WARN)
            return rules
        if not state.known:
            return rules
        if profile.mode and -1 not in (command.mode, state.mode) and command.mode != state.mode:
            rules.add(Rule.MODE)
        is_open = 0 <= state.last < profile.pages - 1
        age = 0 if state.opened_at is None else command.t_ns - state.opened_at
        if is_open and 0 < profile.open_block_age_ns < age:
            rules.add(Rule.OPEN_BLOCK_AGE)
        if command.kind == Kind.READ and 0 < profile.read_disturb_limit <= state.reads:
            rules.add(Rule.READ_DISTURB)
        if command.kind == Kind.PROGRAM and profile.word_line_order:
            line, bit = self.word_line(command.page)
            lower = [page for page in range(profile.pages) if self.word_line(page)[0] == line]
            if any(page not in state.programs for page in lower if self.word_line(page)[1] < bit):
                rules.add(Rule.WL_ORDER)
        return rules

    def broken_on_plane(self, command: Command, state: Block) -> set[Rule]:
        """Rules of what the plane and the die were doing before."""
        profile, rules = self.profile, set()
        die = self.dies[command.die]
        plane = die.planes[command.plane]
        if profile.one_shot and plane.line is not None:
            here = (command.block, self.word_line(command.page)[0])
            if command.kind != Kind.PROGRAM or plane.line != here:
                rules.add(Rule.WL_ORDER)
        if profile.copyback != "off" and command.op == Op.COPYBACK_PROGRAM and not self.copies(command, plane.register):
            rules.add(Rule.COPYBACK_PLANE)
        if profile.cache and not self.continues(command, plane.chain):
            rules.add(Rule.CACHE_SEQ)
        retried = command.kind == Kind.READ and die.failed == (*command.key, command.page)
        if profile.read_retry and die.retry_level > 0 and not retried:
            rules.add(Rule.READ_RETRY)
        return rules

    def copies(self, command: Command, register: tuple[int, int] | None) -> bool:
        if register is None:
            return False
        claimed = (command.src_block, command.src_page)
        if any(claim not in (-1, held) for claim, held in zip(claimed, register)):
            return False
        return self.profile.copyback == "plane" or register[1] % 2 == command.page % 2

    def continues(self, command: Command, chain: tuple[Op, int] | None) -> bool:
        link, block = chain if chain else (None, None)
        if link == Op.CACHE_PROGRAM:
            return command.op in (Op.PROGRAM, Op.CACHE_PROGRAM) and command.block == block
        return command.op != Op.CACHE_READ or (link in (Op.READ, Op.CACHE_READ) and command.block == block)

    def after(self, command: Command, state: Block) -> None:
        """What an array command leaves behind beside the pages."""
        die = self.dies[command.die]
        plane = die.planes[command.plane]
        if command.kind == Kind.ERASE:
            state.erases += 1
            state.reads, state.opened_at, state.mode, state.partial = 0, None, command.mode, False
        elif command.kind == Kind.READ:
            state.reads += state.known
            die.failed = (*command.key, command.page) if command.status == 1 else None
        elif state.last >= 0 and state.opened_at is None:
            state.opened_at = command.t_ns
        self.occupy(command, die, plane)
        plane.register = (command.block, command.page) if command.op == Op.COPYBACK_READ else None
        links = (Op.READ, Op.CACHE_READ, Op.CACHE_PROGRAM)
        plane.chain = (command.op, command.block) if command.op in links else None
        line, bit = self.word_line(command.page)
        unfinished = any(self.word_line(page) == (line, bit + 1) for page in range(self.profile.pages))
        plane.line = (command.block, line) if command.kind == Kind.PROGRAM and unfinished else None

    def occupy(self, command: Command, die: Die, plane: Plane) -> None:
        timing = self.profile.timing
        if timing is None:
            return
        bit = self.word_line(command.page)[1]
        times = {Kind.ERASE: (timing.erase_ns,), Kind.PROGRAM: timing.program_ns, Kind.READ: timing.read_ns}
        choices = times[command.kind]
        plane.free_at = command.t_ns + choices[0 if command.kind == Kind.ERASE else bit % len(choices)]
        plane.job = None
        if command.kind != Kind.READ:
            plane.job = Job(command.kind, command.key, command.page, plane.free_at)
            if not any(each.suspended for each in die.planes):
                die.suspends = 0

    def word_line(self, page: int) -> tuple[int, int]:
        """(word line, bit) of a page; bit 0 is the lower page."""
        bits, pages = self.profile.bits_per_cell, self.profile.pages
        if self.profile.pairing == "adjacent":
            return divmod(page, bits)
        if page == pages - 1:
            return page - 2, 1
        if page == 2:
            return 0, 1
        return (page, 0) if page == 0 or page % 2 else (page - 3, 1)


def is_busy(plane: Plane, now: int) -> bool:
    return plane.free_at is not None and now < plane.free_at


EXTRA = ("t_ns", "group", "mode", "src_block", "src_page", "status")


def check(ops: Ops, profile: Profile) -> list[Verdict]:
    """The verdict of each command of a trace that begins in the profile's initial state."""
    columns = [ops.op, ops.die, ops.plane, ops.block, ops.page]
    reference = DeviceReference(profile) if profile.extended else Reference(profile)
    if profile.extended:
        absent = {"t_ns": np.zeros(len(ops), int)}
        columns += [_or(getattr(ops, name), absent.get(name, np.full(len(ops), -1))) for name in EXTRA]
    return [reference.check(*row) for row in zip(*(column.tolist() for column in columns))]


def _or(column: np.ndarray | None, default: np.ndarray) -> np.ndarray:
    return default if column is None else column

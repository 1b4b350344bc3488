"""Legal command sequences as devices see them, one scenario or several at once (nandseq specification, section 8).

Here are the scenarios' names and parameters, and the `Source` that mixes them; what each does command by command is in
`machines`. Sequences are legal by construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from common.errors import UserError, nearest
from nandseq import machines
from nandseq.machines import EDGE_READ, MACHINE, MAX_BLOCKS, NAMES, TRAITS, UNKNOWN, Drawn, Plan, world_of
from nandseq.profiles import Profile

Share = Annotated[float, Field(ge=0, le=1)]
Pages = Annotated[int, Field(ge=1)]
CHECKED = ConfigDict(extra="forbid")


@checked(frozen=True, config=CHECKED)
class SeqWrite:
    """Blocks written one after another, with reads of the newest page in between.

    Attributes:
        least, most: pages written to a block before the next one; in all scenarios.
        verify: share of programs followed by a read of the newest readable page.
    """

    name: ClassVar[str] = "seq_write"
    min_blocks: ClassVar[int] = 1
    least: Pages = 6
    most: Pages = 18
    verify: Share = 0.3


@checked(frozen=True, config=CHECKED)
class GcLoop:
    """Garbage collection: the valid pages of a written block move to an open one, and the block is erased.

    Attributes:
        valid: share of the pages that may be read which are still valid.
        copyback: whether pages move inside the device, by copyback read and program, all blocks in one plane.
    """

    name: ClassVar[str] = "gc_loop"
    min_blocks: ClassVar[int] = 2
    least: Pages = 6
    most: Pages = 14
    valid: Share = 0.6
    copyback: bool = False


@checked(frozen=True, config=CHECKED)
class HotBlock:
    """Blocks of very different popularity, written and erased in short cycles.

    Attributes:
        zipf: exponent; the r-th block is chosen in proportion to r^-zipf.
    """

    name: ClassVar[str] = "hot_block"
    min_blocks: ClassVar[int] = 1
    least: Pages = 4
    most: Pages = 14
    read: Share = 0.4
    zipf: Annotated[float, Field(ge=0)] = 1.2


@checked(frozen=True, config=CHECKED)
class RandomRead:
    """Blocks written first, then read at random within what the profile lets be read."""

    name: ClassVar[str] = "random_read"
    min_blocks: ClassVar[int] = 1
    least: Pages = 5
    most: Pages = 11


@checked(frozen=True, config=CHECKED)
class Mixed:
    """Reads and programs of random blocks, with an occasional erase."""

    name: ClassVar[str] = "mixed"
    min_blocks: ClassVar[int] = 1
    read: Share = 0.7
    erase: Share = 0.03


@checked(frozen=True, config=CHECKED)
class ReadVerify:
    """Short bursts of programs, then reads of most of their pages in order.

    Attributes:
        longest: pages of the longest burst.
    """

    name: ClassVar[str] = "read_verify"
    min_blocks: ClassVar[int] = 1
    least: Pages = 8
    most: Pages = 16
    verify: Share = 0.9
    longest: Annotated[int, Field(ge=1)] = 5


@checked(frozen=True, config=CHECKED)
class WearLevel:
    """A block with cold data moves to one worn by many erases.

    Attributes:
        read: share of reads while the hot block is written.
        cycles: most erase cycles of the hot block before a move.
    """

    name: ClassVar[str] = "wear_level"
    min_blocks: ClassVar[int] = 2
    least: Pages = 5
    most: Pages = 10
    read: Share = 0.2
    cycles: Annotated[int, Field(ge=1)] = 3


@checked(frozen=True, config=CHECKED)
class Compat:
    """The older generator: all blocks erased first, then programs and reads of random blocks at equal chance."""

    name: ClassVar[str] = "compat"
    min_blocks: ClassVar[int] = 1


@checked(frozen=True, config=CHECKED)
class IdleResume:
    """Blocks written one after another; some programs are suspended for reads of another block, then resumed.

    Runs alone, as a suspend holds a whole die; with a profile's timing it is legal under BUSY and SUSPEND_STATE too.

    Attributes:
        suspend: share of programs that are suspended.
        read: chance of each further read before the resume.
    """

    name: ClassVar[str] = "idle_resume"
    min_blocks: ClassVar[int] = 2
    least: Pages = 6
    most: Pages = 14
    suspend: Share = 0.4
    read: Share = 0.6


Scenario = SeqWrite | GcLoop | HotBlock | RandomRead | Mixed | ReadVerify | WearLevel | Compat | IdleResume
KINDS: dict[str, type[Scenario]] = {
    kind.name: kind
    for kind in (SeqWrite, GcLoop, HotBlock, RandomRead, Mixed, ReadVerify, WearLevel, Compat, IdleResume)
}
UNSEEN_MIXTURE = {WearLevel.name: 1.0}  # of the test set `scenario`: never trained on
# idle_resume has commands beyond the base ones, which features and tokens do not know
MIXTURE = {name: 1.0 for name in NAMES if name not in (WearLevel.name, IdleResume.name)}
LOWEST = {"seq_len": 2, "num_blocks": 1, "max_streams": 1, "start_page": 0}


@dataclass(frozen=True)
class Source:
    """Legal sequences of `seq_len` commands on up to `num_blocks` blocks.

    Attributes:
        mixture: weight of each scenario, by name; also of what else runs in a sequence of several streams.
        parameters: scenarios whose parameters are not the default ones.
        max_streams: scenarios at once; as many as the blocks allow, at most.
        start_page: if positive, blocks are known from the start and hold at least pages 0 … start_page.

    Raises:
        UserError: for an unknown scenario, one that cannot run on so few blocks or pages, or a number out of range.
    """

    profile: Profile
    mixture: Mapping[str, float]
    seq_len: int
    num_blocks: int
    max_streams: int = 2
    start_page: int = 0
    parameters: tuple[Scenario, ...] = ()

    def __post_init__(self):
        profile = self.profile
        if profile.extended:
            raise UserError(
                f"profile {profile.name}: scenarios know the base rules only; take `Profile.load(...).base`, or a file "
                "with the other rules off."
            )
        for name, lowest in LOWEST.items():
            if getattr(self, name) < lowest:
                raise UserError(f"{name}={getattr(self, name)}: give {lowest} or more.")
        if self.num_blocks > min(profile.num_blocks, MAX_BLOCKS):
            most = f"profile {profile.name} has {profile.num_blocks} blocks and a sequence at most {MAX_BLOCKS}"
            raise UserError(f"num_blocks={self.num_blocks}: {most}.")
        self._check_mixture()
        if self.start_page and self.highest_start < self.start_page:
            raise UserError(
                f"start_page={self.start_page}: {self.seq_len} commands need room up to page {profile.pages - 1}; "
                f"at most {max(self.highest_start, 0)} is possible."
            )

    def _check_mixture(self) -> None:
        for name, weight in self.mixture.items():
            if name not in NAMES:
                raise UserError(f"mixture: {name}: unknown.{nearest(name, NAMES)} Known: {', '.join(NAMES)}.")
            needs = KINDS[name].min_blocks
            if weight > 0 and needs > self.num_blocks:
                raise UserError(
                    f"mixture: {name} needs {needs} blocks; raise num_blocks={self.num_blocks} or leave it out."
                )
        weights = np.array(list(self.mixture.values()), float)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise UserError(f"mixture: {dict(self.mixture)}; give weights of 0 or more, one of them above 0.")
        if self.in_one_plane.any() and self.num_blocks > self.profile.blocks:
            raise UserError(
                f"gc_loop.copyback: its {self.num_blocks} blocks lie in one plane; a plane of profile "
                f"{self.profile.name} has {self.profile.blocks}."
            )

    @property
    def highest_start(self) -> int:
        """Highest page at which a block may start so that no sequence fills it."""
        return self.profile.pages - 2 * self.seq_len

    @property
    def weights(self) -> np.ndarray:
        """(K,) share of each scenario, in the order of `NAMES`."""
        weights = np.array([self.mixture.get(name, 0.0) for name in NAMES], float)
        return weights / weights.sum()

    @cached_property
    def kinds(self) -> dict[str, Scenario]:
        return {name: kind() for name, kind in KINDS.items()} | {each.name: each for each in self.parameters}

    @cached_property
    def in_one_plane(self) -> np.ndarray:
        """(K,) bool, scenarios whose blocks must share a plane."""
        return np.array([name == GcLoop.name and self.kinds[name].copyback for name in NAMES])

    @cached_property
    def plan(self) -> Plan:
        needs = np.array([KINDS[name].min_blocks for name in NAMES])
        return Plan(
            machines=np.array([_machine(self.kinds[name]) for name in NAMES]),
            weights=np.cumsum(np.where(needs == 1, self.weights, 0)),
            needs=needs,
            alone=self.in_one_plane | (np.array(NAMES) == IdleResume.name),
            max_streams=self.max_streams,
            start_page=self.start_page,
            highest_start=self.highest_start,
        )

    @property
    def world(self) -> np.ndarray:
        """(1,) of `machines.WORLD` before the first command."""
        world, ranks = world_of(self.profile), np.arange(1, self.num_blocks + 1)
        world["popularity"][0, : self.num_blocks] = np.cumsum(ranks ** -self.kinds[HotBlock.name].zipf)
        return world

    def blank(self, count: int) -> Drawn:
        """Room for that many sequences."""
        shape = (count, self.seq_len)
        return Drawn(
            op=np.empty(shape, np.int8),
            block=np.empty(shape, np.int32),
            page=np.empty(shape, np.int32),
            start=np.full((count, self.num_blocks), UNKNOWN, np.int32),
            streams=np.empty(count, np.int8),
            traits=np.empty(count, np.uint8),
        )

    def draw(self, keys: np.ndarray, scenario: np.ndarray, hard: np.ndarray | None = None) -> Drawn:
        """One sequence per key.

        Args:
            keys: (N,) uint64; equal keys give equal sequences.
            scenario: (N,) number in `NAMES` of the scenario that runs first.
            hard: (N,) bool, to have a trait that looks illegal, if it can be; None is none.
        """
        drawn, running = self.blank(len(keys)), np.zeros(self.max_streams, MACHINE)
        hard = np.zeros(len(keys), bool) if hard is None else hard
        bits = [bit for bit in TRAITS.values() if self.profile.read_offset_limit or bit != EDGE_READ]
        bits = np.array(bits, np.uint8)
        machines.draw(keys, scenario.astype(np.int64), hard, bits, self.plan, self.world, running, drawn)
        return drawn


def _machine(scenario: Scenario) -> np.ndarray:
    """The scenario's machine before its first command."""
    machine = np.zeros((), MACHINE)
    machine["kind"] = NAMES.index(scenario.name)
    for name, value in vars(scenario).items():
        if name in MACHINE.names:  # zipf is in `Source.world`
            machine[name] = value
    return machine

"""Device profiles: geometry, timing, and which rules apply.

A profile comes from a name (`Profile.load("seed")`), a YAML file or a dict. The figures shipped are generic; none
describes a particular part (nandseq specification, sections 3 and 7).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from common.errors import UserError, nearest

FOLDER = Path(__file__).with_name("profiles")
MAX_BLOCKS = 2**24  # the state is a table over all blocks: 17 bytes each
CHECKED = ConfigDict(extra="forbid")

Count = Annotated[int, Field(ge=0, lt=2**31)]
Time = Annotated[int, Field(ge=0, le=10**15)]
Times = Annotated[tuple[Time, ...], Field(min_length=1, max_length=4)]


@dataclass(frozen=True, config=CHECKED)
class Timing:
    """Array times in ns. `read_ns` and `program_ns` hold one per bit of a cell, lower page first."""

    read_ns: Times
    program_ns: Times
    erase_ns: Time
    suspend_ns: Time = 0
    reset_ns: Time = 0


@dataclass(frozen=True, config=CHECKED)
class Profile:
    """Geometry and rules of a device; 0, "off" and false switch a rule off.

    Attributes:
        dies, planes, blocks, pages: planes per die, blocks per plane, pages per block.
        read_offset_limit: a read of a page this many behind the newest, or more, is READ_STALE.
        min_read_distance: a read of a page nearer to the newest one of an open block is READ_TOO_CLOSE.
        initial_state: "strict", "erased", "unknown", or the path of a saved `State`.
        on_violation: what a bad op does: what it would do "physical"ly, nothing ("ignore"), or end the check ("stop").
        compat_update: `last` follows the page programmed last, even backwards, as in the older engine.
        page_order: "strict" consecutive, "monotone" (may skip up), or "free".
        programs_per_page: more of them since the erase is NOP_EXCEEDED; with 1, REPROGRAM.
        bits_per_cell, pairing: which pages share a word line: "adjacent" ones, or "stride3" (0-2, 1-4, 3-6, …; 2 bits).
        timing: array times; busy, suspend and reset rules need them, and `t_ns` in the trace.
        busy: a command to a busy "die" is refused; with "plane" a read waits for its own plane only.
        suspend, max_suspends: SUSPEND_STATE; at most `max_suspends` (0: any number) per program or erase.
        multi_plane, multi_plane_same_block: rules of groups; whether the block number must agree too.
        copyback: COPYBACK_PLANE; "parity" also wants source and destination both odd or both even.
        cache: CACHE_SEQ.
        partial_erase: PARTIAL_ERASE after an erase that reset or power loss cut short, and the warning PAIR_RISK.
        word_line_order, one_shot: WL_ORDER: lower pages first; all pages of a word line without another op between.
        bad_blocks, bad_mark_pages: (die, plane, block) of each; pages whose read is allowed before the first erase.
        endurance: more erases are PE_LIMIT; beyond 90 % they get the warning PE_WARN.
        read_disturb_limit: reads since erase beyond which READ_DISTURB warns.
        open_block_age_ns: age from which OPEN_BLOCK_AGE forbids to go on with a half-written block.
        read_retry, mode: READ_RETRY, MODE; they need the columns `status` and `mode`.

    Raises:
        UserError: for settings that contradict each other.
    """

    name: str = "custom"
    dies: Annotated[int, Field(ge=1, le=1024)] = 2
    planes: Annotated[int, Field(ge=1, le=32)] = 4
    blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)] = 1000
    pages: Annotated[int, Field(ge=1, le=2**16)] = 2564
    read_offset_limit: Count = 0
    min_read_distance: Count = 0
    initial_state: str = "strict"
    on_violation: Literal["physical", "stop", "ignore"] = "physical"
    compat_update: bool = False
    page_order: Literal["strict", "monotone", "free"] = "strict"
    programs_per_page: Annotated[int, Field(ge=1, le=255)] = 1
    bits_per_cell: Annotated[int, Field(ge=1, le=4)] = 1
    pairing: Literal["adjacent", "stride3"] = "adjacent"
    timing: Timing | None = None
    busy: Literal["off", "die", "plane"] = "off"
    suspend: bool = False
    max_suspends: Count = 0
    multi_plane: bool = False
    multi_plane_same_block: bool = False
    copyback: Literal["off", "plane", "parity"] = "off"
    cache: bool = False
    partial_erase: bool = False
    word_line_order: bool = False
    one_shot: bool = False
    bad_blocks: tuple[tuple[int, int, int], ...] = ()
    bad_mark_pages: tuple[int, ...] = (0,)
    endurance: Count = 0
    read_disturb_limit: Count = 0
    open_block_age_ns: Time = 0
    read_retry: bool = False
    mode: bool = False

    def __post_init__(self):
        if self.num_blocks > MAX_BLOCKS:
            sizes = f"{self.dies} dies × {self.planes} planes × {self.blocks} blocks = {self.num_blocks}"
            raise UserError(f"profile {self.name}: {sizes}; the state table holds at most {MAX_BLOCKS} blocks.")
        if self.read_offset_limit and self.min_read_distance >= self.read_offset_limit:
            raise UserError(
                f"profile {self.name}: min_read_distance={self.min_read_distance} >= read_offset_limit="
                f"{self.read_offset_limit} leaves no legal read in an open block; switch one off (0) or lower it."
            )
        if self.timing is None and (self.busy != "off" or self.suspend or self.partial_erase):
            raise UserError(f"profile {self.name}: busy, suspend and partial_erase need timing; add it.")
        if self.pairing == "stride3" and (self.bits_per_cell != 2 or self.pages % 2 or self.pages < 4):
            raise UserError(f"profile {self.name}: pairing=stride3 needs bits_per_cell=2 and an even number of pages.")
        for block in self.bad_blocks:
            if not all(0 <= at < size for at, size in zip(block, (self.dies, self.planes, self.blocks), strict=True)):
                raise UserError(f"profile {self.name}: bad block {list(block)} lies outside the geometry.")

    @property
    def num_blocks(self) -> int:
        return self.dies * self.planes * self.blocks

    @property
    def extended(self) -> bool:
        """Whether a rule is on that the fast kernel does not know."""
        return any(getattr(self, key) not in (False, 0, "off", ()) for key in EXTENDED)

    @property
    def timed(self) -> bool:
        """Whether a rule is on that needs `t_ns`."""
        return self.busy != "off" or self.suspend or self.partial_erase or self.open_block_age_ns > 0

    @classmethod
    def load(cls, source: "str | Path | Mapping[str, Any] | Profile") -> "Profile":
        """The profile of a name, a YAML file or a dict.

        Raises:
            UserError: for an unknown name or key (with the nearest known one), a value out of range, or settings that
                contradict each other.
        """
        if isinstance(source, Profile):
            return source
        if isinstance(source, Mapping):
            return _from_mapping(dict(source), "profile")
        path = Path(source)
        if path.suffix not in (".yaml", ".yml"):
            if str(source) not in names():
                hint = nearest(str(source), names())
                raise UserError(
                    f"profile {source}: unknown.{hint} Known: {', '.join(names())}; or pass the path of a .yaml file."
                )
            path = FOLDER / f"{source}.yaml"
        return _from_file(path)

    @property
    def base(self) -> "Profile":
        """This profile with the base rules only."""
        return self.replace(name=f"{self.name}.base", **{key: getattr(Profile, key) for key in EXTENDED})

    def replace(self, **changes: Any) -> "Profile":
        """This profile with some keys changed.

        Raises:
            UserError: as `load`.
        """
        return _from_mapping(dataclasses.asdict(self) | changes, f"profile {self.name}")


EXTENDED = (
    "busy", "suspend", "multi_plane", "copyback", "cache", "partial_erase", "word_line_order", "one_shot", "bad_blocks",
    "endurance", "read_disturb_limit", "open_block_age_ns", "read_retry", "mode",
)  # fmt: skip


def names() -> list[str]:
    """Names of the profiles that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _from_file(path: Path) -> Profile:
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: a profile is a list of `key: value` lines, one per setting.")
    return _from_mapping({"name": path.stem} | record, str(path))


def _from_mapping(record: dict[str, Any], where: str) -> Profile:
    try:
        return TypeAdapter(Profile).validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "unexpected_keyword_argument":
            owner = Timing if "." in key else Profile
            known = [field.name for field in dataclasses.fields(owner)]
            hint = nearest(first["loc"][-1], known)
            raise UserError(f"{where}: {key}: unknown key.{hint} Known: {', '.join(known)}.") from None
        raise UserError(f"{where}: {key}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None

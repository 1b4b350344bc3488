"""What is known of every block between two commands, and its files."""

import copy
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import write_atomic
from nandseq.device import Device
from nandseq.kernels import NO_ROW, Blocks
from nandseq.profiles import Profile

FIRST_ROWS = 16
DEVICE = "device_"  # prefix of the extended arrays in a file


@dataclass
class State:
    """State of N sequences of S blocks: one trace is N = 1 with a block for each (die, plane, block).

    Checks advance it in place, so a trace may be checked in chunks.

    Attributes:
        geometry: (dies, planes, blocks, pages) of the profile.
        blocks: arrays of the base rules.
        stopped: (N,) bool, sequences past their first violation with on_violation=stop.
        device: arrays of the extended rules, from the first check on that has such a rule.
    """

    geometry: tuple[int, int, int, int]
    blocks: Blocks
    stopped: np.ndarray
    device: Device | None = None

    @classmethod
    def initial(cls, profile: Profile) -> "State":
        """The state in which the profile lets a trace begin.

        Raises:
            UserError: if `initial_state` is a path and `load` cannot read it.
        """
        if profile.initial_state not in ("strict", "erased", "unknown"):
            return cls.load(Path(profile.initial_state), profile)
        return cls.batch(profile, 1, profile.num_blocks)

    @classmethod
    def batch(cls, profile: Profile, num_sequences: int, num_slots: int, last: np.ndarray | None = None) -> "State":
        """The state of many sequences; with `last` (N, S), blocks are known and hold pages 0 … last (-1: none)."""
        shape = (num_sequences, num_slots)
        known = last is not None or profile.initial_state == "erased"
        blocks = Blocks(
            known=np.full(shape, known),
            last=np.full(shape, -1, np.int32) if last is None else np.array(last, np.int32).reshape(shape),
            erase_count=np.zeros(shape, np.int32),
            row=np.full(shape, NO_ROW, np.int32),
            counts=np.zeros((FIRST_ROWS, profile.pages), np.uint8),
            used=np.zeros(1, np.int64),
        )
        return cls(geometry(profile), blocks, np.zeros(num_sequences, bool))

    def grow(self) -> None:
        """Make room for more rows of `counts`; one more than there are blocks is never exhausted."""
        rows, pages = self.blocks.counts.shape
        more = np.zeros((min(max(4 * rows, FIRST_ROWS), self.blocks.row.size + 1), pages), np.uint8)
        more[:rows] = self.blocks.counts
        self.blocks = self.blocks._replace(counts=more)

    def copy(self) -> "State":
        return copy.deepcopy(self)

    def save(self, path: Path) -> None:
        """Write the state as .npz, atomically."""
        used = int(self.blocks.used[0])
        arrays = self.blocks._replace(counts=self.blocks.counts[:used])._asdict()
        arrays |= {DEVICE + name: array for name, array in (self.device._asdict() if self.device else {}).items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, geometry=np.array(self.geometry), stopped=self.stopped, **arrays)
        write_atomic(path, lambda file: file.write(buffer.getbuffer()))

    @classmethod
    def load(cls, path: Path, profile: Profile) -> "State":
        """Read what `save` wrote.

        Raises:
            UserError: if it is missing, is no state, or belongs to another geometry.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("geometry", "stopped", *Blocks._fields)}
                extended = [file[DEVICE + name] for name in Device._fields] if DEVICE + "blocks" in file else None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a saved state ({error}).") from None
        found = tuple(arrays.pop("geometry").tolist())
        if found != geometry(profile):
            raise UserError(f"{path}: holds dies, planes, blocks, pages {found}; the profile has {geometry(profile)}.")
        return cls(found, stopped=arrays.pop("stopped"), blocks=Blocks(**arrays), device=extended and Device(*extended))

    def to_dict(self) -> dict[str, Any]:
        """Geometry and every known block of a trace's state as plain values.

        `programmed` lists [first page, last page, programs of each].
        """
        dies, planes, blocks, pages = self.geometry
        records = []
        for slot in np.flatnonzero(self.blocks.known[0]).tolist():
            die, rest = divmod(slot, planes * blocks)
            plane, block = divmod(rest, blocks)
            address = {"die": die, "plane": plane, "block": block}
            counters = {"last": int(self.blocks.last[0, slot]), "erase_count": int(self.blocks.erase_count[0, slot])}
            records.append(address | counters | {"programmed": self._programmed(slot)})
        return {"geometry": {"dies": dies, "planes": planes, "blocks": blocks, "pages": pages}, "blocks": records}

    def _programmed(self, slot: int) -> list[list[int]]:
        row, last = int(self.blocks.row[0, slot]), int(self.blocks.last[0, slot])
        if row < 0:
            return [[0, last, 1]] if last >= 0 else []
        counts = self.blocks.counts[row]
        edges = np.flatnonzero(np.diff(counts)) + 1
        starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(counts)]
        return [[start, end - 1, int(counts[start])] for start, end in zip(starts, ends) if counts[start]]


def geometry(profile: Profile) -> tuple[int, int, int, int]:
    return profile.dies, profile.planes, profile.blocks, profile.pages

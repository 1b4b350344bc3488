"""Sector schemes: which id means which sector.

Every data set carries its own scheme (`sectors.json`); the number of sectors is read from it and never assumed,
because two older tables number the same sectors differently (lasps specification, section 4).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError


@dataclass(frozen=True)
class SectorScheme:
    """Names of the sectors 0 … S−1.

    Attributes:
        version: name of the scheme, for example "lasps13".
        korean, english: S names each; the position is the sector id.
    """

    version: str
    korean: tuple[str, ...]
    english: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.english)

    @property
    def other(self) -> int:
        """Id given to issues without a known sector: the first whose English name says "other", else the last."""
        return next((number for number, name in enumerate(self.english) if "other" in name), len(self) - 1)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "SectorScheme":
        """Read `sectors.json`.

        Raises:
            UserError: if the file is missing, is not JSON, or lacks a field.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            scheme = cls(record["version"], tuple(record["korean"]), tuple(record["english"]))
        except FileNotFoundError:
            raise UserError(f"{path}: missing; a data set must say which sector each id means.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a sector scheme ({error!r}); expected version, korean, english.") from None
        if not scheme.korean or len(scheme.korean) != len(scheme.english):
            raise UserError(f"{path}: {len(scheme.korean)} Korean and {len(scheme.english)} English names; need equal.")
        return scheme


LASPS13 = SectorScheme(
    "lasps13",
    ("전기전자", "금융업", "서비스업", "의약품", "유통업", "철강금속", "기계", "화학", "건설업", "음식료품", "운수",
     "제조업", "기타"),
    ("electronics", "finance", "services", "pharma", "distribution", "metals", "machinery", "chemicals",
     "construction", "food", "transport", "manufacturing", "other"),
)  # fmt: skip

LASPS20 = SectorScheme(
    "lasps20",
    ("전기전자", "금융업", "서비스업", "의약품", "운수장비", "유통업", "철강금속", "기계", "화학", "건설업", "섬유의복",
     "음식료품", "비금속광물", "종이목재", "운수창고", "통신업", "전기가스", "제조업(기타)", "농업임업어업", "광업"),
    ("electronics", "finance", "services", "pharma", "transport equipment", "distribution", "metals", "machinery",
     "chemicals", "construction", "textiles", "food", "non-metal minerals", "paper", "logistics", "telecom",
     "utilities", "manufacturing (other)", "agriculture", "mining"),
)  # fmt: skip

SCHEMES = {len(scheme): scheme for scheme in (LASPS13, LASPS20)}

LASPS20_TO_13 = (0, 1, 2, 3, 10, 4, 5, 6, 7, 8, 12, 9, 12, 12, 10, 12, 12, 11, 12, 12)

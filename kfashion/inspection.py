"""What a catalogue holds, as a report in JSON and as lines for the screen.

Source of the published tokens: kfashion specification, section 2.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.files import write_atomic
from kfashion.catalogue import Catalogue
from kfashion.fields import FIELDS, MULTI, tokens_of
from kfashion.garments import REASONS, clean

PUBLISHED = {
    "style": """
        레트로, 로맨틱, 리조트, 매니시, 모던, 밀리터리, 섹시, 소피스트케이티드, 스트리트, 스포티, 아방가르드,
        오리엔탈, 웨스턴, 젠더리스, 컨트리, 클래식, 키치, 톰보이, 펑크, 페미닌, 프레피, 히피, 힙합
    """,
    "silhouette": "노멀, 루즈, 오버사이즈, 스키니, 와이드, 타이트, 벨보텀",
    "material": """
        가죽, 네오프렌, 니트, 데님, 레이스, 린넨, 메시, 무스탕, 벨벳, 비닐/PVC, 스웨이드, 스판덱스, 시퀸/글리터, 시폰,
        실크, 우븐, 울/캐시미어, 자카드, 저지, 코듀로이, 트위드, 패딩, 퍼, 플리스, 헤어 니트, 앙고라, 합성섬유, 면
    """,
    "detail": """
        X스트랩, 글리터, 니트꽈베기, 단추, 더블브레스티드, 드롭숄더, 드롭웨이스트, 디스트로이드, 띠, 러플, 레이스,
        레이스업, 롤업, 리본, 버클, 비대칭, 비즈, 셔링, 스터드, 스트링, 스티치, 스팽글, 슬릿, 싱글브레스티드, 자수,
        지퍼, 체인, 컷아웃, 퀄팅, 태슬, 패치워크, 퍼트리밍, 퍼프, 페플럼, 포켓, 폼폼, 프린지, 프릴, 플레어, 플리츠
    """,
}
SHOWN = ("item_id", "part", "bbox", "crop", *FIELDS, "image")
ROWS_AT_ONCE = 4096
EXAMPLES, MOST_SHOWN = 3, 10


def write_report(catalogue: Catalogue, path: Path) -> None:
    """Write `{items: […], excluded: {reason: n}, excluded_items: […], vocab: {field: […]}, unusual: {field: […]}}`.

    Every garment is a line. Unusual are tokens that K-Fashion does not know, be they mistakes or your own.
    """
    write_atomic(path, lambda file: _write(catalogue, file))


def screen_lines(catalogue: Catalogue) -> Iterator[str]:
    """Counts, distributions, and what was left out with examples."""
    items = catalogue.items
    yield f"{len(items):,} garments in {len(items['image'].unique()):,} images below {catalogue.root}"
    for name in ("category", "part"):
        counts = Counter(items[name].to_pylist()).most_common()
        yield f"{name}: " + ", ".join(f"{value or '(none)'} {count:,}" for value, count in counts)
    tokens = tokens_of(items)
    yield "tokens: " + ", ".join(f"{field} {len(tokens[field])}" for field in FIELDS)
    empty = {field: sum(not each for each in items[field].to_pylist()) for field in FIELDS}
    yield "empty: " + ", ".join(f"{field} {100 * count / len(items):.1f} %" for field, count in empty.items())
    for field, found in _unusual(tokens).items():
        yield f"no {field} of K-Fashion: {', '.join(found[:MOST_SHOWN])}{', …' if len(found) > MOST_SHOWN else ''}"
    left_out = catalogue.excluded.to_pylist()
    for reason, count in catalogue.reasons.items():
        examples = [row["label"] for row in left_out if row["reason"] == reason][:EXAMPLES]
        yield f"left out: {reason} {count:,} ({REASONS[reason]}), for example {', '.join(examples)}"


def _unusual(tokens: dict[str, list[str]]) -> dict[str, list[str]]:
    """The tokens of every field that the published lists lack; fields without such tokens are left out."""
    known = {field: {clean(token) for token in text.split(",")} for field, text in PUBLISHED.items()}
    found = {field: [token for token in tokens[field] if token not in known[field]] for field in known}
    return {field: each for field, each in found.items() if each}


def _write(catalogue: Catalogue, file: BinaryIO) -> None:
    file.write(b'{"items": [')
    separator = "\n"
    for batch in catalogue.items.select(SHOWN).to_batches(ROWS_AT_ONCE):
        for row in batch.to_pylist():
            row |= {field: row[field] or [] for field in MULTI}
            file.write(f"{separator}{json.dumps(row, ensure_ascii=False)}".encode())
            separator = ",\n"
    tokens = tokens_of(catalogue.items)
    rest = {
        "excluded": catalogue.reasons,
        "excluded_items": catalogue.excluded.to_pylist(),
        "vocab": tokens,
        "unusual": _unusual(tokens),
    }
    file.write(f"\n],\n{json.dumps(rest, ensure_ascii=False, indent=1)[1:]}\n".encode())

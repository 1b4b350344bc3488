"""Where a label file departs from K-Fashion's published form: fields, ids, style labels, rectangles, polygons.

The reader (`kfashion.garments`) takes most of it all the same; this is for those who write labels. Source: kfashion
specification, sections 1, 2 and 11 (R1).
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from kfashion.garments import PARTS, clean, load_document

_WORDS = {
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
PUBLISHED = {field: {clean(token) for token in text.split(",")} for field, text in _WORDS.items()}
BLOCKS = ("렉트좌표", "폴리곤좌표", "라벨링")
RECTANGLE = ("X좌표", "Y좌표", "가로", "세로")
STRINGS = ("카테고리", "색상", "서브색상", "기장", "소매기장", "넥라인", "옷깃", "핏")
LISTS = ("소재", "디테일", "프린트")
COORDINATE = re.compile(r"([XY])좌표([1-9]\d*)")
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


def departures(raw: bytes, number: str) -> Iterator[str]:
    """What differs from the published form, a phrase each; nothing for a file that keeps to it.

    Args:
        number: of the file's name, which both ids should be.
    """
    try:
        document = load_document(raw)
    except (ValueError, RecursionError):
        yield "no JSON"
        return
    if not isinstance(document, dict):
        yield "top level: no object"
        return
    image, about = document.get("이미지 정보"), document.get("데이터셋 정보")
    for name, block in (("이미지 정보", image), ("데이터셋 정보", about)):
        if not isinstance(block, dict):
            yield f"{name}: no object"
    if isinstance(image, dict):
        yield from _image(image, number)
    if isinstance(about, dict):
        yield from _about(about, number)


def _image(image: Mapping[str, Any], number: str) -> Iterator[str]:
    yield from _id("이미지 정보", "이미지 식별자", image, number)
    for name in ("이미지 높이", "이미지 너비"):
        if not _is_integer(image.get(name)) or image[name] <= 0:
            yield f"이미지 정보: {name} is no positive integer"
    if not _is_text(image.get("이미지 파일명")):
        yield "이미지 정보: 이미지 파일명 is no text"


def _about(about: Mapping[str, Any], number: str) -> Iterator[str]:
    yield from _id("데이터셋 정보", "파일 번호", about, number)
    if not _is_text(about.get("파일 이름")):
        yield "데이터셋 정보: 파일 이름 is no text"
    try:
        datetime.strptime(about.get("파일 생성일자"), TIME_FORMAT)
    except (TypeError, ValueError):
        yield "데이터셋 정보: 파일 생성일자 is no time YYYY-MM-DD HH:MM:SS"
    detail = about.get("데이터셋 상세설명")
    blocks = {name: detail.get(name) if isinstance(detail, dict) else None for name in BLOCKS}
    for name, block in blocks.items():
        if not isinstance(block, dict):
            yield f"{name}: no object"
            continue
        for key in block.keys() - PARTS.keys() - {"스타일"}:
            yield f"{name}: {key} is no part"
        for part in PARTS:
            if not _is_list_of_objects(block.get(part)):
                yield f"{name}: {part} is no list of objects (of an absent part, [{{}}])"
    parts = [_parts(block) for block in blocks.values()]
    for part in PARTS:
        lengths = {len(each[part]) for each in parts}
        if len(lengths) > 1 and 0 not in lengths:
            yield f"{part}: rectangles, polygons and attributes differ in number"
    for part in PARTS:
        for check, instances in zip((_rectangle, _polygon, _garment), (each[part] for each in parts)):
            for instance in filter(None, instances):
                yield from check(instance)
    if isinstance(blocks["라벨링"], dict):
        yield from _style(blocks["라벨링"].get("스타일"))


def _id(block: str, name: str, content: Mapping[str, Any], number: str) -> Iterator[str]:
    if not _is_integer(content.get(name)):
        yield f"{block}: {name} is no integer"
    elif str(content[name]) != number.lstrip("0"):
        yield f"{block}: {name} is not the number of the file"


def _rectangle(rectangle: Mapping[str, Any]) -> Iterator[str]:
    for key in RECTANGLE:
        if not _is_number(rectangle.get(key)):
            yield f"렉트좌표: {key} is no number"
        elif key in RECTANGLE[2:] and rectangle[key] <= 0:
            yield f"렉트좌표: {key} is not above 0"
    if rectangle.keys() - set(RECTANGLE):
        yield "렉트좌표: keys beyond X좌표, Y좌표, 가로, 세로"


def _polygon(polygon: Mapping[str, Any]) -> Iterator[str]:
    axes: dict[str, set[int]] = {"X": set(), "Y": set()}
    for key, value in polygon.items():
        if (found := COORDINATE.fullmatch(key)) is None:
            yield "폴리곤좌표: a key that is no X좌표n or Y좌표n"
        elif not _is_number(value):
            yield "폴리곤좌표: a coordinate is no number"
        else:
            axes[found[1]].add(int(found[2]))
    if axes["X"] != axes["Y"]:
        yield "폴리곤좌표: an X without its Y, or a Y without its X"
    both = axes["X"] & axes["Y"]
    if both != set(range(1, len(both) + 1)):
        yield "폴리곤좌표: points are not numbered from 1 on"
    if len(both) < 3:
        yield "폴리곤좌표: fewer than 3 points"


def _garment(garment: Mapping[str, Any]) -> Iterator[str]:
    for key, value in garment.items():
        if key in STRINGS and not _is_text(value):
            yield f"라벨링: {key} is no text"
        elif key in LISTS and not (isinstance(value, list) and all(map(_is_text, value))):
            yield f"라벨링: {key} is no list of texts"
        elif key not in STRINGS and key not in LISTS:
            yield f"라벨링: {key} is no field"


def _style(styles: Any) -> Iterator[str]:
    if not _is_list_of_objects(styles):
        yield "스타일: no list of objects"
        return
    for key, value in (pair for entry in styles for pair in entry.items()):
        if key not in ("스타일", "서브스타일"):
            yield f"스타일: {key} is no field"
        elif not _is_text(value) or clean(value) not in PUBLISHED["style"]:
            yield f"스타일: {json.dumps(value, ensure_ascii=False)[:40]} is no style"


def _parts(block: Any) -> dict[str, list[dict]]:
    """The instances of every part; none where they are no list of objects."""
    held = block if isinstance(block, dict) else {}
    return {part: held[part] if _is_list_of_objects(held.get(part)) else [] for part in PARTS}


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(each, dict) for each in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")

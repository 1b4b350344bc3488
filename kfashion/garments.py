"""The garments of a K-Fashion label file.

Two formats are read: that of AI-Hub, and flat records with the five fields, also in a list or below `annotations`.
Source: kfashion specification, section 1.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from unicodedata import is_normalized, normalize

CategorySource = Literal["folder", "garment"]
Box = tuple[float, float, float, float]  # left, top, width, height in pixels

PARTS = {"상의": "top", "하의": "bottom", "아우터": "outer", "원피스": "dress"}  # as item ids name them
FIELD_KEYS = {"silhouette": "핏", "material": "소재", "detail": "디테일"}
ALIASES = {
    "노말": "노멀", "레깅스": "래깅스", "테일러칼라": "테일러드칼라", "홀토넥": "홀터넥", "원 숄더": "원숄더",
}  # fmt: skip
REASONS = {
    "unreadable": "the file cannot be opened",
    "bad_json": "the file is not JSON",
    "no_label": "a record of neither format",
    "no_garment": "no garment in the file",
    "unlabelled": "a polygon or rectangle without attributes",
    "misaligned": "polygons, rectangles and attributes of a part differ in number",
    "no_bbox": "neither polygon nor rectangle can be used",
    "missing_image": "no image beside the label",
    "bad_image": "the image cannot be decoded, or is cut off",
    "size_mismatch": "label and image differ in aspect ratio",
    "too_small": "less than 8 pixels on a side lie within the image",
    "other_folder": "folder 기타, images without a style",
}
OTHER_FOLDER = "기타"
MIN_SIDE = 8
MAX_ASPECT_ERROR = 0.01
JAMO = "\\u11"  # how an escaped decomposed syllable begins


@dataclass(frozen=True)
class Garment:
    """One garment as its label tells it.

    Attributes:
        part: 상의, 하의, 아우터 or 원피스; None in flat records that name none.
        box: in pixels of the size that the label tells.
        label_size: width and height of the image as the label tells them.
        image_name: of the image at its source, which on disk is usually named after the label file.
        fields: the five fields.
        flat: whether the record was a flat one, whose image name is the one on disk.
    """

    part: str | None
    box: Box
    label_size: tuple[float, float] | None
    image_name: str
    fields: dict[str, str | list[str] | None]
    flat: bool = False

    @property
    def look(self) -> str | None:
        """`PREFIX_NNN` of a file name of three parts, which photos of one look share."""
        parts = self.image_name.rpartition(".")[0].split("_")
        return "_".join(parts[:2]) if len(parts) == 3 and all(parts) else None


class Excluded(Exception):
    """A garment or a file that is left out.

    Attributes:
        reason: a key of REASONS.
        part: of the garment; None if it is the file.
    """

    def __init__(self, reason: str, part: str | None = None, detail: str = ""):
        super().__init__(reason, part, detail)
        self.reason, self.part, self.detail = reason, part, detail


def parse_label(
    raw: bytes, folder: str, category_source: CategorySource = "folder", extra_fields: Iterable[str] = ()
) -> Iterator[Garment | Excluded]:
    """The garments of a label file, and what of it cannot be used.

    Args:
        folder: name of the folder the file lies in, which is the category if `category_source` says so.
        extra_fields: keys of the label, such as 색상, whose tokens become details: `색상:화이트`.
    """
    try:
        records = list(_records(load_document(raw)))
    except (ValueError, RecursionError) as error:
        yield Excluded("bad_json", detail=str(error))
        return
    found = 0
    for record in records:
        for garment in _garments(record, folder, category_source, tuple(extra_fields)):
            found += 1
            yield garment
    if not found:
        yield Excluded("no_garment")


def fit_box(box: Box, label_size: tuple[float, float] | None, image_size: tuple[int, int]) -> Box:
    """The box in pixels of the image, clipped to it.

    Raises:
        Excluded: size_mismatch or too_small.
    """
    scale_x, scale_y = _scales(label_size, image_size)
    left, top, width, height = box
    right, bottom = min((left + width) * scale_x, image_size[0]), min((top + height) * scale_y, image_size[1])
    left, top = max(left * scale_x, 0.0), max(top * scale_y, 0.0)
    if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
        raise Excluded("too_small", detail=f"{right - left:.1f} × {bottom - top:.1f} px")
    return left, top, right - left, bottom - top


def crop_box(box: Box, image_size: tuple[int, int], padding: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the crop: the box with `padding` of its size on every side, within the image."""
    left, top, width, height = box
    pad_x, pad_y = int(width * padding), int(height * padding)
    return (
        max(math.floor(left) - pad_x, 0),
        max(math.floor(top) - pad_y, 0),
        min(math.ceil(left + width) + pad_x, image_size[0]),
        min(math.ceil(top + height) + pad_y, image_size[1]),
    )


def load_document(raw: bytes) -> Any:
    """What a JSON file says, all text in NFC. Raises ValueError or RecursionError for what is no JSON."""
    text = raw.decode("utf-8-sig")
    if JAMO in text:
        text = json.dumps(json.loads(text), ensure_ascii=False)
    return json.loads(text if is_normalized("NFC", text) else normalize("NFC", text))


@lru_cache(8192)
def clean(text: str) -> str:
    """Text in NFC, with single plain spaces, under the name that aliases stand for."""
    text = " ".join(normalize("NFC", text).split())
    return ALIASES.get(text, text)


def words(value: Any) -> list[str]:
    """The tokens of a value that should be a list of strings: without empty ones and repetitions, in their order."""
    values = value if isinstance(value, list) else [value]
    found = (clean(str(each)) for each in values if each is not None and not isinstance(each, dict | list))
    return [word for word in dict.fromkeys(found) if word]


def word(value: Any) -> str | None:
    """The token of a value that should be one string."""
    return next(iter(words(value)), None)


def _records(document: Any) -> Iterator[dict]:
    """The records of a document: of a list, of `annotations` with their images, or itself."""
    if isinstance(document, list):
        for each in document:
            yield from _records(each)
    elif isinstance(document, dict) and isinstance(document.get("annotations"), list):
        shared = {key: value for key, value in document.items() if key not in ("annotations", "images")}
        images = {each.get("id"): each for each in _dicts(document.get("images"))}
        for each in _dicts(document["annotations"]):
            yield {**shared, **images.get(each.get("image_id"), {}), **each}
    elif isinstance(document, dict):
        yield document
    else:
        yield {}


def _garments(
    record: dict, folder: str, category_source: CategorySource, extra_fields: tuple[str, ...]
) -> Iterator[Garment | Excluded]:
    if isinstance(record.get("데이터셋 정보"), dict):
        yield from _aihub(record, folder, category_source, extra_fields)
    elif any(key in record for key in ("polygon", "segmentation", *FIELD_KEYS, "category", "style")):
        yield _flat(record, folder)
    else:
        yield Excluded("no_label")


def _aihub(
    record: dict, folder: str, category_source: CategorySource, extra_fields: tuple[str, ...]
) -> Iterator[Garment | Excluded]:
    image, about = _dict(record.get("이미지 정보")), record["데이터셋 정보"]
    detail = _dict(about.get("데이터셋 상세설명"))
    blocks = [_dict(detail.get(name)) for name in ("폴리곤좌표", "렉트좌표", "라벨링")]
    size = _size(image.get("이미지 너비"), image.get("이미지 높이"))
    name = word(image.get("이미지 파일명")) or word(about.get("파일 이름")) or ""
    styles = [each for entry in _listed(blocks[2].get("스타일")) for each in _styles(entry)]
    for part in PARTS:
        instances = [_listed(block.get(part)) for block in blocks]
        if not any(each for block in instances for each in block):
            continue
        count = max(map(len, instances))
        if any(len(block) not in (0, count) for block in instances):
            lengths = " / ".join(str(len(block)) for block in instances)
            yield Excluded("misaligned", part, f"{lengths} polygons / rectangles / attributes")
            continue
        for polygon, rectangle, label in zip(*(block or [{}] * count for block in instances)):
            if not (polygon or rectangle or label):
                continue
            box = _box(_points(_dict(polygon)), _rectangle(_dict(rectangle)))
            if not isinstance(label, dict) or not label:
                yield Excluded("unlabelled", part)
            elif box is None:
                yield Excluded("no_bbox", part)
            else:
                category = clean(folder) if category_source == "folder" else word(label.get("카테고리")) or part
                fields = {"category": category, "style": words(styles), "silhouette": word(label.get("핏"))}
                extra = [f"{key}:{each}" for key in extra_fields for each in words(label.get(key))]
                fields |= {"material": words(label.get("소재")), "detail": words(label.get("디테일")) + extra}
                yield Garment(part, box, size, name, fields)


def _flat(record: dict, folder: str) -> Garment | Excluded:
    part = word(record.get("part"))
    polygon = record.get("polygon", record.get("segmentation"))
    points = _points(polygon) if isinstance(polygon, dict) else list(_pairs(polygon))
    numbers = list(_numbers(record.get("bbox")))
    box = _box(points, tuple(numbers) if len(numbers) == 4 else None)
    if box is None:
        return Excluded("no_bbox", part)
    fields = {name: words(record.get(name)) for name in ("style", "material", "detail")}
    fields |= {"category": word(record.get("category")) or clean(folder), "silhouette": word(record.get("silhouette"))}
    size = _size(record.get("width"), record.get("height"))
    return Garment(part, box, size, word(record.get("image_name", record.get("file_name"))) or "", fields, flat=True)


def _styles(entry: Any) -> list[Any]:
    return [entry.get("스타일"), entry.get("서브스타일")] if isinstance(entry, dict) else [entry]


def _points(polygon: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The points whose x and y are both there, in the order of their numbers."""
    found = []
    for key, value in polygon.items():
        if key.startswith("X좌표") and key[3:].isdecimal():
            x, y = _number(value), _number(polygon.get(f"Y{key[1:]}"))
            if x is not None and y is not None:
                found.append((int(key[3:]), x, y))
    return [(x, y) for _, x, y in sorted(found)]


def _rectangle(rectangle: Mapping[str, Any]) -> Box | None:
    numbers = [_number(rectangle.get(key)) for key in ("X좌표", "Y좌표", "가로", "세로")]
    return None if None in numbers else tuple(numbers)


def _box(points: list[tuple[float, float]], rectangle: Box | None) -> Box | None:
    """The extent of the polygon; of one that is none, the rectangle."""
    if len(points) >= 3:
        xs, ys = zip(*points)
        width, height = max(xs) - min(xs), max(ys) - min(ys)
        if width > 1 and height > 1:
            return min(xs), min(ys), width, height
    if rectangle is None or min(rectangle[2:]) <= 0 or rectangle[2] * rectangle[3] <= 1:
        return None
    return rectangle


def _pairs(polygon: Any) -> Iterator[tuple[float, float]]:
    numbers = list(_numbers(polygon))
    return zip(numbers[::2], numbers[1::2])


def _numbers(value: Any) -> Iterator[float]:
    """All numbers of nested lists, and of points written as {"x": …, "y": …}."""
    if isinstance(value, dict):
        value = [value.get("x"), value.get("y")]
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif (number := _number(value)) is not None:
        yield number


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _size(width: Any, height: Any) -> tuple[float, float] | None:
    size = _number(width), _number(height)
    return size if None not in size and min(size) > 0 else None


def _scales(label_size: tuple[float, float] | None, image_size: tuple[int, int]) -> tuple[float, float]:
    if label_size in (None, image_size):
        return 1.0, 1.0
    x, y = image_size[0] / label_size[0], image_size[1] / label_size[1]
    if abs(x / y - 1) > MAX_ASPECT_ERROR:
        told, real = (f"{size[0]:g} × {size[1]:g}" for size in (label_size, image_size))
        raise Excluded("size_mismatch", detail=f"label {told}, image {real}")
    return x, y


def _listed(value: Any) -> list:
    """The instances of a part: a list, or one that is none."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict]:
    return [each for each in _listed(value) if isinstance(each, dict)]

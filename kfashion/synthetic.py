"""A drawn catalogue with K-Fashion label files: what a garment's fields say can be seen in its picture.

Category is the colour of the cloth, a second style the colour of yoke and hem, silhouette the outline, material the
texture (a second one that of the lower part), detail the ornaments. Designs recur in several photos, photos of one look
share a file name, a few images are copies, and one label in a hundred cannot be used, each in a way that the reader
must notice.
"""

import colorsys
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from common.files import hash_record
from kfashion.garments import PARTS

VERSION = 1  # of the drawings: another one does not take what is cached
WIDTH, HEIGHT = 192, 256
TEXTURE = 512
HUES = {"레트로": 0.07, "로맨틱": 0.93, "리조트": 0.50, "모던": 0.66, "스트리트": 0.27}
TRIMS = {"매니시": (250, 250, 245), "스포티": (250, 220, 40), "섹시": (225, 30, 60), "히피": (60, 35, 25)}
# half outlines from the neck or the waist down: (half width, depth), in units of the garment's height
TOPS = {
    "노멀": [(0.10, 0.0), (0.30, 0.05), (0.52, 0.52), (0.42, 0.57), (0.27, 0.30), (0.25, 0.65), (0.27, 1.0)],
    "루즈": [(0.10, 0.0), (0.34, 0.05), (0.60, 0.34), (0.50, 0.46), (0.36, 0.32), (0.44, 0.70), (0.52, 1.0)],
    "오버사이즈": [(0.12, 0.0), (0.46, 0.06), (0.72, 0.72), (0.54, 0.76), (0.46, 0.40), (0.46, 0.70), (0.46, 1.0)],
    "타이트": [(0.08, 0.0), (0.24, 0.05), (0.26, 0.18), (0.22, 0.22), (0.20, 0.30), (0.14, 0.60), (0.24, 1.0)],
}
BOTTOMS = {
    "스키니": [(0.20, 0.0), (0.22, 0.20), (0.15, 0.60), (0.12, 1.0), (0.04, 1.0), (0.0, 0.30)],
    "와이드": [(0.20, 0.0), (0.30, 0.20), (0.38, 0.60), (0.44, 1.0), (0.06, 1.0), (0.0, 0.42)],
    "벨보텀": [(0.18, 0.0), (0.21, 0.20), (0.13, 0.60), (0.40, 1.0), (0.10, 1.0), (0.0, 0.34)],
}
FLAWS = ("missing_image", "bad_image", "misaligned", "no_bbox", "size_mismatch")
ONE_FLAWED_IN = 100
PAIR_SHARE, LOOK_SHARE, COPY_SHARE = 0.3, 0.23, 0.01
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Design:
    """What a garment is, as its label says it and its picture shows it."""

    part: str
    category: str
    substyle: str | None
    silhouette: str
    materials: tuple[str, ...]
    details: tuple[str, ...]


def synthetic_root(cache: Path, num_images: int, num_designs: int, seed: int) -> Path:
    """The folder of the catalogue with these parameters, drawn if it is not there."""
    root = cache / hash_record([VERSION, num_images, num_designs, seed])
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_suffix(".lock")):
        if not root.exists():
            drawing = root.with_suffix(".part")
            shutil.rmtree(drawing, ignore_errors=True)
            draw_catalogue(drawing, num_images, num_designs, seed)
            drawing.rename(root)
    return root


def draw_catalogue(root: Path, num_images: int, num_designs: int, seed: int) -> None:
    """Write labels to Training/라벨링데이터/<category>/ and images to Training/원천데이터/<archive>/<category>/."""
    rng = np.random.default_rng(seed)
    designs, textures = make_designs(num_designs, rng), make_textures(rng)
    outfits = _outfits(designs, num_images, rng)
    previous = None
    for number, (outfit, name) in enumerate(tqdm(outfits, "drawing", disable=None, leave=False)):
        if previous is not None and rng.random() < COPY_SHARE:
            outfit, image, outlines = previous
        else:
            image, outlines = draw_photo(outfit, textures, rng)
        previous = outfit, image, outlines
        flaw = FLAWS[number // ONE_FLAWED_IN % len(FLAWS)] if number % ONE_FLAWED_IN == ONE_FLAWED_IN - 1 else None
        _write_photo(root / "Training", 100001 + number, name, outfit, image, outlines, flaw, rng)


def make_designs(count: int, rng: np.random.Generator) -> list[Design]:
    """Different designs, whose five fields differ as well."""
    designs: dict[Design, None] = {}
    while len(designs) < count:
        part = "상의" if rng.random() < 0.55 else "하의"
        silhouette = str(rng.choice(list(TOPS if part == "상의" else BOTTOMS)))
        substyle = str(rng.choice(list(TRIMS))) if rng.random() < 0.5 else None
        materials = _some(list(MATERIALS), [0.75, 0.25], 1, rng)
        details = _some(list(DETAILS), [0.15, 0.5, 0.35], 0, rng)
        designs[Design(part, str(rng.choice(list(HUES))), substyle, silhouette, materials, details)] = None
    return list(designs)


def make_textures(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """(512, 512) float32 brightness in [-1, 1] of every material."""
    y, x = np.mgrid[:TEXTURE, :TEXTURE].astype(np.float32)
    return {name: np.clip(make(x, y, rng), -1, 1).astype(np.float32) for name, make in MATERIALS.items()}


def draw_photo(
    outfit: list[Design], textures: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[Image.Image, list[Points]]:
    """A picture of one garment or of a top above a bottom, and their outlines in pixels."""
    image, outlines = _background(rng), []
    for place, design in enumerate(outfit):
        height = rng.uniform(150, 200) if len(outfit) == 1 else rng.uniform(100, 112)
        top = rng.uniform(14, HEIGHT - height - 14) if len(outfit) == 1 else 8 + place * 122 + rng.uniform(-4, 4)
        at = partial(_place, WIDTH / 2 + rng.uniform(-12, 12), top, height, rng.uniform(-0.05, 0.05))
        half = (TOPS | BOTTOMS)[design.silhouette]
        outline = [at(x, y) for x, y in [*half, *((-x, y) for x, y in half[::-1])]]
        _paint(image, design, outline, textures, rng)
        for detail in design.details:
            DETAILS[detail](ImageDraw.Draw(image), at, height)
        outlines.append(outline)
    return image, outlines


def _outfits(designs: list[Design], num_images: int, rng: np.random.Generator) -> list[tuple[list[Design], str | None]]:
    """What every photo shows, and the source's file name of those that belong to a look."""
    tops, bottoms = ([each for each in designs if each.part == part] for part in ("상의", "하의"))
    photos: list[tuple[list[Design], str | None]] = []
    while len(photos) < num_images:
        outfit = [designs[rng.integers(len(designs))]]
        # one photo has one style, as it has one folder
        others = [each for each in (bottoms if outfit[0] in tops else tops) if _style(each) == _style(outfit[0])]
        if others and rng.random() < PAIR_SHARE:
            outfit = sorted([*outfit, others[rng.integers(len(others))]], key=lambda each: list(PARTS).index(each.part))
        stem, views = f"SYN_{len(photos):06d}", 2 if rng.random() < LOOK_SHARE / 2 else 1
        photos += [(outfit, f"{stem}_{view:02d}.jpg" if views > 1 else None) for view in range(views)]
    return photos[:num_images]


def _style(design: Design) -> tuple[str, str | None]:
    return design.category, design.substyle


def _some(names: list[str], chances: list[float], fewest: int, rng: np.random.Generator) -> tuple[str, ...]:
    """`fewest` names or more, with the chances of each number, in the order of the names."""
    chosen = rng.choice(len(names), fewest + rng.choice(len(chances), p=chances), replace=False)
    return tuple(names[each] for each in sorted(chosen))


def _place(middle: float, top: float, height: float, tilt: float, x: float, y: float) -> tuple[float, float]:
    """A point of the garment, in pixels of the photo."""
    return middle + height * (x * 0.95 - tilt * (y - 0.5)), top + height * (y + tilt * x)


def _background(rng: np.random.Generator) -> Image.Image:
    """A soft landscape of greys: no two photos share it."""
    coarse = rng.integers(110, 215, (5, 4)).astype(np.uint8)
    grey = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    tint = rng.uniform(0.9, 1.1, 3)
    return Image.fromarray(np.clip(np.asarray(grey)[..., None] * tint, 0, 255).astype(np.uint8))


def _paint(
    image: Image.Image, design: Design, outline: Points, textures: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    xs, ys = zip(*outline)
    left, top = int(max(min(xs), 0)), int(max(min(ys), 0))
    width, height = int(min(max(xs) + 1, WIDTH)) - left, int(min(max(ys) + 1, HEIGHT)) - top
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=255)
    depth = np.linspace(0, 1, height)[:, None]
    brightness = _cut(textures[design.materials[0]], width, height, rng)
    if len(design.materials) > 1:
        brightness = np.where(depth > 0.6, _cut(textures[design.materials[1]], width, height, rng), brightness)
    hue = HUES[design.category] + rng.uniform(-0.015, 0.015)
    colour = np.broadcast_to(255 * np.array(colorsys.hsv_to_rgb(hue % 1, 0.75, 0.72)), (height, width, 3))
    if design.substyle is not None:
        trim = (depth < 0.13) | (depth > 0.9)
        colour = np.where(trim[..., None], np.array(TRIMS[design.substyle], float), colour)
    pixels = colour * (1 + 0.45 * brightness[..., None]) * rng.uniform(0.92, 1.08)
    image.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), (left, top), mask)


def _cut(texture: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    x, y = rng.integers(TEXTURE - width), rng.integers(TEXTURE - height)
    return texture[y : y + height, x : x + width]


def _denim(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sign(np.sin((x + y) * 2 * np.pi / 9))


def _knit(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sin((y + 6 * np.abs(x % 16 - 8) / 8) * 2 * np.pi / 10) * 1.3


def _lace(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where((x % 14 - 7) ** 2 + (y % 14 - 7) ** 2 < 20, 1.0, -0.25)


def _leather(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 1.4 * np.sin(x * 2 * np.pi / 90 + 0.6 * np.sin(y / 40)) ** 5 - 0.45


def _fur(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = Image.fromarray(rng.integers(0, 255, x.shape, dtype=np.uint8)).filter(ImageFilter.BoxBlur(2))
    return (np.asarray(noise, np.float32) - 127) / 18


def _tweed(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where((x // 12 + y // 12) % 2 > 0, 0.75, -0.75)


def _sequins(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sparks = rng.random((TEXTURE // 4, TEXTURE // 4)) < 0.12
    return np.where(np.kron(sparks, np.ones((4, 4))) > 0, 1.0, -0.6)


def _woven(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(x)


MATERIALS = {
    "데님": _denim, "니트": _knit, "레이스": _lace, "가죽": _leather, "퍼": _fur, "트위드": _tweed,
    "시퀸/글리터": _sequins, "우븐": _woven,
}  # fmt: skip

Locate = Callable[[float, float], tuple[float, float]]


def _discs(sketch: ImageDraw.ImageDraw, centres: Points, radius: float, colour: str) -> None:
    for x, y in centres:
        sketch.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="black")


def _buttons(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    _discs(sketch, [at(0.0, y) for y in (0.2, 0.36, 0.52, 0.68, 0.84)], 0.035 * height, "white")


def _zip(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    sketch.line([at(0.07, 0.05), at(0.07, 0.95)], fill="black", width=int(0.05 * height))
    sketch.line([at(0.07, 0.05), at(0.07, 0.95)], fill="silver", width=int(0.02 * height))


def _pockets(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    for side in (-0.15, 0.15):
        corners = [at(side + x, y) for x, y in ((-0.09, 0.55), (0.09, 0.55), (0.09, 0.74), (-0.09, 0.74))]
        sketch.polygon(corners, fill=(35, 45, 70), outline="white")


def _bow(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    for side in (-1, 1):
        sketch.polygon([at(0, 0.18), at(0.2 * side, 0.08), at(0.2 * side, 0.28)], fill=(230, 20, 120), outline="black")


def _frills(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    _discs(sketch, [at(x, 0.98) for x in np.linspace(-0.4, 0.4, 9)], 0.06 * height, "ivory")


def _studs(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    _discs(sketch, [at(x, y) for x in np.linspace(-0.2, 0.2, 5) for y in (0.3, 0.4)], 0.022 * height, "gold")


def _belt(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    sketch.line([at(-0.3, 0.48), at(0.3, 0.48)], fill=(25, 15, 10), width=int(0.09 * height))


def _patches(sketch: ImageDraw.ImageDraw, at: Locate, height: float) -> None:
    for x, y, colour in ((-0.14, 0.38, (40, 170, 60)), (0.12, 0.45, (240, 130, 20)), (-0.1, 0.82, (60, 90, 220))):
        sketch.polygon([at(x + dx, y + dy) for dx, dy in ((-0.09, 0), (0, -0.09), (0.09, 0), (0, 0.09))], fill=colour)


DETAILS = {
    "단추": _buttons, "지퍼": _zip, "포켓": _pockets, "리본": _bow, "프릴": _frills, "스터드": _studs, "띠": _belt,
    "패치워크": _patches,
}  # fmt: skip


def _write_photo(
    folder: Path, number: int, name: str | None, outfit: list[Design], image: Image.Image, outlines: list[Points],
    flaw: str | None, rng: np.random.Generator,
) -> None:  # fmt: skip
    category = outfit[0].category
    picture = folder / "원천데이터" / f"원천_{1 + number % 2}" / category / f"{number}.jpg"
    label = folder / "라벨링데이터" / category / f"{number}.json"
    for path in (picture, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    if flaw != "missing_image":
        image.save(picture, quality=88)
    if flaw == "bad_image":
        picture.write_bytes(picture.read_bytes()[:-400])
    document = _document(number, name or f"{number}.jpg", outfit, outlines, flaw, rng)
    label.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _document(
    number: int, name: str, outfit: list[Design], outlines: list[Points], flaw: str | None, rng: np.random.Generator
) -> dict:
    parts = ("아우터", "하의", "원피스", "상의")
    blocks = {block: {part: [{}] for part in parts} for block in ("렉트좌표", "폴리곤좌표", "라벨링")}
    for design, outline in zip(outfit, outlines):
        blocks["렉트좌표"][design.part] = [_rectangle(outline)]
        blocks["폴리곤좌표"][design.part] = [_polygon(outline, rng)]
        blocks["라벨링"][design.part] = [_attributes(design)]
    if flaw == "misaligned":
        blocks["라벨링"][outfit[0].part] *= 2
    if flaw == "no_bbox":
        blocks["렉트좌표"][outfit[0].part] = blocks["폴리곤좌표"][outfit[0].part] = [{}]
    style = {"스타일": outfit[0].category}
    if outfit[0].substyle is not None:
        style["서브스타일"] = outfit[0].substyle
    blocks["라벨링"]["스타일"] = [style]
    height = HEIGHT // 2 if flaw == "size_mismatch" else HEIGHT
    return {
        "이미지 정보": {"이미지 식별자": number, "이미지 높이": height, "이미지 너비": WIDTH, "이미지 파일명": name},
        "데이터셋 정보": {
            "파일 생성일자": "2020-09-01 10:00:00", "파일 번호": number, "파일 이름": name,
            "데이터셋 상세설명": blocks,
        },
    }  # fmt: skip


def _rectangle(outline: Points) -> dict[str, float]:
    xs, ys = zip(*outline)
    return {
        "X좌표": round(min(xs) - 0.5, 1), "Y좌표": round(min(ys) - 0.5, 1),
        "가로": int(max(xs) - min(xs)), "세로": int(max(ys) - min(ys)),
    }  # fmt: skip


def _polygon(outline: Points, rng: np.random.Generator) -> dict[str, float]:
    """The points with their numbers, in no order, as the real files have them."""
    entries = [
        (f"{axis}좌표{number}", round(value, 1))
        for number, point in enumerate(outline, 1)
        for axis, value in zip("XY", point)
    ]
    return dict(entries[each] for each in rng.permutation(len(entries)))


def _attributes(design: Design) -> dict[str, str | list[str]]:
    """The garment's label; 노멀 in its other spelling, and a detail that is alone as a string."""
    label: dict[str, str | list[str]] = {
        "핏": design.silhouette.replace("노멀", "노말"),
        "소재": list(design.materials),
    }
    if design.details:
        label["디테일"] = list(design.details) if len(design.details) > 1 else design.details[0]
    return label

"""A folder of label files and images as one Parquet table of garments, made in one pass at constant memory.

Source: kfashion specification, sections 1 and 11 (R3).
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from common.errors import UserError
from common.files import hash_record, write_json
from kfashion.fields import TYPES
from kfashion.garments import (
    OTHER_FOLDER,
    PARTS,
    CategorySource,
    Excluded,
    Garment,
    clean,
    crop_box,
    fit_box,
    parse_label,
)
from kfashion.images import image_size, load_rgb

log = logging.getLogger(__name__)

IMAGE_FOLDER = "원천데이터"
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".webp", ".bmp")
ROWS_PER_GROUP = 8192
TABLE_VERSION = 1
ITEMS = pa.schema(
    [
        ("item_id", pa.string()), ("part", pa.string()), ("bbox", pa.list_(pa.float64(), 4)),
        ("crop", pa.list_(pa.int32(), 4)), *TYPES.items(), ("image", pa.string()), ("look", pa.string()),
        ("label", pa.string()),
    ]
)  # fmt: skip
EXCLUDED = pa.schema([(name, pa.string()) for name in ("label", "part", "reason", "detail")])


@dataclass(frozen=True)
class Reading:
    """How label files are read.

    Args:
        category_source: the folder's name, or the garment's own category, its part where it has none.
        crop_padding: share of the box that a crop shows beyond it, on each side.
        folders: names of the folders to read; None for all.
        include_other: whether 기타, images without a style, is read too.
        extra_fields: keys of the label whose tokens become details, see `kfashion.garments.parse_label`.
        need_images: whether an image must be there; without, its size is what the label tells.
    """

    category_source: CategorySource = "folder"
    crop_padding: float = 0.1
    folders: tuple[str, ...] | None = None
    include_other: bool = False
    extra_fields: tuple[str, ...] = ()
    need_images: bool = True


@dataclass
class Catalogue:
    """Garments with their images.

    Attributes:
        root: what the paths in the table are relative to.
        items: a row per garment: item_id, part, bbox (x, y, width, height), crop (left, top, right, bottom), the five
            fields, image, look, label.
        excluded: a row for each that was left out: label, part, reason, detail.
    """

    root: Path
    items: pa.Table
    excluded: pa.Table = field(default_factory=EXCLUDED.empty_table)

    def __len__(self) -> int:
        return len(self.items)

    def crop(self, row: int) -> Image.Image:
        """The picture of one garment.

        Raises:
            Excluded: if the image cannot be decoded.
        """
        return load_rgb(self.root / self.items["image"][row].as_py(), tuple(self.items["crop"][row].as_py()))

    def select(self, kept: np.ndarray, reason: str) -> "Catalogue":
        """The garments that a (N,) bool array keeps; the others are left out for the reason given."""
        dropped = self.items.filter(pa.array(~kept)).select(["label", "part"])
        for name, value in (("reason", reason), ("detail", "")):
            dropped = dropped.append_column(name, pa.array([value] * len(dropped), pa.string()))
        return Catalogue(self.root, self.items.filter(pa.array(kept)), pa.concat_tables([self.excluded, dropped]))

    @property
    def reasons(self) -> dict[str, int]:
        """How many were left out, by reason, the most frequent first."""
        return dict(Counter(self.excluded["reason"].to_pylist()).most_common())


def read_catalogue(root: Path, cache: Path, reading: Reading) -> Catalogue:
    """The garments below `root`; read again only if a label, an image folder or the way of reading has changed.

    Raises:
        UserError: if no garment can be used, naming the root, the folders searched and those found.
    """
    folders, found = _label_folders(root, reading)
    digest, repeated = _survey(folders)
    key = hash_record([TABLE_VERSION, str(root.absolute()), asdict(reading), digest])
    entry = cache / key
    with FileLock(_made(cache) / f"{key}.lock"):
        if not (entry / "done.json").exists():
            _made(entry)
            counts = _write_tables(folders, repeated, reading, entry)
            write_json(entry / "done.json", counts)
    catalogue = Catalogue(root, *(pq.read_table(entry / f"{name}.parquet") for name in ("items", "excluded")))
    if not len(catalogue):
        raise UserError(_nothing_found(root, reading, found, catalogue.reasons))
    return catalogue


def label_files(root: Path, reading: Reading) -> Iterator[tuple[str, str, bytes]]:
    """Path relative to `root`, number and content of every label file that can be opened.

    Raises:
        UserError: if there is no such folder.
    """
    for folder in _label_folders(root, reading)[0]:
        for name in folder.names():
            with suppress(OSError), open(folder.root + folder.path + name, "rb") as file:
                yield folder.path + name, _number(name), file.read()


def _nothing_found(root: Path, reading: Reading, found: list[str], reasons: dict[str, int]) -> str:
    wanted = ", ".join(reading.folders) if reading.folders is not None else "all"
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "there is no label file"
    return (
        f"{root}: no usable garment. Folders searched: {wanted}; found: {', '.join(found) or 'none'}. Left out: {why}. "
        "Label files lie in <root>/<folder>/<number>.json, images beside them or in images/ or 원천데이터/."
    )


@dataclass
class LabelFolder:
    """A folder of label files and the places where their images may lie, as text: paths are joined millions of times.

    Attributes:
        name: of its category.
        path: relative to the root, with a slash at its end; empty for the root itself.
        image_folders: likewise.
    """

    root: str
    name: str
    path: str
    image_folders: list[str]

    def names(self) -> list[str]:
        """Names of its label files, sorted."""
        with os.scandir(self.root + self.path) as entries:
            return sorted(entry.name for entry in entries if entry.name.lower().endswith(".json") and entry.is_file())

    def find_image(self, names: list[str]) -> str:
        """The first of the names that lies in one of the image folders, relative to the root.

        Raises:
            Excluded: missing_image.
        """
        for folder in self.image_folders:
            for name in names:
                if os.path.isfile(f"{self.root}{folder}{name}"):
                    return folder + name
        raise Excluded("missing_image", detail=names[0])


def _label_folders(root: Path, reading: Reading) -> tuple[list[LabelFolder], list[str]]:
    """The folders with label files that are to be read, and the names of all folders that were found."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds the folders of label files.")
    wanted = None if reading.folders is None else {clean(name) for name in reading.folders}
    folders, found = [], []
    for path in _walk(root):
        name = clean(path.name)
        found.append(name)
        if wanted is None or name in wanted:
            places = [_relative(place, root) for place in _image_folders(root, path)]
            folders.append(LabelFolder(f"{root}/", name, _relative(path, root), places))
    return folders, sorted(set(found[1:]))  # the first is the root


def _relative(folder: Path, root: Path) -> str:
    return "" if folder == root else f"{folder.relative_to(root)}/"


def _walk(folder: Path) -> Iterator[Path]:
    """The folder and all below it, sorted, but for those of images and links to a folder that holds them."""
    yield folder
    for each in _subfolders(folder):
        leads_back = each.is_symlink() and folder.resolve().is_relative_to(each.resolve())
        if not leads_back and normalize("NFC", each.name) not in (IMAGE_FOLDER, "images"):
            yield from _walk(each)


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _image_folders(root: Path, folder: Path) -> list[Path]:
    """Beside the labels, in images/ below them or their parent, and in the folder of their name below 원천데이터."""
    places = [folder, folder / "images", folder.parent / "images"]
    above = [each for each in folder.parents if each == root or root in each.parents]
    sources = [each for outer in above for each in _subfolders(outer) if normalize("NFC", each.name) == IMAGE_FOLDER]
    for source in sources:
        archives = [source, *_subfolders(source)]
        places += [each for outer in archives for each in _subfolders(outer) if clean(each.name) == clean(folder.name)]
    return [place for place in places if place.is_dir()]


def _survey(folders: list[LabelFolder]) -> tuple[str, set[int]]:
    """A digest of names, sizes and times of all label files, and the hashes of those numbers that occur twice."""
    digest, hashes = blake2b(digest_size=16), []
    for folder in folders:
        names = folder.names()
        for name in names:
            status = os.stat(f"{folder.root}{folder.path}{name}")
            digest.update(f"{folder.path}{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        for place in folder.image_folders:
            digest.update(f"{place} {os.stat(folder.root + place).st_mtime_ns}\n".encode())
        hashes.append(np.fromiter((_name_hash(_number(name)) for name in names), np.int64, len(names)))
    values, counts = np.unique(np.concatenate([np.empty(0, np.int64), *hashes]), return_counts=True)
    return digest.hexdigest(), set(values[counts > 1].tolist())


def _name_hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)


def _number(name: str) -> str:
    """The longest run of digits in a file name; the whole stem where there is none."""
    stem = normalize("NFC", name.rpartition(".")[0])
    runs = "".join(letter if letter in "0123456789" else " " for letter in stem).split()
    return max(runs, key=len, default=stem)


def _write_tables(folders: list[LabelFolder], repeated: set[int], reading: Reading, entry: Path) -> dict[str, int]:
    with _Table(entry / "items.parquet", ITEMS) as items, _Table(entry / "excluded.parquet", EXCLUDED) as excluded:
        files = ((folder, name) for folder in folders for name in folder.names())
        for folder, name in tqdm(files, "labels", unit=" files", disable=None, leave=False):
            for row in _rows(folder, name, repeated, reading):
                (excluded if "reason" in row else items).add({**row, "label": folder.path + name})
        return {"items": items.count, "excluded": excluded.count}


def _rows(folder: LabelFolder, name: str, repeated: set[int], reading: Reading) -> Iterator[dict[str, Any]]:
    """What a label file adds to the tables: rows of garments, and of what is left out, which have a reason."""
    if folder.name == OTHER_FOLDER and not reading.include_other:
        yield _left_out(Excluded("other_folder"))
        return
    number, instances = _number(name), Counter()
    path = folder.path + name
    unique = _name_hash(number) not in repeated
    base = number if unique else normalize("NFC", path.rpartition(".")[0]).replace("/", "-")
    try:
        with open(folder.root + path, "rb") as file:
            raw = file.read()
    except OSError as error:
        yield _left_out(Excluded("unreadable", detail=error.strerror or ""))
        return
    images = _Images(folder, name, number, reading)
    for garment in parse_label(raw, folder.name, reading.category_source, reading.extra_fields):
        if isinstance(garment, Excluded):
            yield _left_out(garment)
            continue
        slug = PARTS.get(garment.part, garment.part or "item")
        item_id = f"{base}_{slug}_{instances[slug]}"
        instances[slug] += 1
        try:
            yield {
                "item_id": item_id,
                "part": garment.part,
                "look": garment.look,
                **garment.fields,
                **images.place(garment),
            }
        except Excluded as excluded:
            yield _left_out(excluded, garment.part)


def _left_out(excluded: Excluded, part: str | None = None) -> dict[str, str | None]:
    return {"part": part or excluded.part, "reason": excluded.reason, "detail": excluded.detail}


class _Images:
    """The images of one label file; each is looked at once."""

    def __init__(self, folder: LabelFolder, label: str, number: str, reading: Reading):
        self.folder, self.label, self.number, self.reading = folder, label, number, reading
        self.sizes: dict[str, tuple[int, int]] = {}

    def place(self, garment: Garment) -> dict[str, Any]:
        """Path of the image of a garment, its box there and its crop.

        Raises:
            Excluded: for what is wrong with the image or with the place in it.
        """
        path, size = self._find(garment)
        box = fit_box(garment.box, garment.label_size, size)
        return {"image": path, "bbox": box, "crop": crop_box(box, size, self.reading.crop_padding)}

    def _find(self, garment: Garment) -> tuple[str, tuple[int, int]]:
        if not self.reading.need_images:
            if garment.label_size is None:
                raise Excluded("missing_image", detail="the label tells no size")
            return "", (int(garment.label_size[0]), int(garment.label_size[1]))
        path = self.folder.find_image(self._names(garment))
        if path not in self.sizes:
            self.sizes[path] = image_size(self.folder.root + path)
        return path, self.sizes[path]

    def _names(self, garment: Garment) -> list[str]:
        """Names under which an image may lie on disk, the likeliest first."""
        stem = self.label.rpartition(".")[0]
        told = garment.image_name.replace("\\", "/").rpartition("/")[2]
        source = [told, normalize("NFD", told)] if told else []
        others = [f"{each}{suffix}" for suffix in SUFFIXES for each in dict.fromkeys([stem, self.number])]
        return [*source, f"{stem}.jpg", *others] if garment.flat else [f"{stem}.jpg", *source, *others]


class _Table:
    """Rows written to a Parquet file in groups."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.writer, self.schema = pq.ParquetWriter(path, schema), schema
        self.rows: list[dict[str, Any]] = []
        self.count = 0

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *error: Any) -> None:
        self._flush()
        self.writer.close()

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.count += 1
        if len(self.rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows.clear()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

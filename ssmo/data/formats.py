"""The files that picture data sets come in, as arrays: `{split: (x (N, C, H, W), y (N,) int64)}`.

Source: ssmo specification, section 5.1.
"""

import gzip
import pickle
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from common.errors import UserError
from ssmo.data.files import list_files, read_picture

Part = tuple[np.ndarray, np.ndarray]

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PICTURES = (".jpg", ".jpeg", ".png")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
IDX = {"train": "train", "test": "t10k"}


def read_digits(path: Path) -> dict[str, Part]:
    """Grey float32 pictures in [0, 1] from rows of pixels 0..16 and a label, without a header; one part, train.

    Raises:
        UserError: for other columns or values, naming the row.
    """
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: no table of numbers ({error}).") from None
    side = round((rows.shape[1] - 1) ** 0.5)
    if side < 1 or side**2 + 1 != rows.shape[1]:
        raise UserError(f"{path}: has {rows.shape[1]} columns; needs the pixels of a square and a label, as 64 + 1.")
    pixels, label = rows[:, :-1], rows[:, -1]
    bad = ~((pixels >= 0) & (pixels <= 16)).all(1) | ~np.isin(label, range(10))
    if bad.any():
        raise UserError(f"{path} row {int(bad.argmax()) + 1}: needs pixels of 0..16 and a label of 0..9.")
    return {"train": ((pixels / 16).reshape(-1, 1, side, side).astype(np.float32), label.astype(np.int64))}


def read_mnist(path: Path) -> dict[str, Part]:
    """Grey uint8 pictures from an npz (x_train, y_train, x_test, y_test) or a folder of IDX files, gzipped or not.

    Raises:
        UserError: for missing or inconsistent arrays.
    """
    if path.is_dir():
        arrays = {split: (_idx(path, f"{stem}-images", 3), _idx(path, f"{stem}-labels", 1))
                  for split, stem in IDX.items()}  # fmt: skip
    else:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {split: (file[f"x_{split}"], file[f"y_{split}"]) for split in IDX}
        except (OSError, ValueError, KeyError, AttributeError, EOFError) as error:
            raise UserError(f"{path}: needs arrays x_train, y_train, x_test and y_test ({error}).") from None
    return {split: _checked(path, x[:, None] if x.ndim == 3 else x, y, 10) for split, (x, y) in arrays.items()}


def _idx(folder: Path, stem: str, dims: int) -> np.ndarray:
    names = [f"{stem}{dot}idx{dims}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise UserError(f"{folder}: has no {names[0]}, plain or .gz; give an npz or a folder of the four IDX files.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}).") from None
    header = np.frombuffer(content[: 4 * (1 + dims)], ">i4")
    if len(header) != 1 + dims or header[0] != 2048 + dims:
        raise UserError(f"{path}: begins with {content[:4].hex()}, not the IDX magic number {2048 + dims}.")
    values = np.frombuffer(content, np.uint8, offset=4 * (1 + dims))
    if len(values) != np.prod(header[1:]):
        raise UserError(f"{path}: holds {len(values)} bytes where its header tells {np.prod(header[1:])}.")
    return values.reshape(header[1:])


def read_cifar10(path: Path) -> dict[str, Part]:
    """uint8 pictures of 32 pixels from the original pickles, or from class folders, also in zip archives.

    Raises:
        UserError: for a file that is missing, damaged, or asks to run code.
    """
    folder = _inside(path, "cifar-10-batches-py", "data_batch_1")
    if folder is None:
        parts, names = read_tree(path, 32, 3)
        if tuple(names) != CIFAR10:
            raise UserError(f"{path}: needs the pickle data_batch_1 or a folder for each of {', '.join(CIFAR10)}.")
        return parts
    batches = [_cifar(folder / f"data_batch_{number}", b"labels", 10) for number in range(1, 6)]
    x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return {"train": (x, y), "test": _cifar(folder / "test_batch", b"labels", 10)}


def read_cifar100(path: Path) -> tuple[dict[str, Part], list[str], dict[str, str]]:
    """Parts from the original pickles, names of the classes, and for each the next one of its superclass.

    Raises:
        UserError: for a file that is missing, damaged, or asks to run code.
    """
    folder = _inside(path, "cifar-100-python", "train")
    if folder is None:
        raise UserError(f"{path}: needs the CIFAR-100 pickles train and test.")
    parts = {split: _cifar(folder / split, b"fine_labels", 100) for split in ("train", "test")}
    fine, coarse = parts["train"][1], _entry(folder / "train", load_arrays(folder / "train"), b"coarse_labels")
    if len(coarse) != len(fine):
        raise UserError(f"{folder / 'train'}: has {len(coarse)} coarse labels for {len(fine)} pictures.")
    names = _class_names(folder / "meta")
    return parts, names, _next_in_group(names, fine, np.asarray(coarse))


def _class_names(path: Path) -> list[str]:
    if not path.exists():
        return [f"class_{number:02d}" for number in range(100)]
    names = [str(each, "utf-8") if isinstance(each, bytes) else str(each)
             for each in _entry(path, load_arrays(path), b"fine_label_names")]  # fmt: skip
    if len(set(names)) != 100:
        raise UserError(f"{path}: holds {len(set(names))} names of classes; needs 100.")
    return names


def _next_in_group(names: list[str], fine: np.ndarray, coarse: np.ndarray) -> dict[str, str]:
    following = {}
    for group in np.unique(coarse):
        members = np.unique(fine[coarse == group])
        following |= {names[each]: names[other] for each, other in zip(members, np.roll(members, -1), strict=True)}
    return following


def _inside(path: Path, subfolder: str, file: str) -> Path | None:
    return next((each for each in (path, path / subfolder) if (each / file).is_file()), None)


def _cifar(path: Path, labels: bytes, num_classes: int) -> Part:
    content = load_arrays(path)
    x, y = (np.asarray(_entry(path, content, key)) for key in (b"data", labels))
    if x.ndim != 2 or x.shape[1] != 3072:
        raise UserError(f"{path}: data has the shape {x.shape}; needs (N, 3072).")
    return _checked(path, x.reshape(-1, 3, 32, 32), y, num_classes)


def _entry(path: Path, content: Any, key: bytes) -> Any:
    for each in (key, key.decode()):
        if isinstance(content, dict) and each in content:
            return content[each]
    raise UserError(f"{path}: has no entry {key.decode()}; give the original python version of CIFAR.")


class _ArraysOnly(pickle.Unpickler):
    """Makes plain values and numpy arrays, and refuses to look up anything else: a pickle can name any function."""

    ALLOWED = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_arrays(path: Path) -> Any:
    """Content of a pickle of plain values and numpy arrays; no code in it is run.

    Raises:
        UserError: if the file is missing, damaged, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file, encoding="bytes").load()
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; give the folder of all CIFAR pickles.") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{path}: is not a pickle of numpy arrays ({error}).") from None


def read_cifar_c(folder: Path, name: str, severity: int) -> Part:
    """Test pictures of CIFAR-10-C: `NAME.npy`, five blocks in order of severity, and labels.npy.

    Raises:
        UserError: if a file is missing or has another shape.
    """
    try:
        x, y = (np.load(folder / f"{each}.npy", mmap_mode="r", allow_pickle=False) for each in (name, "labels"))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder}: needs {name}.npy and labels.npy of CIFAR-10-C ({error}).") from None
    if x.ndim != 4 or x.shape[1:] != (32, 32, 3) or len(x) != len(y) or len(x) % 5:
        raise UserError(f"{folder / name}.npy: has the shape {x.shape} for {len(y)} labels; needs (5 N, 32, 32, 3).")
    rows = slice((severity - 1) * len(x) // 5, severity * len(x) // 5)
    return _checked(folder / f"{name}.npy", np.ascontiguousarray(x[rows].transpose(0, 3, 1, 2)), y[rows], 10)


def read_tree(path: Path, size: int, channels: Literal[1, 3]) -> tuple[dict[str, Part], list[str]]:
    """Parts and class names from JPEG and PNG files named […/][train|val|test/]CLASS/FILE, in folders and archives.

    Classes are numbered in the order of their names. Without split folders everything is train.

    Args:
        size: pixels per side; others are resized, which stretches what is not square.

    Raises:
        UserError: for pictures at other places, or a class without training pictures.
    """
    files = list_files(path)
    found: dict[str, list[tuple[str, str]]] = {}
    for name in files:
        place = PurePosixPath(name)
        if place.suffix.lower() not in PICTURES or place.name.startswith("._"):
            continue
        if len(place.parts) < 2:
            raise UserError(f"{name}: lies in no class folder; needs [train|val|test/]CLASS/FILE below {path}.")
        split = SPLIT_FOLDERS.get(place.parts[-3]) if len(place.parts) > 2 else None
        found.setdefault(split or "", []).append((place.parts[-2], name))
    if not found or ("" in found and len(found) > 1) or not {"", "train"} & found.keys():
        raise UserError(f"{path}: needs pictures (jpg, png) as train/CLASS/FILE, or all as CLASS/FILE.")
    found = {split or "train": sorted(pairs) for split, pairs in found.items()}
    names = sorted({label for label, _ in found["train"]})
    return {split: _pictures(files, pairs, names, size, channels) for split, pairs in found.items()}, names


def _pictures(files: dict, pairs: list[tuple[str, str]], names: list[str], size: int, channels: int) -> Part:
    x = np.empty((len(pairs), channels, size, size), np.uint8)
    for row, (label, name) in enumerate(pairs):
        if label not in names:
            raise UserError(f"{name}: there are no training pictures of class {label}.")
        pixels = read_picture(files, name, "L" if channels == 1 else "RGB", (size, size), Image.Resampling.BILINEAR)
        x[row] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    number = {name: index for index, name in enumerate(names)}
    return x, np.array([number[label] for label, _ in pairs], np.int64)


def _checked(path: Path, x: np.ndarray, y: np.ndarray, num_classes: int) -> Part:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[2] != x.shape[3]:
        raise UserError(f"{path}: has pictures of {x.dtype} {x.shape}; needs uint8 squares.")
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise UserError(f"{path}: has labels of {y.dtype} {y.shape} for {len(x)} pictures; needs one integer each.")
    wrong = np.flatnonzero((y < 0) | (y >= num_classes))
    if len(wrong):
        raise UserError(f"{path}: label {y[wrong[0]]} of picture {wrong[0]} is not in 0..{num_classes - 1}.")
    return x, y.astype(np.int64)

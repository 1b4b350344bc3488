"""Real texts and their targets, read from the folders they are published in."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from common.errors import UserError
from common.files import locate_data
from redheart.encoders import Encoder, encode
from redheart.rows import Rows, hash_share, normalise

Limit = Annotated[int, Field(ge=1)] | None
# the Ekman classes; GoEmotions' grouping knows neutral and no shame
CLASSES = ("joy", "anger", "surprise", "disgust", "sadness", "neutral", "fear")
# KOTE's 43 emotions and "none" by class, our reading of its labels; those that fit no class are left out
KOTE_LABELS = {
    "joy": (1, 2, 4, 7, 8, 13, 14, 16, 28, 32, 40, 42, 43), "anger": (0, 6, 22, 23, 31), "surprise": (15, 29, 34, 39),
    "disgust": (3, 20, 21), "sadness": (5, 10, 19, 25, 27, 36, 38), "neutral": (24,), "fear": (18, 35, 41),
}  # fmt: skip


@dataclass
class Labelled:
    """Texts, one or two to a row, with their targets.

    Attributes:
        ids: n names, unique over all sources.
        texts: n tuples of one text or of two that are compared.
        targets: of `redheart.rows.Rows`, (n, …) each.
        vectors: (n, D) of the first texts where the source brings them.
    """

    ids: list[str]
    texts: list[tuple[str, ...]]
    targets: dict[str, np.ndarray]
    vectors: np.ndarray | None = None


class Source:
    """One data set.

    Args:
        encoder: what makes vectors of its texts.
        limit: rows taken, chosen by the hash of their names; None takes all.
    """

    folder: str

    def __init__(self, encoder: Encoder, limit: Limit = None):
        self.encoder, self.limit = encoder, limit

    def read(self, folder: Path) -> Labelled:
        raise NotImplementedError

    def load(self, data_dir: str | None, dim: int) -> Rows:
        """The rows with their vectors.

        Raises:
            UserError: if a file is missing or malformed, or the encoder cannot be had.
        """
        data = self.read(locate_data(f"emotion/{self.folder}", data_dir))
        order = np.argsort([hash_share(f"limit-{name}") for name in data.ids], kind="stable")
        kept = np.sort(order[: self.limit])
        texts = [data.texts[i] for i in kept]
        place = {text: number for number, text in enumerate(dict.fromkeys(text for row in texts for text in row))}
        first = np.array([place[row[0]] for row in texts])
        second = np.array([place[row[1]] if len(row) > 1 else -1 for row in texts])
        if data.vectors is None:
            x = encode(list(place), self.encoder, dim)
        elif dim == data.vectors.shape[1]:
            x, first = data.vectors[kept], np.arange(len(kept))
        else:
            raise UserError(f"data.dim={dim}: the precomputed vectors have {data.vectors.shape[1]} dimensions.")
        targets = {name: values[kept] for name, values in data.targets.items()}
        normalised = [tuple(map(normalise, row)) for row in texts]
        return Rows.of(x, [data.ids[i] for i in kept], first, second, normalised, **targets)


class GoEmotions(Source):
    """English comments of one Ekman class; those of several are left out, and those without precomputed vectors."""

    folder = "goemotions"

    def read(self, folder: Path) -> Labelled:
        classes, precomputed = _ekman(folder), self.encoder == "precomputed"
        ids, texts, emotion, vectors = [], [], [], []
        for split in ("train", "dev", "test"):
            path = folder / f"{split}.tsv"
            rows = list(_table(path, 3))
            numbers, x = _shipped(folder, split) if precomputed else (range(len(rows)), None)
            for at, number in enumerate(numbers):
                text, labels, name = rows[number]
                found = {classes[label] for label in _labels(labels, f"{path}, row {number + 1}", len(classes))}
                if len(found) == 1:
                    ids.append(f"goemotions-{name}")
                    texts.append((text,))
                    emotion.append(found.pop())
                    vectors.append(x[at] if precomputed else None)
        return Labelled(ids, texts, {"emotion": np.array(emotion)}, np.stack(vectors) if precomputed else None)


class Kote(Source):
    """Korean comments with the one of seven classes that most of their labels belong to; ties are left out."""

    folder = "kote"

    def read(self, folder: Path) -> Labelled:
        classes = {label: CLASSES.index(name) for name, labels in KOTE_LABELS.items() for label in labels}
        ids, texts, emotion = [], [], []
        for split in ("val", "test"):
            path = folder / f"{split}.tsv"
            for number, (name, text, labels) in enumerate(_table(path, 3), 1):
                given = _labels(labels, f"{path}, row {number}", 44)
                counts = np.bincount([classes[each] for each in given if each in classes], minlength=len(CLASSES))
                if (counts == counts.max()).sum() == 1:
                    ids.append(f"kote-{name}")
                    texts.append((text,))
                    emotion.append(counts.argmax())
        return Labelled(ids, texts, {"emotion": np.array(emotion)})


class EthicsUtility(Source):
    """Pairs of scenarios, every other one turned round, with which of the two is the more pleasant."""

    folder = "ethics"

    def read(self, folder: Path) -> Labelled:
        ids, texts, preference = [], [], []
        for name in ("util_train", "util_test"):
            for number, (pleasant, other) in enumerate(_table(folder / f"{name}.csv", 2)):
                ids.append(f"ethics-{name}-{number}")
                turned = number % 2 == 1
                texts.append((other, pleasant) if turned else (pleasant, other))
                preference.append(0.0 if turned else 1.0)
        return Labelled(ids, texts, {"preference": np.array(preference)})


class ScruplesDilemmas(Source):
    """Pairs of actions with the share of votes that the first is the less ethical one."""

    folder = "scruples"

    def read(self, folder: Path) -> Labelled:
        path, ids, texts, vote = folder / "dilemmas_dev.jsonl", [], [], []
        for number, line in enumerate(_text(path).splitlines(), 1):
            try:
                record = json.loads(line)
                pair = tuple(action["description"] for action in record["actions"])
                first, second = record["gold_annotations"]
                ids.append(f"scruples-{record['id']}")
                vote.append(first / (first + second))
            except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
                raise UserError(f"{path}, row {number}: no dilemma ({type(error).__name__}: {error}).") from None
            texts.append(pair)
        return Labelled(ids, texts, {"vote": np.array(vote)})


def _ekman(folder: Path) -> list[int]:
    """The class of every label, in the order of labels.txt."""
    path = folder / "label_groups.json"
    names, groups = _text(folder / "labels.txt").split(), json.loads(_text(path))["ekman"]
    classes = {name: CLASSES.index(group) for group, members in groups.items() for name in members}
    missing = [name for name in names if name not in classes]
    if missing:
        raise UserError(f"{path}: ekman has no group for the label {missing[0]}.")
    return [classes[name] for name in names]


def _shipped(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a split that come with vectors, and those."""
    path = folder / "minilm_l6_subset.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[f"{split}_row"], archive[f"{split}_x"].astype(np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no vectors to be read ({error}); use encoder hash or minilm.") from None


def _table(path: Path, width: int) -> Iterator[list[str]]:
    """The rows of a CSV file, or of a TSV file without quoting."""
    lines = io.StringIO(_text(path), newline="")
    tabs = path.suffix == ".tsv"
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
    for number, row in enumerate(reader, 1):
        if len(row) != width:
            raise UserError(f"{path}, row {number}: {len(row)} columns, need {width}; is the file whole?")
        yield row


def _labels(text: str, where: str, count: int) -> list[int]:
    """The label numbers in a comma-joined field."""
    try:
        labels = [int(part) for part in text.split(",")]
    except ValueError:
        labels = [-1]
    if not all(0 <= label < count for label in labels):
        raise UserError(f"{where}: labels {text!r}; must be numbers from 0 to {count - 1} with commas between.")
    return labels


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}).") from None

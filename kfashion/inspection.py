"""What a catalogue holds, as a report in JSON and as lines for the screen."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from common.files import write_atomic
from kfashion.catalogue import Catalogue
from kfashion.fields import FIELDS, MULTI, tokens_of
from kfashion.garments import REASONS
from kfashion.label_schema import PUBLISHED, departures

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


def schema_lines(files: Iterable[tuple[str, str, bytes]]) -> Iterator[str]:
    """How many label files depart from the published form in which way, the most frequent first.

    Args:
        files: path, number and content of each.
    """
    counts, examples, total, kept = Counter(), {}, 0, 0
    for path, number, raw in files:
        found = set(departures(raw, number))
        counts.update(found)
        for each in found:
            examples.setdefault(each, path)
        total, kept = total + 1, kept + (not found)
    yield f"{kept:,} of {total:,} label files keep to K-Fashion's form"
    for departure, count in counts.most_common():
        yield f"form: {count:,} × {departure}, for example {examples[departure]}"


def _unusual(tokens: dict[str, list[str]]) -> dict[str, list[str]]:
    """The tokens of every field that the published lists lack; fields without such tokens are left out."""
    found = {field: [token for token in tokens[field] if token not in known] for field, known in PUBLISHED.items()}
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

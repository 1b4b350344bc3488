"""Words and tables of a report.md."""

from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any, Literal

from common.stats import Interval


def verdict(interval: Interval, what: str, better: Literal["higher", "lower"] = "higher") -> str:
    """A sentence that says whether a difference is evidence for a claim, against it, or for nothing.

    Args:
        interval: of the difference, candidate − baseline.
        what: the claim of an improvement, as a clause: "the sector heads beat the common head in accuracy".
        better: whether the claim holds for a difference above or below zero.
    """
    basis = f"{interval}, {interval.level:.0%} {interval.method}, n = {interval.n}"
    if not interval.excludes(0):
        return f"No evidence that {what}: the interval of the difference covers zero ({basis})."
    if (interval.low > 0) == (better == "higher"):
        return f"Evidence that {what} ({basis})."
    return f"Evidence against the claim that {what}: the difference has the wrong sign ({basis})."


def format_table(rows: Iterable[Sequence[Any]], headers: Sequence[str]) -> str:
    """A markdown table with aligned columns; numbers to the right, floats with four decimals, None as –."""
    rows = [list(row) for row in rows]
    if any(len(row) != len(headers) for row in rows):
        raise ValueError(f"every row needs {len(headers)} cells, as many as there are headers")
    right = [all(isinstance(row[i], Number | Interval | None) for row in rows) for i in range(len(headers))]
    texts = [list(headers)] + [[_cell(value) for value in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*texts, strict=True)]
    lines = [
        " | ".join(f"{text:{'>' if r else '<'}{w}}" for text, w, r in zip(line, widths, right, strict=True))
        for line in texts
    ]
    rule = " | ".join("-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True))
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]]) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")

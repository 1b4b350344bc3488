"""A trace file judged: counts, the rows of a report, and its files (nandseq specification, section 3)."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from common.errors import UserError
from common.files import write_atomic
from nandseq.codes import KIND, Kind, Op, Rule
from nandseq.profiles import Profile
from nandseq.rules import LAST_WITH_BLOCK, Verdicts, block_slots, check, expected_pages, rule_name
from nandseq.state import State
from nandseq.traces import Chunk, Notes, Unsorted, in_time_order, read_chunks, sorted_by_time

FIELDS = (
    "index", "line", "t_ns", "op", "die", "plane", "block", "page", "code", "rule", "mask", "last", "known",
    "page_programmed", "expected",
)  # fmt: skip
SHOWN = ("index", "line", "t_ns", "op", "die", "plane", "block", "page", "rule", "last", "expected")
Row = dict[str, Any]
OP_NAMES = [*(op.name.lower() for op in Op), "unknown"]  # -1 finds the last
PROGRAMS = [op for op in Op if KIND[op] == Kind.PROGRAM]


@dataclass
class Findings:
    """What the commands so far gave.

    Attributes:
        shown: rows of the first violations.
        by_rule: (32,) int64, commands that break each rule; one command may break several.
        touched: (blocks of the device,) bool.
        disorder: where the time first goes back, "" if nowhere; the commands were then sorted.
        map: a `nandseq.maps.TraceMap` of the commands, if asked for.
    """

    profile: Profile
    state: State
    notes: Notes
    disorder: str = ""
    map: Any = None
    num_ops: int = 0
    num_violations: int = 0
    num_indeterminate: int = 0
    shown: list[Row] = field(default_factory=list)
    by_rule: np.ndarray = field(default_factory=lambda: np.zeros(32, np.int64))
    touched: np.ndarray = field(init=False)

    def __post_init__(self):
        self.touched = np.zeros(self.profile.num_blocks, bool)

    def add(self, chunk: Chunk) -> Iterator[Row]:
        """Judge the next commands; the rows of their violations, made one at a time."""
        ops, begin = chunk.ops, self.num_ops
        verdicts = check(ops, self.profile, self.state)
        slots = block_slots(ops, self.profile)
        self.touched[slots[(slots >= 0) & (ops.op >= 0) & (ops.op <= LAST_WITH_BLOCK)]] = True
        violated = np.flatnonzero(verdicts.violated)
        broken = verdicts.mask[verdicts.mask != 0]
        self.by_rule += [np.count_nonzero(broken & rule) for rule in 1 << np.arange(32, dtype=np.uint32)]
        self.num_ops += len(ops)
        self.num_violations += len(violated)
        self.num_indeterminate += int(verdicts.indeterminate.sum())
        if self.map is not None:
            self.map.add(ops, verdicts)
        return violation_rows(chunk, verdicts, violated, begin, self.profile)

    @property
    def warnings(self) -> list[str]:
        """What the reader of the verdict should know of the file."""
        notes, lines = self.notes, []
        if self.disorder:
            lines.append(f"{self.disorder}; the commands were sorted by time, equal times as in the file.")
        if notes.bad_rows:
            lines.append(f"{notes.bad_rows:,} rows that cannot be read were left out: {'; '.join(notes.first_bad)}")
        if notes.unknown_ops:
            lines.append(f"no known commands, judged ADDR_RANGE: {', '.join(map(repr, notes.unknown_ops))}")
        if notes.unused:
            lines.append(f"columns not used: {', '.join(notes.unused)}")
        return lines

    def summary(self) -> dict[str, Any]:
        """Counts as plain values; `index` counts commands in the order judged, from 0."""
        counts = {Rule(rule): int(self.by_rule[rule]) for rule in Rule if self.by_rule[rule]}
        return {
            "profile": dataclasses.asdict(self.profile),
            "ops": self.num_ops,
            "violations": self.num_violations,
            "by_rule": {rule_name(rule, self.profile): n for rule, n in counts.items() if not rule.is_warning},
            "warnings_by_rule": {rule.name: n for rule, n in counts.items() if rule.is_warning},
            "first_violation": self.shown[0] if self.shown else None,
            "blocks_touched": int(self.touched.sum()),
            "indeterminate": self.num_indeterminate,
            "bad_rows": self.notes.bad_rows,
            "sorted_by_time": bool(self.disorder),
            "warnings": self.warnings,
        }


class JsonReport:
    """`{"violations": [one row a line], "indeterminate": …, "summary": {…}}`, written as it comes."""

    def __init__(self, file: BinaryIO):
        self.file, self.separator = file, '{"violations": [\n'

    def add(self, row: Row) -> None:
        self.file.write((self.separator + json.dumps(row)).encode())
        self.separator = ",\n"

    def close(self, findings: Findings) -> None:
        start = "" if findings.num_violations else self.separator
        rest = json.dumps(
            {"indeterminate": findings.num_indeterminate, "summary": findings.summary()}, ensure_ascii=False
        )
        self.file.write(f"{start}\n], {rest[1:]}\n".encode())


class CsvReport:
    """A table of violations; `expected` is a page, or the first and last one as `0-4`."""

    def __init__(self, file: BinaryIO):
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(FIELDS)

    def add(self, row: Row) -> None:
        self.writer.writerow([_text(value) for value in row.values()])

    def close(self, findings: Findings) -> None:
        self.file.detach()  # flushes; the file is closed by who opened it


def check_trace(
    path: Path,
    profile: Profile,
    json_path: Path | None = None,
    csv_path: Path | None = None,
    num_shown: int = 10,
    skip_bad: bool = False,
    time_unit: str = "ns",
    with_map: bool = False,
) -> Findings:
    """What the rules say of a trace file, read in chunks with the state of the blocks carried over.

    Args:
        json_path, csv_path: where reports with every violation are written, when the whole trace was judged.
        num_shown: how many rows of violations `Findings.shown` keeps, at least 1.
        skip_bad, time_unit: as `nandseq.traces.read_chunks`.
        with_map: fill `Findings.map`.

    Raises:
        UserError: if the trace cannot be read, is unsorted and too long to be sorted, or the profile needs a column
            that it lacks.
    """
    outputs = [(out, kind) for out, kind in ((json_path, JsonReport), (csv_path, CsvReport)) if out is not None]
    for out, _ in outputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise UserError(f"{out}: is the trace itself; name another file for the report.")

    def judged(disorder: str, reports: Sequence[JsonReport | CsvReport]) -> Findings:
        findings = Findings(profile, State.initial(profile), Notes(), disorder, _new_map(profile) if with_map else None)
        chunks = read_chunks(path, findings.notes, skip_bad, time_unit)
        ordered = sorted_by_time(chunks, path) if disorder else in_time_order(chunks)
        for chunk in ordered:
            _keep(findings.add(chunk), findings.shown, max(num_shown, 1), reports)
        for report in reports:
            report.close(findings)
        return findings

    try:
        return _with_reports(outputs, [], lambda reports: judged("", reports))
    except Unsorted as error:
        disorder = str(error)
    return _with_reports(outputs, [], lambda reports: judged(disorder, reports))


def _with_reports(
    outputs: Sequence[tuple[Path, type]], opened: Sequence[Any], judge: Callable[[Sequence[Any]], Findings]
) -> Findings:
    """What `judge` gives, with a report for each output, put in its place when `judge` is done."""
    if not outputs:
        return judge(opened)
    (path, kind), *rest = outputs
    found = []
    write_atomic(path, lambda file: found.append(_with_reports(rest, [*opened, kind(file)], judge)))
    return found[0]


def _keep(rows: Iterable[Row], shown: list[Row], num_shown: int, reports: Sequence[JsonReport | CsvReport]) -> None:
    if not reports:
        rows = islice(rows, num_shown - len(shown))  # the others are never made
    for row in rows:
        if len(shown) < num_shown:
            shown.append(row)
        for report in reports:
            report.add(row)


def _new_map(profile: Profile) -> Any:
    from nandseq.maps import TraceMap  # matplotlib is needed for figures only

    return TraceMap(profile)


def configured(profile: str, changes: Iterable[str]) -> Profile:
    """The profile of a name or a file with `key=value` changes.

    Raises:
        UserError: as `Profile.load`, or for a change that is not `key=value`.
    """
    settings = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: write KEY=VALUE, for example initial_state=unknown.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {change}: the value is not YAML.") from None
    loaded = Profile.load(profile)
    return loaded.replace(**settings) if settings else loaded


def violation_rows(
    chunk: Chunk, verdicts: Verdicts, violated: np.ndarray, begin: int, profile: Profile
) -> Iterator[Row]:
    """A row of the report for each violation.

    Args:
        violated: positions in the chunk.
        begin: `index` of the chunk's first command.
    """
    ops = chunk.ops[violated]
    found = Verdicts(verdicts.mask[violated], verdicts.last[violated], verdicts.flags[violated])
    first, final = expected_pages(ops.op, found, profile)
    times = [None] * len(ops) if ops.t_ns is None else ops.t_ns.tolist()
    address = (column.tolist() for column in (ops.op, ops.die, ops.plane, ops.block, ops.page))
    verdict = (
        column.tolist() for column in (found.primary, found.mask, found.last, found.known, found.page_programmed)
    )
    rows = zip((violated + begin).tolist(), chunk.lines[violated].tolist(), times, *address, *verdict, first, final)
    for index, line, time, op, *where, code, mask, last, known, programmed, low, high in rows:
        values = (rule_name(code, profile), mask, last, known, programmed, _expected(int(low), int(high), op))
        yield dict(zip(FIELDS, (index, line, time, OP_NAMES[op], *where, code, *values), strict=True))


def _expected(first: int, final: int, op: int) -> int | list[int] | None:
    if first > final:
        return None
    return first if op in PROGRAMS else [first, final]


def screen_lines(findings: Findings, path: Path, num_shown: int) -> Iterator[str]:
    """What the command prints, with the first violations."""
    summary = findings.summary()
    yield (
        f"{path} under profile {findings.profile.name}: {findings.num_ops:,} commands on "
        f"{summary['blocks_touched']:,} blocks, {findings.num_violations:,} violations, "
        f"{findings.num_indeterminate:,} indeterminate"
    )
    for rule, count in (summary["by_rule"] | summary["warnings_by_rule"]).items():
        yield f"  {rule:<16}{count:>14,}{'  (warning)' if rule in summary['warnings_by_rule'] else ''}"
    shown = findings.shown[:num_shown]
    if shown:
        yield from _table(shown)
    if findings.num_violations > len(shown):
        yield f"… {findings.num_violations - len(shown):,} more; --json OUT or --csv OUT writes all of them"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    cells = [SHOWN, *([_text(row[name]) for name in SHOWN] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)

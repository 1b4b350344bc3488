import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from nandseq import reference, traces
from nandseq.codes import Op
from nandseq.ops import COLUMNS, Ops
from nandseq.profiles import Profile
from nandseq.rules import check
from nandseq.traces import Notes, Unsorted, in_time_order, read_chunks, read_trace, sorted_by_time, write_trace
from tests.nandseq.traces import random_device_trace

SMALL = Profile(name="small", dies=2, planes=2, blocks=4, pages=8, read_offset_limit=5)
HEADER = "t_ns,op,die,plane,block,page\n"


@pytest.fixture
def trace(tmp_path):
    """Writes text or bytes as a file and gives its path."""

    def write(content: str | bytes, name: str = "trace.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows_of(ops: Ops) -> list[tuple]:
    return list(zip(*(getattr(ops, name).tolist() for name in COLUMNS if getattr(ops, name) is not None)))


def rows_or_error(reading: Callable[..., Ops], path: Path, **options) -> list[tuple] | str:
    try:
        return rows_of(reading(path, **options))
    except UserError as error:
        return str(error)


def slowly(path: Path, **options) -> Ops:
    """The trace as plain Python reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "_parse_plain", lambda *_: None)
        patch.setattr(traces, "_from_typed", lambda *_: None)
        patch.setattr(traces, "QUOTED", None)  # so that its use would be an error
        return read_trace(path, **options)


def test_a_plain_trace_is_read_as_it_stands(trace):
    path = trace(HEADER + "0,erase,0,1,2,0\n10,program,0,1,2,0\n20,read,1,0,3,7\n")
    expected = [(0, 0, 1, 2, 0, 0), (1, 0, 1, 2, 0, 10), (2, 1, 0, 3, 7, 20)]
    assert rows_of(read_trace(path)) == rows_of(slowly(path)) == expected


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("time,cmd,lun,pl,blk,pg", 6),
        ("ts,Command,LUN,PLANE,Blk,PG", 6),
        ("timestamp_ns,opcode,die,pln,block,page", 6),
        (" t , operation ,die,plane, block , page ", 6),
    ],
)
def test_columns_have_aliases_of_any_case(trace, header, names):
    path = trace(f"{header}\n5,r,1,2,3,4\n")
    assert rows_of(read_trace(path)) == [(2, 1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (Op.ERASE, ["erase", "E", "ers", "60h", "0x60", "0", "Block Erase"]),
        (Op.PROGRAM, ["program", "W", "write", "PGM", "80h", "0x80", "1", " prog "]),
        (Op.READ, ["read", "R", "rd", "00h", "0x00", "2"]),
        (Op.COPYBACK_READ, ["copyback-read", "35h", "3"]),
        (Op.COPYBACK_PROGRAM, ["copyback_program", "85h"]),
        (Op.CACHE_READ, ["cache read", "31H"]),
        (Op.CACHE_PROGRAM, ["15h"]),
        (Op.CACHE_READ_END, ["0x3F"]),
        (Op.SUSPEND, ["suspend", "erase_suspend"]),
        (Op.RESUME, ["RESUME"]),
        (Op.RESET, ["reset", "FFh", "0xfc"]),
        (Op.STATUS, ["70h", "78h", "status"]),
        (Op.SET_RETRY, ["set_retry", "12"]),
        (Op.POWER_LOSS, ["power_loss", "13"]),
        (-1, ["14", "0x0", "099999", "reed", "-1", "3 0", "٣", "1.0", "0x80h"]),
    ],
)
def test_commands_have_aliases(trace, op, words):
    path = trace("op,block,page\n" + "".join(f"{word},1,1\n" for word in words))
    assert set(read_trace(path).op.tolist()) == set(slowly(path).op.tolist()) == {int(op)}


def test_missing_and_empty_addresses(trace):
    path = trace("op,die,block,page\nread,,3,4\nerase,1,3,\nstatus,1,,\n")
    assert rows_of(read_trace(path)) == rows_of(slowly(path)) == [(2, 0, 0, 3, 4), (0, 1, 0, 3, 0), (11, 1, 0, 0, 0)]


def test_numbers_may_be_hexadecimal(trace):
    path = trace(HEADER + "0x10,read,0x1,0X0,0xfF,0x0A\n")
    assert rows_of(read_trace(path)) == rows_of(slowly(path)) == [(2, 1, 0, 255, 10, 16)]


@pytest.mark.parametrize("number", ["-1", "2147483648", "0xFFFFFFFF", "0x80000000", "0x1FFFFFFFF", "9" * 200])
def test_addresses_beyond_the_type_stay_outside_every_geometry(trace, number):
    path = trace(f"op,block,page\nread,1,{number}\n")
    assert read_trace(path).page[0] < 0
    assert slowly(path).page[0] < 0
    assert check(read_trace(path), SMALL).primary.tolist() == [1]


@pytest.mark.parametrize(
    ("column", "text", "ns"),
    [
        ("t_ns", "12", 12),
        ("t_us", "12", 12_000),
        ("time (us)", "1.5", 1_500),
        ("ts[ms]", "0.000001", 1),
        ("time_s", "2.000000001", 2_000_000_001),
        ("t_µs", "+3", 3_000),
        ("t_us", "1e3", 1_000_000),
        ("t_us", "0.0004", 0),
        ("t_us", "0.0016", 2),
        ("t_s", "1790000000.123456789", 1_790_000_000_123_456_789),
    ],
)
def test_times_are_in_the_unit_that_the_column_names(trace, column, text, ns):
    path = trace(f"{column},op,block,page\n{text},read,1,1\n")
    assert read_trace(path).t_ns.tolist() == slowly(path).t_ns.tolist() == [ns]


def test_the_time_unit_option_is_for_columns_that_name_none(trace):
    for column, ns in (("time", 7_000_000), ("time_us", 7_000)):
        chunk = next(read_chunks(trace(f"{column},op,block,page\n7,r,1,1\n"), Notes(), time_unit="ms"))
        assert chunk.ops.t_ns.tolist() == [ns]


def test_optional_columns_take_words_and_gaps(trace):
    path = trace("op,block,page,group,mode,status,src_block,src_page\nr,1,1,3,SLC,fail,,\nr,1,1,,2,ok,5,6\n")
    ops = read_trace(path)
    assert ops.group.tolist() == [3, -1]
    assert (ops.mode.tolist(), ops.status.tolist()) == ([1, 2], [1, 0])
    assert (ops.src_block.tolist(), ops.src_page.tolist()) == ([-1, 5], [-1, 6])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_are_taken_from_the_header(trace, delimiter):
    path = trace((HEADER + "0,r,0,0,1,2\n").replace(",", delimiter))
    assert rows_of(read_trace(path)) == rows_of(slowly(path)) == [(2, 0, 0, 1, 2, 0)]


def test_comments_blank_lines_quotes_and_windows_line_ends(trace):
    text = '\ufeff# a log\r\n\r\n"op",block,page\r\n  # more\r\nread,1,2 # why\r\n\r\n"r","3","4"\r\nw,5,6'
    notes = Notes()
    chunks = list(read_chunks(trace(text), notes))
    assert [row for chunk in chunks for row in rows_of(chunk.ops)] == [
        (2, 0, 0, 1, 2),
        (2, 0, 0, 3, 4),
        (1, 0, 0, 5, 6),
    ]
    assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == [5, 7, 8]


def test_lines_are_numbered_as_in_the_file_across_pieces(trace, monkeypatch):
    monkeypatch.setattr(traces, "PIECE", 64)
    monkeypatch.setattr(traces, "SMALL", 32)
    odd = {5: "# x", 17: "", 33: "r,\r1,1"}
    lines = ["op,block,page", *(odd.get(number, f"r,1,{number}") for number in range(2, 60))]
    chunks = list(read_chunks(trace("\n".join(lines)), Notes()))
    assert len(chunks) > 8
    for chunk in chunks:
        for line, page in zip(chunk.lines.tolist(), chunk.ops.page.tolist()):
            assert page == (1 if line == 33 else line)
    assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == [n for n in range(2, 60) if n not in (5, 17)]


def test_unknown_commands_and_unused_columns_are_noted(trace):
    notes = Notes()
    list(read_chunks(trace("op,block,page,temp\nGETFEAT,1,1,40\nr,1,1,41\n"), notes))
    assert (notes.unknown_ops, notes.unused) == (["GETFEAT"], ["temp"])


BAD_ROWS = [
    ("0,read,0,0,1,x", "page: 'x' is not a whole number"),
    ("0,read,0,0,1,", "page: empty"),
    ("0,read,0,0,,1", "block: empty"),
    ("0,,0,0,1,1", "op: empty"),
    (",read,0,0,1,1", "t_ns: empty"),
    ("-5,read,0,0,1,1", "t_ns: '-5' is out of range"),
    ("9999999999999999999,read,0,0,1,1", "t_ns: '9999999999999999999' is out of range"),
    ("1.5,read,0,0,1,1", "t_ns: '1.5' is not a whole number"),
    ("0,read,0,0,1,1_0", "page: '1_0' is not a whole number"),
    ("0,read,0,0,1,٣", "page: '٣' is not a whole number"),
    ("0,read,0,0,1,5.0", "page: '5.0' is not a whole number"),
    ("0,read,0,0,1", "5 fields; the header has 6"),
    ("0,read,0,0,1,1,1", "7 fields; the header has 6"),
    ('0,"read,0,0,1,1', "unexpected end of data"),
    (b"0,re\xffad,0,0,1,1", "not UTF-8 text"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_is_named_by_line_and_field(trace, row, message):
    raw = row if isinstance(row, bytes) else row.encode()
    path = trace(HEADER.encode() + b"0,erase,0,0,1,0\n" + raw + b"\n0,read,0,0,1,1\n")
    with pytest.raises(UserError, match=r"trace.csv, line 3: ") as raised:
        read_trace(path)
    assert message in str(raised.value)
    notes = Notes()
    lines = np.concatenate([chunk.lines for chunk in read_chunks(path, notes, skip_bad=True)])
    assert (lines.tolist(), notes.bad_rows) == ([2, 4], 1)
    assert message in notes.first_bad[0]


@pytest.mark.parametrize("row", ["4294967295,,", "0xFFFFFFFF,,", "-2,,", ",300,", ",,3000000000"])
def test_optional_values_out_of_range_are_bad_and_not_dropped(trace, row):
    with pytest.raises(UserError, match="out of range"):
        read_trace(trace(f"op,block,page,group,mode,src_page\nr,1,1,{row}\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no commands"),
        (HEADER, "holds no commands"),
        ("# only\n\n", "holds no commands"),
        (HEADER + "\n\r\n# no more\n", "holds no commands"),
        ("op,blok,page\nr,1,1\n", "line 1: no column block; name it one of block blk. Did you mean blok?"),
        ("\nr,1,1\n", "line 2: no column op"),
        ("op,cmd,block,page\n", "columns op and cmd mean the same"),
        ("op,block,page,t,time\n", "columns t and time mean the same"),
        (b"\xff\xfeo\x00p\x00\n", "not UTF-8"),
        (b"PAR1 and no more", "damaged Parquet"),
        (gzip.compress(b"op,block,page\nr,1,1\n" * 9000, mtime=0)[:50], "damaged gzip"),
        (b"x" * 4_000_000 + b"\n", "longer than"),
        ('{"op": "r"}\n', "no column block"),
        ("{op}\n", "line 1: not JSON"),
        ('op,"block,page\n', "header cannot be read"),
    ],
)
def test_files_that_are_no_trace_are_refused_in_one_line(trace, content, message):
    with pytest.raises(UserError) as raised:
        read_trace(trace(content))
    assert message in str(raised.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_trace(path)


def test_jsonl_takes_the_same_names_and_values(trace):
    lines = [
        {"ts": 1, "cmd": "w", "lun": 1, "blk": "0x10", "pg": 3, "status": None},
        {"ts": 2, "cmd": "80h", "blk": 4, "pg": 5, "status": 1},
    ]
    path = trace("# log\n\n" + "\n".join(map(json.dumps, lines)))
    assert rows_of(read_trace(path)) == [(1, 1, 0, 16, 3, 1, -1), (1, 0, 0, 4, 5, 2, 1)]


def test_jsonl_times_keep_their_decimals(trace):
    path = trace('{"t_s": 1790000000.123456789, "op": "r", "block": 1, "page": 1}')
    assert read_trace(path).t_ns.tolist() == [1_790_000_000_123_456_789]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"op": "r", "block": 1, "page": 1.0}', "page: '1.0' is not a whole number"),
        ('{"op": "r", "block": true, "page": 1}', "block: 'True' is not a whole number"),
        ('{"op": "r", "block": 1, "page": [1]}', "page: '[1]' is not"),
        ('{"op": "r", "block": 1}', "page: empty"),
        ('{"op": true, "block": 1, "page": 1}', "op: empty"),
        ('{"op": "r", "block": 1, "page": 1, "group": 2}', "group: not a key of the first object"),
        ("[1, 2]", "not a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_jsonl_line_is_named(trace, line, message):
    path = trace('{"op": "r", "block": 1, "page": 1}\n' + line)
    with pytest.raises(UserError, match="line 2") as raised:
        read_trace(path)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_what_is_written_is_read_again(tmp_path, name):
    ops = random_device_trace(np.random.default_rng(0), 300, SMALL)
    ops.op[5] = -1
    write_trace([ops[:100], ops[100:]], tmp_path / name)
    assert rows_of(read_trace(tmp_path / name)) == rows_of(ops)
    assert rows_of(slowly(tmp_path / name)) == rows_of(ops)


def test_files_of_other_names_are_not_written(tmp_path):
    for name in ("a.txt", "a.parquet.gz", "csv"):
        with pytest.raises(UserError, match="name it"):
            write_trace([], tmp_path / name)


def test_parquet_may_hold_other_types(tmp_path):
    table = pa.table({"t_us": [0.5, 1.0], "cmd": [2, 1], "blk": pa.array([1, None], pa.uint8()), "pg": ["0x1", "2"]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 2: block: empty"):
        read_trace(tmp_path / "a.parquet")
    assert rows_of(read_trace(tmp_path / "a.parquet", skip_bad=True)) == [(2, 0, 0, 1, 1, 500)]


def test_unsorted_times_are_found_across_chunks_and_sorted_stably(trace, monkeypatch):
    monkeypatch.setattr(traces, "PIECE", 32)
    path = trace("t,op,block,page\n5,r,1,1\n5,r,1,2\n9,r,1,3\n5,r,1,4\n1,r,1,5\n")
    with pytest.raises(Unsorted, match="line 5: time goes back from 9 to 5 ns"):
        list(in_time_order(read_chunks(path, Notes())))
    chunks = list(sorted_by_time(read_chunks(path, Notes()), path))
    assert [page for chunk in chunks for page in chunk.ops.page.tolist()] == [5, 1, 2, 4, 3]
    assert [line for chunk in chunks for line in chunk.lines.tolist()] == [6, 2, 3, 5, 4]
    with pytest.raises(UserError, match="more than 4 commands"):
        list(sorted_by_time(read_chunks(path, Notes()), path, max_rows=4))


def test_any_size_of_pieces_reads_the_same(tmp_path, monkeypatch):
    write_trace([random_device_trace(np.random.default_rng(1), 200, SMALL)], tmp_path / "a.csv")
    whole = rows_of(read_trace(tmp_path / "a.csv"))
    for size in (50, 64, 101, 1000):
        monkeypatch.setattr(traces, "PIECE", size)
        assert rows_of(read_trace(tmp_path / "a.csv")) == whole


CELLS = st.one_of(
    st.sampled_from(["", " ", "0", "1", "-1", "+2", "007", "0x1F", "0xffffffff", "2147483648", "1.5", "1e3", "1_0", "٣",
                     "read", "W", "80h", "60h", "nan", "inf", "\x00", '"', '"1"', "#", '""',
                     '"block erase"', '"1" ', ' "1"', '"1,2"', '"1;2"', '"a""b"', '"#"', "# x", "\n", "\r", "9" * 30,
                     ".", "0x", "-0x1"]),
    st.integers(-(2**65), 2**65).map(str),
    st.text(max_size=4),
)  # fmt: skip
HEADERS = ["op,block,page", "t_us,op,die,plane,block,page", HEADER.strip(), "op,block,page,group,status"]
FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@FUZZ
@given(st.sampled_from(HEADERS), st.lists(st.tuples(*[CELLS] * 6), max_size=5))
def test_both_ways_of_reading_agree_on_any_cells(tmp_path, header, rows):
    width = header.count(",") + 1
    path = tmp_path / "trace.csv"
    plain = "\n0,erase,0,0,1,0" if width == 6 else "\nerase,1,0" + ",0" * (width - 3)
    path.write_bytes((header + plain + "".join("\n" + ",".join(row[:width]) for row in rows)).encode())
    fast, slow = (reading(path, skip_bad=True) for reading in (read_trace, slowly))
    assert rows_of(fast) == rows_of(slow)
    for reading in (read_trace, slowly):
        outcome = rows_or_error(reading, path)
        assert outcome == rows_of(fast) or "trace.csv, line " in outcome


VALUES = st.one_of(
    st.integers(-(2**65), 2**65), st.sampled_from([0, 1, 2, None, True, 1.5, "0x1F", "W", "read", "", [], {}, "x"])
)
KEYS = ["op", "block", "page", "die", "t_us", "status", "note"]


@pytest.mark.slow
@FUZZ
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=5))
def test_both_ways_of_reading_agree_on_any_json(tmp_path, records):
    path = tmp_path / "trace.jsonl"
    first = dict.fromkeys(KEYS[:-1], 0)
    path.write_text("\n".join(json.dumps(record) for record in (first, *records)))
    for options in ({}, {"skip_bad": True}):
        assert rows_or_error(read_trace, path, **options) == rows_or_error(slowly, path, **options)


@FUZZ
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_trace_or_one_line_of_error(tmp_path, content, headed):
    path = tmp_path / "trace"
    path.write_bytes((b"op,block,page\n" if headed else b"") + content)
    for skip_bad in (False, True):
        assert rows_or_error(read_trace, path, skip_bad=skip_bad)


ROW = st.tuples(
    st.sampled_from(["erase", "W", "r", "80h", "read", "60h", "what"]),
    st.sampled_from(["0", "1", "0x1", "5", "-1"]),
    st.sampled_from(["0", "1", "2", "0x3", "7", "8", "99999999999", "x", ""]),
)


@FUZZ
@given(st.lists(ROW, min_size=1, max_size=40))
def test_rows_that_can_be_read_get_the_verdict_of_the_reference(tmp_path, rows):
    def value(text):
        return int(text, 0) if text else 0

    readable = [row for row in rows if row[2] != "x" and (row[2] or row[0] in ("erase", "60h", "what"))]
    path = tmp_path / "trace.csv"
    path.write_text("op,block,page\n" + "".join(",".join(row) + "\n" for row in rows))
    if not readable:
        with pytest.raises(UserError, match="holds no commands"):
            read_trace(path, skip_bad=True)
        return
    names = {"W": "program", "80h": "program", "r": "read", "60h": "erase"}
    plain = Ops.from_rows([(names.get(op, op), 0, 0, value(block), value(page)) for op, block, page in readable])
    expected = [verdict.mask for verdict in reference.check(plain, SMALL)]
    assert check(read_trace(path, skip_bad=True), SMALL).mask.tolist() == expected

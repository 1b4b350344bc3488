import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from common.errors import UserError
from nandseq import reference, traces
from nandseq.check import main
from nandseq.findings import check_trace, configured, screen_lines
from nandseq.profiles import Profile
from nandseq.traces import write_trace
from tests.nandseq.traces import random_device_trace, random_trace

SMALL = Profile(name="small", dies=2, planes=2, blocks=4, pages=8, read_offset_limit=5)
SLC = Profile.load("generic_slc").replace(dies=2, planes=2, blocks=4, pages=8, busy="die")
KNOWN = """# seven commands, four of them bad
t_us,op,die,plane,block,page
0,erase,1,0,2,0
1,program,1,0,2,0
2,program,1,0,2,2
3,read,1,0,2,1
4,read,1,0,9,0
5,read,0,0,0,5
6,read,1,0,2,2
"""
LIKE_SEED = ["--profile", "seed", "--set", "blocks=4", "--set", "pages=8"]


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text(KNOWN)
    return path


def test_the_json_report_of_a_known_trace(known, tmp_path):
    out = tmp_path / "new" / "out.json"
    assert main([str(known), *LIKE_SEED, "--json", str(out)]) == 1
    report = json.loads(out.read_text())
    row = {"die": 1, "plane": 0, "block": 2, "last": 0, "known": True, "page_programmed": False}
    hop = {"index": 2, "line": 5, "t_ns": 2000, "op": "program", "page": 2, "code": 4, "rule": "PAGE_ORDER", "mask": 16}
    gap = {
        "index": 3,
        "line": 6,
        "t_ns": 3000,
        "op": "read",
        "page": 1,
        "code": 5,
        "rule": "READ_UNWRITTEN",
        "mask": 32,
    }
    assert report["violations"][0] == row | hop | {"expected": 1}
    assert report["violations"][1] == row | gap | {"last": 2, "expected": [0, 2]}
    assert [(each["rule"], each["expected"]) for each in report["violations"][2:]] == [
        ("ADDR_RANGE", None),
        ("NOT_ERASED", None),
    ]
    summary = report["summary"]
    assert (summary["ops"], summary["violations"], summary["blocks_touched"]) == (7, 4, 2)
    assert summary["by_rule"] == {"ADDR_RANGE": 1, "NOT_ERASED": 1, "PAGE_ORDER": 1, "READ_UNWRITTEN": 2}
    assert summary["first_violation"] == report["violations"][0]
    assert summary["profile"]["pages"] == 8
    assert report["indeterminate"] == summary["indeterminate"] == 0


def test_the_screen_shows_the_first_violations_and_counts_the_rest(known, capsys):
    assert main([str(known), *LIKE_SEED, "--show", "1"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("under profile seed: 7 commands on 2 blocks, 4 violations, 0 indeterminate")
    assert out[-3].split() == [
        "index",
        "line",
        "t_ns",
        "op",
        "die",
        "plane",
        "block",
        "page",
        "rule",
        "last",
        "expected",
    ]
    assert out[-2].split() == ["2", "5", "2000", "program", "1", "0", "2", "2", "PAGE_ORDER", "0", "1"]
    assert out[-1].startswith("… 3 more")


def test_the_csv_report_holds_the_same_rows(known, tmp_path):
    check_trace(known, configured("seed", ["blocks=4", "pages=8"]), tmp_path / "a.json", tmp_path / "a.csv")
    rows = json.loads((tmp_path / "a.json").read_text())["violations"]
    with open(tmp_path / "a.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["index"]) for row in table] == [row["index"] for row in rows] == [2, 3, 4, 5]
    assert [row["expected"] for row in table] == ["1", "0-2", "", ""]


def test_a_clean_trace_gives_an_empty_list_and_code_0(tmp_path):
    (tmp_path / "a.csv").write_text("op,block,page\nerase,1,0\nw,1,0\nr,1,0\n")
    assert main([str(tmp_path / "a.csv"), "--profile", "seed", "--json", str(tmp_path / "a.json")]) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["violations"], report["summary"]["first_violation"]) == ([], None)


def test_blocks_never_erased_are_indeterminate_when_the_trace_begins_in_mid_life(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("op,block,page\nw,1,5\nr,1,9\nerase,2,0\n")
    words = [str(tmp_path / "a.csv"), "--profile", "seed", "--set", "initial_state=unknown"]
    assert main(words) == 0
    assert "0 violations, 2 indeterminate" in capsys.readouterr().out


def test_a_trace_can_be_judged_in_two_files_through_a_saved_state(tmp_path):
    ops = random_trace(np.random.default_rng(3), 400, SMALL)
    for name, part in (("all", ops), ("first", ops[:250]), ("second", ops[250:])):
        write_trace([part], tmp_path / f"{name}.csv")
    profile = [
        "--profile",
        "seed",
        *(f"--set={key}={getattr(SMALL, key)}" for key in ("dies", "planes", "blocks", "pages")),
    ]
    state, found = str(tmp_path / "state.npz"), {}
    main([str(tmp_path / "first.csv"), *profile, "--save-state", state, "--json", str(tmp_path / "first.json")])
    main(
        [
            str(tmp_path / "second.csv"),
            *profile,
            f"--set=initial_state={state}",
            "--json",
            str(tmp_path / "second.json"),
        ]
    )
    main([str(tmp_path / "all.csv"), *profile, "--json", str(tmp_path / "all.json")])
    for name in ("all", "first", "second"):
        rows = json.loads((tmp_path / f"{name}.json").read_text())["violations"]
        found[name] = [(row["op"], row["block"], row["page"], row["mask"]) for row in rows]
    assert found["all"] == found["first"] + found["second"]
    assert found["second"]


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "make"), [(SMALL, random_trace), (SLC, random_device_trace)])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_chunks_of_any_size_and_format_give_the_verdicts_of_the_reference(tmp_path, monkeypatch, profile, make, suffix):
    ops = make(np.random.default_rng(5), 300, profile)
    expected = [
        (at, verdict.mask) for at, verdict in enumerate(reference.check(ops, profile)) if verdict.mask & (2**28 - 2)
    ]
    assert expected
    path, out = tmp_path / f"trace{suffix}", tmp_path / "out.json"
    write_trace([ops], path)
    for size in (200, 333, 5000):
        monkeypatch.setattr(traces, "PIECE", size)
        monkeypatch.setattr(traces, "ROWS", size)
        check_trace(path, profile, out)
        assert [(row["index"], row["mask"]) for row in json.loads(out.read_text())["violations"]] == expected


def test_an_unsorted_trace_is_judged_in_order_of_time_with_a_warning(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("t,op,block,page\n5,w,1,0\n1,erase,1,0\n9,r,1,1\n")
    assert main([str(tmp_path / "a.csv"), "--profile", "seed", "--json", str(tmp_path / "a.json")]) == 1
    report = json.loads((tmp_path / "a.json").read_text())
    assert [(row["index"], row["line"], row["rule"]) for row in report["violations"]] == [(2, 4, "READ_UNWRITTEN")]
    assert report["summary"]["sorted_by_time"] is True
    assert "warning: line 3: time goes back from 5 to 1 ns; the commands were sorted" in capsys.readouterr().err


def test_skipped_rows_unknown_commands_and_unused_columns_are_told(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("op,block,page,note\nerase,1,0,a\nw,1,x,b\nzap,1,0,c\n")
    assert main([str(tmp_path / "a.csv"), "--profile", "seed", "--skip-bad"]) == 1
    warnings = capsys.readouterr().err
    assert "1 rows that cannot be read were left out" in warnings
    assert "line 3: page: 'x'" in warnings
    assert "no known commands, judged ADDR_RANGE: 'zap'" in warnings
    assert "columns not used: note" in warnings


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("op,block,page\nr,1,x\n", [], "line 2: page: 'x' is not a whole number"),
        ("op,block,page\n", [], "holds no commands"),
        ("op,block,page\nr,1,1\n", ["--profile", "sead"], "Did you mean seed?"),
        ("op,block,page\nr,1,1\n", ["--set", "min_read_distance=5"], "leaves no legal read"),
        ("op,block,page\nr,1,1\n", ["--set", "pages=2147483648"], "less than or equal to 65536"),
        ("op,block,page\nr,1,1\n", ["--set", "pagez=4"], "Did you mean pages?"),
        ("op,block,page\nr,1,1\n", ["--set", "pages"], "write KEY=VALUE"),
        ("op,block,page\nr,1,1\n", ["--set", "pages=[4"], "not YAML"),
        ("op,block,page\nr,1,1\n", ["--profile", "generic_slc"], "need the column t_ns"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2_and_leave_reports_alone(tmp_path, capsys, content, options, message):
    (tmp_path / "a.csv").write_text(content)
    out = tmp_path / "out.json"
    out.write_text("older")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "a.csv"), "--profile", "seed", *options, "--json", str(out)])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert message in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert out.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "out.json"]


def test_a_report_never_takes_the_place_of_the_trace(known):
    with pytest.raises(UserError, match="is the trace itself"):
        check_trace(known, SMALL, json_path=known)
    assert known.read_text() == KNOWN


def test_a_report_that_cannot_be_written_ends_with_code_2(known, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(known), *LIKE_SEED, "--json", str(known / "out.json")])
    assert stop.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_without_a_report_only_the_rows_shown_are_made(tmp_path):
    (tmp_path / "a.csv").write_text("op,block,page\n" + "r,1,1\n" * 5000)
    findings = check_trace(tmp_path / "a.csv", SMALL, num_shown=3)
    assert (len(findings.shown), findings.num_violations) == (3, 5000)
    assert list(screen_lines(findings, tmp_path, 3))[-1].startswith("… 4,997 more")


def test_warnings_of_the_rules_are_counted_but_are_no_violations(tmp_path):
    (tmp_path / "a.csv").write_text("op,block,page\nerase,1,0\nw,1,0\n" + "r,1,0\n" * 4)
    findings = check_trace(tmp_path / "a.csv", SMALL.replace(read_disturb_limit=2))
    summary = findings.summary()
    assert (summary["violations"], summary["by_rule"], summary["warnings_by_rule"]) == (0, {}, {"READ_DISTURB": 2})


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "code"), [("erase,1,0\n", 0), ("w,1,0\n", 1), ("w,1\n", 2)])
def test_exit_codes_of_the_command(tmp_path, rows, code):
    (tmp_path / "a.csv").write_text(f"op,block,page\n{rows}")
    words = [sys.executable, "-m", "nandseq.check", str(tmp_path / "a.csv"), "--profile", "seed"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_help_needs_none_of_the_heavy_packages():
    code = (
        "import sys, contextlib, nandseq.check\n"
        "with contextlib.suppress(SystemExit): nandseq.check.main(['--help'])\n"
        "assert not {'numpy', 'numba', 'pyarrow', 'hydra', 'torch', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

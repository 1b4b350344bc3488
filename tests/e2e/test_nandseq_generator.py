"""The generator and the scenario classifier of nandseq as their user runs them, on tiny settings."""

import csv
import json

import pytest

from nandseq.check import main as check
from tests.processes import command

pytestmark = pytest.mark.slow

GENERATOR = [
    "experiment=nandseq_generator", "data.num_train=256", "data.num_val=64", "data.num_test=64", "data.seq_len=30",
    "model.hidden_dim=8", "phase.epochs=1",
]  # fmt: skip
SCENARIO = [
    "experiment=nandseq_scenario", "data.num_train=900", "data.num_val=90", "data.num_test=180", "data.seq_len=50",
    "phase.epochs=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    for words in (GENERATOR, SCENARIO):
        done = command("train.py", *words, env={"OUTPUT_DIR": str(folder)})
        assert done.code == 0, done.err
    return folder


def evaluate(folder, experiment, analysis, *words):
    run = f"run=latest:nandseq_{experiment}"
    return command("evaluate.py", run, f"analysis=nandseq/{analysis}", *words, env={"OUTPUT_DIR": str(folder)})


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


def test_the_generator_is_judged_beside_its_anchors(folder):
    done = evaluate(folder, "generator", "generator", "analysis.num_sequences=64", "analysis.floor_sequences=8")
    assert done.code == 0, done.err
    summary = json.loads(only(folder, "nandseq_generator/*/evaluations/*_generator/summary.json").read_text())
    assert set(summary["sets"]) == {"masked", "free", "uniform walk", "other data"}
    assert summary["sets"]["masked"]["valid_seq"] == 1
    assert summary["sets"]["free"]["valid_seq"] < 1
    assert summary["sets"]["free"]["mask_mass"] > 0
    assert summary["likelihood"]["gap"]["estimate"] > 0
    assert "Free sampling by scenario" in done.out


def test_generated_traces_are_read_by_the_checker_and_hold_the_fault_asked_for(folder, tmp_path, capsys):
    words = ["analysis.count=6", "analysis.num_ops=40", "analysis.fault=PAGE_ORDER", "analysis.fault_at=20"]
    done = evaluate(folder, "generator", "generate", *words, "analysis.scenario=compat")
    assert done.code == 0, done.err
    output = only(folder, "nandseq_generator/*/evaluations/*_generate")
    with open(output / "labels.csv") as file:
        labels = list(csv.DictReader(file))
    assert len(labels) == 6
    for label in labels:
        assert label["scenario"] == "compat"
        result = tmp_path / "result.json"
        code = check([str(output / "traces" / label["file"]), "--profile", "seed", "--json", str(result)])
        found = json.loads(result.read_text())["violations"]
        assert code == (1 if label["rule"] else 0)
        assert [(each["index"], each["rule"]) for each in found] == [(int(label["bad_index"]), label["rule"])] * len(
            found
        )
    assert any(label["rule"] == "PAGE_ORDER" for label in labels)


def test_an_order_that_cannot_be_met_is_one_line(folder):
    done = evaluate(folder, "generator", "generate", "analysis.scenario=gc_lop")
    assert done.code == 2
    assert "Did you mean gc_loop" in done.err
    assert "Traceback" not in done.err


def test_scenarios_are_judged_and_a_trace_is_described(folder, tmp_path):
    done = evaluate(folder, "scenario", "scenario")
    assert done.code == 0, done.err
    summary = json.loads(only(folder, "nandseq_scenario/*/evaluations/*_scenario/summary.json").read_text())
    assert summary["n"] == 180
    assert summary["macro_f1"] > summary["constant_predictor"]["macro_f1"] + 0.3
    trace = tmp_path / "trace.csv"
    rows = ["erase,3,0", *(f"program,3,{page}" for page in range(80))]
    trace.write_text("\n".join(["op,block,page", *rows]))
    done = evaluate(folder, "scenario", "describe", f"analysis.trace={trace}")
    assert done.code == 0, done.err
    assert "81 commands on 1 of 8,000 blocks" in done.out
    assert "Looks like" in done.out
    missing = evaluate(folder, "scenario", "describe", f"analysis.trace={tmp_path / 'none.csv'}")
    assert missing.code == 2
    assert "none.csv" in missing.err

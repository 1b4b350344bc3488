"""train.py and evaluate.py as a user of the nandseq classifier runs them, on tiny settings."""

import json
import re

import pytest

from common.checkpoints import network_weights
from common.rundir import find_runs, resolve_run
from tests.processes import command

pytestmark = pytest.mark.slow

TINY = [
    "data.num_train=96", "data.num_val=32", "data.num_test=48", "data.num_extra=16", "data.seq_len=24",
    "model.embedding_dim=4", "model.hidden_dim=4", "phase.epochs=1",
]  # fmt: skip
STEPS = [f"nandseq_step{number}" for number in range(7)]


def env(folder):
    return {"OUTPUT_DIR": str(folder)}


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Output directory of steps 0 to 6, three seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    tiny = [re.sub("=(.*)", r"=choice(\1)", word) for word in TINY]
    words = ["-m", f"experiment={','.join(STEPS)}", "seed=0,1,2", *tiny]
    done = command("train.py", *words, env=env(folder))
    assert done.code == 0, done.err
    return folder


def test_the_roadmap_is_judged_over_a_sweep(sweep):
    assert [len(find_runs(sweep, step)) for step in STEPS] == [3] * 7
    done = command("evaluate.py", f"run={sweep}/nandseq_step*/*-sweep", "analysis=nandseq/roadmap", env=env(sweep))
    assert done.code == 0, done.err
    (folder,) = (sweep / "nandseq_roadmap").iterdir()
    files = {"baseline_metrics.json", *(f"metrics_step{number}.json" for number in range(1, 8))}
    assert {path.name for path in folder.glob("*metrics*.json")} == files
    baseline = json.loads((folder / "baseline_metrics.json").read_text())
    assert (baseline["seeds"], baseline["n"], baseline["leak"]) == ([0, 1, 2], 48, "nothing")
    assert baseline["constant_predictor"]["accuracy"] == 0.75
    assert baseline["intervals_over_sequences"]["f1_invalid"]["low"] is not None
    vote = json.loads((folder / "metrics_step7.json").read_text())
    assert len(vote["runs"]) == 3
    assert vote["leak"] == "block state"
    assert "best constant predictor" in done.out
    assert done.out.count("**Step ") == 8


def test_runs_that_do_not_belong_to_the_roadmap_are_refused(sweep):
    runs = [str(run.path) for run in find_runs(sweep, "nandseq_step1")]
    twice = command("evaluate.py", f"run=[{','.join(runs + runs[:1])}]", "analysis=nandseq/roadmap", env=env(sweep))
    assert twice.code == 2
    assert "both are step 1 with seed" in twice.err


@pytest.mark.parametrize("name", ["nandseq_delta", "nandseq_state", "nandseq_oracle"])
def test_a_run_is_judged_on_its_split_and_the_harder_sets(tmp_path, name):
    done = command("train.py", f"experiment={name}", *TINY, env=env(tmp_path))
    assert done.code == 0, done.err
    done = command("evaluate.py", f"run=latest:{name}", env=env(tmp_path))
    assert done.code == 0, done.err
    run = resolve_run(f"latest:{name}", tmp_path)
    (folder,) = (run.path / "evaluations").iterdir()
    summary = summary_of(folder)
    assert summary["leak"] == {"delta": "nothing", "state": "block state", "oracle": "verdict"}[name.split("_")[1]]
    assert sum(map(sum, summary["confusion"])) == summary["n"] == 48
    assert set(summary["extra"]) == {"long", "wide", "scenario", "late"}
    assert ("f1_ovr/page_hop" in summary) == (name != "nandseq_oracle")
    assert ("locate_at_1" in summary) == (name != "nandseq_oracle")
    assert {"learning_curves.png", "sets.png"} <= {path.name for path in (folder / "figures").glob("*.png")}
    assert f"**{summary['leak']}**" in done.out
    assert len((run.path / "test_looks.jsonl").read_text().splitlines()) == 1


def test_validation_does_not_touch_the_test_split(tmp_path):
    words = ["experiment=nandseq_delta", "model=nandseq/transformer", "model.num_heads=2", *TINY, "data=nandseq/compat"]
    done = command("train.py", *words, env=env(tmp_path))
    assert done.code == 0, done.err
    done = command("evaluate.py", "run=latest:nandseq_delta", "split=val", env=env(tmp_path))
    assert done.code == 0, done.err
    run = resolve_run("latest:nandseq_delta", tmp_path)
    assert not (run.path / "test_looks.jsonl").exists()
    (folder,) = (run.path / "evaluations").iterdir()
    summary = summary_of(folder)
    assert summary["extra"] == {}
    assert summary["f1_invalid"] == pytest.approx(run.summary["metrics"]["val/f1_invalid"]["value"], abs=1e-6)


def test_a_stopped_run_mines_what_it_would_have_mined(tmp_path):
    words = ["experiment=nandseq_step1", *TINY, "phase.epochs=2", "callbacks.recorder.every_n_steps=1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command("train.py", *words, env=env(whole)).code == 0
    assert command("train.py", *words, env=env(stopped), at="4:SIGKILL").code == -9
    (run,), (reference,) = (find_runs(folder, "nandseq_step1") for folder in (stopped, whole))
    resumed = command("train.py", f"resume={run.path}", env=env(stopped))
    assert resumed.code == 0, resumed.err
    assert (run.path / "metrics.csv").read_bytes() == (reference.path / "metrics.csv").read_bytes()
    mine, theirs = (network_weights(each.best) for each in (run, reference))
    assert all((mine[key] == theirs[key]).all() for key in theirs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.features=[detla]"], "data.features"),
        (["data.features=[]"], "choose from raw, abs, delta, state, oracle"),
        (["+data.class_shares.page_hopp=0.5"], "name the classes"),
        (["+data.class_shares.hop=0.5", "+data.test_shares.hop=0.5"], "class_shares: hop: unknown."),
        (["data.profile=sede"], "seed"),
        (["data.num_blocks=0"], "data.num_blocks=0"),
        (["data.hard_share=1.5"], "data.hard_share=1.5"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    done = command("train.py", "experiment=nandseq_delta", *words, env=env(tmp_path))
    assert done.code == 2, done.err
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in done.err


def test_a_sweep_over_experiments_says_how_other_keys_are_written(tmp_path):
    words = ["-m", "experiment=nandseq_step0,nandseq_step1", "data.num_train=96"]
    done = command("train.py", *words, env=env(tmp_path))
    assert done.code == 2
    assert "write data.num_train=choice(VALUE)" in done.err
    assert "Traceback" not in done.err

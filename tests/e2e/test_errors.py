"""Every mistake a user can make on the command line is one line, code 2, no traceback, and nothing is damaged."""

import re
import subprocess
import sys

import pytest

from tests.processes import ROOT, command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=lasps_phse2"], "experiment=lasps_phse2: no such experiment. Did you mean lasps_phase2?"),
        (["experiment=lasps_phase1", "model.hiden_dim=3"], "model.hiden_dim: unknown key. Did you mean hidden_dim?"),
        (["experiment=lasps_phase1", "sed=3"], "sed: unknown key. Did you mean seed?"),
        (
            ["experiment=lasps_phase1", "model=lasps/smal"],
            "model=lasps/smal: no such option. Did you mean lasps/small?",
        ),
        (["experiment=lasps_phase1", "model.hidden_dim=[3"], "error: "),
        (["experiment=lasps_phase1", "model.hidden_dim=-4"], "model.hidden_dim=-4: input should be greater"),
        (["experiment=lasps_phase1", "model.hidden_dim=9"], "hidden_dim=9: not a multiple of num_heads=4"),
        (["experiment=lasps_phase1", "model.readout=lst"], "model.readout='lst': input should be 'first', 'last'"),
        (["experiment=lasps_phase1", "phase.epochs=0"], "phase.epochs=0: input should be greater than or equal to 1"),
        (["experiment=lasps_phase1", "data.signal=-1"], "data.signal=-1: input should be greater than or equal to 0"),
        (["experiment=lasps_phase1", "data=lasps/krx"], "data.path: has no default; pass data.path=…"),
        (["experiment=lasps_phase1", "data=lasps/krx", "data.path=nowhere.csv"], "nowhere.csv: nothing at"),
        (["experiment=lasps_phase1", "data.split.val_start=2030-01-01", "data.split.test_start=2031-01-01"], "split"),
        (["experiment=lasps_phase1", "data.end=2019-12-30"], "no window in"),
        (["experiment=lasps_phase2", "parents=never"], "parents=never. Train one with `python train.py"),
        (["experiment=lasps_phase2", "init_from=nowhere"], "init_from=nowhere: no such run directory or checkpoint"),
        (["resume=nowhere"], "nowhere: not a run directory"),
        (["experiment=lasps_phase1", "data.view.charts.size=32"], "60 sessions do not fit into 32 columns"),
        (
            ["experiment=ssmo_classification", "loss.selector=correctness", "loss.weighting=soft"],
            "error: loss.selector=correctness: only with weighting=hard",
        ),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_line(tmp_path, words, message):
    done = command("train.py", *words, env={"OUTPUT_DIR": str(tmp_path)})
    assert done.code == 2, done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run: which run?"),
        (["run=latest:lasps_phase2"], "no finished run below"),
        (["run=nowhere"], "nowhere: not a run directory"),
        (["run=nowhere", "analysis=lasps/validation", "split=tset"], "split=tset: choose train, val, test."),
    ],
)
def test_a_mistaken_evaluation_is_one_line(tmp_path, words, message):
    done = command("evaluate.py", *words, env={"OUTPUT_DIR": str(tmp_path)})
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_first_words_are_answered_without_loading_torch(words):
    code = (
        "import runpy, sys, atexit\n"
        f"sys.argv = ['train.py', *{words}]\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'lightning' in sys.modules))\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False False\n")
    assert "lasps_phase2" in done.stdout


def test_without_an_experiment_they_are_listed_with_their_first_line():
    done = subprocess.run([sys.executable, "train.py"], cwd=ROOT, capture_output=True, text=True)
    assert re.search(r"lasps_phase1 +Backbone and common head from random weights\.", done.stdout)

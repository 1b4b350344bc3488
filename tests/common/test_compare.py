"""Comparing runs: what differs, metrics over seeds with the difference to the first, intervals of evaluations."""

import pytest

from common.compare import compare
from common.errors import UserError
from common.files import write_json
from common.rundir import Run
from common.stats import Interval


@pytest.fixture
def make_run(tmp_path):
    """A run directory with the given width, seed and value, as far as a comparison reads it."""

    def make(name, width, seed, value):
        run = Run(tmp_path / name)
        run.path.mkdir()
        text = (
            f"name: toy\nseed: {seed}\nfacts: {{fingerprint: abc}}\nrun_dir: {name}\n"
            f"model: {{hidden_dim: {width}}}\nmodule: {{network: {{hidden_dim: {width}}}, seed: {seed}}}\n"
        )
        (run.path / "config.yaml").write_text(text)
        metrics = {"val/loss": {"value": value, "split": "val", "n": 60}}
        write_json(run.path / "summary.json", {"experiment": "toy", "monitor": "val/loss", "metrics": metrics})
        return run

    return make


def test_runs_that_differ_by_the_seed_are_put_together_and_compared_in_pairs(make_run, tmp_path):
    runs = [make_run("a0", 4, 0, 1.0), make_run("b0", 8, 0, 0.5), make_run("a1", 4, 1, 3.0), make_run("b1", 8, 1, 2.3)]
    summary = compare(runs, "val", tmp_path / "out", None)
    assert summary["differences"] == {"model.hidden_dim": [4, 8]}
    (metric,) = summary["metrics"]
    assert metric["variants"]["A"]["mean"] == 2.0
    assert metric["variants"]["B"]["mean"] == pytest.approx(1.4)
    difference = metric["variants"]["B"]["difference"]  # −0.5 and −0.7: mean −0.6, t interval of two pairs
    assert difference["estimate"] == pytest.approx(-0.6)
    assert difference["high"] == pytest.approx(-0.6 + 12.706 * 0.1, abs=1e-3)
    assert (tmp_path / "out" / "figures" / "metric.png").is_file()


def test_intervals_come_from_the_newest_evaluation_on_the_split(make_run, tmp_path):
    runs = [make_run("a", 4, 0, 1.0), make_run("b", 8, 0, 0.5)]
    for time, split, estimate in (("1", "test", 0.1), ("2", "test", 0.2), ("3", "val", 0.3)):
        interval = Interval(estimate, 0.0, 1.0, 0.95, 9, "bootstrap").as_dict()
        folder = runs[0].path / "evaluations" / time
        write_json(folder / "summary.json", {"analysis": "x", "split": split, "intervals": {"accuracy": interval}})
    compare(runs, "test", tmp_path / "out", None)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "x: accuracy | 0.200 [0.000, 1.000]" in report
    assert "0.100 [" not in report
    assert "0.300 [" not in report


def test_one_run_or_the_same_twice_is_told(make_run, tmp_path):
    run = make_run("a", 4, 0, 1.0)
    with pytest.raises(UserError, match="two runs or more"):
        compare([run], "val", tmp_path / "out", None)
    with pytest.raises(UserError, match="the same config and seed"):
        compare([run, run], "val", tmp_path / "out", None)

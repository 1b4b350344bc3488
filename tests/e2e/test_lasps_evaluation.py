"""Report, leak checks and predictions of lasps through evaluate.py, as its user runs them, on tiny settings."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from common.rundir import find_runs, resolve_run
from tests.processes import command

pytestmark = pytest.mark.slow

TINY = [
    "experiment=lasps_phase1", "data.stocks_per_sector=2", "data.start=2021-07-01", "data.end=2024-06-28",
    "data.split.val_start=2023-05-01", "data.split.test_start=2023-11-01", "data.windowing.stride=5",
    "model.hidden_dim=8", "model.num_heads=2", "model.feedforward_dim=8", "model.use_chart_cnn=false",
    "phase.epochs=2", "data.windowing.entry=open_t1",
]  # fmt: skip


@pytest.fixture(scope="module")
def walk_forward(tmp_path_factory):
    """Output directory with a sweep over two folds and two seeds."""
    folder = tmp_path_factory.mktemp("walk_forward")
    words = ["-m", *TINY, "data.split.folds=2", "data.split.fold=0,1", "seed=0,1"]
    done = command("train.py", *words, env={"OUTPUT_DIR": str(folder)})
    assert done.code == 0, done.err
    return folder


def evaluate(folder: Path, run: str | Path, analysis: str, *words: str):
    return command("evaluate.py", f"run={run}", f"analysis=lasps/{analysis}", *words, env={"OUTPUT_DIR": str(folder)})


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_a_report_strings_folds_together_and_averages_seeds(walk_forward):
    sweep = only(walk_forward, "lasps_phase1/*-sweep")
    done = evaluate(walk_forward, sweep, "report")
    assert done.code == 0, done.err
    folder = only(walk_forward, "lasps_report/*")
    summary = json.loads((folder / "summary.json").read_text())
    runs = find_runs(walk_forward, "lasps_phase1")
    sizes = {run.config.data.split.fold: run.config.facts.num_samples.test for run in runs}
    assert summary["folds"] == 2
    assert summary["n"] == sum(sizes.values()) == sum(row["n"] for row in summary["years"])
    assert summary["entry"] == "open_t1"
    models = summary["models"]
    assert {"lasps, mean of 2 seeds", "lasps, seed 0", "lasps, seed 1", "class prior", "momentum 60"} <= set(models)
    assert {"volatility only, argmax", "logistic regression, divided by prior", "LightGBM, argmax"} <= set(models)
    assert set(summary["portfolios"]) == {"long_only", "market_neutral", "equal weight"}
    own = summary["portfolios"]["long_only"]["lasps, mean of 2 seeds"]
    wealth = [own["cost_multiples"][multiple]["total_return"] for multiple in ("0", "1", "2")]
    assert wealth == sorted(wealth, reverse=True)
    assert "## Verdict" in done.out
    assert summary["verdict"][0].startswith(("Evidence of skill", "No evidence of skill"))
    assert {path.name for path in (folder / "figures").glob("*.png")} >= {"models.png", "deciles.png", "long_only.png"}
    assert all(len((run.path / "test_looks.jsonl").read_text().splitlines()) == 1 for run in runs)


def test_a_report_on_validation_leaves_the_test_split_closed_and_repeats_itself(walk_forward):
    run = next(run for run in find_runs(walk_forward, "lasps_phase1") if run.path.name == "0")
    looks = (run.path / "test_looks.jsonl").read_text() if (run.path / "test_looks.jsonl").exists() else ""
    for _ in range(2):
        done = evaluate(walk_forward, run.path, "report", "split=val")
        assert done.code == 0, done.err
    assert (run.path / "test_looks.jsonl").read_text() == looks
    first, second = (json.loads(path.read_text()) for path in run.path.glob("evaluations/*lasps_report/summary.json"))
    assert first == second
    assert first["models"]["class prior"]["balanced_accuracy"] == pytest.approx(1 / 3)


def test_runs_that_do_not_belong_together_are_refused(walk_forward):
    runs = find_runs(walk_forward, "lasps_phase1")
    seeds = {run.config.seed: run.path for run in runs if run.config.data.split.fold == 0}
    other = next(run.path for run in runs if run.config.data.split.fold == 1 and run.config.seed == 0)
    done = evaluate(walk_forward, f"[{seeds[0]},{seeds[1]},{other}]", "report", "split=val")
    assert done.code == 2
    assert "each fold with the same seeds" in done.err


@pytest.mark.parametrize("plant", [False, True])
def test_the_leak_check_passes_and_fails_once_a_future_column_is_planted(walk_forward, plant):
    run = next(run for run in find_runs(walk_forward, "lasps_phase1") if run.path.name == "1")
    done = evaluate(walk_forward, run.path, "leak_check", f"analysis.plant={str(plant).lower()}", "analysis.samples=2")
    assert done.code == int(plant), done.err
    assert ("failed: truncation, future perturbation" in done.err) == plant
    assert ("No leak found." in done.out) != plant


def test_a_random_split_is_refused_and_otherwise_stamped_leaky(tmp_path):
    words = [*TINY, "data.split.random=true"]
    refused = command("train.py", *words, env={"OUTPUT_DIR": str(tmp_path)})
    assert refused.code == 2
    assert "allow_leaky=true" in refused.err
    done = command("train.py", *words, "data.split.allow_leaky=true", env={"OUTPUT_DIR": str(tmp_path)})
    assert done.code == 0, done.err
    report = evaluate(tmp_path, "latest:lasps_phase1", "report")
    assert "LEAKY" in report.out
    leaks = evaluate(tmp_path, "latest:lasps_phase1", "leak_check", "analysis.samples=1")
    assert leaks.code == 1
    assert "label intervals apart" in leaks.err


def test_todays_predictions_come_from_files_that_training_never_saw(walk_forward, tmp_path):
    run = resolve_run("latest:lasps_phase1", walk_forward)
    days = np.busday_offset("2025-01-02", np.arange(200), roll="forward")
    rng = np.random.default_rng(0)
    with open(tmp_path / "new.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["날짜", "종목코드", "시가", "고가", "저가", "종가", "거래량"])
        for code in ("005930", "000660"):
            close = np.round(50_000 * np.exp(np.cumsum(0.02 * rng.standard_normal(len(days)))))
            writer.writerows([day, code, c, c + 100, c - 100, c, 1000] for day, c in zip(days, close))
    words = ["data=lasps/krx", f"data.path={tmp_path / 'new.csv'}", "analysis.explain=[005930]"]
    done = evaluate(walk_forward, run.path, "predict", *words)
    assert done.code == 0, done.err
    folder = only(run.path, "evaluations/*lasps_predict")
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert {row["code"] for row in rows} == {"005930", "000660"}
    assert {row["date"] for row in rows} == {str(days[-1])}
    assert (folder / "explain" / f"005930_{days[-1]}.png").is_file()
    looks = run.path / "test_looks.jsonl"
    assert "predict" not in (looks.read_text() if looks.exists() else "")

"""From collected runs to a verdict, as a user gets there: calibrate, choose, combine, evaluate."""

import json
import shutil

import pytest

from common.rundir import Run, find_runs
from tests.processes import command

pytestmark = pytest.mark.slow
SMALL = ["experiment=redheart_smoke", "phase.epochs=9", "data.num_rows=400"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def runs(place):
    """Three seeds, nine checkpoints each."""
    for seed in range(3):
        done = command("train.py", *SMALL, f"seed={seed}", env={"OUTPUT_DIR": str(place)})
        assert done.code == 0, done.err
    return find_runs(place, "redheart_smoke")[::-1]


def evaluate(place, *words):
    return command("evaluate.py", *words, env={"OUTPUT_DIR": str(place)})


def strict(path):
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def looks(run):
    path = run.path / "test_looks.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def of_one(runs, place):
    before = len(looks(runs[0]))
    done = evaluate(place, f"run={runs[0].path}", "analysis=redheart/evaluate")
    assert done.code == 0, done.err
    assert len(looks(runs[0])) == before + 1
    (output,) = runs[0].path.glob("evaluations/*_redheart_evaluate")
    return output


def test_one_run_is_judged_against_every_baseline(of_one):
    record = strict(of_one / "evaluation.json")
    assert set(record["candidates"]) >= {
        "last", "best_single", "proposed", "proposed_dependent", "own_groups", "greedy_groups", "greedy_units",
        "tpe_groups", "exact_groups", "lawa_k", "ema", "soup_uniform", "soup_greedy", "soup_window", "group_soups",
        "random_mix", "logit_ensemble", "oracle",
    }  # fmt: skip
    assert record["missing"]["epoch_30"] == "epoch 30 was not saved"
    assert record["verdict"] == record["candidates"]["proposed"]["verdict"]
    lowest = min(each["loss"] for name, each in record["candidates"].items() if name in ("best_single", "own_groups"))
    assert record["candidates"]["oracle"]["loss"] <= lowest + 1e-6
    assert record["candidates"]["oracle"]["verdict"] is None
    assert strict(of_one / "summary.json")["verdict"] == record["verdict"]
    assert "unattainable" in (of_one / "report.md").read_text()
    assert (of_one / "figures" / "comparison.png").exists()


def test_the_best_single_epoch_is_that_of_the_run(runs, of_one):
    record = strict(of_one / "evaluation.json")
    assert record["candidates"]["best_single"]["how"] == [f"epoch {runs[0].summary['best_epoch']}"]


def test_three_seeds_are_judged_together(runs, place):
    done = evaluate(place, f"run={place}/redheart_smoke/*", "analysis=redheart/evaluate")
    assert done.code == 0, done.err
    (path,) = place.glob("redheart_evaluate/*/evaluation.json")
    record = strict(path)
    assert record["seeds"] == [0, 1, 2]
    assert all(each["over_seeds"]["n"] == 3 for each in record["candidates"].values())
    assert len(record["candidates"]["proposed"]["how"]) == 3


def test_what_the_automation_writes_is_judged_as_it_lies_there(runs, tmp_path):
    done = command("redheart/auto_sweetspot.py", "--checkpoint-dir", str(runs[1].path), "--output", str(tmp_path))
    assert done.code == 0, done.err
    decision = strict(tmp_path / "decision.json")
    assert decision["decision"] in ("proposed", "best_single")
    assert not looks(runs[1])[1:]  # the automation reads no test row
    before = len(looks(runs[1]))
    judged = command("redheart/evaluate_combined.py", "--model", str(tmp_path / "combined"))
    assert judged.code == 0, judged.err
    assert len(looks(runs[1])) == before + 1
    record = strict(tmp_path / "combined" / "evaluation" / "evaluation.json")
    assert record["candidate"] == "model"
    if decision["decision"] == "best_single":
        assert record["candidates"]["model"]["loss"] == record["candidates"]["best_single"]["loss"]
    assert "model" in (tmp_path / "combined" / "evaluation" / "evaluation.md").read_text()


def test_thresholds_of_three_runs_are_calibrated_and_used(runs, place, tmp_path):
    words = ["--output", str(tmp_path), "--trials", "2"]
    done = command("redheart/calibrate.py", "--runs", *(str(run.path) for run in runs), *words)
    assert done.code == 0, done.err
    record = strict(tmp_path / "calibrated_thresholds.json")
    assert record["calibrated"]
    assert record["n_runs"] == 3
    assert record["cv_score"] >= 0
    used = f"analysis.thresholds={tmp_path}/calibrated_thresholds.json"
    done = evaluate(place, f"run={runs[2].path}", "analysis=redheart/auto", used)
    assert done.code == 0, done.err
    (path,) = runs[2].path.glob("evaluations/*_redheart_auto/decision.json")
    assert strict(path)["thresholds"]["voting_confidence"] == record["voting_confidence"]


def test_one_run_leaves_the_default_thresholds(runs, place):
    done = evaluate(place, f"run={runs[0].path}", "analysis=redheart/calibrate")
    assert done.code == 0, done.err
    (path,) = runs[0].path.glob("evaluations/*_redheart_calibrate/calibrated_thresholds.json")
    assert strict(path)["calibrated"] is False


def copy_of(run, place):
    shutil.copytree(run.path, place / "run")
    return Run(place / "run")


def flip(run):
    path = run.path / "units" / "epoch_0003" / "adv_surd.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    shutil.rmtree(run.path / "units" / "contributions", ignore_errors=True)


def lose_a_unit(run):
    (run.path / "units" / "epoch_0003" / "heads.safetensors").unlink()
    shutil.rmtree(run.path / "units" / "contributions", ignore_errors=True)


def leave_unfinished(run):
    (run.path / "summary.json").unlink()


def lose_the_units(run):
    shutil.rmtree(run.path / "units")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "adv_surd.safetensors: damaged, unit adv_surd is not what was written"),
        (lose_a_unit, "heads.safetensors: missing"),
        (leave_unfinished, "unfinished"),
        (lose_the_units, "no checkpoint of units"),
    ],
)
@pytest.mark.parametrize("analysis", ["evaluate", "auto"])
def test_a_damaged_run_is_one_line(runs, place, tmp_path, damage, message, analysis):
    run = copy_of(runs[0], tmp_path)
    damage(run)
    done = evaluate(place, f"run={run.path}", f"analysis=redheart/{analysis}")
    assert done.code == 2, done.err
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in done.err


def test_runs_of_different_configs_are_one_line(runs, place, tmp_path):
    other = command("train.py", *SMALL, "seed=5", "optim.lr=1e-3", env={"OUTPUT_DIR": str(tmp_path)})
    assert other.code == 0, other.err
    (run,) = find_runs(tmp_path, "redheart_smoke")
    done = evaluate(place, f"run=[{runs[0].path},{run.path}]", "analysis=redheart/evaluate")
    assert done.code == 2
    assert "of different configs" in done.err


def test_a_folder_without_a_combined_model_is_one_line(tmp_path):
    done = command("redheart/evaluate_combined.py", "--model", str(tmp_path))
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "no manifest" in done.err

"""Training both stages of kfashion and judging them as a user does, on a small drawn catalogue."""

import csv

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common.errors import UserError
from common.files import read_json
from common.rundir import Run, find_runs, resolve_run
from kfashion.export import load_encoder
from tests.processes import ROOT, command

pytestmark = pytest.mark.slow
SMALL = ["data.num_images=160", "data.num_designs=30", "encoder@data.encoder=kfashion/pixels", "phase.epochs=2"]


def env(folder):
    return {"OUTPUT_DIR": str(folder)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kfashion")
    done = command("train.py", "experiment=kfashion_stage2", *SMALL, env=env(folder))
    assert done.code == 0, done.err
    return folder


def judged(folder, analysis, *words):
    """The output folder of an analysis, which must end well."""
    done = command(
        "evaluate.py", "run=latest:kfashion_stage2", f"analysis=kfashion/{analysis}", *words, env=env(folder)
    )
    assert done.code == 0, done.err
    run = resolve_run("latest:kfashion_stage2", folder)
    return max((run.path / "evaluations").glob(f"*_{analysis}"))


def test_stage_two_starts_from_stage_one_without_its_heads(folder):
    run, parent = (resolve_run(f"latest:kfashion_stage{stage}", folder) for stage in (2, 1))
    assert run.environment["parent"]["run"] == str(parent.path)
    state = torch.load(run.best, weights_only=True)["state_dict"]
    assert not any("heads" in name for name in state)
    assert (run.path / "vocab.json").is_file()
    with open(run.path / "metrics.csv", encoding="utf-8") as file:
        names = next(csv.reader(file))
    assert {"val/hit_at_1", "val/hit_at_5", "val/mrr", "val/positive_similarity", "val/negative_similarity",
            "val/norm_error", "train/loss_above_chance"} <= set(names)  # fmt: skip


def test_retrieval_leaves_all_result_files(folder):
    output = judged(folder, "retrieval", "split=val")
    results = output / "results"
    for name in ("training_results.json", "training_summary.json", "training_charts.png", "similarities.png"):
        assert (results / name).is_file(), name
    searches = read_json(results / "similarity_search" / "results.json")
    assert searches["timestamp"]
    assert all(len(query["results"]) == 5 for query in searches["queries"])
    records = [str(query["record"]) for query in searches["queries"]]
    assert len(set(records)) == len(records)
    assert list((results / "similarity_search").glob("*.png"))
    summary = read_json(output / "summary.json")
    table = summary["models"]["attribute encoder"]["attributes → image"]
    assert set(table) == {"instance", "attr", "category"}
    assert 0 < table["attr"]["hit_at_5"]["chance"] < 1
    assert set(summary["image_to_image"]) == {"attr", "category"}
    assert sum(row["n"] for row in summary["by_category"]) == summary["n"]
    assert summary["inbatch_16"]["chance"] == 5 / 16
    report = (output / "report.md").read_text(encoding="utf-8")
    assert "the original published 0.641" in report
    grids = {query["category"]: query["grid"] for query in searches["queries"]}
    assert all(f"[{name}](results/similarity_search/{grid})" in report for name, grid in grids.items())
    assert summary["gallery"] == summary["n"]
    assert (output.parent / "latest" / "results" / "training_summary.json").is_file()
    assert all(row["achieved"] is None for row in summary["targets"])  # drawn data achieve no target
    encoder = load_encoder(output / "checkpoints" / "best_model.pt", encoder=summary["encoder"])
    assert encoder.vocabulary.hash == summary["vocabulary"]
    with pytest.raises(UserError, match="image encoder"):
        load_encoder(output / "checkpoints" / "best_model.pt", encoder="another")


def test_distractors_lower_the_chance_and_the_gallery_holds_all_garments(folder):
    alone, among = (
        read_json(judged(folder, "retrieval", "split=val", f"analysis.distractors={word}") / "summary.json")
        for word in ("false", "true")
    )
    assert among["gallery"] > among["n"] == alone["n"]
    for name, own in among["models"].items():
        own, other = (table["attributes → image"]["attr"]["hit_at_5"] for table in (own, alone["models"][name]))
        assert own["chance"] < other["chance"]
        assert own["value"] <= other["value"]


def test_the_sanity_check_passes(folder):
    output = judged(folder, "sanity")
    found = read_json(output / "temp_logs" / "sanity_check_results.json")
    assert found["result"] == "SANITY CHECK PASS"
    assert len(found["checks"]) == 16


def test_kinds_of_queries_and_centrality_are_judged_without_failing(folder):
    found = read_json(judged(folder, "query_aware", "split=val") / "results" / "query_aware.json")
    assert set(found["sets"]) == {"all", "anchor", "tail", "high_quality", "category_balanced"}
    assert found["anchor_less_others"]["attr"]["recall_at_10"]["verdict"] in ("confirmed", "refuted", "inconclusive")
    central = read_json(judged(folder, "centrality", "split=val") / "results" / "centrality.json")
    assert central["anchors"]["mean"] >= central["all"]["mean"]
    assert central["validation"] == "not validated: no sales"


def test_the_dashboard_can_read_what_the_evaluations_wrote(folder):
    found = read_json(judged(folder, "dashboard") / "results" / "dashboard.json")
    assert found["problems"] == []
    assert found["kpi"]["total_items"] > 0


def test_samples_of_augmentation_are_shown(folder):
    output = judged(folder, "augmentation")
    samples = read_json(output / "results" / "augmented_samples.json")["augmented_samples"]
    pictures = {(each["method"], each["augmented"]) for each in samples if each["kind"] == "image"}
    assert {method for method, _ in pictures} == {"view", "autoaugment"}
    assert all((output / "results" / "augmented_pictures" / name).is_file() for _, name in pictures)
    assert (output / "results" / "augmented_pictures.png").is_file()
    assert "augmented_pictures.png" in (output / "report.md").read_text(encoding="utf-8")


AUGMENTED = ["init_from=null", "phase.epochs=3", "data.batch_size=32", "data.n_views=1", "module.mixup=0.2",
             "module.augmentation.field_dropout=0.2", "module.augmentation.synonym=0.5"]  # fmt: skip


@pytest.mark.parametrize(("step", "name"), [(5, "SIGKILL"), (6, "SIGTERM")])
def test_a_stopped_run_with_every_augmentation_resumes_to_the_same_bits(folder, tmp_path, step, name):
    places = [f"data.cache_dir={folder}/cache/kfashion"]
    words = ["experiment=kfashion_stage2", *SMALL, *AUGMENTED, *places, "callbacks.recorder.every_n_steps=2"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command("train.py", *words, env=env(whole)).code == 0
    code = command("train.py", *words, env=env(stopped), at=f"{step}:{name}").code
    assert code == (-9 if name == "SIGKILL" else 143)
    run, reference = (find_runs(each, "kfashion_stage2")[0] for each in (stopped, whole))
    assert not run.finished
    resumed = command("train.py", f"resume={run.path}", env=env(stopped))
    assert resumed.code == 0, resumed.err
    assert (run.path / "metrics.csv").read_bytes() == (reference.path / "metrics.csv").read_bytes()


def test_mixed_precision_trains(folder, tmp_path):
    words = ["init_from=null", "phase.epochs=1", "trainer.precision=bf16-mixed"]
    places = [f"data.cache_dir={folder}/cache/kfashion"]
    done = command("train.py", "experiment=kfashion_stage2", *SMALL, *words, *places, env=env(tmp_path))
    assert done.code == 0, done.err
    metrics = resolve_run("latest:kfashion_stage2", tmp_path).summary["metrics"]
    assert metrics["val/norm_error"]["value"] < 1e-4
    assert metrics["val/loss"]["value"] > 0


def test_more_than_a_hundred_samples_are_refused(folder):
    words = ["run=latest:kfashion_stage2", "analysis=kfashion/retrieval", "analysis.num_queries=101", "split=val"]
    done = command("evaluate.py", *words, env=env(folder))
    assert done.code == 2
    assert "num_queries" in done.err


@pytest.fixture(scope="module")
def sweep(folder):
    """Runs of two temperatures with two seeds each, all of one temperature first."""
    words = ["init_from=null", "loss.temperature=0.07,0.1", "seed=0,1"]
    done = command("train.py", "-m", "experiment=kfashion_stage2", *SMALL, *words, env=env(folder))
    assert done.code == 0, done.err
    return next((folder / "kfashion_stage2").glob("*-sweep"))


def compared(folder, analysis, runs, file):
    """A result file of an analysis of several runs."""
    done = command("evaluate.py", f"run={runs}", f"analysis=kfashion/{analysis}", "split=val", env=env(folder))
    assert done.code == 0, done.err
    return max(folder.glob(f"kfashion_{analysis}/2*")) / "results" / file


def test_temperatures_are_compared_over_seeds_and_seeds_are_put_together(folder, sweep):
    report = read_json(compared(folder, "temperature", sweep, "temperature_report.json"))
    assert [row["value"] for row in report["values"]] == [0.07, 0.1]
    assert report["values"][1]["over_baseline"]["hit_at_5"]["n"] == 2
    assert report["recommended"] in (0.07, 0.1)
    together = read_json(compared(folder, "seeds", f"[{sweep}/0,{sweep}/1]", "seeds.json"))
    assert together["seeds"] == [0, 1]
    for name in ("hit_at_5", "mrr"):
        mean = together["models"]["attribute encoder"]["attributes → image"]["attr"][name]["value"]
        assert mean == pytest.approx(report["values"][0]["mean"][name])
    assert together["std_over_seeds"]["attributes → image"]["attr"]["mrr"] == pytest.approx(
        report["values"][0]["std"]["mrr"]
    )


def test_runs_that_differ_in_more_than_the_seed_are_not_put_together(folder, sweep):
    words = ["evaluate.py", f"run=[{sweep}/0,{sweep}/2]", "analysis=kfashion/seeds", "split=val"]
    done = command(*words, env=env(folder))
    assert done.code == 2
    assert "another loss" in done.err


def test_runs_are_drawn_in_the_order_in_which_they_ended(folder, sweep):
    trend = compared(folder, "trend", sweep, "trend.json")
    rows = read_json(trend)["runs"]
    assert len(rows) == 4
    assert all(row["epochs_to_95"] in (1, 2) for row in rows)
    assert trend.with_name("trend.png").is_file()


def test_every_stage_of_tuning_starts_from_the_best_of_the_one_before(folder):
    """The second and the third are told `experiment=best`, which is another file each time."""
    tuned = {}
    words = ["experiment=kfashion_stage2", *SMALL]
    for stage in (1, 2):
        study = f"tuning_{stage}"
        words += [f"sweep=kfashion_{stage}", f"study={study}", "hydra.sweeper.n_trials=2"]
        done = command("train.py", *words, env=env(folder))
        assert done.code == 0, done.err
        done = command("evaluate.py", f"study={study}", env=env(folder))
        assert done.code == 0, done.err
        output = max((folder / "sweep").glob("2*"))
        summary = read_json(output / "summary.json")
        assert summary["objectives"] == ["val/hit_at_5"]
        tuned |= summary["best"][0]["params"]
        best = OmegaConf.load(output / "experiment" / "best.yaml")
        assert best.defaults[0] == "kfashion_stage2"
        config = Run(folder / "studies" / study / str(summary["best"][0]["trial"])).config
        assert {key: OmegaConf.select(config, key) for key in tuned} == tuned
        words = ["--config-dir", str(output), "experiment=best"]
    assert {"data.batch_size", "optim.lr", "loss.temperature", "model.field_dim"} <= set(tuned)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        third = compose("train", ["experiment=best", f"hydra.searchpath=[file://{output}]", "sweep=kfashion_3"])
    assert {key: OmegaConf.select(third, key) for key in tuned} == tuned
    assert third.data.encoder._target_ == "kfashion.encoders.PixelProjection"

"""Names of runs, independent runs that pairs share, and summary.csv."""

import csv
import json
from itertools import pairwise

import numpy as np
import pytest
from omegaconf import OmegaConf

from common import matrix
from common.config import compose
from common.errors import UserError
from common.matrix import Cell
from common.rundir import Run
from common.schema import validate
from ssmo.batch import COLUMNS, collect, config_hash, describe, row, run_id, share_independent

FIRST = (
    "run_id seed task dataset method model1 model2 best_metric_1 best_metric_2 final_metric_1 final_metric_2 "
    "condition_tag wall_time_sec metric_name metric_mode val_best_1 val_best_2 best_epoch_1 best_epoch_2 epochs steps "
    "params_1 params_2 device config_hash status"
)


@pytest.fixture(scope="module")
def config():
    return compose("ssmo_classification")


def changed(config, **changes):
    config = config.copy()
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def test_a_run_is_named_by_what_it_is(config):
    name = run_id(config)
    assert name == f"classification-shapes10-cnn_mlp-ssmo_hard-clean-s0-{config_hash(config)}"
    assert len(config_hash(config)) == 8
    weak = changed(config, model__quarter=2, data__condition="weak_data", data__strength=0.5, seed=7)
    assert run_id(weak).startswith("classification-shapes10-cnn_mlp-ssmo_hard-weak_data0.5+quarter2-s7-")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"loss.margin": 0.1}, {"optim.lr": 0.5}, {"phase.epochs": 3}, {"model.first.dropout": 0.1},
               {"data.num_train": 99}, {"module.gradient_clip": 1.0}],
)  # fmt: skip
def test_the_hash_is_of_all_that_makes_the_run(config, change):
    other = config.copy()
    OmegaConf.update(other, *next(iter(change.items())))
    assert config_hash(other) != config_hash(config)


def test_the_hash_is_not_of_where_the_run_happens(config):
    other = changed(config, paths__output_dir="/elsewhere", trainer__accelerator="gpu", run_dir="x", name="y")
    assert config_hash(other) == config_hash(config)


MODELS = ("cnn", "mlp", "net")
PAIRS = [("cnn", "cnn"), ("mlp", "cnn"), ("net", "cnn"), ("mlp", "mlp"), ("net", "mlp"), ("net", "net")]


def cells_of(pairs=PAIRS, methods=("independent", "naive_mutual", "ssmo_hard", "ssmo_soft"), seeds=range(5), **model):
    common = {"data": {"condition": "clean"}, "optim": {}, "phase": {}, "module": {}}
    cells = []
    for seed in seeds:
        for first, second in pairs:
            for method in methods:
                pair = {"first": {"_target_": first}, "second": {"_target_": second}, "quarter": None} | model
                config = OmegaConf.create({**common, "seed": seed, "loss": {"name": method}, "model": pair})
                cells.append(Cell(f"{seed}-{first}-{second}-{method}", {}, config))
    return cells


def test_pairs_share_their_independent_runs():
    cells = cells_of()
    kept = share_independent(cells)
    assert (len(cells), len(kept)) == (120, 105)
    lone = [cell.name for cell in kept if cell.name.endswith("independent")]
    assert lone == [f"{seed}-{each}-{each}-independent" for seed in range(5) for each in MODELS]
    order = [cells.index(cell) for cell in kept]
    assert all(left < right for left, right in pairwise(order))


def test_an_independent_model_that_no_other_run_has_is_kept():
    pairs = [("cnn", "mlp"), ("cnn", "cnn")]
    assert len(share_independent(cells_of(pairs, ["independent"], [0]))) == 2  # mlp is in slot 2 of one only
    pairs = [("cnn", "mlp"), ("net", "mlp"), ("cnn", "net"), ("net", "net")]
    kept = share_independent(cells_of(pairs, ["independent"], [0]))
    for slot in ("first", "second"):
        assert {cell.config.model[slot]._target_ for cell in kept} == {pair[slot == "second"] for pair in pairs}


def test_runs_on_other_data_or_with_a_weak_peer_share_nothing():
    clean, weak = (
        cells_of([("cnn", "cnn")], ["independent"], [0]),
        cells_of([("cnn", "mlp")], ["independent"], [0], quarter=1),
    )
    other = cells_of([("mlp", "mlp")], ["independent"], [1])
    assert len(share_independent(clean + weak + other)) == 3


def plan(blocks, **settings):
    targets = {"identify": {"_target_": "ssmo.batch.run_id", "_partial_": True},
               "select": {"_target_": "ssmo.batch.share_independent", "_partial_": True}}  # fmt: skip
    paths = {"output_dir": "/nowhere", "data_dir": None}
    config = OmegaConf.create({"name": "x", "paths": paths, "matrix": {"blocks": blocks, **targets, **settings}})
    return matrix.plan(matrix.checked_matrix(config, []), config)


@pytest.mark.slow
def test_a_matrix_of_methods_pairs_and_conditions_is_named_in_order():
    cells = plan([{
        "experiment": ["ssmo_classification"], "seed": [0, 1], "model": ["ssmo/cnn_mlp"],
        "loss": ["ssmo/independent", "ssmo/ssmo_soft"], "data.condition": ["clean", "label_noise"],
    }])  # fmt: skip
    names = [cell.name.rpartition("-")[0] for cell in cells]
    start = "classification-shapes10-cnn_mlp"
    assert names == [
        f"{start}-{method}-{condition}-s{seed}" for seed in (0, 1) for method in ("independent", "ssmo_soft")
        for condition in ("clean", "label_noise")
    ]  # fmt: skip
    assert len({cell.name for cell in cells}) == 8


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"loss": ["ssmo/ssmo_hrd"]}, "loss=ssmo/ssmo_hrd: no such option. Did you mean ssmo/ssmo_hard?"),
        ({"model": ["ssmo/cnn_mpl"]}, "model=ssmo/cnn_mpl: no such option. Did you mean ssmo/cnn_mlp?"),
        ({"data.condition": ["label_nois"]}, "Did you mean label_noise?"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(axis, message):
    with pytest.raises(UserError) as error:
        plan([{"experiment": ["ssmo_classification"], **axis}])
    assert message in str(error.value)


VAL = {1: [0.5, 0.7, 0.7, 0.6], 2: [0.2, 0.3, 0.4, 0.5]}
TEST = {1: [0.1, 0.2, 0.3, 0.9], 2: [0.4, 0.3, 0.2, 1 / 3]}


def finished_run(folder, config, mode="max", status="done"):
    """A run directory with figures written by hand."""
    validate(config)
    run = Run(folder / run_id(config))
    resolved = config.copy()
    task = "ssmo.tasks.Classification" if mode == "max" else "ssmo.tasks.Series"
    facts = {"task": {"_target_": task}, "in_channels": 1, "num_classes": 10, "size": 16}
    OmegaConf.update(resolved, "facts", facts, force_add=True)
    run.write_config(resolved, [])
    run.write_status(status)
    if status != "done":
        return run
    curves = {
        f"{name}_curve_{slot}": np.array(values[slot])
        for slot in (1, 2)
        for name, values in (("val", VAL), ("test", TEST))
    }
    np.savez(
        run.path / "curves.npz", epoch=np.arange(4.0), step=np.arange(4.0) * 8 + 8, params=np.array([11, 22]), **curves
    )
    (run.path / "environment.json").write_text(json.dumps({"device": "cpu"}))
    (run.path / "summary.json").write_text(json.dumps({"fit_time_s": 0.5}))  # of the part after an interruption
    lines = [{"epoch": epoch, "split": "train", "time_sec": 0.25 + epoch / 3} for epoch in range(4)]
    (run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return run


def table(folder):
    with open(folder / "summary.csv") as file:
        return list(csv.DictReader(file))


def test_the_columns_are_those_of_the_specification_in_order(tmp_path, config):
    assert " ".join(COLUMNS) == FIRST
    finished_run(tmp_path, config)
    collect(tmp_path)
    header, line = (tmp_path / "summary.csv").read_text().splitlines()
    assert header == FIRST.replace(" ", ",")
    assert line == (
        f"{run_id(config)},0,classification,shapes10,ssmo_hard,cnn,mlp,0.2,0.3333333333333333,0.9,0.3333333333333333,"
        f"clean,1.25,accuracy,max,0.7,0.5,1,3,4,32,11,22,cpu,{config_hash(config)},done"
    )


def test_the_best_epoch_is_chosen_on_validation_for_each_model(tmp_path, config):
    found = row(finished_run(tmp_path, config, "min"))
    assert (found["best_epoch_1"], found["best_metric_1"], found["val_best_1"]) == (0, 0.1, 0.5)
    assert (found["best_epoch_2"], found["best_metric_2"]) == (0, 0.4)
    assert (found["final_metric_1"], found["metric_mode"]) == (0.9, "min")


def test_a_diverged_run_is_a_row_without_figures(tmp_path, config):
    finished_run(tmp_path, config, status="diverged")
    collect(tmp_path)
    (found,) = table(tmp_path)
    assert (found["status"], found["method"], found["seed"]) == ("diverged", "ssmo_hard", "0")
    assert {found[f"{name}_{slot}"] for name in ("best_metric", "final_metric", "val_best") for slot in (1, 2)} == {""}


def test_a_run_killed_after_its_summary_is_done(tmp_path, config):
    run = finished_run(tmp_path, config)
    run.write_status("running")
    assert row(run)["status"] == "done"


def test_a_damaged_summary_is_made_anew_from_the_runs(tmp_path, config):
    for seed in (1, 0):
        finished_run(tmp_path, changed(config, seed=seed))
    collect(tmp_path)
    whole = (tmp_path / "summary.csv").read_bytes()
    assert [each["seed"] for each in table(tmp_path)] == ["0", "1"]
    (tmp_path / "summary.csv").write_bytes(whole[:100] + b"\xff\x00" * 50)
    collect(tmp_path)
    assert (tmp_path / "summary.csv").read_bytes() == whole


@pytest.mark.parametrize("name", ["curves.npz", "config.yaml", "metrics.jsonl"])
def test_a_damaged_run_stops_no_batch(tmp_path, config, name):
    finished_run(tmp_path, config)
    other = finished_run(tmp_path, changed(config, seed=1))
    (other.path / name).write_bytes(b"{\x00")
    collect(tmp_path)
    good, bad = table(tmp_path)
    assert good["status"] == "done"
    assert (bad["run_id"], bad["status"]) == (other.path.name, "unreadable")


def test_a_row_follows_the_status_of_its_run(tmp_path, config):
    finished_run(tmp_path, config, status="running")
    collect(tmp_path)
    assert table(tmp_path)[0]["status"] == "running"
    finished_run(tmp_path, config)
    collect(tmp_path)
    assert table(tmp_path)[0]["status"] == "done"


def test_what_a_run_is_needs_no_data(config):
    found = describe(config)
    assert found == {
        "seed": 0, "task": "classification", "dataset": "shapes10", "method": "ssmo_hard", "model1": "cnn",
        "model2": "mlp", "condition_tag": "clean", "config_hash": config_hash(config),
    }  # fmt: skip

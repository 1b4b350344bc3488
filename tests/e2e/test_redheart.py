"""Training and collecting redheart as a user does, on the smoke experiment."""

import json
import os

import pytest
import torch

from common.checkpoints import network_weights
from common.errors import UserError
from common.evaluation import load_module
from common.files import read_json
from common.rundir import find_runs, resolve_run
from common.unit_files import load_units, read_manifest, read_unit, saved_epochs
from redheart.combine import combine, soup
from redheart.convert_checkpoint import main as convert_main
from tests.processes import command

pytestmark = pytest.mark.slow
UNITS = [
    "backbone", "heads", "neural_analyzers", "dsp_kalman", "adv_emotion", "adv_bentham", "adv_regret", "adv_surd",
]  # fmt: skip


def env(folder):
    return {"OUTPUT_DIR": str(folder)}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    done = command("train.py", "experiment=redheart_smoke", env=env(folder))
    assert done.code == 0, done.err
    return resolve_run("latest:redheart_smoke", folder)


def lines_of(run):
    return [json.loads(line) for line in (run.path / "units" / "metrics.jsonl").read_text().splitlines()]


def timeless(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_six_epochs_of_eight_units_are_collected(smoke):
    epochs = saved_epochs(smoke.path / "units")
    assert list(epochs) == [1, 2, 3, 4, 5, 6]
    manifest = read_manifest(epochs[6])
    assert list(manifest["units"]) == UNITS
    assert list(manifest["groups"]) == ["backbone", "dsp_kalman", *(name for name in UNITS if name.startswith("adv_"))]
    assert len(lines_of(smoke)) == 6 * 8 * 2


def test_the_records_are_those_of_the_run(smoke):
    losses = {(line["epoch"], line["split"]): line["loss"] for line in lines_of(smoke) if line["unit"] == "backbone"}
    heads = {(line["epoch"], line["split"]): line["loss"] for line in lines_of(smoke) if line["unit"] == "heads"}
    assert losses == heads
    assert losses[6, "train"] < losses[1, "train"]
    assert losses[6, "select"] < losses[1, "select"]
    assert all(line["grad_norm"] > 0 and line["nan_count"] == 0 for line in lines_of(smoke))


def logits(module, x):
    with torch.no_grad():
        return module.network(x)


def test_all_units_of_the_best_epoch_give_its_very_logits(smoke, tmp_path):
    module, x = load_module(smoke), torch.randn(16, 64)
    before = logits(module, x)
    combine(smoke.path / "units", soup(UNITS, [smoke.summary["best_epoch"]]), tmp_path)
    for parameter in module.network.parameters():
        parameter.data.zero_()
    load_units(module.units, tmp_path)
    assert all(torch.equal(each, before[branch]) for branch, each in logits(module, x).items())


def test_units_of_several_epochs_answer_as_in_those(smoke):
    recipe = "{dsp_kalman: 2, adv_emotion: '1,2', adv_surd: '1:5@0.5'}"
    words = [f"run={smoke.path}", "analysis=redheart/combine", f"analysis.recipe={recipe}", "analysis.fill_from=4"]
    done = command("evaluate.py", *words)
    assert done.code == 0, done.err
    assert "| adv_emotion " in done.out
    (combined,) = (smoke.path / "evaluations").glob("*_redheart_combine")
    module, x = load_module(smoke), torch.randn(16, 64)
    load_units(module.units, combined)
    mixed = logits(module, x)
    for epoch, branches in {4: [("heads", "regret"), ("adv_regret", "regret")], 2: [("dsp_kalman", "emotion")]}.items():
        load_units(module.units, smoke.path / "units" / f"epoch_{epoch:04d}")
        assert all(torch.equal(mixed[branch], logits(module, x)[branch]) for branch in branches)
    assert not (smoke.path / "test_looks.jsonl").exists()


def test_a_mix_of_dependent_units_is_refused_in_one_line(smoke):
    words = [f"run={smoke.path}", "analysis=redheart/combine", "analysis.recipe={backbone: 2}", "analysis.fill_from=4"]
    done = command("evaluate.py", *words)
    assert done.code == 2
    assert "neural_analyzers from 4: they depend on one another" in done.err
    assert "Traceback" not in done.err
    done = command("evaluate.py", *words, "analysis.allow_dependent_mix=true")
    assert done.code == 0, done.err
    assert [read_json(path)["dependent_mix"] for path in smoke.path.glob("evaluations/*/manifest.json")].count(
        True
    ) == 1


def test_a_checkpoint_is_converted_to_the_units_it_holds(smoke, tmp_path):
    units = smoke.path / "units" / f"epoch_{smoke.summary['best_epoch']:04d}"
    by_unit = tmp_path / "by_unit.pt"
    torch.save({name: read_unit(units, name) for name in UNITS}, by_unit)
    for number, path in enumerate((smoke.best, by_unit)):
        convert_main(["--run", str(smoke.path), "--checkpoint", str(path), "--output", str(tmp_path / str(number))])
        manifest = read_manifest(tmp_path / str(number))
        assert manifest["units"] == read_manifest(units)["units"]
        assert manifest["config_hash"] == read_manifest(units)["config_hash"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(UserError("code"), "pickled code"), ({"backbone.weight": torch.zeros(1)}, "not the weights of the model")],
)
def test_what_is_no_checkpoint_of_the_model_is_not_converted(smoke, tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "m.pt")
    words = ["--run", str(smoke.path), "--checkpoint", str(tmp_path / "m.pt"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        convert_main(words)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_killed_run_collects_what_an_uninterrupted_one_does(smoke, tmp_path):
    words = ["experiment=redheart_smoke", "callbacks.recorder.every_n_steps=3"]
    assert command("train.py", *words, env=env(tmp_path), at="21:SIGKILL").code == -9
    (run,) = find_runs(tmp_path, "redheart_smoke")
    resumed = command("train.py", f"resume={run.path}", env=env(tmp_path))
    assert resumed.code == 0, resumed.err
    assert timeless(lines_of(run)) == timeless(lines_of(smoke))
    mine, theirs = network_weights(run.last), network_weights(smoke.last)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    for name in ("epoch_0003", "ema"):
        mine, theirs = (read_manifest(each.path / "units" / name)["units"] for each in (run, smoke))
        assert mine == theirs


@pytest.mark.parametrize(
    "words", [["model.split_heads=true", "model.dsp_prior=heads"], ["data.num_segments=3", "model.dsp_source=backbone"]]
)
def test_other_topologies_train(tmp_path, words):
    done = command("train.py", "experiment=redheart_smoke", "phase.epochs=1", *words, env=env(tmp_path))
    assert done.code == 0, done.err


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs DATA_DIR")
@pytest.mark.parametrize("data", ["goemotions", "kote"])
def test_real_texts_train(tmp_path, data):
    words = ["experiment=redheart_goemotions", f"data=redheart/{data}", "model=redheart/smoke", "phase.epochs=2"]
    done = command("train.py", *words, "data.num_bags=200", env=env(tmp_path))
    assert done.code == 0, done.err
    lines = lines_of(resolve_run("latest:redheart_goemotions", tmp_path))
    metrics = {line["unit"]: line["task_metrics"] for line in lines if line["split"] == "select"}
    assert set(metrics["adv_bentham"]) == {"pairwise_accuracy"}
    assert set(metrics["adv_regret"]) == {"counterfactual_accuracy", "brier"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["callbacks.collect.dtype=float16"], "callbacks.collect.dtype"),
        (["data.shares=[0.5,0.5,0.5]"], "add up to 1"),
        (["data.dim=32"], "data.dim=32"),
        (["loss.task_weights.sentiment=1"], "sentiment"),
        (["experiment=redheart_goemotions", "paths.data_dir=/nowhere"], "set paths.data_dir"),
        (["model.expert_widths.emotion=[0]"], "expert_widths"),
        (["~model.expert_widths.surd"], "model.expert_widths={"),
        (["~loss.task_weights.surd"], "loss.task_weights={"),
        (["+loss.unit_weights.head=0.5"], "loss.unit_weights.head: no such unit. Did you mean heads?"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    experiment = [] if words[0].startswith("experiment") else ["experiment=redheart_smoke"]
    done = command("train.py", *experiment, *words, env=env(tmp_path))
    assert done.code == 2, done.err
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in done.err

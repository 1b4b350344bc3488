"""train.py as a user of ssmo runs it, alone and in batches, on tiny settings."""

import csv
import json
import os
import runpy
import signal
import sys

import numpy as np
import pytest

from common.checkpoints import network_weights
from common.rundir import Run, find_runs
from ssmo.stacked import Stack
from tests import processes
from tests.processes import command

pytestmark = pytest.mark.slow

TINY = ["data.num_train=96", "data.num_val=32", "data.num_test=32", "data.batch_size=16", "phase.epochs=2"]
BATCH = (
    "+matrix={identify: {_target_: ssmo.batch.run_id, _partial_: true}, collect: {_target_: ssmo.batch.collect, "
    "_partial_: true}, overrides: [" + ", ".join(f"'{word}'" for word in TINY) + "], blocks: ["
    "{experiment: [ssmo_classification], loss: [ssmo/independent, ssmo/random_mask], seed: [0, 1]}, "
    "{experiment: [ssmo_classification], optim.lr: [1e30]}]}"
)


def env(folder):
    return {"OUTPUT_DIR": str(folder)}


def do_batch(folder, at=""):
    return command("train.py", "experiment=ssmo_classification", "name=try", BATCH, env=env(folder), at=at)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """An output directory with a batch of four runs and one that diverges."""
    folder = tmp_path_factory.mktemp("batch")
    done = do_batch(folder)
    assert done.code == 0, done.err
    return folder / "try", done.out


def summary_of(folder):
    with open(folder / "summary.csv") as file:
        return {row["run_id"]: row for row in csv.DictReader(file)}


def test_a_batch_leaves_a_row_per_run(batch):
    folder, out = batch
    rows = summary_of(folder)
    assert sorted(row["status"] for row in rows.values()) == ["diverged"] + ["done"] * 4
    assert out.count("[5/5]") == 1
    assert out.count("diverged: ") == 1
    for name, row in rows.items():
        assert name.endswith(f"-s{row['seed']}-{row['config_hash']}")
        if row["status"] == "done":
            with np.load(folder / name / "curves.npz") as curves:
                best = int(np.argmax(curves["val_curve_1"]))
                assert float(row["best_metric_1"]) == curves["test_curve_1"][best]
                assert float(row["final_metric_2"]) == curves["test_curve_2"][-1]
                assert row["best_epoch_1"] == str(best)
            assert (row["epochs"], row["steps"], row["metric_name"]) == ("2", "12", "accuracy")


def test_lines_of_metrics_are_strict_json(batch):
    folder, _ = batch
    for path in folder.glob("*/metrics.jsonl"):
        lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
        assert all(line["run_id"] == path.parent.name for line in lines)
        lines = [line for line in lines if line["split"] == "train"]
        assert [(line["epoch"], line["step"]) for line in lines] == [(0, 6), (1, 12)]
        undefined = [line["cos_mean_1"] is None for line in lines]
        assert all(undefined) if "independent" in path.parent.name else not any(undefined)


def test_a_finished_batch_is_not_done_again(batch):
    folder, _ = batch
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")}
    (folder / "summary.csv").write_text("spoilt")
    done = do_batch(folder.parent)
    assert done.code == 0, done.err
    assert "5 runs, 5 of them done" in done.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(summary_of(folder)) == 5


@pytest.mark.parametrize("at", ["16:SIGKILL", "16:SIGTERM"])
def test_an_interrupted_batch_ends_with_the_same_curves(batch, tmp_path, at):
    assert do_batch(tmp_path, at).code == (-9 if at.endswith("KILL") else 143)
    done = do_batch(tmp_path)
    assert done.code == 0, done.err
    folder, _ = batch
    found = sorted(folder.glob("*/curves.npz"))
    assert len(found) == 4
    for path in found:
        assert (tmp_path / "try" / path.parent.name / "curves.npz").read_bytes() == path.read_bytes()


LEARNER = ["experiment=ssmo_classification", *TINY, "callbacks.recorder.every_n_steps=4", "model.first.dropout=0.3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run with dropout and a moving average."""
    folder = tmp_path_factory.mktemp("whole")
    done = command("train.py", *LEARNER, "loss=ssmo/ema_self", env=env(folder))
    assert done.code == 0, done.err
    return find_runs(folder, "ssmo_classification")[0]


def without_time(run: Run):
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("run_id", "time_sec")} for line in lines]


# in the middle of the second epoch; after the last step, when nothing is left to train
@pytest.mark.parametrize("at", ["18:SIGKILL", "14:SIGTERM", "24:SIGTERM"])
def test_a_stopped_run_resumes_to_the_same_bits(whole, tmp_path, at):
    stopped = command("train.py", *LEARNER, "loss=ssmo/ema_self", env=env(tmp_path), at=at)
    assert stopped.code == (-9 if at.endswith("KILL") else 143), stopped.err
    (run,) = find_runs(tmp_path, "ssmo_classification")
    assert not run.finished
    resumed = command("train.py", f"resume={run.path}", env=env(tmp_path))
    assert resumed.code == 0, resumed.err
    assert (run.path / "curves.npz").read_bytes() == (whole.path / "curves.npz").read_bytes()
    assert without_time(run) == without_time(whole)
    mine, theirs = (network_weights(each.last) for each in (run, whole))
    assert all((mine[name] == theirs[name]).all() for name in theirs)


def test_a_run_is_judged_in_figures_and_pictures(whole):
    done = command("evaluate.py", f"run={whole.path}")
    assert done.code == 0, done.err
    (folder,) = (whole.path / "evaluations").iterdir()
    figures = json.loads((folder / "summary.json").read_text())["figures"]
    assert list(figures) == ["1: cnn", "2: mlp", "ensemble of both", "constant of the training split"]
    curves = np.load(whole.path / "curves.npz")
    best = int(np.argmin(1 - (curves["val_curve_1"] + curves["val_curve_2"]) / 2))
    assert figures["2: mlp"]["accuracy"] == curves["test_curve_2"][best]
    report = (folder / "report.md").read_text()
    shown = [f"figures/{name}.png" for name in ("curves", "confused", "confusion_1", "confusion_2")]
    assert all(f"({name})" in report and (folder / name).is_file() for name in shown)


SEEDS = "{experiment: [ssmo_classification], model: [ssmo/mlp_mlp], loss: [ssmo/ssmo_hard], seed: [0, 1, 2]}"
SMALL = ", ".join(f"'{word}'" for word in (*TINY, "data.size=8"))


def seeds(folder, batched):
    words = [
        "experiment=ssmo_matrix_small", "name=try", "matrix.workers=1", f"matrix.seeds_batched={batched}",
        f"matrix.blocks=[{SEEDS}]", f"matrix.overrides=[{SMALL}]",
    ]  # fmt: skip
    return "train.py", *words, f"paths.output_dir={folder}"


def stop_in_the_second_epoch(*words):
    """Run a command whose stack of seeds is asked to stop after its second epoch's steps."""
    original = Stack.epoch_figures

    def epoch_figures(self, epoch):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, epoch)

    Stack.epoch_figures = epoch_figures
    sys.argv = [str(processes.ROOT / words[0]), *words[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def test_seeds_at_once_leave_the_summary_of_seeds_one_after_another(tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    assert processes.run(stop_in_the_second_epoch, *seeds(many, True)) == 143
    runs = [Run(path.parent) for path in sorted((many / "try").glob("*/config.yaml"))]
    assert [(run.status["status"], run.finished) for run in runs] == [("interrupted", False)] * 3
    for folder, batched in ((one, False), (many, True)):
        done = command(*seeds(folder, batched))
        assert done.code == 0, done.err
    assert [run.environment["stacked_seeds"] for run in runs] == [3] * 3
    for name, row in summary_of(one / "try").items():
        other = summary_of(many / "try")[name]
        for key in row.keys() - {"wall_time_sec"}:
            number = key.startswith(("best_metric", "final_metric", "val_best"))
            expected = pytest.approx(float(row[key]), abs=1e-5) if number else row[key]
            assert (float(other[key]) if number else other[key]) == expected, key
        with np.load(one / "try" / name / "curves.npz") as ours, np.load(many / "try" / name / "curves.npz") as theirs:
            for key in ours:
                np.testing.assert_allclose(theirs[key], ours[key], rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=ssmo/ssmo_hrd"], "loss=ssmo/ssmo_hrd: no such option. Did you mean ssmo/ssmo_hard?"),
        (["model=ssmo/cnn_mpl"], "model=ssmo/cnn_mpl: no such option. Did you mean ssmo/cnn_mlp?"),
        (["data.condition=label_nois"], "Did you mean label_noise?"),
        (["loss.imitation=huber"], "loss.imitation=huber: not for classification; choose kl, js, mse_logits."),
        (["loss.margin=-1"], "loss.margin=-1: input should be greater than or equal to 0"),
        (
            ["model.second.num_classes=7"],
            "model mlp: gives (2, 7) for an input of (2, 1, 16, 16); classification needs",
        ),
        (
            ["model=ssmo/dlinear_patchtst"],
            "model.first: DLinear is for time_series, Shapes10 for classificat",
        ),
        (
            [BATCH.replace("loss:", "model: [ssmo/cnn_mlp, ssmo/unet_unet], loss:")],
            "model.first: UNet is for segment",
        ),
        (["model.first.image_size=24"], "model cnn: cannot answer an input of (2, 1, 16, 16) ("),
        ([BATCH, "optim.lr=1"], 'optim.lr=1: not for a matrix; to set it in every run use "matrix.overrides=['),
        ([BATCH.replace("seed:", "sed:")], "matrix.blocks: sed: unknown key. Did you mean seed?"),
        ([BATCH.replace("/random_mask", "/random_msk")], "Did you mean ssmo/random_mask?"),
        ([BATCH.replace("seed: [0, 1]", "seed: [0, 0]")], "are one and the same run."),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    done = command("train.py", "experiment=ssmo_classification", *words, env=env(tmp_path))
    assert done.code == 2, done.err
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in done.err

import json

import numpy as np
import pytest

from common.errors import UserError
from redheart.planted import EPOCHS, write_recording
from redheart.records import METRICS, ROW_LOSSES, read_records


@pytest.fixture
def folder(tmp_path):
    write_recording(tmp_path, {"heads": "knee", "adv_surd": "U"}, num_rows=50)
    return tmp_path


def change(folder, edit):
    """Rewrite every row that `edit` returns something for; drop those for which it returns None."""
    rows = [edit(json.loads(line)) for line in (folder / METRICS).read_text().splitlines()]
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def changed(key, value, unit="heads", split="select", epochs=EPOCHS):
    def edit(row):
        if (row["unit"], row["split"]) == (unit, split) and row["epoch"] in epochs:
            row[key] = value(row) if callable(value) else value
        return row

    return edit


def refusal(folder):
    with pytest.raises(UserError) as error:
        read_records(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_records_become_series_by_unit(folder):
    records = read_records(folder)
    assert list(records.units) == ["heads", "adv_surd"]
    heads = records.units["heads"]
    np.testing.assert_array_equal(heads.epochs, EPOCHS)
    assert heads.n == 50
    assert heads.train_loss[0] != heads.loss[0]
    assert heads.grad_norm[0] == pytest.approx(2 / 2**0.5)  # of the train row
    assert list(heads.task_metrics) == ["macro_f1"]
    assert heads.row_losses.shape == (30, 50)
    np.testing.assert_allclose(heads.row_losses.mean(1, dtype=float), heads.loss, atol=1e-3)
    assert records.warnings == []


def test_metrics_alone_are_enough_with_a_warning(folder):
    (folder / ROW_LOSSES).unlink()
    records = read_records(folder)
    assert records.units["heads"].row_losses is None
    assert ROW_LOSSES in records.warnings[0]


def test_groups_come_from_the_newest_manifest(folder):
    for epoch, groups in ((4, {"old": ["heads"]}), (60, {"heads": ["heads", "unknown"], "adv_surd": ["adv_surd"]})):
        (folder / f"epoch_{epoch:04d}").mkdir()
        (folder / f"epoch_{epoch:04d}" / "manifest.json").write_text(json.dumps({"groups": groups}))
    assert read_records(folder).groups == {"heads": ["heads"], "adv_surd": ["adv_surd"]}


def test_an_epoch_without_a_select_loss_is_left_out_with_a_warning(folder):
    change(folder, changed("loss", None, epochs=[8]))
    records = read_records(folder)
    assert 8 not in records.units["heads"].epochs
    assert len(records.units["heads"].row_losses) == 29
    assert 8 in records.units["adv_surd"].epochs
    assert "heads" in records.warnings[0]
    assert "epoch 8" in records.warnings[0]


def test_a_validation_loss_copied_from_training_is_refused(folder):
    train = {}
    change(
        folder,
        lambda row: train.update({(row["unit"], row["epoch"]): row["loss"]}) or row if row["split"] == "train" else row,
    )
    change(folder, changed("loss", lambda row: train["heads", row["epoch"]], epochs=[10, 12]))
    read_records(folder)  # twice may be chance
    change(folder, changed("loss", lambda row: train["heads", row["epoch"]], epochs=[14]))
    assert "epoch 14" in (line := refusal(folder))
    assert "copy" in line


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (changed("loss", 0.5), "0.5 at all 30 epochs"),
        (changed("target_spread", 0.0), "target is constant"),
        (changed("n", 49, epochs=[20]), "epoch 20: n is 49, before 50"),
        (changed("task_metrics", {"accuracy": 0.5}, epochs=[20]), "accuracy, macro_f1"),
        (changed("task_metrics", lambda row: {"tolerance": 0.2 if row["epoch"] < 16 else 0.1}), "epoch 16: tolerance"),
        (changed("split", "test", epochs=[2]), "split test"),
        (changed("epoch", 4, epochs=[2]), "repeats epoch 4"),
        (changed("epoch", "two", epochs=[2]), "epoch is 'two'; must be a whole number"),
        (changed("n", None, epochs=[2]), "n is None; must be a whole number"),
        (changed("grad_norm", "high", epochs=[2]), "grad_norm is 'high'"),
        (changed("task_metrics", {"macro_f1": "good"}, epochs=[2]), "task_metrics.macro_f1"),
        (changed("loss", float("nan"), epochs=[2]), "line 1: NaN is not strict JSON"),
        (lambda row: {key: row[key] for key in row if key != "unit"}, "line 1: lacks unit"),
        (lambda row: [row], "line 1: must be an object"),
        (lambda row: None, "no record"),
    ],
)
def test_records_that_cannot_be_trusted_are_refused_by_name(folder, edit, words):
    change(folder, edit)
    assert words in refusal(folder)


def test_half_a_line_is_named(folder):
    with open(folder / METRICS, "a") as file:
        file.write('{"epoch": 62, "un')
    assert "line 121: not JSON" in refusal(folder)


def test_a_missing_file_is_named(tmp_path):
    assert METRICS in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no archive"])
def test_broken_row_losses_are_named(folder, content):
    (folder / ROW_LOSSES).write_bytes(content)
    assert ROW_LOSSES in refusal(folder)


@pytest.mark.parametrize("losses", [np.zeros((29, 50)), np.zeros(30), np.full((30, 50), np.inf)])
def test_row_losses_that_do_not_fit_are_refused(folder, losses):
    np.savez(folder / ROW_LOSSES, epochs=EPOCHS, heads=losses)
    assert "heads" in refusal(folder)


def test_a_manifest_without_groups_is_named(folder):
    (folder / "epoch_0060").mkdir()
    (folder / "epoch_0060" / "manifest.json").write_text("{}")
    assert "manifest.json" in refusal(folder)

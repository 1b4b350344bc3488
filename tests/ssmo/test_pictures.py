"""Pictures show the samples they say, both answers, and who is better where."""

import csv
import math

import numpy as np
import pytest
import torch

from ssmo import pictures
from ssmo.data.base import PairBatch
from ssmo.pictures import draw, who_is_better
from ssmo.tasks import Classification, Operator, Segmentation, Series
from tests.ssmo.answers import loaded_run


@pytest.fixture
def drawn(monkeypatch):
    """File name → what was in its figure when it was saved: titles, and per panel title, lines and images."""
    found, save = {}, pictures.save_figure

    def keep(figure, path, table):
        found[path.name] = (
            figure.get_suptitle(),
            {
                axes.get_title(): (
                    {line.get_label(): line.get_ydata() for line in axes.lines},
                    [image.get_array() for image in axes.images],
                    axes.get_xlabel(),
                )
                for axes in figure.axes
                if axes.get_title()
            },
        )
        save(figure, path, table)

    monkeypatch.setattr(pictures, "save_figure", keep)
    return found


def columns(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def assert_written(folder, names):
    for name in names:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert (folder / name).with_suffix(".csv").is_file()
    assert {path.name for path in folder.glob("*.png")} == set(names)


def test_who_is_better_has_the_lower_loss_where_anything_counts():
    run = loaded_run(Series(), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    target = torch.tensor([[[0.0], [0.0], [0.0], [math.nan]]])
    batch = PairBatch(torch.zeros(1), target, (target, target), (target, target))
    outputs = [torch.tensor([[[1.0], [-2.0], [3.0], [0.0]]]), torch.tensor([[[-2.0], [1.0], [-3.0], [9.0]]])]
    assert who_is_better(run, batch, outputs)[0, :, 0].tolist() == [1, 2, 0, 0]


def test_the_most_confused_pictures_come_first(tmp_path, drawn):
    label = torch.tensor([0, 1, 0, 1, 1])
    x = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 2)
    first = torch.tensor([[9, 0], [9, 0], [2, 0], [0, 5], [0, 3]]).float()
    second = torch.tensor([[9, 0], [8, 0], [0, 3], [0, 5], [0, 3]]).float()
    run = loaded_run(Classification(2), x, label, lambda _: first, lambda _: second, class_names=["ring", "disc"])
    names = draw(run, "test", tmp_path)
    assert names == ["confused.png", "confusion_1.png", "confusion_2.png"]
    assert_written(tmp_path, names)
    table = columns(tmp_path / "confused.csv")
    assert table["sample"] == ["1", "2", "4", "3", "0"]
    assert (table["label"][0], table["model_1"][0], table["model_2"][0]) == ("disc", "ring", "ring")
    title, panels = drawn["confused.png"]
    assert title == "Most confused pictures: label, then answers of models 1 and 2"
    assert "ring\nring\ndisc" in panels  # sample 2: a ring, which only the first recognises
    table = columns(tmp_path / "confusion_2.csv")
    assert [table[name] for name in ("actual", "predicted", "count")] == [
        ["ring", "ring", "disc", "disc"], ["ring", "disc", "ring", "disc"], ["1", "1", "1", "2"],
    ]  # fmt: skip


def test_confusions_of_many_classes_are_left_out(tmp_path):
    label = torch.arange(4)
    answer = lambda x: torch.zeros(4, 21)  # noqa: E731
    run = loaded_run(
        Classification(21), torch.rand(4, 3, 2, 2), label, answer, answer, class_names=list("abcdefghijklmnopqrstu")
    )
    assert draw(run, "val", tmp_path) == ["confused.png"]


def fields(num_dims):
    """Three samples; the answers of the right model are off by 0.1, 0.3 and 0.2, those of the left one by nothing."""
    x = torch.rand(3, 1, *[8] * num_dims, generator=torch.Generator().manual_seed(0)) + 1
    off = torch.tensor([0.1, 0.3, 0.2]).view(3, *[1] * (num_dims + 1))
    return loaded_run(
        Operator([2.0], [3.0]), x, torch.ones_like(x), torch.ones_like, lambda x: torch.ones_like(x) + off
    )


@pytest.mark.slow
def test_fields_on_a_line_are_shown_with_their_errors(tmp_path, drawn):
    names = draw(fields(1), "test", tmp_path)
    assert names == ["field_best.png", "field_median.png", "field_worst.png"]
    assert_written(tmp_path, names)
    title, panels = drawn["field_worst.png"]
    assert title.startswith("given, worst of 3 samples: relative L2 error of the mean 0.09")  # 0.3 · 3 / 2 of 5
    assert list(panels) == ["input, standardised", "truth and predictions", "errors; the strip: which model is better"]
    lines, _, label = panels["truth and predictions"]
    assert label == "x"
    assert list(lines) == ["truth", "model 1", "model 2"]
    np.testing.assert_allclose(lines["truth"], 5.0)
    np.testing.assert_allclose(lines["model 2"], 5.9, rtol=1e-6)
    errors, (strip,), _ = panels["errors; the strip: which model is better"]
    np.testing.assert_allclose(errors["model 2"], 0.9, rtol=1e-5)
    assert (strip == 1).all()
    table = columns(tmp_path / "field_worst.csv")
    assert list(table) == ["truth", "model_1", "model_2", "better"]
    assert set(table["better"]) == {"1"}
    best, _ = drawn["field_best.png"]
    assert "best of 3 samples: relative L2 error of the mean 0.03" in best


@pytest.mark.slow
def test_fields_on_a_square_are_shown_as_maps(tmp_path, drawn):
    names = draw(fields(2), "test", tmp_path)
    assert_written(tmp_path, names)
    _, panels = drawn["field_median.png"]
    assert list(panels) == ["input", "truth", "model 1", "model 2", "error of model 1", "error of model 2",
                            "better: model 1 blue,\n2 orange; the other imitates"]  # fmt: skip
    np.testing.assert_allclose(panels["error of model 2"][1][0], 0.6, rtol=1e-5)
    assert (panels["better: model 1 blue,\n2 orange; the other imitates"][1][0] == 1).all()


def test_forecasts_continue_their_windows(tmp_path, drawn):
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])[..., None]
    y = torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 5.0], [5.0, 9.0, 5.0]])[..., None]
    last = lambda x: x[:, -1:].expand(-1, 3, 1)  # noqa: E731
    run = loaded_run(Series(), x, y, last, lambda x: last(x) + 1, channels=["OT"])
    assert draw(run, "test", tmp_path) == ["forecasts.png"]
    assert_written(tmp_path, ["forecasts.png"])
    title, panels = drawn["forecasts.png"]
    assert title == "Forecasts of OT, standardised"
    assert [name.split(",")[0] for name in panels] == ["best window", "median window", "worst window"]
    lines, (strip,), label = panels[
        "worst window, MSE of the mean 4.25; strip: the better model"
    ]  # (.25 + 3.5² + .25) / 3
    assert label == "step"
    assert {name: values.tolist() for name, values in lines.items()} == {
        "input": [4, 5], "truth": [5, 9, 5], "model 1": [5, 5, 5], "model 2": [6, 6, 6],
    }  # fmt: skip
    assert strip.tolist() == [[1, 2, 1]]
    table = columns(tmp_path / "forecasts.csv")
    assert table["window"] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert table["better"][-3:] == ["1", "2", "1"]


@pytest.mark.slow
def test_segmentations_show_labels_and_leave_out_what_is_ignored(tmp_path, drawn):
    label = torch.zeros(3, 4, 4, dtype=torch.long)
    label[1, :2], label[2], label[2, 0, 0] = 1, 1, 255
    zeros = lambda x: torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(len(x), 2, 4, 4)  # noqa: E731
    ones = lambda x: torch.tensor([0.0, 0.5]).view(1, 2, 1, 1).expand(len(x), 2, 4, 4)  # noqa: E731
    run = loaded_run(Segmentation(2), torch.rand(3, 3, 4, 4), label, zeros, ones)
    names = draw(run, "test", tmp_path)
    assert names == ["segmentation_best.png", "segmentation_median.png", "segmentation_worst.png"]
    assert_written(tmp_path, names)
    titles = [drawn[name][0].partition(": ")[2] for name in names]  # the first model is surer, so the ensemble says 0
    assert titles == [f"{share} of the ensemble's pixels right" for share in ("100.0%", "50.0%", "0.0%")]
    _, panels = drawn["segmentation_worst.png"]
    (truth,), (first,), (second,) = (panels[name][1] for name in ("truth", "model 1", "model 2"))
    assert np.flatnonzero(np.ma.getmaskarray(truth)).tolist() == [0]
    assert (first == 0).all()
    assert (second == 1).all()
    (better,) = panels["better: model 1 blue,\n2 orange; the other imitates"][1]
    assert better[0, 0] == 0
    assert (better.flatten()[1:] == 2).all()
    table = columns(tmp_path / "segmentation_worst.csv")
    assert (table["class"], table["truth"], table["model_2"]) == (["0", "1"], ["0", "15"], ["0", "16"])

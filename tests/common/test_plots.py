import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.plots import new_figure, plot_confusion, plot_intervals, plot_learning_curves, save_figure
from common.stats import Interval

ROWS = [
    {"epoch": 0, "train/loss": 1.1, "val/loss": 1.0, "val/macro_f1": 0.2},
    {"epoch": 1, "train/loss": 0.9, "val/loss": 0.8, "val/macro_f1": 0.3},
]


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def interval(estimate: float, half: float) -> Interval:
    return Interval(estimate, estimate - half, estimate + half, 0.95, 72, "percentile bootstrap of groups")


def has_ink(path: Path) -> bool:
    return np.asarray(Image.open(path).convert("L")).std() > 5


def test_a_figure_is_saved_with_its_table_beside_it_and_nothing_else(tmp_path):
    figure, (axes,) = new_figure(3, 2, "Two points")
    axes.plot([1, 2], [3, 4])
    save_figure(figure, tmp_path / "new" / "points.png", {"x": np.array([1.0, 2.5]), "y": [3, float("nan")]})
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["points.csv", "points.png"]
    assert (tmp_path / "new" / "points.csv").read_text() == "x,y\n1.0,3\n2.5,\n"
    assert has_ink(tmp_path / "new" / "points.png")
    assert figure.axes == []


def test_a_data_frame_serves_as_the_table(tmp_path):
    frame = pd.DataFrame({"sector": ["food", "metals"], "n": [3, 4]}, index=[7, 8])
    save_figure(new_figure(3, 2, "Counts")[0], tmp_path / "counts.png", frame)
    assert table(tmp_path / "counts.csv") == [{"sector": "food", "n": "3"}, {"sector": "metals", "n": "4"}]


def test_a_figure_is_refused_with_a_ragged_table_or_another_format(tmp_path):
    figure, _ = new_figure(3, 2, "Refused")
    with pytest.raises(ValueError, match="PNG"):
        save_figure(figure, tmp_path / "plot.pdf", {})
    with pytest.raises(ValueError, match="shorter"):
        save_figure(figure, tmp_path / "plot.png", {"x": [1, 2], "y": [1]})
    assert list(tmp_path.iterdir()) == []


def test_learning_curves_count_epochs_from_one_and_accept_text(tmp_path):
    rows = [{key: str(value) for key, value in row.items()} for row in ROWS]
    rows[0]["val/macro_f1"] = ""
    plot_learning_curves(rows, tmp_path / "curves.png", ["train/loss", "val/loss", "val/macro_f1"], "Losses fall")
    assert table(tmp_path / "curves.csv") == [
        {"epochs_trained": "1", "train/loss": "1.1", "val/loss": "1.0", "val/macro_f1": ""},
        {"epochs_trained": "2", "train/loss": "0.9", "val/loss": "0.8", "val/macro_f1": "0.3"},
    ]
    assert has_ink(tmp_path / "curves.png")


def test_learning_curves_of_several_runs_give_mean_and_spread(tmp_path):
    rows = [*ROWS, {"epoch": 0, "val/loss": 1.2}]  # a second run that stopped after one epoch
    plot_learning_curves(rows, tmp_path / "curves.png", ["val/loss"], "Two runs")
    first, second = table(tmp_path / "curves.csv")
    assert float(first["val/loss"]) == pytest.approx(1.1)
    assert float(first["val/loss_std"]) == pytest.approx(0.02**0.5)
    assert (first["val/loss_n"], second["val/loss_n"], second["val/loss_std"]) == ("2", "1", "")


def test_a_metric_that_no_row_has_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="'val/auc'; there are epoch, train/loss"):
        plot_learning_curves(ROWS, tmp_path / "curves.png", ["val/auc"], "Nothing")


def test_the_table_of_a_confusion_matrix_gives_shares_of_the_actual_class(tmp_path):
    plot_confusion(np.array([[3, 1], [0, 0]]), ["valid", "invalid"], tmp_path / "confusion.png", "One class only")
    cells = [tuple(row.values()) for row in table(tmp_path / "confusion.csv")]
    assert cells == [
        ("valid", "valid", "3", "75.0"),
        ("valid", "invalid", "1", "25.0"),
        ("invalid", "valid", "0", "0.0"),
        ("invalid", "invalid", "0", "0.0"),
    ]
    assert has_ink(tmp_path / "confusion.png")


def test_the_table_of_intervals_holds_every_field(tmp_path):
    intervals = [interval(0.4, 0.05), interval(0.33, 0.02)]
    plot_intervals(["food", "metals"], intervals, tmp_path / "sectors.png", "Food beats chance", "Accuracy", 1 / 3)
    first, second = table(tmp_path / "sectors.csv")
    assert (first["name"], first["estimate"], first["n"]) == ("food", "0.4", "72")
    assert float(second["high"]) == pytest.approx(0.35)
    assert has_ink(tmp_path / "sectors.png")


@pytest.mark.parametrize("names", [[], ["food"]])
def test_every_name_needs_an_interval(tmp_path, names):
    with pytest.raises(ValueError, match="one interval for each name"):
        plot_intervals(names, [interval(0, 1)] * (len(names) * 2), tmp_path / "x.png", "Title", "Accuracy")


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        plot_learning_curves(ROWS, tmp_path / folder / "curves.png", ["val/loss"], "Same")
        plot_confusion(np.eye(3, dtype=int), list("abc"), tmp_path / folder / "confusion.png", "Same")
    for name in ("curves.png", "curves.csv", "confusion.png", "confusion.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_plots_leave_pyplot_alone():
    code = "import sys, common.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

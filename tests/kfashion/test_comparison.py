"""Runs that differ in one key, put together over seeds."""

import pytest

from common.errors import UserError
from common.files import read_json
from kfashion import comparison

STAMP = {"data_source": "synthetic", "split": "val"}


def scores(means):
    """By temperature and seed: the second seed is 0.02 better throughout."""
    return {
        t: {seed: dict.fromkeys(comparison.METRICS, mean + 0.02 * seed) for seed in (0, 1)} for t, mean in means.items()
    }


def compared(monkeypatch, folder, found):
    monkeypatch.setattr(comparison, "_scores", lambda *_: (found, STAMP))
    return comparison.compare([], "val", folder / "1_t", None, "loss.temperature", 0.07, "temperature_report")


def test_differences_are_paired_by_seed_and_the_best_mean_is_recommended(monkeypatch, tmp_path):
    found = scores({0.07: 0.5, 0.1: 0.6, 0.15: 0.4})
    summary = compared(monkeypatch, tmp_path, found)
    first, second, third = summary["values"]
    assert first["over_baseline"] is None
    assert second["over_baseline"]["hit_at_5"]["estimate"] == pytest.approx(0.1)
    assert third["mean"]["hit_at_5"] == pytest.approx(0.41)
    assert summary["recommended"] == 0.1
    lost = summary["differences"]["0.15 less 0.1"]
    assert (lost["estimate"], lost["n"]) == (pytest.approx(-0.2), 2)
    text = (tmp_path / "1_t/results/temperature_report.md").read_text(encoding="utf-8")
    assert "Recommended: loss.temperature=0.1" in text
    assert "Synthetic data." in text
    assert read_json(tmp_path / "latest/results/temperature_report.json")["recommended"] == 0.1


def test_only_seeds_that_both_have_are_compared(monkeypatch, tmp_path):
    found = scores({0.07: 0.5, 0.1: 0.6})
    del found[0.1][1]
    assert compared(monkeypatch, tmp_path, found)["values"][1]["over_baseline"]["hit_at_5"] is None


def test_one_run_is_no_trend(tmp_path):
    with pytest.raises(UserError, match="several runs"):
        comparison.trend([None], "val", tmp_path, None)


def test_one_value_is_no_comparison(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"all runs have 0\.07"):
        compared(monkeypatch, tmp_path, scores({0.07: 0.5}))

"""Thresholds are fitted to one part of the rows and scored on runs and rows that no fit has seen."""

import json

import numpy as np
import pytest

from common.errors import UserError
from common.rundir import Run
from redheart import calibration
from redheart.calibration import calibrate, fit, judge, regret, report, thirds, write_thresholds
from redheart.records import Records, UnitSeries
from redheart.sweetspots import Thresholds
from tests.redheart.collected import EPOCHS, contributions


def test_regret_is_the_share_by_which_a_pick_exceeds_the_lowest():
    losses = {"a": np.array([1.0, 2.0, 4.0]), "b": np.array([3.0, 2.0, 2.5])}
    assert regret(losses, {"a": 0, "b": 1}) == 0
    assert regret(losses, {"a": 1, "b": 2}) == pytest.approx((1.0 + 0.25) / 2)


def bare_records(kept):
    """What the collection recorded of training, without anything of the select split."""
    at, empty = np.array(EPOCHS), np.zeros(len(EPOCHS))
    units = {name: UnitSeries(name, at, 0, empty, empty, {}, *[empty] * 4, None) for name in kept.units.graph}
    return Records(units, kept.units.groups, [])


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    kept = contributions(tmp_path_factory.mktemp("units"))
    return kept, thirds(kept, bare_records(kept))


def test_the_three_thirds_share_no_row_and_miss_none(cut):
    kept, parts = cut
    rows = [series.n for series in (parts.records.units["adv_surd"],)]
    known = (~kept.targets.surd.isnan().any(1)).sum().item()
    assert 0 < rows[0] < known
    order = np.random.default_rng(0).permutation(len(kept.targets))
    cuts = np.array_split(order, 3)
    assert sorted(np.concatenate(cuts)) == list(range(len(kept.targets)))
    for series in parts.records.units.values():
        assert series.loss == pytest.approx(series.row_losses.mean(1))
        assert series.row_losses.shape == (len(EPOCHS), series.n)


def test_losses_on_a_third_are_those_of_its_rows(cut):
    kept, parts = cut
    rows = np.sort(np.array_split(np.random.default_rng(0).permutation(len(kept.targets)), 3)[1])
    known = (~kept.targets.surd.isnan().any(1)).numpy()
    for k, epoch in enumerate(EPOCHS):
        losses = np.full(len(kept.targets), np.nan)
        losses[known] = kept.losses(kept.answers("adv_surd", kept.units.everywhere(epoch)))
        assert parts.fit["adv_surd"][k] == pytest.approx(np.nanmean(losses[rows]))


def test_task_metrics_are_of_the_first_third_and_the_backbones_are_the_heads(cut):
    _, parts = cut
    units = parts.records.units
    assert {"emotion/macro_f1", "surd/pid_accuracy"} <= set(units["heads"].task_metrics)
    np.testing.assert_array_equal(units["backbone"].loss, units["heads"].loss)
    assert "macro_f1" in units["adv_emotion"].task_metrics


class Planted:
    """A run whose regret is lowest for a voting confidence of 0.3 on the rows to fit, and for any `best` to judge."""

    def __init__(self, best):
        self.best, self.seen = best, []

    def regrets(self, thresholds):
        self.seen.append(thresholds)
        confidence = thresholds.voting_confidence
        return (confidence - 0.3) ** 2, abs(confidence - self.best)


@pytest.mark.slow
def test_a_fit_finds_what_lowers_the_regret_and_scores_on_other_rows():
    runs = [Planted(0.3), Planted(0.5), Planted(0.7)]
    thresholds, score, of_defaults = calibrate(runs, num_trials=30)
    assert thresholds.voting_confidence == pytest.approx(0.3, abs=0.06)
    assert score == pytest.approx((0.0 + 0.2 + 0.4) / 3, abs=0.06)
    assert of_defaults == pytest.approx((0.45 + 0.25 + 0.05) / 3)
    assert sum(thresholds.mcda_weights.values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_run_left_out_is_asked_but_once(monkeypatch):
    runs = [Planted(0.3), Planted(0.5), Planted(0.7)]
    fitted = []
    monkeypatch.setattr(calibration, "fit", lambda runs, *_: fitted.append(runs) or Thresholds())
    calibrate(runs, num_trials=5)
    assert [len(each) for each in fitted] == [2, 2, 2, 3]
    assert all(run not in others for run, others in zip(runs, fitted))
    assert all(len(run.seen) == 2 for run in runs)  # once for the fit without it, once for the defaults


def test_a_fit_is_repeatable():
    one, other = (fit([Planted(0.3)], 5, seed=0) for _ in range(2))
    assert one == other


def one_run(folder):
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\ndata: {seed: 0}\n")
    return Run(folder)


def test_fewer_than_three_runs_leave_the_defaults_and_say_so(tmp_path):
    made = write_thresholds([one_run(tmp_path / "run")], tmp_path, None, 60)
    assert made["calibrated"] is False
    path = tmp_path / "calibrated_thresholds.json"
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record["calibrated"] is False
    assert record["cv_score"] is None
    assert Thresholds.load(path) == Thresholds()
    assert "1 of at least 3 runs: these are the defaults" in (tmp_path / "report.md").read_text()


def test_what_was_fitted_can_be_loaded(tmp_path, monkeypatch):
    fitted = fit([Planted(0.3)], 3, seed=0)
    monkeypatch.setattr(calibration, "MIN_RUNS", 1)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: (fitted, 0.02, 0.03))
    monkeypatch.setattr(calibration, "open_contributions", lambda *_: {"val": contributions(tmp_path / "units")})
    monkeypatch.setattr(calibration, "read_records", lambda _: None)
    monkeypatch.setattr(calibration, "thirds", lambda *_: None)
    made = write_thresholds([one_run(tmp_path / "run")], tmp_path, None, 3)
    assert Thresholds.load(tmp_path / "calibrated_thresholds.json") == fitted
    assert (made["cv_score"], made["n_runs"]) == (0.02, 1)
    assert "2.00%, with the defaults 3.00%" in report(fitted, made)


def test_the_test_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="chooses thresholds, which test must not decide"):
        judge([], "test", tmp_path, None)

"""What the automation accepts, what it falls back to, and what it leaves."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from redheart import auto, auto_sweetspot
from redheart.auto import choose_groups, decide, judge
from redheart.combine import Source
from redheart.contributions import Contributions
from redheart.plateau import Plateaus
from redheart.records import UnitSeries
from redheart.sweetspots import Analysis, GroupPick, Recommendation, Thresholds, UnitAnalysis
from tests.redheart.collected import EPOCHS, contributions


def unit(name, losses, epoch, confidence, epochs=EPOCHS):
    nothing = np.array([])
    series = UnitSeries(name, np.array(epochs), 9, np.array(losses), nothing, {}, *[nothing] * 4, None)
    return UnitAnalysis(series, Recommendation(epoch, confidence, None, False, [], []), Plateaus(False, [], []))


def analysis_of(groups, confidence=0.75):
    units = {each.series.name: each for _, members in groups.values() for each in members}
    picks = {
        name: GroupPick([each.series.name for each in members], epoch, np.zeros([1, 1]))
        for name, (epoch, members) in groups.items()
    }
    return Analysis(units, picks, [], Thresholds(voting_confidence=confidence))


def test_a_sure_pick_is_accepted_and_an_unsure_one_falls_back_to_the_lowest_loss():
    groups = {"a": (6, [unit("a", [1, 2, 3], 6, 0.8)]), "b": (6, [unit("b", [3, 1, 2], 6, 0.7)])}
    chosen = choose_groups(analysis_of(groups), list(EPOCHS))
    assert (chosen["a"].epoch, chosen["a"].accepted) == (6, True)
    assert (chosen["b"].epoch, chosen["b"].accepted) == (4, False)
    assert choose_groups(analysis_of(groups, 0.6), list(EPOCHS))["b"].epoch == 6


def test_a_group_is_as_sure_as_its_least_sure_unit_and_falls_back_by_the_sum_of_its_losses():
    members = [unit("a", [1.0, 1.2, 9], 2, 0.9), unit("b", [1.5, 1.2, 1], 6, 0.1)]
    (chosen,) = choose_groups(analysis_of({"a": (2, members)}), list(EPOCHS)).values()
    assert (chosen.epoch, chosen.accepted, chosen.confidence) == (4, False, 0.1)


def test_an_epoch_without_weights_is_not_chosen():
    (chosen,) = choose_groups(analysis_of({"a": (2, [unit("a", [1, 3, 2], 2, 0.9)])}), [4, 6]).values()
    assert (chosen.epoch, chosen.accepted) == (6, False)


def test_too_few_checkpoints_or_no_loss_at_all_leave_the_lowest_loss_or_the_last_epoch():
    groups = {"a": (None, [unit("a", [3, 1, 2], None, 0.0)]), "b": (None, [unit("b", [], None, 0.0, ())])}
    chosen = choose_groups(analysis_of(groups), list(EPOCHS))
    assert [chosen[name].epoch for name in "ab"] == [4, 6]


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """`decide` on the miniature run, whose groups choose the epochs that the test says."""
    kept = contributions(tmp_path / "units")
    monkeypatch.setattr(auto, "open_contributions", lambda run, splits, data_dir: {"val": kept})
    monkeypatch.setattr(auto, "read_records", lambda folder: None)
    monkeypatch.setattr(auto, "analyse", lambda records, thresholds: None)

    def run(epochs):
        choices = {name: auto.GroupChoice(epoch, 0.9, True) for name, epoch in zip(kept.units.groups, epochs)}
        monkeypatch.setattr(auto, "choose_groups", lambda analysis, saved: choices)
        return decide("a run", Thresholds(), tmp_path / "out")

    return SimpleNamespace(run=run, kept=kept, out=tmp_path / "out")


def losses_by_epoch(kept: Contributions):
    return {epoch: kept.losses(kept.fused(kept.units.everywhere(epoch))).mean() for epoch in EPOCHS}


def test_what_does_not_beat_the_best_epoch_surely_is_replaced_by_it(staged):
    losses = losses_by_epoch(staged.kept)
    best, worst = min(losses, key=losses.get), max(losses, key=losses.get)
    for epoch in (best, worst):  # a tie, and a loss
        decision = staged.run([epoch] * 6)
        assert decision["decision"] == "best_single"
        record = json.loads((staged.out / "decision.json").read_text(), parse_constant=pytest.fail)
        assert record["best_single"] == best
        manifest = json.loads((staged.out / "combined" / "manifest.json").read_text())
        assert set(manifest["recipe"].values()) == {str(best)}
        assert f"Epoch {best} is used as a whole" in (staged.out / "report.md").read_text()


def test_a_sure_gain_is_written(staged, monkeypatch):
    monkeypatch.setattr(auto, "best_epoch", lambda kept: max(losses_by_epoch(kept), key=losses_by_epoch(kept).get))
    losses = losses_by_epoch(staged.kept)
    best = min(losses, key=losses.get)
    decision = staged.run([best] * 6)
    assert decision["decision"] == "proposed"
    assert decision["select"]["gain"] == pytest.approx(max(losses.values()) - min(losses.values()))
    manifest = json.loads((staged.out / "combined" / "manifest.json").read_text())
    assert manifest["recipe"] == {unit: str(Source.mean([best])) for unit in staged.kept.units.graph}


def test_several_runs_or_the_test_split_are_refused(tmp_path):
    with pytest.raises(UserError, match="one run; 2 given"):
        judge(["a", "b"], "val", tmp_path, None)
    with pytest.raises(UserError, match="which test must not decide"):
        judge(["a"], "test", tmp_path, None)


@pytest.mark.parametrize("flag", ["checkpoint-dir", "thresholds"])
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(tmp_path, capsys, flag):
    words = {"checkpoint-dir": str(tmp_path), "output": str(tmp_path / "out"), "thresholds": str(tmp_path / "no.json")}
    if flag == "checkpoint-dir":
        del words["thresholds"]
    with pytest.raises(SystemExit) as left:
        auto_sweetspot.main([part for name, word in words.items() for part in (f"--{name}", word)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()

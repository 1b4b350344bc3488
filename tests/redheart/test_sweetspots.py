import json

import numpy as np
import pytest

from common.errors import UserError
from common.rundir import Run
from redheart import analyze_sweetspots
from redheart.planted import EPOCHS, write_recording
from redheart.records import METRICS, ROW_LOSSES, Records, read_records
from redheart.sweetspot_figures import draw
from redheart.sweetspot_report import report
from redheart.sweetspots import Thresholds, analyse, analyse_unit, judge, summary

UNITS = {"heads": "knee", "neural_analyzers": "U", "dsp_kalman": "declining"}
GROUPS = {"heads": ["heads", "neural_analyzers"], "dsp_kalman": ["dsp_kalman"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    write_recording(folder, UNITS, noise=0.001, num_rows=200)
    (folder / "epoch_0060").mkdir()
    (folder / "epoch_0060" / "manifest.json").write_text(json.dumps({"groups": GROUPS}))
    return folder


@pytest.fixture(scope="module")
def analysis(folder):
    return analyse(read_records(folder))


def first_epochs(folder, num, tmp_path):
    """The records of one unit's first `num` checkpoints, without losses per row."""
    lines = (folder / METRICS).read_text().splitlines()
    rows = [
        line for line in lines if json.loads(line)["unit"] == "heads" and json.loads(line)["epoch"] <= EPOCHS[num - 1]
    ]
    (tmp_path / METRICS).write_text("\n".join(rows) + "\n")
    return read_records(tmp_path)


def test_the_pick_is_as_good_as_the_best_and_has_the_most_votes_among_those(analysis):
    for unit in analysis.units.values():
        at = np.flatnonzero(unit.series.epochs == unit.recommendation.epoch)[0]
        assert unit.bootstrap.inside[at]
        assert unit.score[at] == unit.score[unit.bootstrap.inside].max()
        assert unit.recommendation.interval[0] <= unit.recommendation.epoch <= unit.recommendation.interval[1]


def test_planted_optima_are_found(analysis):
    picks = {name: unit.recommendation.epoch for name, unit in analysis.units.items()}
    assert picks["heads"] >= 28
    assert abs(picks["neural_analyzers"] - 30) <= 4
    assert analysis.units["heads"].plateau.detected
    assert not analysis.units["neural_analyzers"].plateau.detected


def test_a_pick_at_the_end_is_flagged_and_trusted_half(analysis):
    unit = analysis.units["dsp_kalman"]
    assert unit.recommendation.epoch == 60
    assert unit.recommendation.at_boundary
    assert unit.recommendation.confidence == pytest.approx(unit.score[-1] / 2)
    assert "still improving, train longer" in unit.recommendation.reasons[-1]


def test_a_unit_that_only_gets_worse_overfits_from_the_start(folder):
    records = read_records(folder)
    series = records.units["dsp_kalman"]
    flipped = {name: getattr(series, name)[::-1] for name in ("loss", "train_loss", "row_losses")}
    flipped["task_metrics"] = {name: each[::-1] for name, each in series.task_metrics.items()}
    unit = analyse(Records({"dsp_kalman": type(series)(**{**vars(series), **flipped})}, {}, [])).units["dsp_kalman"]
    assert unit.recommendation.epoch == 2
    assert "overfits from the start" in unit.recommendation.reasons[-1]


def test_units_of_a_group_share_one_epoch_and_a_group_of_one_keeps_its_own(analysis):
    core, alone = analysis.groups["heads"], analysis.groups["dsp_kalman"]
    assert alone.epoch == analysis.units["dsp_kalman"].recommendation.epoch
    assert core.epoch in range(26, 37)  # the U turns at 30
    np.testing.assert_array_equal(np.diag(core.extra_loss), [0, 0])
    heads = analysis.units["heads"]
    loss = dict(zip(heads.series.epochs, heads.series.loss))
    other = analysis.units["neural_analyzers"].recommendation.epoch
    assert core.extra_loss[0, 1] == pytest.approx(loss[other] / loss[heads.recommendation.epoch] - 1)


def test_an_ended_plateau_is_told_but_does_not_vote(folder):
    series = read_records(folder).units["heads"]
    loss = 0.5 - 0.02 * np.maximum(0, EPOCHS - 44) + 0.003 * (-1.0) ** np.arange(30)
    unit = analyse_unit(type(series)(**{**vars(series), "loss": loss, "row_losses": None}))
    assert unit.plateau.best.ended
    assert "plateau" not in [vote.voter for vote in unit.votes]
    assert "falls again after it: no vote" in unit.recommendation.reasons[0]


@pytest.mark.slow
def test_fewer_than_8_checkpoints_recommend_nothing_and_say_so(folder, tmp_path):
    analysis = analyse(first_epochs(folder, 7, tmp_path))
    for unit in analysis.units.values():
        assert unit.recommendation.epoch is None
        assert unit.recommendation.abstained == ["7 checkpoints; at least 8 are needed"]
    draw(analysis, tmp_path)
    assert (tmp_path / "heads.png").exists()
    assert "Recommended epoch: none" in report(analysis, "a run")
    assert summary(analysis, "a run")["units"]["heads"]["plateau"]["detected"] is False


def test_8_checkpoints_without_rows_or_task_metrics_are_enough(folder, tmp_path):
    records = first_epochs(folder, 8, tmp_path)
    bare = {name: type(unit)(**{**vars(unit), "task_metrics": {}}) for name, unit in records.units.items()}
    analysis = analyse(Records(bare, {}, []))
    pick = analysis.units["heads"].recommendation
    assert pick.epoch is not None
    assert pick.interval is None
    assert {line.partition(":")[0] for line in pick.abstained} >= {"task", "bootstrap"}
    assert "unknown" in report(analysis, "a run")


def test_the_same_records_give_the_same_bytes(folder, analysis):
    assert json.dumps(summary(analysis, "x")) == json.dumps(summary(analyse(read_records(folder)), "x"))


def test_thresholds_are_read_and_what_records_their_making_is_passed_over(tmp_path):
    weights = {"loss": 0.35, "task": 0.45, "stability": 0.10, "gradient": 0.10}
    path = tmp_path / "calibrated_thresholds.json"
    path.write_text(json.dumps({"schema": 1, "cv_score": 0.1, "improvement_rate": 0.008, "mcda_weights": weights}))
    thresholds = Thresholds.load(path)
    assert thresholds == Thresholds(improvement_rate=0.008, mcda_weights=weights)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"plateau_varianc": 1}', "Did you mean plateau_variance?"),
        ('{"mcda_weights": {"loss": 1, "task": 1}}', "sum to 1"),
        ('{"stability_window": 0}', "above 0"),
        ("{", "JSON"),
    ],
)
def test_impossible_thresholds_are_refused(tmp_path, text, words):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        Thresholds.load(tmp_path / "t.json")


def test_thresholds_reach_the_analyses(folder):
    records = read_records(folder)
    only_loss = Thresholds(mcda_weights={"loss": 1.0, "task": 0.0, "stability": 0.0, "gradient": 0.0})
    unit = analyse(records, only_loss).units["heads"]
    assert unit.mcda.weights == {"loss": 1.0}
    assert unit.mcda.winner == unit.series.epochs[np.argmin(unit.series.loss)]
    assert not analyse(records, Thresholds(plateau_variance=1e-9)).units["heads"].plateau.detected


@pytest.mark.slow
def test_the_command_writes_json_report_and_figures(tmp_path, capsys):
    write_recording(tmp_path, {"heads": "knee", "neural_analyzers": "U"}, noise=0.001, num_rows=200)
    (tmp_path / "epoch_0060").mkdir()
    (tmp_path / "epoch_0060" / "manifest.json").write_text(json.dumps({"groups": {"heads": GROUPS["heads"]}}))
    assert analyze_sweetspots.main(["--checkpoint-dir", str(tmp_path), "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "module_metrics.json").read_text(), parse_constant=pytest.fail)
    assert record["schema"] == 1
    heads = record["units"]["heads"]
    assert {"start", "end", "center"} <= heads["plateau"]["plateaus"][0].keys()
    assert {"epoch", "confidence", "interval", "at_boundary", "reasons", "abstained"} == heads["recommendation"].keys()
    assert {"series", "plateau", "changepoints", "task", "gradient", "mcda", "voting", "bootstrap"} < heads.keys()
    text = (tmp_path / "analysis_report.md").read_text()
    assert f"## [Module: heads]\n\n- Recommended epoch: {heads['recommendation']['epoch']}" in text
    names = {path.name for path in (tmp_path / "visualizations").glob("*.png")}
    assert names == {"heads.png", "neural_analyzers.png", "summary_heatmap.png", "crossover_matrix_heads.png"}
    assert "neural_analyzers" in capsys.readouterr().out


def test_the_command_refuses_bad_records_in_one_line_and_writes_nothing(folder, tmp_path, capsys):
    (tmp_path / METRICS).write_text((folder / METRICS).read_text().replace('"loss": 0.', '"loss": NaN, "x": 0.', 1))
    with pytest.raises(SystemExit) as error:
        analyze_sweetspots.main(["--checkpoint-dir", str(tmp_path), "--output", str(tmp_path / "out")])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_analysis_of_a_run_finds_its_records_and_refuses_the_test_split(folder, tmp_path):
    first_epochs(folder, 7, tmp_path)
    (tmp_path / "units").mkdir()
    (tmp_path / METRICS).rename(tmp_path / "units" / METRICS)
    told = judge([Run(tmp_path)], "val", tmp_path / "out", None)
    assert told["epochs"] == {"heads": None}
    assert (tmp_path / "out" / "analysis_report.md").exists()
    for runs, split in (([Run(tmp_path)], "test"), ([Run(tmp_path)] * 2, "val"), ([Run(tmp_path / "out")], "val")):
        with pytest.raises(UserError):
            judge(runs, split, tmp_path / "more", None)


@pytest.mark.slow
def test_metrics_alone_are_enough_for_the_command(folder, tmp_path, capsys):
    first_epochs(folder, 30, tmp_path)
    analyze_sweetspots.main(["--checkpoint-dir", str(tmp_path), "--output", str(tmp_path / "out")])
    assert ROW_LOSSES in capsys.readouterr().err
    assert "Warnings" in (tmp_path / "out" / "analysis_report.md").read_text()

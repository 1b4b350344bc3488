"""What is compared, that the choice saw the select split alone, and what the figures make of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.rundir import Run
from common.stats import Interval
from redheart.candidates import BASELINE, Candidates, _picks, choose, exact_optimum, task_tables
from redheart.compare import Figures, check_same_experiment, compare, figures_of, judge, verdict, write
from redheart.plateau import Plateaus
from redheart.records import UnitSeries
from redheart.rows import TASKS
from redheart.search import exact
from redheart.sweetspots import Analysis, GroupPick, Recommendation, Thresholds, UnitAnalysis
from redheart.task_score import task_score
from redheart.task_sums import score_sums
from tests.redheart.collected import EPOCHS, collect, contributions, small_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("units"), small_module())


@pytest.fixture(scope="module")
def select(folder):
    return contributions(folder)


def analysis_of(kept, epoch):
    """An analysis that proposes one epoch for all groups, and for the analyzers by themselves epoch 4."""
    picks = dict.fromkeys(kept.units.graph, epoch) | {"neural_analyzers": 4}
    nothing = np.array([])
    units = {
        name: UnitAnalysis(
            UnitSeries(name, *[nothing] * 5, {}, *[nothing] * 4), Recommendation(at, 0.5, None, False, [], []),
            Plateaus(False, [], []),
        )
        for name, at in picks.items()
    }  # fmt: skip
    groups = {name: GroupPick(units, epoch, np.zeros([1, 1])) for name, units in kept.units.groups.items()}
    return Analysis(units, groups, [], Thresholds())


@pytest.fixture(scope="module")
def chosen(select):
    return choose(select, analysis_of(select, 2))


@pytest.mark.slow
def test_every_comparison_of_the_specification_is_made_or_its_absence_explained(chosen):
    assert set(chosen.found) | set(chosen.missing) == {
        "epoch_30", "epoch_40", "epoch_50", "last", "best_single", "plateau_average", "proposed", "proposed_dependent",
        "own_groups", "greedy_groups", "greedy_units", "tpe_groups", "exact_groups", "lawa_k", "ema", "soup_uniform",
        "soup_greedy", "soup_window", "group_soups", "random_mix", "logit_ensemble",
    }  # fmt: skip
    assert chosen.missing["epoch_30"] == "epoch 30 was not saved"
    assert chosen.missing["ema"].startswith("none was collected")


@pytest.mark.slow
def test_nothing_chosen_on_the_select_split_loses_to_the_best_epoch_there(chosen, select):
    loss = {name: candidate.loss(select).mean() for name, candidate in chosen.found.items()}
    for name in ("greedy_groups", "greedy_units", "tpe_groups", "exact_groups", "soup_greedy", "logit_ensemble"):
        assert loss[name] <= loss[BASELINE], name
    assert loss[BASELINE] <= loss["last"]


@pytest.mark.slow
def test_groups_keep_one_source_where_they_must(chosen, select):
    mixing = {"proposed_dependent", "greedy_units"}
    for name in set(chosen.found) - mixing:
        for recipe in chosen.found[name].recipes:
            assert all(len({recipe[unit] for unit in units}) == 1 for units in select.units.groups.values()), name
    (dependent,) = chosen.found["proposed_dependent"].recipes
    assert str(dependent["neural_analyzers"]) == "4"
    assert str(dependent["heads"]) == "2"


def test_the_tables_of_the_tasks_add_up_to_the_fused_loss(select):
    tables, epochs = task_tables(select), list(select.units.saved)
    rng = np.random.default_rng(0)
    for _ in range(5):
        at = {group: int(rng.integers(len(epochs))) for group in select.units.groups}
        summed = sum(table[tuple(at[group] for group in groups)] for groups, table in tables.items())
        recipe = select.units.of_groups({g: select.units.everywhere(epochs[k])["heads"] for g, k in at.items()})
        assert summed == pytest.approx(select.losses(select.fused(recipe)).mean(), rel=1e-6)


def test_the_exact_optimum_is_no_worse_than_any_mix(select):
    recipe, how = exact_optimum(select)
    assert how.startswith("the best of 3^6 combinations: backbone ")
    lowest = select.losses(select.fused(recipe)).mean()
    assert exact(task_tables(select))[1] == pytest.approx(lowest, rel=1e-6)
    rng = np.random.default_rng(1)
    for _ in range(40):
        picks = {g: select.units.everywhere(int(rng.choice(EPOCHS)))["heads"] for g in select.units.groups}
        assert select.losses(select.fused(select.units.of_groups(picks))).mean() >= lowest - 1e-9


def test_a_pick_without_weights_is_explained(select):
    missing = Candidates()
    _picks(select, analysis_of(select, 8), missing)
    assert missing.missing["proposed"].startswith("weights were not kept of backbone 8, dsp_kalman 8")
    assert "own_groups" in missing.found


def test_too_few_checkpoints_are_explained(select):
    analysis, missing = analysis_of(select, None), Candidates()
    analysis.units["heads"].recommendation.abstained.append("6 checkpoints; at least 8 are needed")
    _picks(select, analysis, missing)
    assert missing.missing["proposed"] == "the analysis abstains (6 checkpoints; at least 8 are needed)"
    assert "proposed_dependent" in missing.missing


@pytest.mark.parametrize("task", TASKS)
def test_scores_of_sums_are_the_task_scores_of_the_analysis(select, task):
    said, targets = select.fused(select.units.everywhere(2))[task], select.targets
    parts, score = score_sums(task, said, targets)
    metrics = {name: [value] for name, value in select.metrics({task: said}).items()}
    assert score(parts.sum(0)) == pytest.approx(task_score([2], metrics).score[0], abs=1e-6)
    assert score(np.stack([parts.sum(0)] * 2)).shape == (2,)


def test_without_annotations_bentham_is_scored_by_its_pairs(folder):
    kept = contributions(folder)
    kept.targets.bentham = torch.full_like(kept.targets.bentham, torch.nan)
    kept.targets.preference = kept.targets.vote
    said = kept.fused(kept.units.everywhere(2))["bentham"]
    parts, score = score_sums("bentham", said, kept.targets)
    assert score(parts.sum(0)) == pytest.approx(kept.metrics({"bentham": said})["bentham/pairwise_accuracy"])


@pytest.mark.slow
def test_figures_of_several_draws_are_means_and_an_ensemble_has_one_prediction(chosen, select):
    draws = figures_of(chosen.found["random_mix"], select, select)
    each = [select.losses(select.fused(recipe)).mean() for recipe in chosen.found["random_mix"].recipes]
    assert draws.losses.mean() == pytest.approx(np.mean(each))
    assert draws.select_loss == pytest.approx(np.mean(each))
    assert len(chosen.found["logit_ensemble"].predictions(select)) == 1
    assert draws.resampled["surd"].shape == (2000,)


def figures(losses, score=0.5, spread=0.01, select_loss=None):
    losses = np.asarray(losses, dtype=np.float64)
    noise = np.random.default_rng(0).normal(0, spread, 2000)
    resampled = {task: score + noise * (1 + k) for k, task in enumerate(TASKS)}
    value = losses.mean() if select_loss is None else select_loss
    return Figures("by hand", value, losses, {}, dict.fromkeys(TASKS, score), resampled)


BASE = np.random.default_rng(1).normal(1, 0.3, 400)


def one_run(other, seed_shift=0.0, **kwargs):
    return {BASELINE: figures(BASE + seed_shift), "proposed": figures(other + seed_shift, **kwargs)}


def test_a_candidate_is_compared_row_by_row():
    table = compare([one_run(BASE - 0.05)], "loss")
    own = table["proposed"]
    assert [own.difference.low, own.difference.estimate, own.difference.high] == pytest.approx([-0.05] * 3)
    assert own.relative_loss == pytest.approx(-0.05 / BASE.mean())
    assert own.verdict == "improves"
    assert own.over_seeds is None
    assert table[BASELINE].difference.estimate == 0
    assert table[BASELINE].verdict is None


def test_the_interval_over_rows_is_as_wide_as_the_rows_say():
    noise = np.random.default_rng(2).normal(0, 0.2, 400)
    interval = compare([one_run(BASE + noise)], "loss")["proposed"].difference
    half = 1.96 * noise.std() / 20
    assert interval.low == pytest.approx(noise.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(noise.mean() + half, abs=0.15 * half)


def test_optimism_is_what_the_choice_promised_less_what_it_kept():
    run = one_run(BASE - 0.02, select_loss=0.80)
    run[BASELINE] = figures(BASE, select_loss=0.90)
    assert compare([run], "loss")["proposed"].optimism == pytest.approx(0.10 - 0.02)


def test_the_gap_is_the_test_loss_less_the_training_loss():
    run = one_run(BASE - 0.05)
    assert compare([run], "loss")["proposed"].gap is None
    run = {name: replace(each, train_loss=0.4) for name, each in run.items()}
    assert compare([run, run], "loss")["proposed"].gap == pytest.approx(BASE.mean() - 0.45)


def test_three_seeds_are_compared_as_pairs():
    gains = (0.04, 0.05, 0.06)
    table = compare([one_run(BASE - gain, shift) for gain, shift in zip(gains, (0, 0.5, 1))], "loss")
    own = table["proposed"]
    assert own.over_seeds.estimate == pytest.approx(-0.05)
    assert own.over_seeds.high == pytest.approx(-0.05 + 4.303 * 0.01 / 3**0.5, abs=1e-5)
    assert own.verdict == "improves"
    unsure = compare([one_run(BASE - gain) for gain in (-0.05, 0.0, 0.2)], "loss")["proposed"]
    assert unsure.difference.excludes(0)
    assert unsure.verdict == "no evidence"


def test_a_fall_of_a_task_beyond_its_error_is_no_improvement():
    run = one_run(BASE - 0.05)
    run["proposed"].scores["emotion"] = 0.49
    assert compare([run], "loss")["proposed"].verdict == "no evidence"  # its difference has no error at all
    noisy = np.random.default_rng(3).normal(0, 0.02, 2000)
    run["proposed"].resampled["emotion"] = run[BASELINE].resampled["emotion"] + noisy
    assert compare([run], "loss")["proposed"].verdict == "improves"


def test_the_score_can_be_primary_and_is_better_when_higher():
    run = {BASELINE: figures(BASE), "proposed": figures(BASE + 0.1, score=0.6)}
    own = compare([run], "score")["proposed"]
    assert own.difference.estimate == pytest.approx(0.1)
    assert own.verdict == "improves"
    assert compare([run], "loss")["proposed"].verdict == "harms"


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 10, "by hand")


@pytest.mark.parametrize(
    ("rows", "seeds", "expected"),
    [
        (interval(-2, -1), None, "improves"),
        (interval(1, 2), None, "harms"),
        (interval(-1, 1), None, "no evidence"),
        (interval(-2, 0), None, "no evidence"),
        (interval(-2, -1), interval(-3, -1), "improves"),
        (interval(-2, -1), interval(-3, 1), "no evidence"),
        (interval(-2, -1), interval(1, 3), "no evidence"),
        (interval(1, 2), interval(1, 3), "harms"),
    ],
)
def test_a_verdict_needs_every_interval_on_one_side(rows, seeds, expected):
    assert verdict(rows, seeds, {}, "loss") == expected


def test_the_results_are_strict_json_a_report_and_a_figure(tmp_path):
    table = compare([one_run(BASE - 0.05)], "loss")
    answer = write(table, {"ema": "none | kept"}, [], "loss", tmp_path)
    assert answer == {"primary": "loss", "candidate": "proposed", "verdict": "improves"}
    record = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert record["candidates"]["proposed"]["verdict"] == "improves"
    assert record["candidates"]["proposed"]["difference"]["n"] == record["num_test_rows"] == 400
    text = (tmp_path / "report.md").read_text()
    assert "**proposed: improves**" in text
    assert "not made: none \\| kept" in text
    assert (tmp_path / "figures" / "comparison.png").exists()


def test_without_a_proposal_there_is_no_evidence(tmp_path):
    answer = write(compare([{BASELINE: figures(BASE), "last": figures(BASE)}], "loss"), {}, [], "loss", tmp_path)
    assert answer["verdict"] == "no evidence"
    assert "no proposal to judge" in (tmp_path / "report.md").read_text()


def run_of(folder, seed, **more):
    folder.mkdir()
    lines = [f"seed: {seed}", f"data: {{seed: {seed}}}", *(f"{key}: {value}" for key, value in more.items())]
    (folder / "config.yaml").write_text("\n".join(lines))
    return Run(folder)


def test_runs_differ_in_their_seed_and_in_nothing_else(tmp_path):
    runs = [run_of(tmp_path / f"run{seed}", seed, model="{width: 3}") for seed in range(3)]
    check_same_experiment(runs)
    other = run_of(tmp_path / "other", 3, model="{width: 4}")
    with pytest.raises(UserError, match=r"run0 and .*other: of different configs"):
        check_same_experiment([*runs, other])
    again = run_of(tmp_path / "again", 1, model="{width: 3}")
    with pytest.raises(UserError, match="4 runs of seeds 0, 1, 2, 1: each seed may occur once"):
        check_same_experiment([*runs, again])


def test_a_combined_model_belongs_to_one_run(tmp_path):
    with pytest.raises(UserError, match="compared with one run; 2 given"):
        judge(["a", "b"], "test", tmp_path, None, model="combined")


def test_a_split_other_than_test_is_refused(tmp_path):
    with pytest.raises(UserError, match="judges on test what it chose on val; got split=val"):
        judge([], "val", tmp_path, None)

import json
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import compose
from common.errors import UserError
from nandseq import roadmap
from nandseq.metrics import Answers, Truth, best_constant
from nandseq.roadmap import STEPS, Judged

NAMES = ["valid", "page_hop", "read_unwritten", "stale_read"]
LABEL = np.arange(400) % 4
PLACE = np.arange(400) % 10
TRUTH = Truth(LABEL, np.where(LABEL > 0, PLACE, -1), NAMES)
CONSTANT = best_constant(TRUTH, 10)


def answers(share_right, seed=0):
    """Of a model that is right on that share of the sequences, and calls each other one the next class."""
    wrong = np.random.default_rng(seed).permutation(400) >= round(share_right * 400)
    chosen = (LABEL + wrong) % 4
    return Answers((chosen > 0) * 1.0, np.eye(4)[chosen], np.eye(10)[np.where(wrong, 9 - PLACE, PLACE)])


def judged(*models, features=("raw",)):
    each = Judged([], [], [], list(features), "nothing", [])
    for seed, model in enumerate(models):
        each.add(seed, model, TRUTH, SimpleNamespace(path=f"run{seed}"))
    return each


def record(number, steps):
    return roadmap._record(number, steps, TRUTH, CONSTANT)


ALWAYS_INVALID = Answers(np.ones(400), np.eye(4)[np.ones(400, int)])


@pytest.fixture(scope="module")
def configs():
    return [compose(f"nandseq_step{number}") for number in range(len(STEPS))]


@pytest.mark.slow
def test_every_step_trains_for_the_same_number_of_steps_on_as_many_sequences(configs):
    for config in configs:
        assert config.phase.epochs * config.trainer.limit_train_batches == 1500
        assert config.data.batch_size == 32
        assert config.data.num_train >= 150 * 32
        assert config.data.num_test >= 4000


@pytest.mark.slow
def test_each_step_keeps_what_the_one_before_added(configs):
    added = [
        lambda config: config.module.mining_weight > 0 and len(set(config.data.class_shares.values())) == 1,
        lambda config: (config.loss.gamma, config.loss.class_weights) == (2.0, [0.3, 0.7]),
        lambda config: config.model.bidirectional,
        lambda config: (config.model.embedding_dim, config.model.dropout) == (64, 0.3),
        lambda config: {*config.data.features} == {"delta", "state"},
        lambda config: config.model.op_head,
    ]
    for number, config in enumerate(configs):
        assert [bool(has(config)) for has in added] == [step <= number for step in range(1, len(added) + 1)]


def test_the_founding_conditions_are_passed_by_an_answer_that_never_looks_and_the_honest_ones_are_not():
    steps = {3: judged(*[ALWAYS_INVALID] * 3)}
    told = record(3, steps)
    assert told["founding_condition"]["passed"]  # accuracy 0.75, "F1" of every strategy 1.0
    assert not told["honest_condition"]["passed"]
    assert "It passes the founding condition and not the honest one." in told["review"]
    assert "f1_ovr/page_hop" in told["review"]


def test_a_good_model_passes_and_the_condition_is_on_the_lowest_class():
    assert record(6, {6: judged(*[answers(1.0)] * 3)})["honest_condition"]["passed"]
    told = record(3, {3: judged(*(answers(0.9, seed) for seed in range(3)))})
    assert told["honest_condition"]["passed"]
    assert told["honest_condition"]["reached"]["f1_ovr"] == told["worst_f1"]
    assert told["worst_f1"] == pytest.approx(min(told["scores"][f"f1_ovr/{name}"]["mean"] for name in NAMES))
    assert not record(6, {6: judged(*(answers(0.9, seed) for seed in range(3)))})["honest_condition"]["passed"]


def test_a_gain_needs_the_step_before_and_an_interval_above_zero():
    before = judged(*(answers(share, seed) for seed, share in enumerate((0.70, 0.72, 0.74))))
    steady = judged(*(answers(share, seed) for seed, share in enumerate((0.80, 0.82, 0.84))))
    shaky = judged(*(answers(share, seed) for seed, share in enumerate((0.60, 0.72, 0.99))))
    assert record(4, {3: before, 4: steady})["honest_condition"]["passed"]
    told = record(4, {3: before, 4: shaky})
    assert (told["founding_condition"]["passed"], told["honest_condition"]["passed"]) == (True, False)
    alone = record(4, {4: steady})
    assert (alone["founding_condition"]["passed"], alone["honest_condition"]["passed"]) == (None, False)


def test_a_step_is_undecided_on_fewer_than_three_seeds():
    told = record(6, {6: judged(answers(1.0), answers(1.0))})
    assert told["honest_condition"]["passed"] is None
    assert "Undecided" in told["review"]


def test_the_vote_is_taken_over_the_members_of_step_7_or_else_of_step_6():
    members = [answers(0.9, seed) for seed in range(3)]
    steps = {6: judged(*members)}
    roadmap._vote(steps, TRUTH)
    assert len(steps[7].models) == 1
    assert steps[7].mean("accuracy") > steps[6].mean("accuracy")
    steps = {6: judged(*members), 7: judged(*[answers(1.0)] * 3)}
    roadmap._vote(steps, TRUTH)
    assert steps[7].mean("accuracy") == 1
    steps = {6: judged(members[0])}
    roadmap._vote(steps, TRUTH)
    assert 7 not in steps


def test_the_report_shows_every_step_beside_the_constant_predictor():
    steps = {0: judged(answers(0.6)), 6: judged(*[answers(1.0)] * 3)}
    roadmap._vote(steps, TRUTH)
    records = {number: record(number, steps) for number in sorted(steps)}
    report = roadmap._report("test", {"valid": 100}, CONSTANT, records)
    assert "best constant predictor" in report
    assert all(f"**Step {number}," in report for number in (0, 6, 7))
    assert "0.52 / 0.32" in report
    assert json.dumps(records[7]["scores"]["accuracy"]["mean"]) == "1.0"


def test_runs_of_other_experiments_and_doubled_seeds_are_refused():
    def run(name, seed):
        config = SimpleNamespace(name=name, seed=seed)
        return SimpleNamespace(config=config, path=name)

    with pytest.raises(UserError, match="reads nandseq_step0"):
        roadmap._by_step_and_seed([run("nandseq_delta", 0)])
    with pytest.raises(UserError, match="both are step 2 with seed 1"):
        roadmap._by_step_and_seed([run("nandseq_step2", 1), run("nandseq_step2", 1)])
    found = roadmap._by_step_and_seed([run("nandseq_step2", seed) for seed in (1, 0)])
    assert sorted(found) == [(2, 0), (2, 1)]

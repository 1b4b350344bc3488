import numpy as np
import pytest
from sklearn.metrics import f1_score

from nandseq.metrics import Answers, Truth, best_constant, confusion, intervals, mean_answers, scores, worst_f1

NAMES = ["valid", "page_hop", "stale_read"]
# 4 valid, of which one is called invalid; 3 hops, of which one is missed; 1 stale read
LABEL = np.array([0, 0, 0, 0, 1, 1, 1, 2])
TRUTH = Truth(LABEL, np.array([-1, -1, -1, -1, 2, 1, 0, 3]), NAMES)
INVALID = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.7, 0.4, 0.6])
CHOSEN = np.array([0, 0, 0, 1, 1, 1, 0, 1])
OPS = np.eye(4)[[0, 0, 0, 0, 2, 1, 3, 3]]  # the third hop is looked for in the wrong place
ANSWERS = Answers(INVALID, np.eye(3)[CHOSEN], OPS)


def test_scores_by_hand():
    figures = scores(TRUTH, ANSWERS)
    assert figures["accuracy"] == pytest.approx(6 / 8)
    assert figures["balanced_accuracy"] == pytest.approx(6 / 8)
    assert figures["f1_invalid"] == pytest.approx(2 * 3 / (4 + 4))
    assert figures["f1_valid"] == pytest.approx(2 * 3 / (4 + 4))
    assert figures["false_alarms"] == pytest.approx(1 / 4)
    assert figures["auroc"] == pytest.approx(12 / 16)  # each invalid one is above three of the four valid
    # one false alarm among the valid, and all of the strategy's own sequences
    assert figures["f1_detect/page_hop"] == pytest.approx(2 * 2 / (3 + 3))
    assert figures["f1_detect/stale_read"] == pytest.approx(2 * 1 / (1 + 2))
    assert figures["f1_ovr/page_hop"] == pytest.approx(2 * 2 / (3 + 4))
    assert figures["f1_ovr/stale_read"] == 0
    assert figures["macro_f1"] == pytest.approx((2 * 3 / 8 + 4 / 7 + 0) / 3)
    assert figures["locate_at_1"] == pytest.approx(3 / 4)
    assert worst_f1(figures) == 0


def test_what_the_founding_roadmap_called_f1_is_told_under_its_own_name():
    figures = scores(TRUTH, ANSWERS)
    assert figures["peer_invalid_f1"] == figures["f1_valid"] == pytest.approx(f1_score(LABEL == 0, INVALID < 0.5))
    own = LABEL == 1
    assert figures["peer_f1/page_hop"] == pytest.approx(f1_score(own[own], INVALID[own] >= 0.5))
    always = scores(TRUTH, Answers(np.ones(8)))
    assert (always["peer_f1/page_hop"], always["peer_f1/stale_read"], always["peer_invalid_f1"]) == (1, 1, 0)


def test_one_versus_rest_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    label, chosen = rng.integers(0, 3, (2, 200))
    figures = scores(Truth(label, np.where(label, 0, -1), NAMES), Answers((chosen > 0) * 1.0, np.eye(3)[chosen]))
    assert [figures[f"f1_ovr/{name}"] for name in NAMES] == pytest.approx(f1_score(label, chosen, average=None))
    assert figures["f1_invalid"] == pytest.approx(f1_score(label > 0, chosen > 0))


def test_scores_of_heads_that_are_missing_are_left_out():
    figures = scores(TRUTH, Answers(INVALID))
    assert not [name for name in figures if name.startswith(("f1_ovr", "macro", "locate", "accuracy_"))]
    assert worst_f1(figures) is None
    assert confusion(TRUTH, Answers(INVALID)).tolist() == [[3, 1], [1, 2], [0, 1]]
    assert confusion(TRUTH, ANSWERS).tolist() == [[3, 1, 0], [1, 2, 0], [0, 1, 0]]


def test_the_best_constant_answer_is_the_best_for_each_score():
    best = best_constant(TRUTH, 4)
    assert best["accuracy"] == best["balanced_accuracy"] == best["auroc"] == 0.5
    assert best["f1_invalid"] == best["f1_valid"] == pytest.approx(2 / 3)
    assert best["f1_ovr/page_hop"] == pytest.approx(2 * 3 / (3 + 8))
    assert best["macro_f1"] == pytest.approx(2 / 3 / 3)
    assert best["f1_detect/stale_read"] == pytest.approx(2 / (1 + 5))
    assert best["locate_at_1"] == 1 / 4
    assert "false_alarms" not in best


def test_intervals_hold_the_scores_and_narrow_with_more_sequences():
    small = intervals(TRUTH, [ANSWERS])
    rows = np.tile(np.arange(8), 50)
    truth = Truth(LABEL[rows], TRUTH.bad_index[rows], NAMES)
    large = intervals(truth, [Answers(INVALID[rows], ANSWERS.strategy[rows], OPS[rows])])
    figures = scores(TRUTH, ANSWERS)
    assert "auroc" not in small
    for name, interval in large.items():
        assert interval["low"] <= interval["estimate"] <= interval["high"]
        assert interval["estimate"] == pytest.approx(figures[name])
    assert large["accuracy"]["high"] - large["accuracy"]["low"] < 0.3 * (
        small["accuracy"]["high"] - small["accuracy"]["low"]
    )


def test_intervals_of_several_models_rest_on_sequences_not_on_answers():
    one, three = (intervals(TRUTH, [ANSWERS] * number) for number in (1, 3))
    assert one == three


def test_a_vote_can_be_right_where_most_of_its_members_are_wrong():
    members = [Answers(np.array([0.4])), Answers(np.array([0.45])), Answers(np.array([0.9]), None)]
    vote = mean_answers(members)
    assert vote.invalid == pytest.approx([1.75 / 3])
    assert vote.strategy is None
    assert vote.ops is None

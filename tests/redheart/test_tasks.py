"""Losses and metrics against numbers worked out by hand."""

import math

import pytest
import torch

from redheart.rows import TASKS, UNLABELLED
from redheart.tasks import (
    Answer,
    Targets,
    TaskBatch,
    TaskLosses,
    answer,
    confusion,
    has_target,
    target_spread,
    task_metrics,
)

NAN = math.nan


def losses(**changes):
    settings = {
        "gamma": 0.0, "label_smoothing": 0.0, "bentham": "mse", "surd": "mse", "ranking_weight": 1.0,
        "task_weights": dict.fromkeys(TASKS, 1.0), "unit_weights": {},
    }  # fmt: skip
    return TaskLosses(**(settings | changes))


def targets(count, **given):
    missing = {
        "emotion": torch.full((count,), UNLABELLED), "bentham": torch.full((count, 10), NAN),
        "surd": torch.full((count, 4), NAN),
        **{name: torch.full((count,), NAN) for name in ("regret", "vote", "preference", "information")},
    }  # fmt: skip
    return Targets(**(missing | {name: torch.as_tensor(value) for name, value in given.items()}))


def said(logits, margin=None):
    logits = torch.as_tensor(logits)
    return Answer(logits, torch.zeros(len(logits)) if margin is None else torch.tensor(margin))


def logit(p):
    return math.log(p / (1 - p))


def test_rows_without_a_target_cost_nothing_and_teach_nothing():
    nothing = targets(3)
    for task, size in (("emotion", 7), ("bentham", 10), ("regret", 1), ("surd", 4)):
        logits = torch.randn(3, size, requires_grad=True)
        loss = losses().per_row(task, Answer(logits, logits.mean(1)), nothing)
        assert loss.tolist() == [0, 0, 0]
        loss.sum().backward()
        assert logits.grad.abs().sum() == 0
        assert not has_target(task, nothing).any()
        assert task_metrics(task, said(logits.detach()), nothing) == {}


def test_the_spread_of_targets_is_that_of_the_flattest_one():
    bentham = torch.full((3, 10), NAN)
    bentham[:, 0], bentham[:2, 4] = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.25, 0.75])
    assert target_spread("bentham", targets(3, bentham=bentham)) == pytest.approx(0.5)
    surd = torch.tensor([[0.1, 0.2, 0.7, 0.0], [0.3, 0.2, 0.5, 0.0], [NAN] * 4])  # as the original's: two never vary
    assert target_spread("surd", targets(3, surd=surd)) == 0
    assert target_spread("emotion", targets(3, emotion=[2, UNLABELLED, 2])) == 0
    assert target_spread("emotion", targets(3, emotion=[2, UNLABELLED, 5])) == 3
    assert target_spread("regret", targets(2, regret=[0.5, NAN], vote=[NAN, 0.2])) == 0
    assert all(target_spread(task, targets(3)) is None for task in TASKS)


def test_the_focal_loss_discounts_what_is_already_right():
    logits = torch.zeros(1, 7)
    known = targets(1, emotion=[2])
    assert losses().per_row("emotion", said(logits), known).item() == pytest.approx(math.log(7))
    focal = losses(gamma=2.0).per_row("emotion", said(logits), known).item()
    assert focal == pytest.approx((6 / 7) ** 2 * math.log(7))


def test_label_smoothing_acts_in_training_only():
    logits, known = said(torch.tensor([[2.0] + [0.0] * 6])), targets(1, emotion=[0])
    smooth, plain = losses(label_smoothing=0.5), losses()
    assert smooth.train().per_row("emotion", logits, known) > plain.per_row("emotion", logits, known)
    assert smooth.eval().per_row("emotion", logits, known) == plain.per_row("emotion", logits, known)


def test_disagreement_is_the_symmetric_divergence():
    p, q = torch.tensor([0.5, 0.25, 0.125, 0.125]), torch.tensor([0.25, 0.25, 0.25, 0.25])
    both = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    one, other = said((p.log() + 3).unsqueeze(0)), said(q.log().unsqueeze(0))
    assert losses().disagreement("surd", one, other).item() == pytest.approx(both.item())
    # two answers of 0.8 and 0.5: half of 0.3 × log 4
    one, other = said([[logit(0.8)]]), said([[0.0]])
    assert losses().disagreement("regret", one, other).item() == pytest.approx(0.15 * math.log(4))
    assert losses().disagreement("bentham", one, one).item() == 0


def test_bentham_averages_over_the_annotated_dimensions_alone():
    truth = torch.full((2, 10), NAN)
    truth[0, :2] = torch.tensor([0.5, 1.0])
    truth[1, 3] = 0.0
    loss = losses().per_row("bentham", said(torch.zeros(2, 10)), targets(2, bentham=truth))
    assert loss.tolist() == pytest.approx([(0 + 0.25) / 2, 0.25])


def test_a_preferred_text_should_have_the_higher_utility():
    ranked = losses(ranking_weight=2.0).per_row(
        "bentham", said(torch.zeros(2, 10), [1.0, 1.0]), targets(2, preference=[1.0, 0.0])
    )
    assert ranked.tolist() == pytest.approx([2 * math.log1p(math.exp(-1)), 2 * math.log1p(math.exp(1))])


def test_regret_is_huber_and_votes_are_cross_entropy():
    known = targets(2, regret=[0.3, NAN], vote=[NAN, 0.8])
    loss = losses().per_row("regret", said([[logit(0.5)], [0.0]], [0.0, logit(0.8)]), known)
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert loss.tolist() == pytest.approx([0.2 - 0.05, entropy])


@pytest.mark.parametrize(("kind", "expected"), [("mse", (0.25**2 * 2 + 0.5**2 * 0) / 4), ("kl", math.log(2))])
def test_surd_compares_shares(kind, expected):
    shares, logits = [[0.5, 0.5, 0.0, 0.0]], torch.zeros(1, 4)
    loss = losses(surd=kind).per_row("surd", said(logits), targets(1, surd=shares))
    assert loss.item() == pytest.approx(0.0625 if kind == "mse" else expected)


def test_the_margin_is_that_of_the_pair():
    logits = torch.tensor([[1.0], [2.0], [5.0], [0.5]])
    batch = TaskBatch(torch.empty(4, 3), torch.tensor([2]), targets(3))
    got = answer(logits, batch)
    assert got.logits.tolist() == [[1.0], [2.0], [5.0]]
    assert got.margin.tolist() == [0.0, 0.0, 4.5]


def test_fusing_averages_logits_and_margins():
    fused = Answer.fuse([said([[1.0, 3.0]], [2.0]), said([[3.0, 5.0]], [0.0])])
    assert fused.logits.tolist() == [[2.0, 4.0]]
    assert fused.margin.tolist() == [1.0]


def test_emotion_metrics_leave_the_unlabelled_out():
    logits = torch.eye(7)[[0, 0, 1, 6]]
    known = targets(4, emotion=[0, 1, 1, UNLABELLED])
    metrics = task_metrics("emotion", said(logits), known)
    assert metrics == pytest.approx({"accuracy": 2 / 3, "macro_f1": 2 / 3})
    assert confusion(said(logits), known)[:2, :2].tolist() == [[1, 0], [1, 1]]


def test_bentham_metrics_by_hand():
    truth = torch.full((3, 10), NAN)
    truth[:, 0] = torch.tensor([0.2, 0.4, 0.6])
    logits = torch.zeros(3, 10)
    logits[:, 0] = torch.tensor([logit(0.3), logit(0.5), logit(0.7)])
    metrics = task_metrics("bentham", said(logits, [1.0, 0.0, 0.0]), targets(3, bentham=truth, preference=[1, NAN, 1]))
    assert metrics == pytest.approx(
        {"rmse": 0.1, "rmse_constant": math.sqrt(0.08 / 3), "pearson": 1, "spearman": 1, "pairwise_accuracy": 0.75}
    )


def test_regret_metrics_by_hand():
    known = targets(4, regret=[0.5, 0.1, NAN, NAN], vote=[0.8, NAN, 0.5, 0.2])
    metrics = task_metrics("regret", said([[0.0], [0.0], [0.0], [0.0]], [1.0, 0.0, 2.0, 3.0]), known)
    assert metrics["mae"] == pytest.approx(0.2)
    assert metrics["counterfactual_accuracy"] == 0.5  # the tie of votes is left out
    shares = [(1, 0.8), (2, 0.5), (3, 0.2)]
    assert metrics["brier"] == pytest.approx(sum((1 / (1 + math.exp(-m)) - v) ** 2 for m, v in shares) / 3)


def test_surd_metrics_by_hand():
    shares = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
    known = targets(2, surd=shares, information=[1.0, 2.0])
    metrics = task_metrics("surd", said(shares[[0, 0]].log()), known)
    assert metrics == pytest.approx({"pid_accuracy": 0.5, "mae": 0.15, "error_bits": 0.3})

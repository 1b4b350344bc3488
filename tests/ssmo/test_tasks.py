"""Losses, distances and metrics of the four tasks, by hand and against torch."""

import math

import pytest
import torch
from torch.nn import functional

from ssmo.tasks import IGNORE, Classification, Operator, Segmentation, Series

CLASSES, PIXELS, FIELDS, SERIES = Classification(4), Segmentation(3), Operator([2.0], [10.0]), Series()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(task, output, peer, kind, temperature):
    return task.distance(task.answer(output), task.answer(peer), kind, temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kl_is_that_of_torch(temperature):
    output, peer = draw(2, 7, 4)
    found = distance(CLASSES, output, peer, "kl", temperature)
    p, q = functional.log_softmax(output / temperature, 1), functional.softmax(peer / temperature, 1)
    expected = functional.kl_div(p, q, reduction="batchmean") * temperature**2
    assert found.shape == (7,)
    torch.testing.assert_close(found.mean(), expected)


def test_kl_of_pixels_is_summed_over_classes():
    output, peer = draw(2, 2, 3, 4, 5)
    found = distance(PIXELS, output, peer, "kl", 1.0)
    each = functional.kl_div(output.log_softmax(1), peer.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(found, each)


def test_js_is_the_mean_divergence_from_the_mixture_in_nats():
    output, peer = torch.tensor([[0.0, 0.0]]), torch.tensor([[60.0, 0.0]])
    p, q, m = [0.5, 0.5], [1.0, 0.0], [0.75, 0.25]
    by_hand = 0.5 * sum(a * math.log(a / c) for a, c in zip(p, m)) + 0.5 * math.log(q[0] / m[0])
    two = Classification(2)
    assert distance(two, output, peer, "js", 1.0).item() == pytest.approx(by_hand)
    assert distance(two, 2 * output, 2 * peer, "js", 2.0).item() == pytest.approx(4 * by_hand)
    assert distance(two, torch.tensor([[60.0, -60]]), torch.tensor([[-60.0, 60]]), "js", 1.0).item() == pytest.approx(
        math.log(2)
    )


def test_the_other_distances_by_hand():
    output, peer = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 0.0, 6.0, 4.5]])
    assert distance(CLASSES, output, peer, "mse_logits", 2.0).item() == pytest.approx((4 + 9 + 0.25) / 4)
    assert distance(SERIES, output, peer, "mse", 1.0).tolist() == [[0, 4, 9, 0.25]]
    assert distance(SERIES, output, peer, "mae", 1.0).tolist() == [[0, 2, 3, 0.5]]
    assert distance(SERIES, output, peer, "huber", 1.0).tolist() == [[0, 1.5, 2.5, 0.125]]


@pytest.mark.parametrize(
    ("task", "output", "target"),
    [
        (CLASSES, draw(3, 4), torch.tensor([1, CLASSES.ignored, 3])),
        (PIXELS, draw(2, 3, 2, 2), torch.tensor([[[0, IGNORE], [2, 1]], [[IGNORE, IGNORE], [0, 0]]])),
        (FIELDS, draw(2, 1, 3), torch.tensor([[[1.0, math.nan, 2.0]], [[0.0, 0.5, math.nan]]])),
        (SERIES, draw(2, 3, 1), torch.tensor([[[1.0], [math.nan], [2.0]], [[0.0], [0.5], [math.nan]]])),
    ],
)
def test_ignored_labels_and_targets_that_are_no_numbers_do_not_count(task, output, target):
    output.requires_grad_()
    valid, losses = task.valid(target), task.losses(task.answer(output), target)
    assert losses.shape == valid.shape == target.shape
    assert valid.sum() == (2 if task is CLASSES else 5 if task is PIXELS else 4)
    (gradient,) = torch.autograd.grad((losses * valid).sum(), output)
    touched = gradient.abs().sum(1) if task in (CLASSES, PIXELS) else gradient.abs()
    assert torch.equal(touched > 0, valid)
    changed = torch.where((valid.unsqueeze(1) if task in (CLASSES, PIXELS) else valid), output, output + 3).detach()
    assert torch.equal(task.statistics(changed, target), task.statistics(output.detach(), target))
    assert all(math.isfinite(score) for score in task.scores(task.statistics(output.detach(), target)).values())


def test_accuracy_and_log_loss_by_hand():
    output = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    scores = Classification(2).scores(Classification(2).statistics(output, torch.tensor([0, 1, 1])))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    by_hand = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-3)) + math.log(1 + math.exp(1))
    assert scores["log_loss"] == pytest.approx(by_hand / 3)


def test_mean_iou_by_hand_leaves_out_what_occurs_nowhere():
    target = torch.tensor([[[0, 0, 1, 1], [0, 1, IGNORE, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [0, 0, 1, 1]]])
    output = functional.one_hot(predicted, 3).permute(0, 3, 1, 2).float()
    scores = PIXELS.scores(PIXELS.statistics(output, target))
    assert scores["mean_iou"] == pytest.approx((2 / 4 + 3 / 5) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(5 / 7)


def test_relative_l2_is_of_fields_in_their_own_units():
    target, output = torch.tensor([[[0.1, 0.2]], [[1.0, -0.2]]]), torch.tensor([[[0.2, 0.2]], [[1.0, 0.8]]])
    scores = FIELDS.scores(FIELDS.statistics(output, target))  # own units: [3, 4] → [4, 4], [12, 0] → [12, 10]
    assert scores["relative_l2"] == pytest.approx((1 / 5 + 10 / 12) / 2)
    assert scores["mse"] == pytest.approx((1 / 2 + 100 / 2) / 2)


def test_channels_are_standardised_by_themselves():
    task = Operator([0.0, 5.0], [1.0, 2.0])
    assert task.fields(torch.ones(1, 2, 2)).tolist() == [[[1, 1], [7, 7]]]


def test_forecast_errors_by_hand():
    target, output = torch.zeros(2, 2, 1), torch.tensor([[[1.0], [2.0]], [[-3.0], [0.0]]])
    assert SERIES.scores(SERIES.statistics(output, target)) == {"mse": 14 / 4, "mae": 6 / 4}


@pytest.mark.parametrize(
    ("task", "output", "target"),
    [
        (CLASSES, draw(11, 4), torch.arange(11) % 4),
        (PIXELS, draw(11, 3, 4, 4), (torch.arange(11 * 16) % 3).view(11, 4, 4)),
        (FIELDS, draw(11, 1, 8), draw(11, 1, 8, seed=1)),
        (SERIES, draw(11, 4, 2), draw(11, 4, 2, seed=1)),
    ],
)
def test_batches_of_unequal_size_give_the_figures_of_the_whole(task, output, target):
    whole = task.scores(task.statistics(output, target))
    parts = [task.statistics(*each) for each in zip(output.split([5, 5, 1]), target.split([5, 5, 1]), strict=True)]
    assert all(part.dtype == torch.float64 for part in parts)
    assert task.scores(sum(parts)) == pytest.approx(whole, rel=1e-12)
    assert next(iter(whole)) == task.metric


def test_the_ensemble_is_the_mean_of_probabilities_or_values():
    one, other = draw(2, 6, 4)
    mean = (one.softmax(1) + other.softmax(1)) / 2
    torch.testing.assert_close(CLASSES.mean(one, other).softmax(1), mean)
    torch.testing.assert_close(SERIES.mean(one, other), (one + other) / 2)


def test_more_is_better_becomes_less_is_better():
    assert CLASSES.error(0.75) == 0.25
    assert SERIES.error(0.75) == 0.75


def test_output_shapes():
    assert CLASSES.output_shape(torch.zeros(5)) == (5, 4)
    assert PIXELS.output_shape(torch.zeros(5, 8, 9)) == (5, 3, 8, 9)
    assert FIELDS.output_shape(torch.zeros(5, 1, 9)) == (5, 1, 9)

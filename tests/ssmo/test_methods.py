"""Weights and losses of every method, by hand and against an independent implementation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from common.errors import UserError
from ssmo.methods import Elements, Method, sample_mean, shuffle_valid
from ssmo.tasks import Classification, Operator, Segmentation, Series

HARD = {"name": "ssmo_hard", "weighting": "hard"}
losses = st.lists(st.tuples(*[st.floats(0, 4, width=32)] * 2), min_size=1, max_size=8)


def elements(own, peer, distances=None, valid=None, taught=None, right=None, peer_right=None):
    own, peer = torch.tensor(own), torch.tensor(peer)
    yes = torch.ones(own.shape, dtype=torch.bool)
    distances = torch.ones_like(own) if distances is None else torch.tensor(distances)
    masks = [yes if mask is None else torch.tensor(mask) for mask in (valid, taught, right, peer_right)]
    return Elements(own, peer, distances, *masks)


def swapped(view):
    return view._replace(losses=view.peer_losses, peer_losses=view.losses)


def weights(own, peer, **settings):
    return Method(**{**HARD, **settings}).weights(elements(own, peer)).tolist()


@settings(max_examples=30)
@given(losses, st.floats(0, 1))
def test_two_models_never_imitate_each_other_on_one_element(pairs, margin):
    own, peer = map(list, zip(*pairs, strict=True))
    view, method = elements(own, peer), Method(**HARD, margin=margin)
    assert not (method.weights(view) * method.weights(swapped(view))).any()


@settings(max_examples=30)
@given(losses, st.floats(0.1, 50))
def test_soft_weights_of_both_models_add_up_to_one(pairs, sharpness):
    own, peer = map(list, zip(*pairs, strict=True))
    view, method = elements(own, peer), Method("soft", "soft", sharpness=sharpness)
    torch.testing.assert_close(method.weights(view) + method.weights(swapped(view)), torch.ones(len(own)))


def test_a_tie_is_not_better_and_soft_is_undecided():
    assert weights([1.0], [1.0]) == [0.0]
    assert weights([1.0], [1.0], weighting="soft") == [0.5]


def test_soft_tends_to_hard_as_it_sharpens():
    own, peer = [1.0, 1.0, 3.0], [0.9, 1.1, 1.0]
    assert weights(own, peer, weighting="soft", sharpness=1e6) == weights(own, peer) == [1.0, 0.0, 1.0]
    assert weights([2.0], [1.5], weighting="soft", sharpness=2.0, margin=0.1) == pytest.approx(
        [1 / (1 + math.exp(-0.8))]
    )


def test_a_margin_is_exceeded_strictly():
    assert weights([1.0, 1.0, 1.0], [0.5, 0.25, 0.75], margin=0.5) == [0.0, 1.0, 0.0]


def test_a_loss_that_is_no_number_is_not_imitated():
    own, peer = [math.nan, 1.0, math.nan], [1.0, math.nan, math.nan]
    for weighting in ("hard", "soft"):
        assert weights(own, peer, weighting=weighting) == [0.0] * 3


def test_soft_scale_makes_the_weights_independent_of_the_unit():
    own, peer = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 1.0, 1.0])
    scaled = Method("soft", "soft", soft_scale="batch_std")
    view = elements(own.tolist(), peer.tolist())
    tiny = view._replace(losses=own * 1e-4, peer_losses=peer * 1e-4)
    torch.testing.assert_close(scaled.weights(tiny), scaled.weights(view))
    gap = torch.tensor([-1.0, 1.0, 3.0])
    torch.testing.assert_close(scaled.weights(view), torch.sigmoid(5 * gap / gap.std(correction=0)))


def test_soft_scale_looks_at_valid_elements_only():
    scaled = Method("soft", "soft", soft_scale="batch_std")
    view = elements([1.0, 2.0, 99.0], [2.0, 1.0, 0.0], valid=[True, True, False])
    torch.testing.assert_close(scaled.weights(view)[:2], torch.sigmoid(torch.tensor([-5.0, 5.0])))


def test_by_sample_the_mean_over_valid_elements_decides():
    own, peer = [[1.0, 1.0, 9.0], [1.0, 1.0, 1.0]], [[0.9, 2.0, 0.0], [0.0, 0.0, 4.0]]
    view = elements(own, peer, valid=[[True, True, False], [True, True, True]])
    by_sample = Method(**HARD, granularity="sample").weights(view)
    assert by_sample.tolist() == [[0.0] * 3, [0.0] * 3]  # 1 < 1.45; 1 < 4/3
    assert Method(**HARD, granularity="sample").weights(swapped(view)).tolist() == [[1.0] * 3, [1.0] * 3]
    assert sample_mean(view.losses, view.valid).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("settings", [{"weighting": "soft", "soft_scale": "batch_std"}, {"weighting": "random"}])
def test_every_weighting_decides_by_sample_too(settings):
    view = elements([[4.0, 4.0], [1.0, 1.0]], [[2.0, 2.0], [3.0, 3.0]])
    found = Method(**{**HARD, **settings}, granularity="sample").weights(view)
    assert found.shape == (2, 2)
    assert (found[:, 0] == found[:, 1]).all()
    if settings["weighting"] == "soft":  # gaps 2 and −2, deviation 2
        torch.testing.assert_close(found[:, 0], torch.sigmoid(torch.tensor([5.0, -5.0])))


@settings(max_examples=30)
@given(st.integers(0, 99))
def test_a_random_mask_has_the_ratio_of_the_hard_one_among_valid_elements(seed):
    generator = torch.Generator().manual_seed(seed)
    own, peer = torch.rand(2, 6, 5, generator=generator)
    view = elements(own.tolist(), peer.tolist())._replace(valid=torch.rand(6, 5, generator=generator) < 0.6)
    hard, random = (Method(**{**HARD, "weighting": each}).weights(view) for each in ("hard", "random"))
    assert (random * view.valid).sum() == (hard * view.valid).sum()
    assert not random[~view.valid].any()


def test_a_random_mask_is_elsewhere():
    weights, valid = torch.arange(100.0), torch.ones(100, dtype=torch.bool)
    torch.manual_seed(0)
    assert (shuffle_valid(weights, valid) != weights).sum() > 80


@pytest.mark.parametrize(
    ("ramp", "expected"),
    [("constant", [2, 2, 2, 2, 2]), ("linear", [0, 0.5, 1, 1.5, 2]), ("step", [0, 0, 0, 0, 2])],
)
def test_strength_over_the_epochs(ramp, expected):
    method = Method(**HARD, strength=2.0, ramp=ramp, warmup_epochs=4)
    assert [method.strength_at(epoch) for epoch in range(5)] == expected
    assert method.strength_at(9) == 2
    assert Method(**HARD, ramp=ramp).strength_at(0) == 1


def loss_of(view, strength=1.0, **settings):
    return Method(**{**HARD, **settings}).loss(view, strength)


VIEW = {"own": [1.0, 2.0, 4.0, 8.0], "peer": [0.5, 3.0, 1.0, 0.0], "distances": [10.0, 20.0, 30.0, 40.0]}
WITHOUT_LAST = elements(**VIEW, valid=[True, True, True, False])


def test_losses_by_hand():
    found = loss_of(WITHOUT_LAST, strength=0.5)
    assert found.supervised.item() == pytest.approx(7 / 3)
    assert found.imitation.item() == pytest.approx(0.5 * 40 / 3)
    assert found.total.item() == pytest.approx(7 / 3 + 20 / 3)
    assert found.active.item() == 2
    assert loss_of(WITHOUT_LAST, normalise="active").imitation.item() == pytest.approx(40 / 2)
    assert loss_of(WITHOUT_LAST, weighting="all").imitation.item() == pytest.approx(60 / 3)
    assert loss_of(WITHOUT_LAST, weighting="none").total.item() == pytest.approx(7 / 3)
    assert loss_of(WITHOUT_LAST, weighting="none", loss_scale=2.0).total.item() == pytest.approx(14 / 3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"weighting": "none", "loss_scale": 2.0}, {"combine": "replace"}, {"combine": "subset_means"}],
)
def test_methods_are_compared_by_the_loss_on_every_truth_they_are_told(settings):
    assert loss_of(WITHOUT_LAST, **settings).truth.item() == pytest.approx(7 / 3)
    told = WITHOUT_LAST._replace(taught=torch.tensor([False, True, True, True]))
    assert loss_of(told, **settings).truth.item() == pytest.approx(6 / 2)


def test_replacing_takes_supervision_from_what_is_imitated():
    found = loss_of(WITHOUT_LAST, combine="replace")
    assert found.supervised.item() == pytest.approx(2 / 3)
    assert found.total.item() == pytest.approx((2 + 40) / 3)


def test_a_weak_peer_imitates_where_it_is_not_taught():
    found = loss_of(elements(**VIEW, taught=[True, False, False, False]))
    assert found.supervised.item() == 1.0
    assert found.imitation.item() == pytest.approx(80 / 4)


@pytest.mark.parametrize("combine", ["add", "replace", "subset_means"])
@pytest.mark.parametrize("normalise", ["valid", "active"])
def test_where_nothing_is_selected_or_valid_the_loss_is_a_finite_tensor(combine, normalise):
    for valid in ([True, True], [False, False]):
        view = elements([1.0, 2.0], [3.0, 4.0], valid=valid)
        view = view._replace(losses=view.losses.requires_grad_(), distances=view.distances.requires_grad_())
        found = loss_of(view, combine=combine, normalise=normalise)
        found.total.backward()
        assert found.imitation.item() == 0
        assert found.total.isfinite()
        assert view.losses.grad.isfinite().all()


def test_without_strength_only_supervision_is_left():
    assert loss_of(WITHOUT_LAST, strength=0.0).total.equal(loss_of(WITHOUT_LAST, weighting="none").total)
    broken = WITHOUT_LAST._replace(distances=torch.full((4,), math.nan))
    assert Method(**{**HARD, "strength": 0.0}).loss(broken, 0.0).total.isfinite()


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_identical_models_have_nothing_to_imitate(kind):
    task = Classification(3) if kind == "kl" else Series()
    output = torch.randn(5, 3, requires_grad=True)
    distance = task.distance(task.answer(output), task.answer(output.detach().clone()), kind, 2.0).sum()
    (gradient,) = torch.autograd.grad(distance, output)
    assert distance.item() == 0
    assert gradient.abs().max() <= (1e-7 if kind == "kl" else 0)


def notebook_classes(output, peer, target):
    """The preset as the specification words it, by lists of indices."""
    right, peer_right = output.argmax(1) == target, peer.argmax(1) == target
    learn = [i for i in range(len(target)) if not right[i] and peer_right[i]]
    rest = [i for i in range(len(target)) if right[i] == peer_right[i]]
    loss = 0
    if learn:
        own, q = functional.log_softmax(output[learn] / 2, 1), functional.softmax(peer[learn] / 2, 1)
        loss = loss + functional.kl_div(own, q, reduction="batchmean") * 4
    return loss + functional.cross_entropy(output[rest], target[rest]) if rest else loss


def notebook_values(output, peer, target):
    error, peer_error = output - target, peer - target
    same = error.sign() == peer_error.sign()
    worse = ~same & (error.abs() > peer_error.abs())
    loss = 0
    if worse.any():
        loss = loss + ((output - peer) ** 2)[worse].mean()
    return loss + (error**2)[same].mean() if same.any() else loss


def view_of(task, method, output, peer, target):
    method.adapt(task)
    answer, peers = task.answer(output), task.answer(peer)
    return Elements(
        task.losses(answer, target), task.losses(peers, target),
        task.distance(answer, peers, method.imitation, method.temperature), task.valid(target),
        torch.ones(len(target), *[1] * (target.dim() - 1), dtype=torch.bool), task.right(output, target),
        task.right(peer, target),
    )  # fmt: skip


@pytest.mark.parametrize("case", ["mixed", "all learn", "none learn", "none left"])
@pytest.mark.parametrize(("task", "direct"), [(Classification(3), notebook_classes), (Series(), notebook_values)])
def test_notebook_parity_is_what_the_notebooks_did(task, direct, case):
    generator = torch.Generator().manual_seed(5)
    if task.mode == "max":
        target = torch.randint(3, (40,), generator=generator)
        output, peer = torch.randn(2, 40, 3, generator=generator)
        truth, wrong = 9 * functional.one_hot(target, 3).float(), 9 * functional.one_hot((target + 1) % 3, 3).float()
    else:
        target, output, peer = torch.randn(3, 40, 3, 2, generator=generator)
        truth, wrong = target + 0.1, target - 0.3
    output, peer = {
        "mixed": (output, peer), "all learn": (wrong, truth), "none learn": (truth, truth), "none left": (truth, wrong)
    }[case]  # fmt: skip
    output = output.clone().requires_grad_()
    method = Method("notebook_parity", "hard", selector="auto", combine="subset_means")
    found, expected = method.loss(view_of(task, method, output, peer, target), 1.0).total, direct(output, peer, target)
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype))
    (gradient,) = torch.autograd.grad(found, output)
    (reference,) = torch.autograd.grad(expected, output) if torch.is_tensor(expected) else [torch.zeros_like(output)]
    torch.testing.assert_close(gradient, reference)


def test_opposite_side_wants_the_truth_between_both_and_the_peer_nearer():
    method = Method(**HARD, selector="opposite_side")
    output, peer = torch.tensor([[3.0, 3.0, 1.0, -1.0, 1.0]]), torch.tensor([[-1.0, 1.0, -3.0, 0.5, -1.0]])
    view = view_of(Series(), method, output, peer, torch.zeros(1, 5))
    assert method.weights(view).tolist() == [[1.0, 0.0, 0.0, 1.0, 0.0]]


def test_correctness_looks_at_answers_and_not_at_losses():
    method = Method(**HARD, selector="correctness")
    output, peer = (
        torch.tensor([[1.0, 0], [0, 1.0], [0, 1.0], [5, 0]]),
        torch.tensor([[0, 9.0], [0, 2.0], [1.0, 0], [1, 0]]),
    )
    view = view_of(Classification(2), method, output, peer, torch.tensor([1, 1, 1, 0]))
    assert method.weights(view).tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selector": "correctness", "weighting": "soft"}, "loss.selector=correctness: only with weighting=hard"),
        ({"selector": "opposite_side", "granularity": "sample"}, "granularity=element"),
        ({"combine": "subset_means", "weighting": "all"}, "loss.combine=subset_means: only with weighting=hard"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Method(**{**HARD, **settings})


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (Operator([0.0], [1.0]), {"imitation": "kl"}, "loss.imitation=kl: not for operator; choose mse, mae, huber."),
        (Segmentation(2), {"imitation": "huber"}, "not for segmentation; choose kl, js, mse_logits"),
        (Series(), {"selector": "correctness"}, "not for series; choose opposite_side"),
    ],
)
def test_what_a_task_does_not_have_is_refused(task, settings, message):
    with pytest.raises(UserError, match=message):
        Method(**{**HARD, **settings}).adapt(task)


def test_a_method_adapts_to_its_task():
    method = Method(**HARD)
    method.adapt(Classification(3))
    assert (method.imitation, method.temperature, method.selector) == ("kl", 2.0, "loss")
    method = Method(**HARD, selector="auto")
    method.adapt(Series())
    assert (method.imitation, method.temperature, method.selector) == ("mse", 1.0, "opposite_side")

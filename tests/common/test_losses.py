import math

import pytest
import torch
import torch.nn.functional as F

from common.losses import FocalLoss, inverse_share_weights

WEIGHTS = [2.05, 0.93, 2.28]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    return logits, torch.randint(3, (50,), generator=generator)


def test_a_sample_worked_out_by_hand():
    logits = torch.tensor([[0.0, math.log(2), 0.0]])  # probabilities 1/4, 1/2, 1/4
    loss = FocalLoss(gamma=2, class_weights=WEIGHTS)
    assert loss(logits, torch.tensor([1])).item() == pytest.approx(0.93 * 0.25 * math.log(2), rel=1e-6)
    assert loss(logits, torch.tensor([2])).item() == pytest.approx(2.28 * 0.5625 * math.log(4), rel=1e-6)


def test_the_original_variant_discounts_by_the_weighted_cross_entropy():
    logits = torch.tensor([[0.0, math.log(2), 0.0]])
    loss = FocalLoss(gamma=2, class_weights=WEIGHTS, variant="original")
    p_t = 0.25**2.28
    assert loss(logits, torch.tensor([2])).item() == pytest.approx((1 - p_t) ** 2 * 2.28 * math.log(4), rel=1e-6)


def test_both_variants_agree_without_class_weights(batch):
    assert torch.allclose(FocalLoss(variant="original")(*batch), FocalLoss()(*batch), atol=1e-14)


@pytest.mark.parametrize("variant", ["correct", "original"])
def test_without_focus_it_is_weighted_cross_entropy(batch, variant):
    logits, targets = batch
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    by_weight = FocalLoss(0.0, WEIGHTS, "weighted_mean", variant)(logits, targets)
    assert torch.allclose(by_weight, F.cross_entropy(logits, targets, weight=weights), atol=1e-14)
    by_count = FocalLoss(0.0, WEIGHTS, "mean", variant)(logits, targets)
    total = F.cross_entropy(logits, targets, weight=weights, reduction="sum")
    assert torch.allclose(by_count, total / len(targets), atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_masked_samples_do_not_count_and_leading_axes_are_kept(batch, reduction):
    logits, targets = batch[0].view(2, 25, 3), batch[1].view(2, 25)
    mask = torch.ones(2, 25, dtype=torch.bool)
    mask[1, 7:] = False
    loss = FocalLoss(2.0, WEIGHTS, reduction)
    expected = torch.stack([loss(logits[0], targets[0]), loss(logits[1, :7], targets[1, :7])])
    assert torch.allclose(loss(logits, targets, mask), expected, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certainty_right_or_wrong_gives_finite_loss_and_gradient(gamma):
    logits = torch.tensor([[1000.0, 0.0, 0.0], [0.0, 1000.0, 0.0]], requires_grad=True)
    loss = FocalLoss(gamma)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(500)
    assert logits.grad.isfinite().all()


def test_more_focus_means_less_loss(batch):
    losses = [FocalLoss(gamma)(*batch).item() for gamma in (0.0, 1.0, 2.0)]
    assert losses == sorted(losses, reverse=True)


def test_a_wrong_number_of_weights_is_an_error(batch):
    with pytest.raises(ValueError, match="2 given for 3 classes"):
        FocalLoss(class_weights=[1.0, 2.0])(*batch)


def test_class_weights_stay_out_of_checkpoints():
    assert FocalLoss(class_weights=WEIGHTS).state_dict() == {}


def test_weights_of_the_specification_follow_from_its_shares():
    assert inverse_share_weights([244, 536, 219]) == pytest.approx(WEIGHTS, abs=0.005)


def test_a_class_without_a_sample_gets_no_weight():
    assert inverse_share_weights([3, 0, 1]) == pytest.approx([2 / 3, 0, 2])

import io
import itertools

import pytest
import torch
from torch import nn

from benchmarks.reference_phase2 import train_one_by_one
from common.losses import FocalLoss
from lasps.heads import SectorBatches, StackedAdamW, dropout_masks, epoch_order
from lasps.networks import SectorHeads

SIZES = (37, 5, 16, 1, 50)  # one smaller than a batch, one of exactly two batches, one of a single sample
BATCH, DIM, HIDDEN, EPOCHS, SEED = 8, 10, 6, 4, 3
LOSSES = {
    "mean": FocalLoss(2.0, [2.05, 0.93, 2.28], "mean"),
    "weighted_mean": FocalLoss(2.0, [2.05, 0.93, 2.28], "weighted_mean"),
}


def data(dtype):
    generator = torch.Generator().manual_seed(0)
    sector_ids = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    sector_ids = sector_ids[torch.randperm(len(sector_ids), generator=generator)]
    features = torch.randn(len(sector_ids), DIM, generator=generator, dtype=dtype)
    return features, torch.randint(3, (len(sector_ids),), generator=generator), sector_ids


def new_heads(dtype):
    torch.manual_seed(0)
    return SectorHeads(len(SIZES), DIM, HIDDEN, dropout=0.2).to(dtype)


def make_optimizer(heads):
    return StackedAdamW(heads.parameters(), lr=5e-2, weight_decay=1e-2, max_norm=0.3)


def run_epoch(heads, optimizer, loss, batches, epoch):
    batches.set_epoch(epoch)
    optimizer.param_groups[0]["lr"] = 5e-2 * 0.5 ** (epoch // 2)
    for batch in batches:
        mask = dropout_masks(SEED, batch.sectors, batch.epoch, batch.step, (BATCH, HIDDEN), heads.dropout)
        optimizer.zero_grad()
        logits = heads.stacked(batch.features, batch.sectors, mask)
        loss(logits, batch.targets, batch.mask).sum().backward()
        optimizer.step(active=batch.active)


def trained_stacked(dtype, trained, loss="mean"):
    heads, (features, targets, sector_ids) = new_heads(dtype), data(dtype)
    optimizer = make_optimizer(heads)
    batches = SectorBatches(features, targets, sector_ids, len(SIZES), trained, BATCH, SEED)
    for epoch in range(EPOCHS):
        run_epoch(heads, optimizer, LOSSES[loss], batches, epoch)
    return heads


def trained_one_by_one(dtype, trained, loss="mean", **changes):
    heads, (features, targets, sector_ids) = new_heads(dtype), data(dtype)
    train_one_by_one(
        heads, changes.pop("inputs", features), targets, sector_ids, trained, LOSSES[loss], EPOCHS, BATCH,
        lr=5e-2, weight_decay=1e-2, max_norm=0.3, seed=SEED, halve_every=2, **changes,
    )  # fmt: skip
    return heads


def difference(first, second):
    return max((a - b).abs().max().item() for a, b in zip(first.parameters(), second.parameters()))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_all_heads_at_once_equal_one_head_after_the_other(dtype, tolerance, loss):
    trained = [0, 1, 2, 4]
    stacked = trained_stacked(dtype, trained, loss)
    assert difference(stacked, trained_one_by_one(dtype, trained, loss)) < tolerance
    assert difference(stacked, new_heads(dtype)) > 0.1


def test_a_skipped_sector_keeps_its_head_bit_for_bit():
    for trained in (trained_stacked(torch.float32, [0, 1, 2, 4]), trained_one_by_one(torch.float32, [0, 1, 2, 4])):
        assert all(torch.equal(a[3], b[3]) for a, b in zip(trained.parameters(), new_heads(torch.float32).parameters()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_a_head_does_not_depend_on_which_others_are_trained_or_in_what_order(dtype, tolerance):
    everything, some = trained_stacked(dtype, range(5)), trained_stacked(dtype, [2, 0])
    for whole, part in zip(everything.parameters(), some.parameters()):
        assert (whole[[0, 2]] - part[[0, 2]]).abs().max() < tolerance


def test_the_loop_gives_the_same_heads_through_the_backbone_as_on_its_features():
    torch.manual_seed(1)
    series = torch.randn(sum(SIZES), 4, dtype=torch.float64)
    backbone = nn.Linear(4, DIM).double()
    with torch.no_grad():
        features = backbone(series)
    through = trained_one_by_one(torch.float64, [0, 1], inputs=series, backbone=backbone)
    assert difference(through, trained_one_by_one(torch.float64, [0, 1], inputs=features)) < 1e-12


def test_interrupted_and_resumed_training_equals_uninterrupted_training():
    features, targets, sector_ids = data(torch.float32)
    heads = new_heads(torch.float32)
    optimizer, arguments = make_optimizer(heads), (features, targets, sector_ids, len(SIZES), range(5), BATCH, SEED)
    run_epoch(heads, optimizer, LOSSES["mean"], SectorBatches(*arguments), 0)
    run_epoch(heads, optimizer, LOSSES["mean"], Truncated(*arguments), 1)
    file = io.BytesIO()
    torch.save({"heads": heads.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = new_heads(torch.float32)
    resumed.load_state_dict(saved["heads"])
    optimizer = make_optimizer(resumed)
    optimizer.load_state_dict(saved["optimizer"])
    assert optimizer.state[resumed.weight1]["step"].dtype == torch.int64
    batches = SectorBatches(*arguments)
    batches.start_at(1, skip=3)
    for epoch in range(1, EPOCHS):
        run_epoch(resumed, optimizer, LOSSES["mean"], batches, epoch)
    assert difference(resumed, trained_stacked(torch.float32, range(5))) == 0


class Truncated(SectorBatches):
    def __iter__(self):
        return itertools.islice(super().__iter__(), 3)


def separate_optimizers(stacked, steps, max_norm, betas):
    """Weights after the steps, by torch's own AdamW on a copy of each sector."""
    result = []
    for sector in range(len(stacked[0])):
        own = [nn.Parameter(values[sector].detach().clone()) for values in stacked]
        optimizer = torch.optim.AdamW(own, lr=0.1, weight_decay=0.1, betas=betas)
        for gradients, active in steps:
            if active[sector]:
                for parameter, gradient in zip(own, gradients):
                    parameter.grad = gradient[sector].clone()
                if max_norm is not None:
                    nn.utils.clip_grad_norm_(own, max_norm)
                optimizer.step()
        result.append(own)
    return [torch.stack(parts) for parts in zip(*result)]


@pytest.mark.parametrize("max_norm", [None, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_the_optimizer_equals_one_adamw_per_sector(dtype, tolerance, max_norm):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    parameters = [nn.Parameter(draw(4, 5, 3)), nn.Parameter(draw(4, 3))]
    sometimes = torch.rand(60, 4, generator=generator) < torch.tensor([1.0, 0.7, 0.1, 0.0])
    scale = torch.tensor([3.0, 0.2, 1.0, 1.0], dtype=dtype)  # one sector clipped in most steps, one in none
    steps = [([draw(4, 5, 3) * scale[:, None, None], draw(4, 3) * scale[:, None]], active) for active in sometimes]
    expected = separate_optimizers(parameters, steps, max_norm, (0.9, 0.999))
    optimizer = StackedAdamW(parameters, lr=0.1, weight_decay=0.1, max_norm=max_norm)
    for gradients, active in steps:
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        optimizer.step(active=active)
    for ours, theirs in zip(parameters, expected):
        assert (ours - theirs).abs().max() < tolerance
    assert optimizer.state[parameters[0]]["step"].tolist() == sometimes.sum(0).tolist()


def test_an_inactive_sector_is_untouched_even_by_a_gradient_that_is_not_a_number():
    parameter = nn.Parameter(torch.ones(2, 3))
    optimizer = StackedAdamW([parameter], max_norm=1.0)
    parameter.grad = torch.tensor([[1.0] * 3, [float("nan")] * 3])
    optimizer.step(active=torch.tensor([True, False]))
    assert parameter[0].isfinite().all()
    assert parameter[0, 0] != 1
    assert torch.equal(parameter[1], torch.ones(3))
    assert torch.equal(optimizer.state[parameter]["exp_avg"][1], torch.zeros(3))


def test_every_sample_of_a_trained_sector_comes_once_per_epoch_in_the_sectors_order():
    features, targets, sector_ids = data(torch.float32)
    features[:, 0] = torch.arange(len(features))  # row numbers
    batches = SectorBatches(features, targets, sector_ids, 5, [4, 0, 1], BATCH, SEED)
    batches.set_epoch(2)
    assert len(batches) == 7 == len(list(batches))
    seen = {0: [], 1: [], 4: []}
    for batch in batches:
        assert batch.active.nonzero().squeeze(1).tolist() == batch.sectors.tolist()
        for sector, rows, mask, labels in zip(batch.sectors, batch.features[..., 0], batch.mask, batch.targets):
            seen[int(sector)] += rows[mask].int().tolist()
            assert torch.equal(labels, targets[rows.long()])
    for sector, rows in seen.items():
        own = (sector_ids == sector).nonzero().squeeze(1)
        assert rows == own[epoch_order(SEED, sector, 2, len(own))].tolist()


def test_batches_shrink_to_the_sectors_that_have_samples_left():
    batches = SectorBatches(*data(torch.float32), 5, range(5), BATCH, SEED)
    assert [batch.sectors.tolist() for batch in batches] == [[0, 1, 2, 3, 4], [0, 2, 4], *[[0, 4]] * 3, [4], [4]]


def test_skipped_steps_are_left_out_of_the_resumed_epoch_only():
    batches = SectorBatches(*data(torch.float32), 5, range(5), BATCH, SEED)
    batches.start_at(1, skip=4)
    assert [batch.step for batch in batches] == [4, 5, 6]
    batches.set_epoch(2)
    assert [(batch.epoch, batch.step) for batch in batches] == [(2, step) for step in range(7)]


@pytest.mark.parametrize("trained", [[], [0, 5]])
def test_training_a_sector_without_samples_is_an_error(trained):
    with pytest.raises(ValueError, match="sectors to train"):
        SectorBatches(*data(torch.float32), 6, trained, BATCH, SEED)


def test_orders_and_masks_differ_between_seeds_sectors_epochs_and_steps():
    orders = [epoch_order(*key, 50) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    masks = [dropout_masks(seed, [s], e, k, (8, 6), 0.5) for seed, s, e, k in [(0,) * 4, *torch.eye(4).int().tolist()]]
    for drawn in (orders, masks):
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_a_mask_drops_the_stated_share_and_keeps_the_mean():
    mask = dropout_masks(0, [0, 7], 0, 0, (500, 100), 0.2)
    assert mask.shape == (2, 500, 100)
    assert mask.unique().tolist() == [0, 1.25]
    assert mask.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(dropout_masks(0, [7], 0, 0, (500, 100), 0.2)[0], mask[1])

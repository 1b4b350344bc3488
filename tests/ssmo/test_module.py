"""Training a pair: nothing crosses between the models, and nothing but what a method says differs between methods."""

import json
import math
import time
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.nn import functional

from common.errors import UserError
from common.recorder import Diverged
from ssmo.curves import Curves
from ssmo.data.base import PairBatch
from ssmo.networks.pair import make_model
from ssmo.tasks import Classification, Series
from tests.ssmo.pairs import METHODS, SERIES_DATA, SERIES_NET, Net, Normed, PointData, fit, method_of, module_for

WIDE = partial(Net, width=12)


class Wrong(Net):
    """Asks for five numbers per sample."""

    def __init__(self):
        super().__init__()
        self[0] = nn.Linear(5, 8)


def weights(module, slot=0):
    return [value.clone() for value in module.network.slots[slot].state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def trained(tmp_path, method, data=None, **settings):
    module = module_for(method, **settings)
    rows = fit(tmp_path, module, data or PointData())
    return module, rows


def curves(folder):
    with np.load(folder / "curves.npz") as found:
        return dict(found)


def alone(make, name, slot, data, epochs=2, clip=None):
    """A model trained by a plain loop; random numbers within it are those of its seed, slot and step."""
    model = make_model(make, name, slot, seed=0)
    optimizer, train = torch.optim.AdamW(model.parameters(), lr=0.05), data.dataset_of("train")
    losses = []
    for epoch in range(epochs):
        order = np.random.default_rng([0, epoch]).permutation(len(train))
        for number, start in enumerate(range(0, len(train), data.batch_size)):
            batch = train[np.sort(order[start : start + data.batch_size])]
            batch = data.augment(batch, data.draws(epoch)[batch.index])
            state = np.random.SeedSequence([0, epoch, number, slot - 1]).generate_state(1, np.uint64)[0]
            torch.manual_seed(int(state))
            loss = functional.cross_entropy(model(batch.x), batch.targets[slot - 1])
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(loss.item() * len(batch))
    return list(model.state_dict().values()), losses


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, 0.1])
def test_an_independent_model_is_the_model_trained_alone(tmp_path, clip):
    data = PointData(jitter=0.5)
    module, rows = trained(tmp_path, method_of("independent"), data, first=partial(Net), second=WIDE, clip=clip)
    for slot, make in ((1, partial(Net)), (2, WIDE)):
        expected, losses = alone(make, "net", slot, data, clip=clip)
        assert same(weights(module, slot - 1), expected)
        assert rows[-1][f"train/sup_loss_{slot}"] == pytest.approx(sum(losses[4:]) / 50, rel=1e-6)


@pytest.mark.slow
def test_an_independent_model_does_not_depend_on_its_peer(tmp_path):
    one, _ = trained(tmp_path / "one", method_of("independent"), first=Net, second=Net)
    other, _ = trained(tmp_path / "other", method_of("independent"), first=Net, second=Normed)
    assert same(weights(one), weights(other))
    assert not same(weights(one), weights(one, 1))  # twins begin apart


@pytest.mark.slow
def test_hard_selection_without_strength_is_independent_bit_for_bit(tmp_path):
    one, _ = trained(tmp_path / "one", method_of("ssmo_hard", strength=0.0))
    other, _ = trained(tmp_path / "other", method_of("independent"))
    assert all(same(weights(one, slot), weights(other, slot)) for slot in (0, 1))
    mine, theirs = curves(tmp_path / "one"), curves(tmp_path / "other")
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_begins_with_the_same_weights_and_sees_the_same_batches(tmp_path, name):
    module, seen = module_for(method_of(name), Net, Normed), []
    begun = [weights(module, slot) for slot in (0, 1)]
    reference = module_for(method_of("independent"), Net, Normed)
    assert all(same(begun[slot], weights(reference, slot)) for slot in (0, 1))
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (
        seen.append((batch.index, batch.x.clone())) or step(batch, batch_idx)
    )
    data = PointData(seed=3, jitter=1.0)
    fit(tmp_path, module, data, epochs=1)
    order = np.random.default_rng([3, 0]).permutation(50)
    draws = np.random.default_rng([3, 0, 7]).random((50, 4), np.float32)
    for number, (index, x) in enumerate(seen):
        rows = np.sort(order[16 * number : 16 * (number + 1)])
        assert index.tolist() == rows.tolist()
        torch.testing.assert_close(x, torch.from_numpy(data.splits["train"].x[rows] + draws[rows] - 0.5))
    assert not same(begun[0], weights(module))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_gradients_never_cross_between_the_models(name, kind):
    first, task, data = (
        (Net, Classification(3), PointData()) if kind == "classes" else (SERIES_NET, Series(), SERIES_DATA())
    )
    module = module_for(method_of(name), first, first, task=task)
    data.setup("fit")
    batch = data.dataset_of("train")[np.arange(16)]
    outputs = module.network(batch.x)
    for slot, elements in enumerate(module.elements(batch, outputs)):
        loss = module.method.loss(elements, 1.0).total
        own, peers = (list(module.network.slots[each].parameters()) for each in (slot, 1 - slot))
        found = torch.autograd.grad(loss, own + peers, retain_graph=True, allow_unused=True)
        assert all(each is not None for each in found[: len(own)])
        assert all(each is None for each in found[len(own) :])
        tensors = [each for key, each in elements._asdict().items() if key not in ("losses", "distances")]
        assert not any(each.requires_grad for each in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssmo_soft", "random_mask", "ema_self"])
def test_probing_changes_nothing(tmp_path, name):
    for every in (0, 1):
        trained(tmp_path / str(every), method_of(name, probe_every=every), first=Net, second=WIDE.func)
    without, probed = curves(tmp_path / "0"), curves(tmp_path / "1")
    assert all(np.array_equal(without[key], probed[key]) for key in without)
    lines = [json.loads(line) for line in (tmp_path / "1" / "metrics.jsonl").read_text().splitlines()]
    assert [line["probes"] for line in lines if line["split"] == "train"] == [4, 4]


@pytest.mark.slow
def test_half_precision_clips_and_probes_what_full_precision_does(tmp_path):
    trained, rows = [], []
    for name in ("full", "half"):
        module = module_for(method_of("ssmo_soft"), partial(Net, dropout=0.0), partial(Net, dropout=0.0), clip=0.1)
        module.optimizer_factory = partial(torch.optim.SGD, lr=1.0)  # Adam would hide how long a gradient is
        half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        rows.append(fit(tmp_path / name, module, PointData(), plugins=[half] if name == "half" else None)[-1])
        trained.append(weights(module))
    torch.testing.assert_close(*trained, rtol=0.02, atol=0.005)
    for figure in ("cos_mean_1", "gnorm_ratio_1", "loss_2"):
        assert rows[0][f"train/{figure}"] == pytest.approx(rows[1][f"train/{figure}"], abs=0.01)


def test_a_step_is_what_the_specification_says(tmp_path):
    """One step of plain SGD-like arithmetic written out: both losses first, then both updates."""
    module = module_for(method_of("ssmo_hard"), partial(Net, dropout=0.0), partial(Net, dropout=0.0, width=5))
    copies = [make_model(partial(Net, dropout=0.0, width=width), "net", slot, 0) for slot, width in ((1, 8), (2, 5))]
    data = PointData(batch_size=50)
    rows = fit(tmp_path, module, data, epochs=1)
    batch = data.dataset_of("train")[np.arange(50)]
    outputs, y = [model(batch.x) for model in copies], batch.targets[0]
    losses = [functional.cross_entropy(output, y, reduction="none") for output in outputs]
    for slot, model in enumerate(copies):
        own, peer = outputs[slot], outputs[1 - slot].detach()
        mask = (losses[1 - slot] < losses[slot]).float()
        kl = functional.kl_div((own / 2).log_softmax(1), (peer / 2).softmax(1), reduction="none").sum(1) * 4
        supervised, imitation = losses[slot].mean(), (mask * kl).mean()
        g_sup, g_im = (
            torch.autograd.grad(each, list(model.parameters()), retain_graph=True) for each in (supervised, imitation)
        )
        flat = [torch.cat([each.flatten() for each in grads]) for grads in (g_sup, g_im)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        for parameter, a, b in zip(model.parameters(), g_sup, g_im, strict=True):
            parameter.grad = a + b
        optimizer.step()
        torch.testing.assert_close(list(model.state_dict().values()), weights(module, slot))
        (row,), name = rows, f"_{slot + 1}"
        assert row["train/sup_loss" + name] == pytest.approx(supervised.item(), rel=1e-5)
        assert row["train/im_loss" + name] == pytest.approx(imitation.item(), rel=1e-5)
        assert row["train/loss" + name] == pytest.approx((supervised + imitation).item(), rel=1e-5)
        assert row["train/mask_ratio" + name] == mask.sum().item() / 50
        assert row["train/cos_mean" + name] == pytest.approx(functional.cosine_similarity(*flat, 0).item(), rel=1e-4)
        assert row["train/gnorm_ratio" + name] == pytest.approx((flat[1].norm() / flat[0].norm()).item(), rel=1e-4)
    right = [output.argmax(1) == y for output in outputs]
    assert row["train/agree_rate_1"] == (right[0] & right[1]).double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", [0.0, 0.4])
def test_mask_ratio_and_agreement_are_of_valid_elements(tmp_path, spoilt):
    data = SERIES_DATA(spoilt=spoilt)
    module = module_for(method_of("naive_mutual"), SERIES_NET, SERIES_NET, task=Series(), lr=0.0)
    (row,) = fit(tmp_path, module, data, epochs=1)
    assert row["train/mask_ratio_1"] == 1.0
    module = module_for(method_of("naive_mutual"), *[partial(SERIES_NET, dropout=0.0)] * 2, task=Series(), lr=0.0)
    (row,) = fit(tmp_path, module, data, epochs=1)
    batch = data.dataset_of("train")[np.arange(50)]
    valid = ~batch.targets[0].isnan()
    low, high = (output > batch.targets[0] for output in module.network(batch.x))
    assert row["train/agree_rate_2"] == pytest.approx((low == high)[valid].double().mean().item(), abs=1e-12)


def test_what_is_undefined_is_null_even_if_it_was_defined_before(tmp_path):
    method = method_of("ssmo_hard")
    method.strength_at = lambda epoch: 1.0 if epoch == 0 else 0.0
    trained(tmp_path, method)
    text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    first, second = lines[0], lines[3]
    assert first["conflict_rate_1"] is not None
    assert second["conflict_rate_1"] is second["cos_mean_1"] is second["gnorm_ratio_1"] is None
    assert second["probes_empty_1"] == second["probes"] == 2
    assert (first["lambda"], second["lambda"]) == (1.0, 0.0)


def test_every_epoch_has_a_line_per_split_with_the_keys_of_the_specification(tmp_path):
    _, rows = trained(tmp_path, method_of("ssmo_soft"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["split"]) for line in lines] == [
        (epoch, split) for epoch in (0, 1) for split in ("train", "val", "test")
    ]
    shared = "run_id epoch split step time_sec"
    train = (
        "lr lambda sup_loss_1 sup_loss_2 im_loss_1 im_loss_2 total_loss_1 total_loss_2 mask_ratio_1 mask_ratio_2 "
        "conflict_rate_1 conflict_rate_2 cos_mean_1 cos_mean_2 cos_std_1 cos_std_2 gnorm_ratio_1 gnorm_ratio_2 probes "
        "probes_empty_1 probes_empty_2 agree_rate gnorm_ratio_median_1 gnorm_ratio_median_2"
    )
    own = {"train": train.split(), "val": ["val_metric_1", "val_metric_2"], "test": ["test_metric_1", "test_metric_2"]}
    for line in lines:
        assert line.keys() == {*shared.split(), *(key for keys in own.values() for key in keys)}
        defined = {key for key, value in line.items() if value is not None}
        assert defined == {*shared.split(), *own[line["split"]]}
    assert [line["step"] for line in lines] == [4] * 3 + [8] * 3
    assert lines[3]["time_sec"] >= lines[0]["time_sec"] > 0
    assert lines[5]["test_metric_2"] == rows[1]["test/metric_2"]


def test_time_goes_on_where_a_checkpoint_left_it(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    before = Curves(str(tmp_path))
    clock[0] = 107.0
    before.on_validation_end(None, None)
    clock[0] = 110.0  # in the next epoch
    state = before.state_dict()
    clock[0] = 1000.0
    after = Curves(str(tmp_path))
    after.load_state_dict(state)
    clock[0] = 1005.0
    after.on_validation_end(None, None)
    assert after.seconds == [7.0, 15.0]
    after.num_runs = 4  # trained at once
    after.on_validation_end(None, None)
    assert after.seconds[-1] == 3.75


def test_curves_are_double_precision_arrays_of_one_value_per_epoch(tmp_path):
    _, rows = trained(tmp_path, method_of("ssmo_soft"))
    found = curves(tmp_path)
    names = {f"{split}_curve_{slot}" for split in ("train", "total", "val", "test") for slot in (1, 2)}
    assert names < found.keys()
    assert all(found[name].dtype == np.float64 and found[name].shape == (2,) for name in (*names, "epoch", "step"))
    assert found["train_curve_1"].tolist() == [row["train/truth_loss_1"] for row in rows]
    assert found["total_curve_2"].tolist() == [row["train/loss_2"] for row in rows]
    assert found["step"].tolist() == [4, 8]


def test_metrics_are_those_of_the_trained_models_on_each_split(tmp_path):
    module, rows = trained(tmp_path, method_of("ssmo_hard"))
    data = PointData()
    data.setup("fit")
    module.eval()
    scores = {}
    for split, size in (("val", 30), ("test", 20)):
        batch = data.dataset_of(split)[np.arange(size)]
        for slot, output in enumerate(module.network(batch.x), 1):
            scores[f"{split}/metric_{slot}"] = (output.argmax(1) == batch.targets[0]).double().mean().item()
    assert {key: rows[-1][key] for key in scores} == scores
    assert rows[-1]["val/error"] == pytest.approx(1 - (scores["val/metric_1"] + scores["val/metric_2"]) / 2)


@pytest.mark.slow
def test_the_ensemble_trains_like_independent_and_is_judged_as_one(tmp_path):
    one, rows = trained(tmp_path / "one", method_of("ensemble"))
    other, _ = trained(tmp_path / "other", method_of("independent"))
    assert same(weights(one), weights(other))
    assert rows[-1]["val/metric_1"] == rows[-1]["val/metric_2"]


def test_the_moving_average_follows_by_its_decay_and_teaches_without_dropout(tmp_path):
    module = module_for(method_of("ema_self", ema_decay=0.75), Normed, Net)
    begun, tracked = [weights(module, slot) for slot in (0, 1)], []
    step = module._step

    def tracking(*args):
        step(*args)
        tracked.append([weights(module, slot) for slot in (0, 1)])

    module._step = tracking
    fit(tmp_path, module, PointData(), epochs=1)
    for slot, average in enumerate(module.averages):
        expected = begun[slot]
        for after in tracked:
            expected = [0.75 * old + 0.25 * new for old, new in zip(expected, after[slot], strict=True)]
        parameters = [name for name, _ in average.named_parameters()]
        for name, old, last in zip(average.state_dict(), expected, tracked[-1][slot], strict=True):
            torch.testing.assert_close(average.state_dict()[name], old if name in parameters else last)
        assert not average.training
        assert not any(each.requires_grad for each in average.parameters())


def test_a_complex_model_has_a_moving_average_too():
    class Turn(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor([1.0 + 1.0j]))

    module = module_for(method_of("ema_self", ema_decay=0.5), Turn, Turn)
    module.network.slots[0].factor.data.fill_(3.0 - 1.0j)
    module._update_averages()
    assert module.averages[0].factor.item() == 2.0 + 0.0j


@pytest.mark.slow
@pytest.mark.parametrize(("condition", "slot"), [("weak_data", 2), ("weak_labels", 2)])
def test_a_weak_peer_leaves_the_other_model_alone(tmp_path, condition, slot):
    clean, _ = trained(tmp_path / "clean", method_of("independent"))
    weak, _ = trained(tmp_path / "weak", method_of("independent"), PointData(condition=condition))
    assert same(weights(clean), weights(weak))
    assert not same(weights(clean, 1), weights(weak, 1))


def test_weak_data_tells_a_quarter_of_the_truth():
    data = PointData(condition="weak_data")
    data.setup("fit")
    batch = data.dataset_of("train")[np.arange(50)]
    assert [each.sum().item() for each in batch.taught] == [50, 12]
    assert all(each.all() for each in data.dataset_of("val")[np.arange(30)].taught)


def test_a_smaller_last_batch_weighs_by_its_samples(tmp_path):
    module = module_for(method_of("independent"), partial(Net, dropout=0.0), partial(Net, dropout=0.0), lr=0.0)
    data = PointData(batch_size=49)
    (row,) = fit(tmp_path, module, data, epochs=1)
    batch = data.dataset_of("train")[np.arange(50)]
    expected = functional.cross_entropy(module.network.slots[0](batch.x), batch.targets[0]).item()
    assert row["train/sup_loss_1"] == pytest.approx(expected, rel=1e-6)
    assert row["train/loss"] == pytest.approx(row["train/loss_1"] + row["train/loss_2"], rel=1e-6)


def test_a_model_whose_output_does_not_fit_the_task_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"model net: gives \(2, 5\) for an input of \(2, 4\); classification needs \(2, 3\)"
    ):
        trained(tmp_path, method_of("ssmo_hard"), first=partial(Net), second=partial(Net, num_outputs=5))


def test_a_model_that_cannot_take_the_input_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model wrong: cannot answer an input of \(2, 4\) \(.*shapes"):
        trained(tmp_path, method_of("ssmo_hard"), first=partial(Net), second=partial(Wrong))


def test_a_model_that_collapses_is_a_diverged_run(tmp_path):
    task = Series()
    module = module_for(method_of("naive_mutual"), SERIES_NET, SERIES_NET, task=task, lr=1e30)
    with pytest.raises(Diverged):
        fit(tmp_path, module, SERIES_DATA(), epochs=4)


def test_a_batch_moves_whole():
    batch = PairBatch(*torch.zeros(2, 3), (torch.zeros(3), torch.ones(3)), (torch.ones(3), torch.zeros(3)))
    moved = batch.to(torch.device("meta"))
    assert len(moved) == 3
    parts = [moved.index, moved.x, *moved.targets, *moved.taught]
    assert all(each.device.type == "meta" for each in parts)


def test_figures_of_nothing_valid_are_no_numbers():
    module = module_for(method_of("independent"))
    figures = module.epoch_figures(torch.zeros(2, 7), ([], []), 0.1, 0)
    assert math.isnan(figures["train/mask_ratio_1"])

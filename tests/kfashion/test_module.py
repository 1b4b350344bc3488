"""What the two stages train, log and leave alone."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.schedules import constant
from kfashion.augment import RecordAugmentation
from kfashion.losses import ContrastiveLoss
from kfashion.module import AlignmentModule, PretrainingModule, prediction_loss
from kfashion.networks import AttributeEncoder
from kfashion.records import FIELDS, UNKNOWN, RecordBatch, code_keys
from kfashion.retrieval import Items, rank
from tests.kfashion.codes import SIZES, random_batch, random_codes, random_vectors

TOKENS = {field: [f"{field} {number}" for number in range(SIZES[field] - 3)] for field in FIELDS}
COMMON = (partial(torch.optim.AdamW, lr=3e-3), constant, ["*"], "words")


def ready(module):
    """The module with all that a step asks of a trainer, and what it logs in `logged`."""
    datamodule = SimpleNamespace(batch_size=16)
    module._trainer = SimpleNamespace(
        accumulate_grad_batches=1, num_training_batches=2, world_size=1, max_epochs=1, datamodule=datamodule
    )
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.__setitem__(name, float(value))
    module.freeze()
    return module


def aligned(loss=None, augmentation=None, **settings):
    torch.manual_seed(0)
    network = AttributeEncoder(SIZES, 32, 64, dropout=0.0)
    return ready(AlignmentModule(network, loss or ContrastiveLoss(), *COMMON, augmentation or RecordAugmentation(),
                                 TOKENS, **settings))  # fmt: skip


def pretrained():
    torch.manual_seed(0)
    return ready(PretrainingModule(AttributeEncoder(SIZES, 32, 64), ContrastiveLoss(), *COMMON, SIZES))


def fit(module, batch, steps):
    optimizer, losses = module.configure_optimizers()["optimizer"], []
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(module.training_step(batch, 0))
        losses[-1].backward()
        optimizer.step()
    return losses


def validated(module, batch):
    module.eval()
    with torch.no_grad():
        module.validation_step(batch, 0)
        module.on_validation_epoch_end()
    return module.logged


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart():
    module, batch = aligned(), random_batch(32)
    losses = fit(module, batch, 80)
    assert losses[0].item() == pytest.approx(math.log(32), abs=1.0)
    assert losses[-1] < 0.1
    logged = validated(module, batch)
    assert logged["val/hit_at_1"] > 0.95
    assert logged["val/norm_error"] < 1e-5
    assert logged["val/positive_similarity"] > logged["val/negative_similarity"] + 0.5
    assert logged["val/chance_hit_at_5"] == pytest.approx(5 / 32)


def test_validation_is_on_the_whole_gallery():
    module, batch = aligned(num_val_queries=40), random_batch(40)
    logged = validated(module, batch)
    vectors = module.network(batch.codes).detach().numpy()
    number = np.arange(40)
    items = Items(number, batch.attr_key.numpy(), number, number)
    found = rank(vectors, batch.image_embedding.numpy(), items, items, ["attr"])["attr"]
    assert logged["val/hit_at_5"] == pytest.approx(found.metrics["hit_at_5"].mean())
    assert logged["val/loss"] - logged["val/loss_above_chance"] == pytest.approx(
        (32 * math.log(16) + 8 * math.log(8)) / 40
    )


def test_the_loss_above_chance_is_the_loss_less_ln_b():
    module = aligned()
    with torch.no_grad():
        losses = [module.training_step(random_batch(count), number).item() for number, count in enumerate((16, 8))]
    module.on_train_epoch_end()
    mean = (16 * losses[0] + 8 * losses[1]) / 24
    chance = (16 * math.log(16) + 8 * math.log(8)) / 24
    assert module.logged["train/loss"] == pytest.approx(mean)
    assert module.logged["train/loss_above_chance"] == pytest.approx(mean - chance)
    assert not module.train_chance_sum


def test_an_augmented_record_has_a_key_of_its_own(monkeypatch):
    keys = []
    module = aligned(augmentation=RecordAugmentation(field_dropout=0.5))
    monkeypatch.setattr(module, "contrast", lambda one, other, key, mixing: keys.append(key) or one.sum())
    codes = {field: code[[0] * 8] for field, code in random_codes(1).items()}
    batch = RecordBatch(codes, torch.arange(8), torch.arange(8), code_keys(codes), random_vectors(8))
    torch.manual_seed(0)
    module.training_step(batch, 0)
    assert len(batch.attr_key.unique()) == 1
    assert len(keys[0].unique()) > 2


def test_the_same_random_state_gives_the_same_step():
    module, losses = aligned(augmentation=RecordAugmentation(0.3, mixing=0.3), mixup=0.4), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(module.training_step(random_batch(16), 0).item())
    assert losses[0] == losses[1] != losses[2]


def test_mixup_is_refused_where_targets_cannot_be_mixed():
    with pytest.raises(UserError, match="mask_duplicates has no mixed targets"):
        aligned(ContrastiveLoss("mask_duplicates"), mixup=0.2)


def test_only_the_encoder_trains_and_images_have_no_gradient():
    module, batch = aligned(), random_batch(8)
    module.training_step(batch, 0).backward()
    assert all(name.startswith("network.") for name, _ in module.named_parameters())
    assert batch.image_embedding.grad is None


@pytest.mark.slow
def test_stage_one_learns_what_goes_with_what():
    """The silhouette follows from the category, so it can be told when it is left out."""
    codes = random_codes(64)
    codes["silhouette"] = codes["category"] + 3
    batch = RecordBatch(codes, torch.arange(64), torch.arange(64), code_keys(codes), random_vectors(64))
    module = pretrained()
    before = validated(module, batch)["val/loss"]
    fit(module, batch, 120)
    logged = validated(module, batch)
    assert logged["val/loss"] < before
    assert logged["val/accuracy_silhouette"] > 0.9 > logged["val/majority_silhouette"]


def test_the_majority_is_the_share_of_the_most_frequent_token():
    codes = random_codes(4) | {
        "silhouette": torch.tensor([5, 5, 5, 7]), "detail": torch.tensor([[8, 9], [9, 0], [2, 0], [10, 0]]),
    }  # fmt: skip
    batch = RecordBatch(codes, torch.arange(4), torch.arange(4), code_keys(codes), random_vectors(4))
    logged = validated(pretrained(), batch)
    assert logged["val/majority_silhouette"] == 0.75
    assert logged["val/majority_detail"] == pytest.approx(2 / 3)  # of the three that have any


def test_a_field_that_nobody_has_is_no_error():
    codes = random_codes(4) | {"silhouette": torch.full((4,), 2)}
    batch = RecordBatch(codes, torch.arange(4), torch.arange(4), code_keys(codes), random_vectors(4))
    assert validated(pretrained(), batch)["val/accuracy_silhouette"] == 0


def test_prediction_counts_only_what_was_left_out():
    codes = random_codes(3)
    logits = {field: torch.zeros(3, SIZES[field]) for field in FIELDS}
    none = {field: torch.zeros(3, dtype=torch.bool) for field in FIELDS}
    assert prediction_loss(logits, codes, none) == 0
    first = none | {"category": torch.tensor([True, False, False])}
    assert prediction_loss(logits, codes, first).item() == pytest.approx(math.log(SIZES["category"]) / 5)
    detail = none | {"detail": torch.tensor([True, True, False])}
    assert prediction_loss(logits, codes, detail).item() == pytest.approx(SIZES["detail"] * math.log(2) / 5)


def test_heads_are_no_part_of_the_network_and_a_checkpoint_names_its_vocabulary():
    module, checkpoint = pretrained(), {}
    assert not any(name.startswith("network.heads") for name in module.state_dict())
    assert any(name.startswith("heads.") for name in module.state_dict())
    module.on_save_checkpoint(checkpoint)
    assert checkpoint == {"vocabulary": "words"}
    with pytest.raises(UserError, match="checkpoint of vocabulary other"):
        module.on_load_checkpoint({"vocabulary": "other"})


def test_unknown_tokens_are_accepted():
    codes = {field: torch.where(code > UNKNOWN, UNKNOWN, code) for field, code in random_codes(4).items()}
    assert aligned().network(codes).isfinite().all()

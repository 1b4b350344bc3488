from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.losses import FocalLoss
from common.schedules import constant
from nandseq.data import SequenceSet, SimulatedData
from nandseq.features import compute_features
from nandseq.module import NandseqModule
from nandseq.networks import BlockScan, GruClassifier
from nandseq.profiles import Profile
from nandseq.simulator import make_sequences

SHARES = {"valid": 0.25, "page_hop": 0.25, "read_unwritten": 0.25, "stale_read": 0.25}


def simulated(**changes):
    settings = {
        "profile": "seed", "features": ["delta"], "num_train": 64, "num_val": 32, "num_test": 32, "num_extra": 16,
        "class_shares": SHARES, "test_shares": SHARES, "mixture": None, "seq_len": 40, "num_blocks": 3,
        "max_streams": 2, "hard_share": 0.25, "hop_max": 3, "data_seed": 0, "seed": 0,
    }  # fmt: skip
    data = SimulatedData(batch_size=16, num_workers=0, **(settings | changes))
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def train():
    sequences = make_sequences(64, "seed", seq_len=40)
    return SequenceSet(sequences, compute_features(sequences, ["delta"], Profile.load("seed")))


def module_for(data, network=None, **changes):
    torch.manual_seed(0)
    network = network or BlockScan(data.features.sizes, 0, 4, data.features.names.index("slot"), 8, 16)
    names, optimizer = data.truth.names, partial(torch.optim.AdamW, lr=0.02)
    settings = {"loss": FocalLoss(0.0), "schedule": constant, "trainable": ["network.*"]} | changes
    module = NandseqModule(network, optimizer=optimizer, class_names=names, num_train=len(data), **settings)
    module._trainer = SimpleNamespace(accumulate_grad_batches=1, num_training_batches=1)  # all that a step asks for
    return module


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(train):
    module, batch = module_for(train), train[np.arange(16)]
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    logits = module.logits(batch)
    assert (logits["strategy"].argmax(1) == batch.label).all()
    assert ((logits["validity"] > 0) == (batch.label > 0)).all()
    bad = batch.label > 0
    assert (logits["ops"].argmax(1)[bad] == batch.bad_index[bad]).all()


def test_losses_by_hand(train):
    module = module_for(train, strategy_weight=0.5, op_weight=2.0, bad_op_weight=10.0)
    batch = train[np.flatnonzero(train.truth.label == 1)[:2]]
    logits = {"validity": torch.tensor([0.0, 3.0]), "strategy": torch.zeros(2, 4), "ops": torch.zeros(2, 40)}
    verdict = np.log([2, 1 + np.exp(-3)])
    ops = (39 + 10) * np.log(2) / 40
    expected = verdict + 0.5 * np.log(4) + 2 * ops
    assert module.losses(batch, logits).tolist() == pytest.approx(expected, abs=1e-6)


def test_focal_loss_weighs_invalid_with_alpha_and_valid_with_the_rest(train):
    module = module_for(train, loss=FocalLoss(2.0, [0.3, 0.7]))
    batch = train[np.array([np.argmax(train.truth.label == 0), np.argmax(train.truth.label == 1)])]
    losses = module.losses(batch, {"validity": torch.tensor([0.0, 0.0])})
    assert losses.tolist() == pytest.approx([0.3 * 0.25 * np.log(2), 0.7 * 0.25 * np.log(2)])


def test_an_invalid_sequence_taken_for_valid_counts_more_the_next_time(train):
    network = GruClassifier(train.features.sizes, 0, 0, 4, 4)
    module, batch = module_for(train, network, mining_weight=2.0), train[np.arange(40)]
    with torch.no_grad():
        network.heads.validity.weight.zero_()
        network.heads.validity.bias.fill_(-1.0)  # everything is called valid
    first, second = (module.training_step(batch, 0).item() for _ in range(2))
    invalid = (batch.label > 0).float()
    losses = invalid * np.log(1 + np.exp(1)) + (1 - invalid) * np.log(1 + np.exp(-1))
    assert first == pytest.approx(losses.mean().item(), rel=1e-5)
    assert second == pytest.approx((losses * (1 + 2 * invalid)).mean().item(), rel=1e-5)
    assert module.missed[:40].tolist() == (batch.label > 0).tolist()
    assert not module.missed[40:].any()
    assert "missed" in module.state_dict()


def test_without_mining_nothing_is_kept(train):
    module = module_for(train)
    module.training_step(train[np.arange(8)], 0)
    assert not module.missed.any()


def test_splits_and_harder_sets_share_no_sequence():
    data = simulated()
    sets = [*data.datasets.values(), *(data.make(name) for name in ("scenario", "late"))]
    rows = [{row.tobytes() for row in np.concatenate([each.sequences.op, each.sequences.page], 1)} for each in sets]
    assert sum(map(len, rows)) == len(set().union(*rows))


def test_facts_say_what_the_network_has_to_know():
    data = simulated(features=["delta", "state"])
    assert data.facts["class_names"] == list(SHARES)
    assert data.facts["class_counts"] == [16] * 4
    assert data.facts["leak"] == "block state"
    assert data.facts["columns"][data.facts["slot_column"]] == "slot"
    assert len(data.facts["category_sizes"]) + data.facts["num_numbers"] == len(data.facts["columns"])
    assert simulated(features=["raw"]).facts["slot_column"] is None


def test_runs_with_other_features_or_training_shares_share_the_test_set_and_not_the_fingerprint():
    one, two = simulated(), simulated(features=["abs"], class_shares=SHARES | {"valid": 0.5, "page_hop": 0.0})
    assert one.facts["test_fingerprint"] == two.facts["test_fingerprint"]
    assert one.fingerprint != two.fingerprint
    assert simulated(seed=1).fingerprint == one.fingerprint
    assert simulated(data_seed=1).facts["test_fingerprint"] != one.facts["test_fingerprint"]


def test_harder_sets_are_harder_in_one_way_each():
    data = simulated()
    long, wide, late = (data.make(name).sequences for name in ("long", "wide", "late"))
    assert long.op.shape == (16, 200)
    assert wide.slot.max() == 7
    assert late.initial_last.min() >= 1000
    assert np.median(late.page[late.op > 0]) > 900  # blocks erased since then start over
    assert {each.op.shape for each in (wide, late)} == {(16, 40)}


def test_a_batch_holds_the_rows_that_were_asked_for(train):
    batch = train[np.array([3, 5])]
    assert len(batch) == 2
    assert batch.index.tolist() == [3, 5]
    assert batch.bad_index.tolist() == train.truth.bad_index[[3, 5]].tolist()
    assert (batch.bad.sum(1) == (batch.label > 0)).all()
    assert (batch.categories.numpy() == train.features.categories[[3, 5]]).all()


def test_test_shares_must_name_the_classes_of_the_training_shares():
    with pytest.raises(UserError, match="name the classes"):
        simulated(test_shares={"valid": 1.0})

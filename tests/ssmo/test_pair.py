"""Initial weights of a pair, and weak peers."""

from functools import partial

import pytest
import torch
from torch import nn

from ssmo.networks.pair import Pair, make_model
from ssmo.networks.vision import CNN, MLP

SMALL_CNN = partial(CNN, in_channels=1, num_classes=3, image_size=8, channels=[4, 8], hidden_dim=None)
SMALL_MLP = partial(MLP, in_channels=1, num_classes=3, image_size=8, hidden_dims=[16, 8])


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_weights_depend_on_seed_slot_and_own_name_only():
    pair = Pair(SMALL_CNN, SMALL_MLP, seed=3)
    assert same(pair.slots[0], Pair(SMALL_CNN, SMALL_CNN, seed=3).slots[0])
    assert same(pair.slots[1], Pair(SMALL_MLP, SMALL_MLP, seed=3).slots[1])
    assert same(pair.slots[0], make_model(SMALL_CNN, "cnn", 1, 3))
    assert not same(pair.slots[0], Pair(SMALL_CNN, SMALL_MLP, seed=4).slots[0])
    assert pair.names == ["cnn", "mlp"]


def test_equal_models_begin_with_unequal_weights():
    pair = Pair(SMALL_CNN, SMALL_CNN, seed=0)
    assert not same(*pair.slots)
    one, other = pair(torch.ones(2, 1, 8, 8))
    assert not torch.equal(one, other)


def test_making_models_leaves_the_random_state():
    state = torch.get_rng_state()
    Pair(SMALL_CNN, SMALL_MLP, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("quarter", [1, 2])
def test_a_weak_peer_has_a_quarter_of_the_width_and_leaves_the_other_alone(quarter):
    whole, weak = Pair(SMALL_CNN, SMALL_MLP, 0), Pair(SMALL_CNN, SMALL_MLP, 0, quarter)
    assert same(whole.slots[2 - quarter], weak.slots[2 - quarter])
    cnn, mlp = weak.slots
    assert cnn.stages[0][0].out_channels == (1 if quarter == 1 else 4)
    assert mlp.head.in_features == (2 if quarter == 2 else 8)
    assert [each.shape for each in weak(torch.zeros(2, 1, 8, 8))] == [(2, 3), (2, 3)]


def test_a_weak_operator_has_a_quarter_of_the_modes_and_all_layers():
    class Spectral(nn.Module):
        def __init__(self, num_modes, hidden_dim, num_layers):
            super().__init__()
            self.settings = num_modes, hidden_dim, num_layers

    make = partial(Spectral, num_modes=[12, 8], hidden_dim=2, num_layers=4)
    assert [slot.settings for slot in Pair(make, make, 0, 2).slots] == [([12, 8], 2, 4), ([3, 2], 1, 4)]

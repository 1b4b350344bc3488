import pytest
import torch
from torch import nn

from nandseq.recurrent import FastGRU

SHAPES = [{}, {"batch_first": True}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True, "batch_first": True}]


def both(settings, dtype=torch.float64):
    """PyTorch's GRU and ours with its weights, an input of 3 sequences of 6 steps, and a memory to begin with."""
    torch.manual_seed(0)
    theirs = nn.GRU(5, 4, **settings).to(dtype)
    ours = FastGRU(5, 4, **settings).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn((3, 6, 5) if theirs.batch_first else (6, 3, 5), dtype=dtype)
    return theirs, ours, x, torch.randn(theirs.num_layers * (1 + theirs.bidirectional), 3, 4, dtype=dtype)


def gradients(gru, x, memory):
    """Of a loss in which every state counts differently, with respect to all that it depends on."""
    x, memory = x.clone().requires_grad_(), memory.clone().requires_grad_()
    states, last = gru(x, memory)
    (states.sin().sum() + last.square().sum()).backward()
    return [x.grad, memory.grad, *(parameter.grad for parameter in gru.parameters())]


@pytest.mark.parametrize("settings", SHAPES)
def test_states_are_those_of_pytorchs_gru(settings):
    theirs, ours, x, memory = both(settings)
    for given in ((x,), (x, memory)):
        torch.testing.assert_close(ours(*given), theirs(*given))


@pytest.mark.parametrize("settings", SHAPES)
def test_gradients_are_those_of_pytorchs_gru(settings):
    theirs, ours, x, memory = both(settings)
    torch.testing.assert_close(gradients(ours, x, memory), gradients(theirs, x, memory))


def test_going_on_from_the_memory_is_the_same_as_the_whole():
    _, gru, x, _ = both({"batch_first": True})
    first, memory = gru(x[:, :2])
    torch.testing.assert_close(torch.cat([first, gru(x[:, 2:], memory)[0]], 1), gru(x)[0])


def test_dropout_between_layers_is_for_training_only():
    theirs, ours, x, _ = both({"num_layers": 2, "dropout": 0.5})
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    torch.manual_seed(0)
    first = ours.train()(x)[0]
    assert not torch.allclose(first, ours(x)[0])
    torch.manual_seed(0)
    torch.testing.assert_close(first, ours(x)[0])


def test_under_autocast_pytorchs_own_runs():
    theirs, ours, x, _ = both({}, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x))

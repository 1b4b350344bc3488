import pytest
import torch

from common.errors import UserError
from nandseq.networks import BlockGru, BlockScan, CausalTransformer, GruClassifier, Heads, block_rows

SIZES, NUMBERS, CLASSES = [3, 4, 9], 2, 4
SLOT = torch.tensor([[0, 1, 0, 2, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0]])


def inputs(batch=2, length=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    categories = torch.stack([torch.randint(size, (batch, length), generator=generator) for size in SIZES], -1)
    return categories, torch.rand(batch, length, NUMBERS, generator=generator)


def networks():
    torch.manual_seed(0)
    return {
        "gru": GruClassifier(SIZES, NUMBERS, CLASSES, 4, 8, op_head=True),
        "attention": GruClassifier(SIZES, NUMBERS, CLASSES, 4, 8, 2, 0.5, False, "attention"),
        "scan": BlockScan(SIZES, NUMBERS, CLASSES, 1, 4, 8),
        "both": BlockScan(SIZES, NUMBERS, CLASSES, 1, 4, 8, time_branch=True),
        "transformer": CausalTransformer(SIZES, NUMBERS, CLASSES, 4, 8, num_heads=2),
    }


def test_the_first_classifier_has_65746_parameters():
    network = GruClassifier([3, 2, 4], 6, 0, 16, 64, 2, 0.4, False, "attention", False)
    assert sum(parameter.numel() for parameter in network.parameters()) == 65_746
    assert set(network(torch.zeros(2, 5, 3, dtype=torch.long), torch.zeros(2, 5, 6), SLOT)) == {"validity"}


@pytest.mark.parametrize("name", networks())
def test_logits_have_their_shapes_and_do_not_depend_on_the_batch(name):
    network = networks()[name].eval()
    whole = network(*inputs(), SLOT)
    assert whole["validity"].shape == (2,)
    assert whole["strategy"].shape == (2, CLASSES)
    assert name == "attention" or whole["ops"].shape == (2, 7)
    categories, numbers = inputs()
    alone = network(categories[1:], numbers[1:], SLOT[1:])
    for key, value in alone.items():
        torch.testing.assert_close(whole[key][1:], value)


@pytest.mark.parametrize("name", networks())
def test_judging_without_gradients_gives_the_same_logits(name):
    network = networks()[name].eval()
    expected = network(*inputs(), SLOT)
    with torch.inference_mode():
        for key, value in network(*inputs(), SLOT).items():
            torch.testing.assert_close(value, expected[key])


def test_heads_that_do_not_divide_the_width_are_told():
    with pytest.raises(UserError, match="not a multiple of num_heads=4"):
        CausalTransformer(SIZES, NUMBERS, CLASSES, hidden_dim=6)


def test_commands_are_brought_together_by_block_and_keep_their_order():
    source, row, position = block_rows(SLOT)
    assert source.tolist() == [0, 2, 5, 6, 1, 4, 3, 7, 8, 9, 10, 13, 11, 12]
    assert row.tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 4, 4]
    assert position.tolist() == [0, 1, 2, 3, 0, 1, 0, 0, 1, 2, 3, 4, 0, 1]


def test_each_block_is_scanned_as_if_it_stood_alone():
    torch.manual_seed(0)
    gru, x = BlockGru(5, 6), torch.randn(2, 7, 5)
    states = gru(x, SLOT)
    for n in range(2):
        for block in SLOT[n].unique():
            own = SLOT[n] == block
            forward = gru.onward(x[n, own][:, None])[0][:, 0]
            backward = gru.back(x[n, own].flip(0)[:, None])[0][:, 0].flip(0)
            torch.testing.assert_close(states[n, own], torch.cat([forward, backward], -1))


def test_numbers_and_interleaving_of_blocks_change_nothing_for_the_block_scan():
    network = networks()["scan"].eval()
    categories, numbers = inputs()
    order = torch.argsort(SLOT[:1], stable=True)[0]
    renamed = torch.tensor([5, 3, 0])[SLOT[:1]]
    categories[..., 1] = 0
    one = network(categories[:1], numbers[:1], SLOT[:1])
    categories[..., 1] = 3  # the category that names the block is left out
    two = network(categories[:1, order], numbers[:1, order], renamed[:, order])
    torch.testing.assert_close(one["ops"][:, order], two["ops"])
    torch.testing.assert_close(one["strategy"], two["strategy"])


def test_the_time_branch_sees_the_order_of_blocks():
    network = networks()["both"].eval()
    categories, numbers = inputs()
    order = torch.argsort(SLOT[:1], stable=True)[0]
    one = network(categories[:1], numbers[:1], SLOT[:1])["ops"][:, order]
    two = network(categories[:1, order], numbers[:1, order], SLOT[:1, order])["ops"]
    assert (one - two).abs().max() > 1e-3


def test_the_transformer_judges_a_command_by_its_past_alone():
    network = networks()["transformer"].eval()
    categories, numbers = inputs()
    before = network(categories, numbers, SLOT)["ops"]
    categories[:, 4, 0] = (categories[:, 4, 0] + 1) % 3
    after = network(categories, numbers, SLOT)["ops"]
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().min() > 0


@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_pooling_is_a_maximum_or_a_weighted_mean(pooling):
    torch.manual_seed(0)
    heads, hidden = Heads(3, 0, False, pooling), torch.randn(1, 4, 3)
    if pooling == "max":
        pooled = hidden.max(1).values
    else:
        weights = torch.softmax(hidden @ heads.attention.weight[0] + heads.attention.bias, 1)
        pooled = (weights[..., None] * hidden).sum(1)
    torch.testing.assert_close(heads(hidden)["validity"], heads.validity(pooled)[:, 0])


@pytest.mark.parametrize("name", networks())
def test_every_parameter_learns(name):
    network = networks()[name]
    sum(value.square().sum() for value in network(*inputs(), SLOT).values()).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from common import schedules
from common.errors import UserError
from common.losses import FocalLoss
from lasps.data.dataset import WindowBatch
from lasps.module import LaspsModule
from lasps.networks import EncoderLayer, SectorFusion, SectorHeads, linear_attention

SMALL = {"num_sectors": 5, "hidden_dim": 16, "num_layers": 2, "num_heads": 2, "feedforward_dim": 24}
SMALL |= {"cnn_channels": [4, 8], "head_hidden": 12}
READOUTS = ("first", "last", "mean", "cls")


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return SectorFusion(**SMALL | changes)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    series = torch.rand(11, 20, 28, generator=generator)
    chart = torch.rand(11, 3, 16, 16, generator=generator)
    return series, chart, torch.randint(5, (11,), generator=generator)


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("readout", ["first", "last", "mean"])
def test_parameter_counts_are_those_of_the_specification(readout, attention):
    full = SectorFusion(13, readout=readout, attention=attention)
    parts = (full.encoder, full.chart, full.fusion, full.common_head)
    assert [size(part) for part in parts] == [812_160, 422_272, 32_896, 8_451]
    assert size(full.sector_heads) == 13 * 8_451
    assert size(full) == 1_385_642


def test_outputs_have_the_stated_shapes(batch):
    series, chart, sector = batch
    output = network()(series, chart, sector)
    assert {name: tuple(value.shape) for name, value in output.items()} == {
        "logits": (11, 3), "probabilities": (11, 3), "shared_features": (11, 16),
    }  # fmt: skip
    assert torch.allclose(output["probabilities"].sum(-1), torch.ones(11))


def test_an_encoder_layer_is_the_transformer_layer_of_torch():
    torch.manual_seed(0)
    ours = EncoderLayer(16, 4, 24, 0.0, "softmax").double()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True).double()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.attention.qkv.weight, "self_attn.in_proj_bias": ours.attention.qkv.bias,
            "self_attn.out_proj.weight": ours.attention.out.weight, "self_attn.out_proj.bias": ours.attention.out.bias,
            "linear1.weight": ours.feedforward[0].weight, "linear1.bias": ours.feedforward[0].bias,
            "linear2.weight": ours.feedforward[3].weight, "linear2.bias": ours.feedforward[3].bias,
            "norm1.weight": ours.norm1.weight, "norm1.bias": ours.norm1.bias,
            "norm2.weight": ours.norm2.weight, "norm2.bias": ours.norm2.bias,
        }
    )  # fmt: skip
    sequence = torch.randn(3, 7, 16, dtype=torch.float64)
    assert torch.allclose(ours(sequence), theirs(sequence), atol=1e-12)


def test_linear_attention_equals_its_definition_by_pairs():
    query, key, value = torch.randn(3, 2, 4, 9, 5, dtype=torch.float64).unbind()
    pairs = (nn.functional.elu(query) + 1) @ (nn.functional.elu(key) + 1).transpose(-1, -2)
    expected = pairs / pairs.sum(-1, keepdim=True) @ value
    assert torch.allclose(linear_attention(query, key, value), expected, atol=1e-12)


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("readout", READOUTS)
def test_a_sample_does_not_depend_on_its_batch(batch, readout, attention):
    model = network(readout=readout, attention=attention).eval()
    whole = model(*batch)["logits"]
    alone = torch.cat([model(*(part[k : k + 1] for part in batch))["logits"] for k in range(11)])
    turned = model(*(part.flip(0) for part in batch))["logits"].flip(0)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert torch.allclose(whole, turned, atol=1e-5)


def test_evaluation_gives_the_same_with_and_without_gradients_and_no_warning(batch):
    model = network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracked = model(*batch)["logits"]
        with torch.no_grad():
            assert torch.allclose(tracked, model(*batch)["logits"], atol=1e-5)


def test_each_sample_is_judged_by_the_head_of_its_sector():
    torch.manual_seed(0)
    heads = SectorHeads(5, 16, 12, 0.2).eval()
    features, sector = torch.randn(40, 16), torch.tensor([4, 0, 0, 2] * 10)
    expected = torch.stack(
        [
            (row @ heads.weight1[k] + heads.bias1[k]).relu() @ heads.weight2[k] + heads.bias2[k]
            for row, k in zip(features, sector)
        ]
    )
    assert torch.allclose(heads(features, sector), expected, atol=1e-6)
    assert heads(features[:0], sector[:0]).shape == (0, 3)


def test_only_heads_of_sectors_in_the_batch_get_a_gradient():
    heads = SectorHeads(5, 16, 12, 0.2)
    heads(torch.randn(6, 16), torch.tensor([3, 1, 3, 3, 1, 1])).sum().backward()
    assert heads.weight1.grad.abs().sum((1, 2)).bool().tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_sector_out_of_range_is_named(batch, wrong):
    series, chart, sector = batch
    sector[3] = wrong
    with pytest.raises(ValueError, match=f"sector id {wrong}: outside 0…4"):
        network()(series, chart, sector)


def test_copied_heads_judge_like_the_common_head(batch):
    model = network().eval()
    assert not torch.allclose(model(*batch)["logits"], model(*batch, head="common")["logits"], atol=1e-3)
    model.heads_from_common()
    assert torch.allclose(model(*batch)["logits"], model(*batch, head="common")["logits"], atol=1e-6)


def test_the_common_head_needs_no_sector_and_the_sector_heads_do(batch):
    series, chart, _ = batch
    assert network()(series, chart, head="common")["logits"].shape == (11, 3)
    with pytest.raises(ValueError, match="needs the sector"):
        network()(series, chart)


def test_without_a_chart_encoder_the_series_decides(batch):
    series, chart, sector = batch
    model = network(use_chart_cnn=False).eval()
    assert model.fusion[0].in_features == 16
    assert torch.equal(model(series, None, sector)["logits"], model(series, chart, sector)["logits"])
    with pytest.raises(ValueError, match="needs a chart"):
        network()(series, None, sector)


def test_heads_get_dropout_in_training_only():
    heads = SectorHeads(2, 16, 12, 0.5)
    features, sector = torch.randn(30, 16), torch.zeros(30, dtype=torch.int64)
    assert not torch.equal(heads(features, sector), heads(features, sector))
    heads.eval()
    assert torch.equal(heads(features, sector), heads(features, sector))


def test_the_readout_looks_where_it_says():
    """With attention and feed-forward silenced a layer only normalises, so each position keeps its own content."""
    series = torch.rand(1, 20, 28)
    for readout, seen in (("first", [0]), ("last", [19]), ("mean", range(20)), ("cls", [])):
        encoder = network(readout=readout).encoder.eval()
        for layer in encoder.layers:
            for silenced in (layer.attention.out, layer.feedforward[3]):
                nn.init.zeros_(silenced.weight)
        given = series.clone().requires_grad_()
        encoder(given)[0, 0].backward()
        touched = given.grad[0].abs().sum(-1).nonzero().squeeze(1).tolist() if given.grad is not None else []
        assert touched == list(seen), readout


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(batch):
    model = network(dropout=0.0, fusion_dropout=0.0, cnn_dropout=0.0)
    labels = torch.arange(11) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(*batch)["logits"], labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_impossible_sizes_are_refused_when_the_network_is_made(batch):
    with pytest.raises(UserError, match="input_dim=29: the abandoned variant"):
        network(input_dim=29)
    with pytest.raises(UserError, match="input_dim=25"):
        network(input_dim=25)
    with pytest.raises(UserError, match="hidden_dim=16: not a multiple of num_heads=3"):
        network(num_heads=3)


def test_windows_too_long_and_charts_too_small_are_named(batch):
    series, chart, sector = batch
    with pytest.raises(ValueError, match="windows of 20 sessions; the encoder knows 12"):
        network(max_length=12)(series, chart, sector)
    with pytest.raises(UserError, match="charts of 3×16 pixels: 2 blocks"):
        network()(series, chart[:, :, :3], sector)


def test_the_two_kinds_of_attention_are_different_networks_of_the_same_weights(batch):
    softmax, linear = network().eval(), network(attention="linear").eval()
    linear.load_state_dict(softmax.state_dict())
    assert not torch.allclose(softmax(*batch)["logits"], linear(*batch)["logits"], atol=1e-4)


def test_weights_start_as_those_of_torch_and_of_the_specification():
    full = SectorFusion(13)
    assert full.encoder.position.std().item() == pytest.approx(0.02, rel=0.05)
    attention, theirs = full.encoder.layers[0].attention, nn.MultiheadAttention(128, 4)
    assert attention.qkv.weight.std().item() == pytest.approx(theirs.in_proj_weight.std().item(), rel=0.03)
    assert not attention.qkv.bias.any()
    assert not attention.out.bias.any()
    for ours, layer in ((full.sector_heads.weight1, nn.Linear(128, 64)), (full.sector_heads.weight2, nn.Linear(64, 3))):
        assert ours.abs().max().item() == pytest.approx(layer.weight.abs().max().item(), rel=0.1)


def test_auxiliary_targets_train_the_backbone_and_unknown_ones_count_for_nothing():
    batch = WindowBatch(torch.randn(4, 60, 28), None, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 2, 1]))
    network = SectorFusion(**SMALL | {"use_chart_cnn": False, "num_aux": 2, "dropout": 0.0, "fusion_dropout": 0.0})
    module = LaspsModule(network, FocalLoss(), torch.optim.SGD, schedules.constant, ["*"], "common")
    module.record_train_loss = lambda loss, *_: loss
    plain = module.training_step(batch, 0)
    known = torch.tensor([[0.5, torch.nan], [torch.nan, torch.nan], [-2.0, 1.0], [0.1, 0.2]])
    said = network.aux_head(network.features(batch.series, None))
    errors = torch.nn.functional.smooth_l1_loss(said, known, reduction="none")
    both = module.training_step(replace(batch, aux=known), 0)
    assert both.item() == pytest.approx((plain + 0.5 * errors[~known.isnan()].mean()).item(), rel=1e-5)

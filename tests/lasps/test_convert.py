import pytest
import torch
from torch import nn

from common.errors import UserError
from lasps.convert import from_original, to_original
from lasps.networks import SectorFusion

SIZES = {"num_sectors": 3, "hidden_dim": 16, "num_layers": 2, "num_heads": 4, "feedforward_dim": 24}
SIZES |= {"cnn_channels": [4, 8], "head_hidden": 12, "max_length": 60}


class Original(nn.Module):
    """The original's network as its state dict describes it, made of torch's own layers."""

    def __init__(self, input_dim=28):
        super().__init__()
        self.ts_encoder = nn.Module()
        self.ts_encoder.input_projection = nn.Linear(input_dim, 16)
        self.ts_encoder.position = nn.Parameter(0.02 * torch.randn(60, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 24, 0.2, batch_first=True)
        self.ts_encoder.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.cnn = nn.Module()
        self.cnn.blocks = nn.Sequential(*self.block(3, 4), *self.block(4, 8))
        self.cnn.projection = nn.Linear(8, 16)
        self.shared_fusion = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.3))
        self.common_head = self.head()
        self.sector_heads = nn.ModuleList(self.head() for _ in range(3))

    @staticmethod
    def block(before, after):
        return nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)

    @staticmethod
    def head():
        return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))

    def forward(self, series, chart, sector):
        encoded = self.ts_encoder.input_projection(series) + self.ts_encoder.position[: series.shape[1]]
        encoded = self.ts_encoder.transformer(encoded)[:, 0]
        pixels = self.cnn.projection(self.cnn.blocks(chart).mean((2, 3))).relu()
        features = self.shared_fusion(torch.cat([encoded, pixels], 1))
        return torch.stack([self.sector_heads[k](row) for k, row in zip(sector.tolist(), features)])


@pytest.fixture
def original():
    torch.manual_seed(0)
    model = Original()
    model(torch.rand(8, 60, 28), torch.rand(8, 3, 16, 16), torch.zeros(8, dtype=int))  # moves the batch-norm statistics
    return model.eval()


def test_an_original_checkpoint_gives_the_same_logits(original):
    network = SectorFusion(**SIZES, readout="first").eval()
    network.load_state_dict(from_original(original.state_dict()))
    batch = torch.rand(5, 60, 28), torch.rand(5, 3, 16, 16), torch.tensor([0, 2, 1, 2, 2])
    with torch.no_grad():
        assert torch.allclose(network(*batch)["logits"], original(*batch), atol=1e-5)


def test_there_and_back_is_exact(original):
    state = original.state_dict()
    again = to_original(from_original(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("use_chart_cnn", [True, False])
def test_back_and_there_is_exact(use_chart_cnn):
    network = SectorFusion(**SIZES, use_chart_cnn=use_chart_cnn)
    network.heads_trained[:] = True
    state, again = network.state_dict(), from_original(to_original(network.state_dict()))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_heads_of_a_phase_1_checkpoint_can_be_declared_untrained(original):
    assert from_original(original.state_dict())["heads_trained"].tolist() == [True] * 3
    assert from_original(original.state_dict(), heads_trained=False)["heads_trained"].tolist() == [False] * 3


def test_a_checkpoint_with_29_features_is_refused():
    with pytest.raises(UserError, match="input_dim=29: the abandoned variant"):
        from_original(Original(input_dim=29).state_dict())


def test_missing_and_unexpected_names_are_told_in_one_line(original):
    state = original.state_dict()
    state["cnn.projction.weight"] = state.pop("cnn.projection.weight")
    with pytest.raises(UserError) as error:
        from_original(state)
    assert str(error.value) == (
        "original weights: cnn.projection.weight is missing and cnn.projction.weight is unexpected "
        "(1 missing, 1 unexpected). Did you mean cnn.projection.weight?"
    )


@pytest.mark.parametrize(
    "name", ["ts_encoder.position", "ts_encoder.transformer.layers.1.linear2.bias", "sector_heads.1.3.bias"]
)
def test_whatever_is_missing_is_named(original, name):
    state = original.state_dict()
    del state[name]
    with pytest.raises(UserError, match=f"{name} is missing"):
        from_original(state)


def test_a_wrong_shape_is_named(original):
    state = original.state_dict() | {"sector_heads.2.0.weight": torch.zeros(12, 15)}
    with pytest.raises(UserError, match=r"sector_heads.2.0.weight is \(12, 15\), expected \(12, 16\)"):
        from_original(state)


def test_a_cls_token_has_no_original_counterpart():
    with pytest.raises(UserError, match=r"encoder\.cls"):
        to_original(SectorFusion(**SIZES, readout="cls").state_dict())

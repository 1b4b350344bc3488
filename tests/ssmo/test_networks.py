import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.errors import UserError
from ssmo.networks.operator import FNO, TFNO, UNO, DeepONet, LatentAttention, coordinates, interpolate
from ssmo.networks.segmentation import DeepLabV3Plus, UNet
from ssmo.networks.series import TCN, DLinear, PatchTST
from ssmo.networks.vision import CNN, MLP, ResNet18, ViTTiny

OPERATORS = {
    "FNO": partial(FNO, num_modes=6, hidden_dim=8, num_layers=2),
    "FNO padded": partial(FNO, num_modes=6, hidden_dim=8, num_layers=2, coordinates=False, padding=0.1),
    "TFNO": partial(TFNO, num_modes=6, hidden_dim=8, num_layers=2, rank=0.2),
    "UNO": partial(UNO, num_modes=4, hidden_dim=8, channels=(8, 12, 12, 12, 8)),
    "LatentAttention": partial(LatentAttention, hidden_dim=16, num_latents=8, num_layers=1, periodic=True),
}
CLASSIFIERS = {
    "CNN": partial(CNN, image_size=16),
    "CNN double": partial(CNN, image_size=16, double=True, hidden_dim=32, dropout=0.3),
    "MLP": partial(MLP, image_size=16),
    "MLP of patches": partial(MLP, image_size=16, patch_size=4, layer_norm=True, dropout=0.2),
    "ResNet18": partial(ResNet18, width=4),
    "ViTTiny": partial(ViTTiny, image_size=16, hidden_dim=24, num_layers=2),
}
FORECASTERS = {
    "DLinear": DLinear,
    "PatchTST": PatchTST,
    "TCN": lambda input_length, horizon: TCN(5, horizon),
}
SEGMENTERS = {"UNet": partial(UNet, width=4), "DeepLabV3Plus": partial(DeepLabV3Plus, width=8)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def parameter_count(network: nn.Module) -> int:
    return sum(each.numel() * (2 if each.is_complex() else 1) for each in network.parameters())


def require_gradients_everywhere(network: nn.Module, answer: Tensor) -> None:
    answer.square().sum().backward()
    without = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.abs().sum() > 0]
    assert without == []


# operators


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("grid", [(33,), (17, 17)])
def test_operators_answer_on_the_grid_of_the_field(name, grid):
    network = OPERATORS[name](in_channels=2, out_channels=3, num_dims=len(grid))
    answer = network(torch.randn(2, 2, *grid))
    assert answer.shape == (2, 3, *grid)
    finer = [2 * n for n in grid]
    assert network(torch.randn(2, 2, *finer)).shape == (2, 3, *finer)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_parameter_of_an_operator_learns(name):
    network = OPERATORS[name](in_channels=1, out_channels=2, num_dims=1)
    require_gradients_everywhere(network, network(torch.randn(2, 1, 32)))


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (lambda: FNO(1, 1, 1, num_modes=16, hidden_dim=64), 345_665),
        (lambda: FNO(1, 1, 2, num_modes=12, hidden_dim=32), 701_281),
        (lambda: TFNO(1, 1, 2, num_modes=12, hidden_dim=32, rank=0.05), 44_489),
        (lambda: LatentAttention(1, 1, 1), 241_729),
        (lambda: LatentAttention(1, 1, 2), 241_793),
        # the original sums a bias of 128 numbers: the same function as one number
        (lambda: DeepONet(1, 1, [1024]), 198_656 - 127),
        (lambda: DeepONet(1, 1, [64, 64]), 592_000 - 127),
        (lambda: CNN(1, 10, 28), 9_098),
        (lambda: MLP(1, 10, 28), 109_386),
    ],
)
def test_parameter_counts_are_those_of_the_specification(network, count):
    assert parameter_count(network()) == count


def test_the_trunk_evaluated_once_is_the_trunk_evaluated_per_sample():
    network = DeepONet(2, 3, [8, 8], hidden_dim=16)
    nn.init.normal_(network.bias)
    fields = torch.randn(4, 2, 8, 8)
    node = torch.linspace(0, 1, 8)
    points = torch.cartesian_prod(node, node)
    for sample, answer in zip(fields, network(fields), strict=True):
        weights = network.branch(sample.flatten()).reshape(3, 16)
        for point, value in zip(points, answer.flatten(1).T, strict=True):
            expected = (weights * network.trunk(point)).sum(1) + network.bias[:, 0]
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


def test_deeponet_sees_each_point_of_its_batch_once():
    network, rows = DeepONet(1, 1, [32]), []
    network.trunk.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    network(torch.randn(5, 1, 32))
    assert rows == [32]


@pytest.mark.parametrize("periodic", [False, True])
def test_deeponet_on_a_finer_grid_is_the_same_function(periodic):
    network = DeepONet(1, 1, [9, 9], hidden_dim=16, periodic=periodic)
    fine = torch.randn(2, 1, 18, 18) if periodic else torch.randn(2, 1, 17, 17)
    torch.testing.assert_close(network(fine)[..., ::2, ::2], network(fine[..., ::2, ::2]), rtol=0, atol=1e-5)


def test_positions_by_hand():
    like = torch.zeros(())
    assert coordinates([3], False, like).flatten().tolist() == [0, 0.5, 1]
    assert coordinates([2, 3], False, like)[4].tolist() == [1, 0.5]
    quarter = coordinates([4], True, like)[1]
    torch.testing.assert_close(quarter, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("points", [5, 8, 12, 24])
def test_a_trigonometric_polynomial_is_interpolated_exactly(points):
    def values(n: int) -> Tensor:
        x = 2 * math.pi * torch.arange(n) / n
        return (0.5 + x.sin() - 2 * (3 * x).cos())[None, None]

    for source in (7, 8):
        torch.testing.assert_close(interpolate(values(source), [points], True), values(points), rtol=0, atol=1e-5)


def test_a_linear_field_is_interpolated_exactly_between_nodes():
    def values(n: int) -> Tensor:
        x = torch.linspace(0, 1, n)
        return (1 + 2 * x[:, None] - x)[None, None]

    torch.testing.assert_close(interpolate(values(5), [8, 8], False), values(8))


def test_without_coordinates_a_shifted_field_gives_the_shifted_answer():
    fields = torch.randn(2, 1, 32)
    for coordinates_given, equal in ((False, True), (True, False)):
        network = FNO(1, 1, 1, num_modes=8, hidden_dim=8, num_layers=2, coordinates=coordinates_given)
        assert torch.allclose(network(fields.roll(5, -1)), network(fields).roll(5, -1), atol=1e-5) == equal


def test_latent_attention_does_not_depend_on_the_order_of_points():
    network = LatentAttention(1, 1, 1, hidden_dim=16, num_latents=8, num_layers=1, periodic=True)
    fields = torch.randn(2, 1, 16)
    mirrored = torch.cat([fields[..., :1], fields[..., 1:].flip(-1)], -1)
    with torch.no_grad():
        network.embed.weight[:, 1] = 0  # the sine; what is left of the position is even
    expected = network(fields)
    found = network(mirrored)
    torch.testing.assert_close(torch.cat([found[..., :1], found[..., 1:].flip(-1)], -1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_weights_survive_a_checkpoint_of_tensors_only(name, tmp_path):
    network = OPERATORS[name](in_channels=1, out_channels=1, num_dims=1)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    fields = torch.randn(1, 1, 32)
    assert torch.equal(other(fields), network(fields))


def test_building_an_operator_prints_nothing(capsys):
    OPERATORS["UNO"](in_channels=1, out_channels=1, num_dims=2)
    assert capsys.readouterr().out == ""


# images


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_logits_and_every_parameter_learns(name):
    network = CLASSIFIERS[name](in_channels=3, num_classes=7).eval()
    logits = network(torch.randn(4, 3, 16, 16))
    assert logits.shape == (4, 7)
    require_gradients_everywhere(network, logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_learns_a_batch_by_heart(name):
    network = CLASSIFIERS[name](in_channels=1, num_classes=4)
    images, labels = torch.randn(8, 1, 16, 16), torch.arange(8) % 4
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(25):
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
    assert (network.eval()(images).argmax(1) == labels).all()


@pytest.mark.slow
def test_the_resnet_is_that_of_torchvision_with_another_stem():
    reference = torchvision.models.resnet18(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    network = ResNet18(3, 10)
    ours, theirs = network.state_dict(), reference.state_dict()
    assert [each.shape for each in ours.values()] == [each.shape for each in theirs.values()]
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(network.eval()(images), reference.eval()(images))


def test_patches_are_averaged_whatever_their_order():
    network = CLASSIFIERS["MLP of patches"](in_channels=1, num_classes=3).eval()
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(network(images.roll((4, 8), (2, 3))), network(images))


# series


@pytest.mark.parametrize("name", FORECASTERS)
@pytest.mark.parametrize("length", [36, 48])
def test_forecasters_give_the_horizon_for_every_channel(name, length):
    network = FORECASTERS[name](length, 24).eval()
    forecast = network(torch.randn(3, length, 5))
    assert forecast.shape == (3, 24, 5)
    require_gradients_everywhere(network, forecast)


@pytest.mark.parametrize("name", ["DLinear", "PatchTST"])
def test_channels_are_forecast_apart(name):
    network = FORECASTERS[name](48, 24).eval()
    series = torch.randn(2, 48, 5)
    torch.testing.assert_close(network(series)[..., 3:4], network(series[..., 3:4]))


@pytest.mark.parametrize("name", ["PatchTST", "TCN"])
def test_normalised_windows_carry_their_level_and_scale_over(name):
    network = FORECASTERS[name](48, 24).eval()
    series = torch.randn(2, 48, 5)
    torch.testing.assert_close(network(7 + 3 * series), 7 + 3 * network(series), rtol=1e-3, atol=1e-3)


def test_dlinear_splits_into_moving_average_and_remainder():
    network = DLinear(4, 2, kernel_size=3)
    with torch.no_grad():
        for linear, row in ((network.trend, [1.0, 0, 0, 1]), (network.remainder, [0.0, 1, 0, 0])):
            linear.weight.copy_(torch.tensor([row, [0.0] * 4]))
            linear.bias.copy_(torch.tensor([0.0, 5.0]))
    # ends repeated: averages (1+1+4)/3 = 2, (1+4+7)/3 = 4, 5, (7+4+4)/3 = 5
    forecast = network(torch.tensor([1.0, 4, 7, 4])[None, :, None])
    torch.testing.assert_close(forecast[0, :, 0], torch.tensor([2.0 + 5 + (4 - 4), 10]))


def test_convolutions_of_the_tcn_see_nothing_later():
    blocks = TCN(1, 1).eval().blocks
    hidden = torch.randn(1, 32, 20)
    changed = hidden.clone()
    changed[..., 12:] += 1
    torch.testing.assert_close(blocks(changed)[..., :12], blocks(hidden)[..., :12])


# segmentation


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(64, 64), (45, 60)])
def test_segmenters_give_logits_per_pixel_even_of_a_single_image(name, size):
    network = SEGMENTERS[name](in_channels=3, num_classes=5)
    logits = network(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5, *size)
    require_gradients_everywhere(network, logits)


@pytest.mark.slow
def test_a_segmenter_learns_a_batch_by_heart():
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[0, 8:24, 4:20], labels[1, 16:, :] = 1, 2
    images = F.one_hot(labels, 3).movedim(-1, 1).float() + 0.3 * torch.randn(2, 3, 32, 32)
    for name, share in (("UNet", 0.98), ("DeepLabV3Plus", 0.9)):
        network = SEGMENTERS[name](in_channels=3, num_classes=3)
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(20):
            optimiser.zero_grad()
            logits = network(images)
            F.cross_entropy(logits, labels).backward()
            optimiser.step()
        assert (logits.argmax(1) == labels).float().mean() > share


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UNO(1, 1, 1, channels=(8, 8)), "scalings: 5 for 2 layers"),
        (lambda: UNO(1, 1, 1, channels=(8, 8), scalings=(1, 2)), "product is 2; it must be 1"),
        (lambda: LatentAttention(1, 1, 1, hidden_dim=30), "hidden_dim: 30 is no multiple of num_heads=4"),
        (lambda: CNN(1, 10, 8, channels=(4, 4, 4, 4)), "4 stages halve 8 pixels to nothing"),
        (lambda: MLP(1, 10, 28, patch_size=5), "patch_size: 5 does not divide the image of 28 pixels"),
        (lambda: ViTTiny(1, 10, 28, patch_size=5), "patch_size: 5 does not divide"),
        (lambda: ViTTiny(1, 10, 28, hidden_dim=100), "hidden_dim: 100 is no multiple of num_heads=3"),
        (lambda: DLinear(96, 96, kernel_size=24), "kernel_size: 24 is even"),
        (lambda: PatchTST(8, 8), "patch_length: 16 is more than input_length=8"),
        (lambda: PatchTST(96, 8, hidden_dim=6), "hidden_dim: 6 is no multiple of num_heads=4"),
    ],
)
def test_settings_that_do_not_fit_are_named(build, message):
    with pytest.raises(UserError, match=message):
        build()

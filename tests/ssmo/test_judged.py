"""Further metrics against values worked out by hand."""

import math

import pytest
import torch

from ssmo.judged import Classes, Fields, Forecasts, Pixels, band_energy, boundary, filled, further, widened
from ssmo.tasks import Classification, Operator, Segmentation, Series

POINTS = 64
X = torch.arange(POINTS).double() / POINTS


def wave(number, amplitude=1.0):
    return amplitude * torch.sin(2 * math.pi * number * X)[None, None]


def test_calibration_error_is_the_gap_between_confidence_and_frequency():
    probability = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    rows = Classes().rows(probability.log(), torch.tensor([0, 1, 0, 0]))
    # two at 0.9, half of them right; one at 0.6, wrong; one at 0.5, right
    assert Classes().figures(rows)["ece"] == pytest.approx(0.5 * 0.4 + 0.25 * 0.6 + 0.25 * 0.5)


def map_of(text):
    """Labels (1, H, W) as they are drawn; `-` is ignored."""
    return torch.tensor([[255 if each == "-" else int(each) for each in line] for line in text.split()])[None]


def logits_of(labels, num_classes=3):
    return torch.nn.functional.one_hot(labels, num_classes).movedim(-1, 1).float()


def figures_of(answer, truth, names=("a", "b", "c")):
    pixels = Pixels(Segmentation(len(names)), list(names))
    return pixels.figures(pixels.rows(logits_of(answer), truth))


def test_iou_of_every_class_leaves_out_what_is_ignored():
    found = figures_of(map_of("0011 0011"), map_of("0001 001-"))
    assert found["iou a"] == pytest.approx(4 / 5)
    assert found["iou b"] == pytest.approx(2 / 3)
    assert math.isnan(found["iou c"])  # in neither


@pytest.mark.parametrize(("shift", "f1"), [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_a_boundary_counts_as_found_up_to_two_pixels_off(shift, f1):
    truth = torch.zeros(1, 12, 12, dtype=torch.long)
    truth[..., 6:] = 1
    answer = torch.zeros_like(truth)
    answer[..., 6 + shift :] = 1
    assert figures_of(answer, truth)["boundary_f1"] == f1


def test_boundary_f1_joins_precision_and_recall():
    truth, answer = torch.zeros(2, 1, 20, 20, dtype=torch.long)
    truth[..., 4:], answer[..., 4:] = 1, 1
    answer[..., 14:] = 0  # a second boundary that is none: half of what is drawn is right, all of the truth is found
    assert figures_of(answer, truth)["boundary_f1"] == pytest.approx(2 / 3)
    assert figures_of(torch.zeros_like(truth), truth)["boundary_f1"] == 0


def test_boundaries_lie_left_of_and_above_another_class():
    assert boundary(map_of("001 001 111"))[0].int().tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_a_mask_grows_by_two_pixels_to_all_sides():
    mask = torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, 3, 3] = True
    grown = widened(mask)[0]
    assert grown[1:6, 1:6].all()
    assert grown.sum() == 25


def test_what_is_ignored_is_filled_with_the_nearest_class():
    labels = map_of("0---2 -----")
    found = filled(labels, labels != 255)[0]
    assert found[:, [0, 1, 3, 4]].tolist() == [[0, 0, 2, 2]] * 2  # the middle one is as near to either
    nothing = map_of("--")
    assert filled(nothing, nothing != 255).tolist() == nothing.tolist()


def test_energy_falls_into_the_band_of_its_wave_number():
    fields = wave(4, 3.0) + wave(5, 2.0) + wave(12) + wave(13, 4.0)
    found = {name: value.item() for name, value in band_energy(fields).items()}
    assert found == {"low": pytest.approx(9 / 2), "mid": pytest.approx((4 + 1) / 2), "high": pytest.approx(16 / 2)}
    assert sum(found.values()) == pytest.approx(fields.square().mean().item())
    diagonal = torch.sin(2 * math.pi * 4 * (X[:, None] + X))[None, None]  # length 4 √2 = 5.7
    assert band_energy(diagonal)["mid"].item() == pytest.approx(0.5)


def test_errors_of_fields_are_in_their_own_units_and_relative_to_the_truth():
    fields = Fields(Operator([5.0], [2.0]), periodic=True)
    truth, error = wave(1), wave(8, 0.25)  # standardised; the constant 5 is part of the truth in its own units
    found = fields.figures(fields.rows(truth + error, truth))
    assert found["max_error"] == pytest.approx(0.5)
    assert found["relative_l2 mid"] == pytest.approx(math.sqrt(0.5**2 / 2 / (25 + 2)))
    assert found["relative_l2 low"] == pytest.approx(0, abs=1e-9)
    step = 2 * math.pi / POINTS  # central differences of sin kx are k cos kx · sin(k h) / (k h)
    slope_error, slope = (0.5 * POINTS * math.sin(8 * step)), (2 * POINTS * math.sin(step))
    expected = math.sqrt((0.5**2 / 2 + slope_error**2 / 2) / (25 + 2 + slope**2 / 2))
    assert found["relative_h1"] == pytest.approx(expected)


def test_derivatives_between_nodes_know_the_boundary():
    node = torch.linspace(0, 1, 33).double()[None, None]
    fields = Fields(Operator([0.0], [1.0]), periodic=False)
    truth = torch.ones_like(node)
    found = fields.figures(fields.rows(truth + node, truth))  # error x: mean of x² and slope 1 everywhere
    assert found["relative_h1"] == pytest.approx(math.sqrt(node.square().mean().item() + 1))
    assert fields.figures(fields.rows(truth, truth))["relative_h1"] == 0


def test_errors_of_forecasts_by_quarter_and_channel_leave_out_what_is_missing():
    target = torch.zeros(2, 8, 2)
    output = target.clone()
    output[:, :2, 0], output[:, 6:, 1] = 2.0, 4.0
    target[0, 0, 0] = torch.nan
    found = Forecasts().figures(Forecasts().rows(output, target))
    assert found["mse quarter 1"] == pytest.approx(3 * 4 / 7)
    assert found["mse quarter 2"] == found["mse quarter 3"] == 0
    assert found["mse quarter 4"] == pytest.approx(16 / 2)
    assert found["mse channel 0"] == pytest.approx(3 * 4 / 15)
    assert found["mse channel 1"] == pytest.approx(4 * 16 / 16)


def test_every_task_has_its_further_metrics():
    assert isinstance(further(Classification(3), {}), Classes)
    assert isinstance(further(Series(), {}), Forecasts)
    assert further(Operator([0.0], [1.0]), {"periodic": True}).periodic
    assert further(Segmentation(2), {}).class_names == ["0", "1"]
    assert further(Segmentation(2), {"class_names": ["sky", "road"]}).class_names == ["sky", "road"]

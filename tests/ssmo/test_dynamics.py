"""Measuring the gradients of supervision and imitation, by hand."""

import math

import pytest
import torch
from torch import nn

from ssmo.dynamics import gradients, probe, summarise


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def probed(supervised, imitation, parameters):
    total = gradients(supervised + imitation, parameters)
    (found,) = probe(*([each[None] for each in part] for part in (total, gradients(imitation, parameters))))
    return found


def test_gradients_by_hand():
    weights, bias = parameter(1.0, 2.0), parameter(5.0)
    supervised = 3 * weights[0] + 4 * weights[1]
    imitation = -weights[0] + 2 * bias[0]
    assert probed(supervised, imitation, [weights, bias]) == pytest.approx((-3, 5, math.sqrt(5)))


def test_complex_parameters_are_pairs_of_real_ones():
    weight = nn.Parameter(torch.tensor([1.0 + 2.0j]))
    supervised = 3 * weight.real.sum() + 4 * weight.imag.sum()
    imitation = 2 * weight.imag.sum()
    assert probed(supervised, imitation, [weight]) == pytest.approx((8, 5, 2))


def test_a_loss_without_gradient_gives_zero():
    weight = parameter(1.0)
    assert probed(weight.sum() * 2, torch.zeros(()), [weight]) == (0, 2, 0)


def test_what_is_only_the_rounding_of_a_sum_is_no_gradient():
    imitation = [torch.tensor([[3.0, 4.0]])]
    for rounding, expected in ((1.0, (0, 0, 5)), (1.0 + 1e-6, (0, 0, 5)), (2.0, (25, 5, 5))):
        assert probe([rounding * imitation[0]], imitation) == [pytest.approx(expected)]


def test_models_in_a_stack_are_probed_one_by_one():
    total, imitation = [torch.tensor([[3.0], [1.0]])], [torch.tensor([[1.0], [4.0]])]
    assert probe(total, imitation) == [(2, 2, 1), (-12, 3, 4)]


def test_gradients_leave_graph_parameters_and_random_numbers_as_they_were():
    weight, state = parameter(1.0, 2.0), torch.get_rng_state()
    loss = (weight**2).sum()
    assert gradients(loss, [weight])[0].tolist() == [2, 4]
    assert weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    loss.backward()
    assert weight.grad.tolist() == [2, 4]


def test_the_figures_of_an_epoch_by_hand():
    probes = [(3.0, 5.0, 1.0), (-4.0, 2.0, 4.0), (0.0, 1.0, 0.0), (8.0, 4.0, 2.0), (0.0, 0.0, 0.0)]
    cosines = [0.6, -0.5, 1.0]  # of the first, second and fourth; ratios 0.2, 2, 0.5
    mean = sum(cosines) / 3
    assert summarise(probes) == pytest.approx(
        {
            "probes_empty": 2,
            "conflict_rate": 1 / 3,
            "cos_mean": mean,
            "cos_std": math.sqrt(sum((each - mean) ** 2 for each in cosines) / 3),
            "gnorm_ratio": 0.9,
            "gnorm_ratio_median": 0.5,
        }
    )


@pytest.mark.parametrize("probes", [[], [(0.0, 1.0, 0.0)] * 3])
def test_without_a_valid_probe_there_is_no_figure(probes):
    figures = summarise(probes)
    assert figures.pop("probes_empty") == len(probes)
    assert all(math.isnan(value) for value in figures.values())
    assert len(figures) == 5

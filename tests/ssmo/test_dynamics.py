"""Measuring the gradients of supervision and imitation, by hand."""

import math

import pytest
import torch
from torch import nn

from ssmo.dynamics import probe, summarise


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def test_gradients_by_hand():
    weights, bias = parameter(1.0, 2.0), parameter(5.0)
    supervised = 3 * weights[0] + 4 * weights[1]
    imitation = -weights[0] + 2 * bias[0]
    product, ours, theirs = probe(supervised, imitation, [weights, bias])
    assert (product, ours, theirs) == pytest.approx((-3, 5, math.sqrt(5)))


def test_complex_parameters_are_pairs_of_real_ones():
    weight = nn.Parameter(torch.tensor([1.0 + 2.0j]))
    supervised = 3 * weight.real.sum() + 4 * weight.imag.sum()
    imitation = 2 * weight.imag.sum()
    assert probe(supervised, imitation, [weight]) == pytest.approx((8, 5, 2))


def test_a_loss_without_gradient_gives_zero():
    weight = parameter(1.0)
    assert probe(weight.sum() * 2, torch.zeros(()), [weight]) == (0, 2, 0)


def test_frozen_parameters_do_not_count():
    weight, frozen = parameter(1.0), parameter(1.0).requires_grad_(False)
    assert probe((weight * frozen).sum(), (2 * weight).sum(), [weight, frozen]) == (2, 1, 2)


def test_probing_leaves_graph_gradients_and_random_numbers_as_they_were():
    weight, state = parameter(1.0, 2.0), torch.get_rng_state()
    loss = (weight**2).sum()
    probe(loss, weight.sum(), [weight])
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

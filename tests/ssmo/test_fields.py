import math

import pytest
import torch
from torch import Tensor

from ssmo.fields import (
    binary_coefficient,
    burgers_initial,
    cosine_field,
    diagonal_forcing,
    lognormal_coefficient,
    vorticity_initial,
)

SAMPLERS = [burgers_initial, vorticity_initial, cosine_field]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance_at_origin(fields: Tensor) -> Tensor:
    """Mean of g(0) g(x) over the samples, for every grid point x."""
    flat = fields.flatten(1)
    return (flat[:, :1] * flat).mean(0).reshape(fields.shape[1:])


def test_burgers_covariance_is_that_of_the_series_written_out():
    length = 2.0
    fields = burgers_initial(20_000, 16, seeded(), length=length, modes=6)
    x = torch.arange(16).double() * length / 16
    k = 2 * math.pi * torch.arange(1, 7).double() / length
    exact = (2 / length * (25 / (k**2 + 25)) ** 2 * torch.cos(k * x[:, None])).sum(1)
    torch.testing.assert_close(covariance_at_origin(fields), exact, rtol=0, atol=0.03 * exact[0].item())


def test_vorticity_covariance_is_that_of_the_operator():
    fields = vorticity_initial(20_000, 8, seeded(), modes=2)
    x = torch.arange(8).double() / 8
    k = 2 * math.pi * torch.arange(-2, 3).double()
    eigenvalue = 7**1.5 * (k[:, None] ** 2 + k**2 + 49) ** -2.5
    eigenvalue[2, 2] = 0
    wave = torch.cos(k * x[:, None])
    exact = wave @ eigenvalue @ wave.T  # the sines cancel between k and -k
    torch.testing.assert_close(covariance_at_origin(fields), exact, rtol=0, atol=0.03 * exact[0, 0].item())


def test_cosine_covariance_is_that_of_the_operator():
    fields = cosine_field(20_000, 5, seeded(), tau=6.0, exponent=1.5, modes=4)
    x = torch.arange(5).double() / 4
    exact = torch.zeros(5, 5, dtype=torch.float64)
    for k in range(4):
        for m in range(4):
            if k + m:
                weight = (1 if k == 0 else 2) * (1 if m == 0 else 2)
                eigenvalue = (math.pi**2 * (k**2 + m**2) + 36) ** -1.5
                exact += weight * eigenvalue * torch.outer(torch.cos(math.pi * k * x), torch.cos(math.pi * m * x))
    torch.testing.assert_close(covariance_at_origin(fields), exact, rtol=0, atol=0.03 * exact[0, 0].item())


def test_the_burgers_fields_have_the_published_spread():
    fields = burgers_initial(2000, 128, seeded())
    assert fields.std(1).mean().item() == pytest.approx(0.55, abs=0.02)


@pytest.mark.parametrize("sample", [burgers_initial, vorticity_initial])
def test_periodic_fields_have_mean_zero(sample):
    fields = sample(3, 32, seeded())
    assert fields.flatten(1).mean(1).abs().max() < 1e-14


def test_cosine_fields_have_mean_zero_and_no_flux_through_the_boundary():
    fields = cosine_field(3, 401, seeded(), modes=8)
    weight = torch.ones(401, dtype=torch.float64)
    weight[[0, -1]] = 0.5
    assert (torch.einsum("bij,i,j->b", fields, weight, weight) / 400**2).abs().max() < 1e-14
    slope = (-3 * fields[:, 0] + 4 * fields[:, 1] - fields[:, 2]) * 200  # one-sided, of order 2
    inside = (fields[:, 2:] - fields[:, :-2]).abs().max() * 200
    assert slope.abs().max() < 1e-2 * inside


@pytest.mark.parametrize("sample", SAMPLERS)
def test_the_first_samples_do_not_depend_on_how_many_are_drawn(sample):
    torch.testing.assert_close(sample(2, 16, seeded()), sample(5, 16, seeded())[:2], rtol=0, atol=1e-15)
    assert not torch.equal(sample(2, 16, seeded()), sample(2, 16, seeded(1)))


@pytest.mark.parametrize("sample", [burgers_initial, vorticity_initial])
def test_a_finer_periodic_grid_shows_the_same_function(sample):
    coarse, fine = sample(2, 16, seeded(), modes=7), sample(2, 48, seeded(), modes=7)
    for _ in range(fine.ndim - 1):
        fine = fine.movedim(-1, 1)[:, ::3]
    torch.testing.assert_close(coarse, fine, rtol=0, atol=1e-14)


def test_a_finer_grid_of_nodes_shows_the_same_function():
    coarse, fine = cosine_field(2, 9, seeded()), cosine_field(2, 33, seeded())
    torch.testing.assert_close(coarse, fine[:, ::4, ::4], rtol=0, atol=1e-14)


@pytest.mark.parametrize("sample", SAMPLERS)
def test_a_larger_exponent_is_smoother(sample):
    def roughness(exponent: float) -> Tensor:
        fields = sample(50, 32, seeded(), exponent=exponent)
        return fields.diff(dim=-1).square().mean() / fields.square().mean()

    assert roughness(3.0) < roughness(2.0) < roughness(1.5)


def test_modes_that_the_grid_cannot_hold_are_left_out():
    spectrum = torch.fft.rfft(burgers_initial(1, 8, seeded(), modes=64))[0].abs()
    assert spectrum[1:4].min() > 1e-3
    assert spectrum[4] < 1e-14


def test_coefficients_by_hand():
    field = torch.tensor([[-0.5, 0.0], [2.0, -1e-9]], dtype=torch.float64)
    assert binary_coefficient(field).tolist() == [[3, 12], [12, 3]]
    assert binary_coefficient(field, low=0.1, high=0.7).tolist() == [[0.1, 0.7], [0.7, 0.1]]
    assert lognormal_coefficient(field, 2.0)[1, 0].item() == pytest.approx(math.exp(4))


def test_forcing_by_hand():
    forcing = diagonal_forcing(8, amplitude=2.0)
    assert forcing[0, 0].item() == pytest.approx(2)
    assert forcing[1, 1].item() == pytest.approx(2)  # a quarter of the period: sin is 1, cos is 0
    assert forcing[2, 0].item() == pytest.approx(2)
    assert forcing[1, 0].item() == pytest.approx(2 * math.sqrt(2))
    assert forcing.mean().abs() < 1e-15

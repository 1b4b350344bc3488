import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from common.errors import UserError
from ssmo.fields import (
    binary_coefficient,
    burgers_initial,
    cosine_field,
    diagonal_forcing,
    lognormal_coefficient,
    vorticity_initial,
)
from ssmo.solvers import solve_burgers, solve_darcy, solve_navier_stokes
from ssmo.solvers.checks import time_steps

PI = math.pi


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(found: Tensor, exact: Tensor) -> float:
    """The largest relative L2 error of the samples."""
    return ((found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max().item()


def orders(errors: list[float]) -> list[float]:
    """Convergence orders between errors whose step halves each time."""
    return [math.log2(left / right) for left, right in pairwise(errors)]


# Burgers


def decaying_sine(points: int, time: float, viscosity: float = 0.02) -> Tensor:
    """(1, points) exact solution from φ = 1 + 0.9 e^(−4π²νt) cos 2πx by the Cole-Hopf transform."""
    phase = 2 * PI * torch.arange(points).double()[None] / points
    weight = 0.9 * math.exp(-4 * PI**2 * viscosity * time)
    return 4 * PI * viscosity * weight * phase.sin() / (1 + weight * phase.cos())


def cole_hopf(u0: np.ndarray, viscosity: float, time: float) -> np.ndarray:
    """Solution from values `u0` of mean 0 on [0, 1): φ0 = exp(−∫u0 / 2ν) under the heat kernel, u = −2νφ_x / φ."""
    wave = 2j * PI * np.fft.rfftfreq(len(u0), 1 / len(u0))
    primitive = np.fft.irfft(np.divide(np.fft.rfft(u0), wave, out=np.zeros_like(wave), where=wave != 0))
    phi = np.fft.rfft(np.exp(-primitive / (2 * viscosity))) * np.exp(viscosity * time * wave**2)
    return -2 * viscosity * np.fft.irfft(wave * phi) / np.fft.irfft(phi)


@pytest.mark.slow
def test_burgers_converges_spectrally_to_the_closed_form():
    errors = [relative(solve_burgers(decaying_sine(n, 0), 0.02, 1.0), decaying_sine(n, 1.0)) for n in (16, 32, 64)]
    assert errors == pytest.approx([5.8e-4, 1.3e-6, 2.4e-11], rel=0.05)  # ssmo specification, section 5.2


@pytest.mark.slow
def test_burgers_is_of_order_four_in_time():
    exact = decaying_sine(96, 1.0)
    errors = [relative(solve_burgers(decaying_sine(96, 0), 0.02, 1.0, dt=0.1 / 2**k), exact) for k in range(7)]
    assert orders(errors)[:3] == pytest.approx([3.3, 3.5, 3.7], abs=0.06)  # the specification's figures
    assert orders(errors)[-1] == pytest.approx(4, abs=0.1)


@pytest.mark.slow
def test_burgers_agrees_with_cole_hopf_on_random_fields_and_viscosities():
    viscosity = torch.tensor([0.01, 0.02, 0.04])
    found = solve_burgers(burgers_initial(3, 1024, seeded()), viscosity, 1.0)
    fine = burgers_initial(3, 4096, seeded()).numpy()
    exact = np.stack([cole_hopf(u0, float(nu), 1.0)[::4] for u0, nu in zip(fine, viscosity)])
    assert relative(found, torch.from_numpy(exact)) < 1e-9


def test_burgers_keeps_the_mean_and_loses_energy():
    u0 = 0.3 + burgers_initial(4, 128, seeded())
    states = [u0] + [solve_burgers(u0, 0.01, time, dt=0.005) for time in (0.1, 0.5, 1.0)]
    for state in states[1:]:
        torch.testing.assert_close(state.mean(1), u0.mean(1), rtol=0, atol=1e-13)
    energy = torch.stack([state.square().mean(1) for state in states])
    assert (energy.diff(dim=0) < 0).all()


def test_burgers_in_a_moving_frame_is_the_same_solution():
    u0 = burgers_initial(2, 128, seeded())
    moving = solve_burgers(u0 + 2.0, 0.02, 0.5)  # the frame goes round once in t = 1 / 2
    assert relative(moving - 2.0, solve_burgers(u0, 0.02, 0.5)) < 1e-7


def test_burgers_mirrored_changes_sign():
    u0 = burgers_initial(2, 128, seeded())
    mirrored = solve_burgers(-u0.flip(1), 0.02, 0.5, dt=0.01)
    assert relative(-mirrored.flip(1), solve_burgers(u0, 0.02, 0.5, dt=0.01)) < 1e-12


def test_burgers_on_a_longer_interval_is_the_scaled_solution():
    u0 = burgers_initial(2, 128, seeded())
    scaled = solve_burgers(3 * u0, 9 * 0.02, 0.5, length=3.0, dt=0.01)
    assert relative(scaled / 3, solve_burgers(u0, 0.02, 0.5, dt=0.01)) < 1e-12


def test_burgers_refuses_steps_that_blow_up():
    u0 = torch.stack([torch.zeros(64), 50 * torch.sin(2 * PI * torch.arange(64) / 64)])
    with pytest.raises(UserError, match=r"dt: steps of 0\.05 are unstable for sample 1"):
        solve_burgers(u0, 1e-4, 1.0, dt=0.05)


# Darcy


def manufactured(nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """u = sin πx sin 2πy and a = 1 + sin πx cos πy / 2, each (1, N, N), and the f (N, N) that belongs to them."""
    x = PI * torch.linspace(0, 1, nodes, dtype=torch.float64)[:, None]
    y = x.T
    u = x.sin() * (2 * y).sin()
    a = 1 + 0.5 * x.sin() * y.cos()
    slopes = 0.5 * x.cos() * y.cos() * x.cos() * (2 * y).sin() - x.sin() * y.sin() * x.sin() * (2 * y).cos()
    return u[None], a[None], PI**2 * (5 * a * u - slopes)


def direct_solution(a: np.ndarray, f: np.ndarray) -> np.ndarray:
    """(N, N) the five-point system assembled node by node and solved by a sparse factorisation."""
    nodes = len(a)
    number = np.full((nodes, nodes), -1)
    number[1:-1, 1:-1] = np.arange((nodes - 2) ** 2).reshape(nodes - 2, nodes - 2)
    matrix = scipy.sparse.lil_matrix(((nodes - 2) ** 2,) * 2)
    for i in range(1, nodes - 1):
        for j in range(1, nodes - 1):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                face = (nodes - 1) ** 2 * 2 / (1 / a[i, j] + 1 / a[k, m])
                matrix[number[i, j], number[i, j]] += face
                if number[k, m] >= 0:
                    matrix[number[i, j], number[k, m]] -= face
    solution = scipy.sparse.linalg.spsolve(matrix.tocsc(), f[1:-1, 1:-1].ravel())
    return np.pad(solution.reshape(nodes - 2, nodes - 2), 1)


def coefficients(num: int, nodes: int) -> Tensor:
    """Binary, mildly and strongly varying log-normal coefficients in turn."""
    field = cosine_field(num, nodes, seeded())
    kinds = [binary_coefficient(field), lognormal_coefficient(field, 5.0), lognormal_coefficient(field, 20.0)]
    return torch.stack([kinds[index % 3][index] for index in range(num)])


def test_darcy_converges_with_order_two_to_the_manufactured_solution():
    errors = []
    for nodes in (17, 33, 65, 129):
        u, a, f = manufactured(nodes)
        errors.append(relative(solve_darcy(a, f), u))
    assert errors == pytest.approx([1.15e-2, 2.87e-3, 7.15e-4, 1.79e-4], rel=5e-3)  # the specification's figures
    assert orders(errors) == pytest.approx([2, 2, 2], abs=0.01)


def test_darcy_with_a_constant_coefficient_is_the_known_series():
    odd = torch.arange(1, 200, 2).double()
    sign = torch.sin(PI * odd / 2)
    modes = 16 / PI**4 * (sign[:, None] * sign) / (odd[:, None] * odd * (odd[:, None] ** 2 + odd**2))
    middle = solve_darcy(torch.ones(1, 65, 65))[0, 32, 32].item()
    assert middle == pytest.approx(0.073657, abs=5e-7)
    assert middle == pytest.approx(modes.sum().item(), rel=3e-4)


def test_darcy_agrees_with_a_sparse_direct_solve():
    a = coefficients(3, 21)
    f = 1 + torch.sin(PI * torch.linspace(0, 1, 21))[:, None].expand(21, 21).double()
    exact = np.stack([direct_solution(each, f.numpy()) for each in a.numpy()])
    assert relative(solve_darcy(a, f), torch.from_numpy(exact)) < 1e-11


def test_darcy_solutions_are_positive_inside_and_zero_on_the_boundary():
    u = solve_darcy(coefficients(3, 33))
    assert (u[:, 1:-1, 1:-1] > 0).all()
    for edge in (u[:, 0], u[:, -1], u[:, :, 0], u[:, :, -1]):
        assert (edge == 0).all()


def test_darcy_maxima_of_binary_fields_are_the_published_ones():
    u = solve_darcy(binary_coefficient(cosine_field(8, 61, seeded())))
    assert u.amax((1, 2)).mean().item() == pytest.approx(0.0145, abs=0.0025)


def test_darcy_scales_with_coefficient_and_source():
    a = coefficients(3, 33)
    factor = torch.tensor([2.0, 5.0, 0.1])[:, None, None]
    source = factor.double().expand_as(a)
    assert relative(solve_darcy(factor * a, source), solve_darcy(a)) < 1e-11


def test_a_sample_without_source_stays_zero_beside_others():
    a = coefficients(2, 17)
    u = solve_darcy(a, torch.tensor([0.0, 1.0])[:, None, None].expand_as(a))
    assert (u[0] == 0).all()
    assert relative(u[1:], solve_darcy(a[1:])) < 1e-14  # the size of a batch can change the last bits


def test_darcy_transposed_and_mirrored_is_the_same_flow():
    a = coefficients(3, 33)
    turned = solve_darcy(a.transpose(1, 2).flip(1))
    assert relative(turned.flip(1).transpose(1, 2), solve_darcy(a)) < 1e-11


def test_darcy_takes_few_iterations_on_the_coefficients_of_the_specification(monkeypatch):
    monkeypatch.setattr("ssmo.solvers.darcy.MAX_ITERATIONS", 45)
    solve_darcy(coefficients(3, 65))


def test_darcy_says_when_the_contrast_is_beyond_it():
    rough = torch.exp(12 * torch.randn(2, 33, 33, generator=seeded(), dtype=torch.float64))
    rough[0] = 1
    with pytest.raises(UserError, match="did not converge in 1000 iterations for sample 1"):
        solve_darcy(rough)


# Navier-Stokes


def energy(w: Tensor) -> Tensor:
    """(B,) half the integral of |u|², from the Fourier coefficients of the vorticity."""
    wave = 2 * PI * torch.fft.fftfreq(w.shape[-1], 1 / w.shape[-1]).double()
    square = wave[:, None] ** 2 + wave**2
    square[0, 0] = 1
    return 0.5 * (torch.fft.fft2(w, norm="forward").abs().square() / square).sum((1, 2))


def enstrophy(w: Tensor) -> Tensor:
    return 0.5 * w.square().mean((1, 2))


def turbulent(num: int, points: int) -> Tensor:
    """Initial vorticity with standard deviation near 1: advection matters within one unit of time."""
    return 20 * vorticity_initial(num, points, seeded())


def test_taylor_green_decays_as_it_must_with_order_two():
    phase = 2 * PI * torch.arange(32).double() / 32
    vortices = 3 * (phase.sin()[:, None] * phase.sin())[None]
    exact = vortices * math.exp(-8 * PI**2 * 0.01)
    errors = [relative(solve_navier_stokes(vortices, 0.01, 1.0, dt=dt), exact) for dt in (0.04, 0.02, 0.01)]
    assert errors == pytest.approx([6.6e-5, 1.6e-5, 4.1e-6], rel=0.03)  # the specification's figures


def test_a_flow_of_two_scales_stands_still_under_the_force_that_balances_it():
    x = 2 * PI * torch.arange(24).double()[:, None] / 24
    y = x.T
    a, b, viscosity = 0.01, 0.004, 0.02  # stream function a cos 2πx + b cos 4πy
    vorticity = 4 * PI**2 * (a * x.cos() + 4 * b * (2 * y).cos())
    advection = -96 * PI**4 * a * b * x.sin() * (2 * y).sin()
    diffusion = 16 * PI**4 * viscosity * (a * x.cos() + 16 * b * (2 * y).cos())
    found = solve_navier_stokes(vorticity[None], viscosity, 1.0, advection + diffusion)
    assert relative(found, vorticity[None]) < 1e-12


@pytest.mark.slow
def test_navier_stokes_is_of_order_two_in_time():
    w0, forcing = turbulent(2, 32), diagonal_forcing(32)
    solve = partial(solve_navier_stokes, w0, 1e-3, 1.0, forcing)
    exact = solve(dt=1 / 2048)
    errors = [relative(solve(dt=1 / n), exact) for n in (32, 64, 128)]
    assert orders(errors) == pytest.approx([2, 2], abs=0.1)
    assert errors[-1] < 1e-4


def test_navier_stokes_does_not_depend_on_a_grid_that_resolves_it():
    w0 = 20 * vorticity_initial(2, 96, seeded(), modes=6)
    coarse = solve_navier_stokes(w0[:, ::2, ::2], 0.01, 0.5, dt=1 / 64)
    assert relative(coarse, solve_navier_stokes(w0, 0.01, 0.5, dt=1 / 64)[:, ::2, ::2]) < 1e-6


def test_an_unforced_flow_loses_energy_by_the_energy_law():
    w0, viscosity, gap = turbulent(2, 32), torch.tensor([1e-3, 5e-3]), 1 / 64
    before, now, after = (solve_navier_stokes(w0, viscosity, 0.25 + n * gap) for n in (-1, 0, 1))
    rate = (energy(after) - energy(before)) / (2 * gap)
    torch.testing.assert_close(rate, -2 * viscosity * enstrophy(now), rtol=1e-3, atol=0)
    states = [w0, before, now, after]
    for measure in (energy, enstrophy):
        assert (torch.stack([measure(state) for state in states]).diff(dim=0) < 0).all()
    assert after.mean((1, 2)).abs().max() < 1e-15


def test_a_mirrored_flow_turns_the_other_way():
    w0 = turbulent(2, 32)
    mirrored = solve_navier_stokes(-w0.transpose(1, 2), 1e-3, 0.5, dt=1 / 64)
    assert relative(-mirrored.transpose(1, 2), solve_navier_stokes(w0, 1e-3, 0.5, dt=1 / 64)) < 1e-12


def test_each_sample_may_have_its_own_force():
    w0, force = turbulent(2, 16), torch.stack([diagonal_forcing(16), diagonal_forcing(16, 0.15)])
    found = solve_navier_stokes(w0, 0.01, 0.25, force, dt=1 / 64)
    assert relative(found[1:], solve_navier_stokes(w0[1:], 0.01, 0.25, force[1], dt=1 / 64)) < 1e-12


@pytest.mark.parametrize("points", [16, 32])
def test_the_courant_limit_is_half_a_cell_per_step(points):
    shear = torch.cos(2 * PI * torch.arange(points).double() / points)[:, None].expand(1, points, points)
    limit = 0.5 / (0.1 * points)  # of the speed, which is amplitude / 2π
    solve_navier_stokes(0.99 * 2 * PI * limit * shear, 1e-3, 0.2, dt=0.1)
    with pytest.raises(UserError, match=r"dx reaches 0\.505 and must stay below 0\.5"):
        solve_navier_stokes(1.01 * 2 * PI * limit * shear, 1e-3, 0.2, dt=0.1)


@pytest.mark.parametrize("speed", [60, 1e6])
def test_navier_stokes_refuses_steps_that_are_too_long(speed):
    w0 = turbulent(2, 32)
    w0[1] *= speed
    with pytest.raises(UserError, match=r"dt: steps of 0\.0625 are too long for sample 1: .* below 0\.5"):
        solve_navier_stokes(w0, 1e-3, 0.5, dt=1 / 16)


def test_navier_stokes_refuses_steps_that_became_too_long():
    with pytest.raises(UserError, match="too long for sample 0"):
        solve_navier_stokes(torch.zeros(1, 32, 32), 1e-3, 1.0, diagonal_forcing(32, 100.0), dt=1 / 64)


# all three


def burgers_case(num: int) -> tuple[Tensor, ...]:
    return burgers_initial(num, 64, seeded()), torch.linspace(0.01, 0.04, num)


def navier_stokes_case(num: int) -> tuple[Tensor, ...]:
    return turbulent(num, 32), torch.linspace(5e-4, 1e-2, num)


CASES = [
    pytest.param(partial(solve_burgers, t_end=0.5, dt=0.01), burgers_case, id="burgers"),
    pytest.param(solve_darcy, lambda num: (coefficients(num, 33), torch.ones(num, 33, 33)), id="darcy"),
    pytest.param(partial(solve_navier_stokes, t_end=0.5, dt=1 / 64), navier_stokes_case, id="navier-stokes"),
]


@pytest.mark.parametrize(("times", "steps"), [((1.1, 0.1), 11), ((1.0, 0.3), 4), ((0.1, 1.0), 1), ((1.0, 1e-3), 1000)])
def test_equal_steps_end_at_the_time_asked_for(times, steps):
    count, dt = time_steps(*times)
    assert count == steps
    assert count * dt == pytest.approx(times[0], rel=1e-15)


@pytest.mark.parametrize(("solve", "case"), CASES)
def test_a_batch_is_solved_as_its_samples_are_alone(solve, case):
    inputs = case(6)
    together = solve(*inputs)
    alone = torch.cat([solve(*(each[index : index + 1] for each in inputs)) for index in range(6)])
    assert relative(together, alone) < 1e-10


@pytest.mark.parametrize(("solve", "case"), CASES)
def test_single_precision_goes_in_and_double_comes_out(solve, case):
    fields, setting = case(2)
    single = solve(fields.float(), setting)
    assert single.dtype == torch.float64
    assert relative(single, solve(fields.float().double(), setting)) == 0


def test_gradients_are_those_of_differences():
    check = partial(torch.autograd.gradcheck, fast_mode=True)
    double = partial(torch.rand, dtype=torch.float64, generator=seeded())
    u0, viscosity = double(2, 8).requires_grad_(), (0.01 + 0.01 * double(2)).requires_grad_()
    assert check(lambda *x: solve_burgers(*x, 0.03, dt=0.01), (u0, viscosity))
    a, f = (1 + double(2, 5, 5)).requires_grad_(), double(5, 5).requires_grad_()
    assert check(solve_darcy, (a, f))
    w0 = (vorticity_initial(2, 8, seeded()) * 20).requires_grad_()
    centred = lambda w, nu: solve_navier_stokes(w - w.mean((1, 2), keepdim=True), nu, 0.03, dt=0.01)  # noqa: E731
    assert check(centred, (w0, viscosity))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve_burgers(torch.zeros(64), 0.01, 1), r"u0: has shape \(64,\); give \(B, N\)"),
        (lambda: solve_burgers(torch.zeros(1, 3), 0.01, 1), "N >= 4"),
        (lambda: solve_burgers(torch.zeros(2, 8), torch.ones(3), 1), r"viscosity: has shape \(3,\); .* \(2,\)"),
        (lambda: solve_burgers(torch.tensor([[0.0] * 8, [math.nan] * 8]), 0.01, 1), "u0: is not finite in sample 1"),
        (lambda: solve_burgers(torch.zeros(2, 8), -0.01, 1), r"viscosity: -0\.01 is not positive"),
        (lambda: solve_burgers(torch.zeros(2, 8), torch.tensor([1, math.nan]), 1), "viscosity: nan"),
        (lambda: solve_burgers(torch.zeros(2, 8), 0.01, 0), "t_end: 0 is not positive"),
        (lambda: solve_burgers(torch.zeros(2, 8), 0.01, 1, dt=-1), "dt: -1 is not positive"),
        (lambda: solve_burgers(torch.zeros(2, 8), 0.01, 1, length=0), "length: 0 is not positive"),
        (lambda: solve_darcy(torch.ones(2, 8, 9)), r"a: has shape \(2, 8, 9\); give \(B, N, N\)"),
        (lambda: solve_darcy(torch.eye(8)[None]), "a: is not positive in sample 0"),
        (lambda: solve_darcy(torch.ones(1, 8, 8), torch.ones(8)), r"f: has shape \(8,\); .* \(8, 8\) or \(1, 8, 8\)"),
        (lambda: solve_darcy(torch.ones(1, 8, 8), math.inf), "f: is not finite in sample 0"),
        (lambda: solve_navier_stokes(torch.ones(1, 8, 8), 0.01, 1), "w0: has not mean 0 in sample 0"),
        (lambda: solve_navier_stokes(torch.zeros(1, 8, 8), 0.01, 1, torch.ones(8, 8)), "forcing: has not mean 0"),
        (lambda: solve_navier_stokes(torch.zeros(1, 8, 8), 0.01, 1, torch.ones(9, 9)), r"forcing: has shape \(9, 9\)"),
        (lambda: solve_navier_stokes(torch.zeros(1, 8, 8), 0.01, math.inf), "t_end: inf"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()

"""Random inputs of the operators: Gaussian random fields in a basis of modes, and what is made of them.

Every function draws its samples one after another from the generator, always the same count of normal numbers per
sample: the first samples do not depend on how many are drawn, and another grid shows the same functions (a periodic one
less the modes that it cannot hold). Fields are float64 on the generator's device.
Source: "ssmo specification, section 5.2".
"""

import math

import torch
from torch import Generator, Tensor


def burgers_initial(
    num: int,
    points: int,
    generator: Generator,
    tau: float = 5.0,
    exponent: float = 2.0,
    length: float = 1.0,
    modes: int = 64,
) -> Tensor:
    """(num, points) fields of mean 0 on [0, length), periodic, covariance τ^2α (−∂² + τ²)^−α.

    A larger exponent α is smoother.
    """
    basis, wavenumber = _fourier_basis(points, modes, length, generator.device)
    amplitude = (1 + (wavenumber / tau).square()) ** (-exponent / 2)
    amplitude[0] = 0
    noise = _noise(num, (2 * modes + 1,), generator)[:, : len(wavenumber)]
    return (amplitude * noise) @ basis.T


def vorticity_initial(
    num: int,
    points: int,
    generator: Generator,
    tau: float = 7.0,
    exponent: float = 2.5,
    variance: float = 7**1.5,
    modes: int = 64,
) -> Tensor:
    """(num, points, points) fields of mean 0 on the unit torus, covariance σ² (−Δ + τ²)^−α, σ² being `variance`.

    The default is the specification's, with standard deviation 0.04: within T = 1 such a flow is almost linear. The
    figures measured there agree rather with σ² = 7³ (standard deviation 0.18).
    """
    basis, wavenumber = _fourier_basis(points, modes, 1.0, generator.device)
    amplitude = math.sqrt(variance) * _power(wavenumber, tau, exponent)
    noise = _noise(num, (2 * modes + 1, 2 * modes + 1), generator)[:, : len(wavenumber), : len(wavenumber)]
    return basis @ (amplitude * noise) @ basis.T


def cosine_field(
    num: int, points: int, generator: Generator, tau: float = 3.0, exponent: float = 2.0, modes: int = 128
) -> Tensor:
    """(num, points, points) fields of mean 0 at the nodes (i, j) / (points − 1), covariance (−Δ + τ²)^−α, zero flux."""
    node = torch.linspace(0, 1, points, dtype=torch.float64, device=generator.device)
    wavenumber = math.pi * torch.arange(modes, dtype=torch.float64, device=generator.device)
    basis = math.sqrt(2) * torch.cos(node[:, None] * wavenumber)
    basis[:, 0] = 1
    return basis @ (_power(wavenumber, tau, exponent) * _noise(num, (modes, modes), generator)) @ basis.T


def binary_coefficient(field: Tensor, low: float = 3.0, high: float = 12.0) -> Tensor:
    """`high` where the field is not negative, else `low`."""
    return torch.where(field >= 0, field.new_tensor(high), field.new_tensor(low))


def lognormal_coefficient(field: Tensor, scale: float) -> Tensor:
    """exp(scale · field)."""
    return torch.exp(scale * field)


def diagonal_forcing(points: int, amplitude: float = 0.1) -> Tensor:
    """(points, points) float64 forcing A (sin 2π(x+y) + cos 2π(x+y)) on the unit torus."""
    x = torch.arange(points, dtype=torch.float64) / points
    phase = 2 * math.pi * (x[:, None] + x)
    return amplitude * (phase.sin() + phase.cos())


def wave_source(points: int, amplitude: float) -> Tensor:
    """(points, points) float64 source 1 + A sin πx at the nodes (i, j) / (points − 1), x first."""
    x = torch.linspace(0, 1, points, dtype=torch.float64)
    return (1 + amplitude * torch.sin(math.pi * x))[:, None].expand(points, points)


def _power(wavenumber: Tensor, tau: float, exponent: float) -> Tensor:
    """(K, K) amplitude (|k|² + τ²)^(−α/2) of products of modes, 0 for the constant one."""
    amplitude = (wavenumber[:, None].square() + wavenumber.square() + tau**2) ** (-exponent / 2)
    amplitude[0, 0] = 0
    return amplitude


def _fourier_basis(points: int, modes: int, length: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """(points, 2K + 1) orthonormal 1, cos, sin, cos, … on [0, length) and their wavenumbers; K modes below Nyquist."""
    mode = torch.arange(2 * min(modes, (points - 1) // 2) + 1, dtype=torch.float64, device=device)
    wavenumber = 2 * math.pi / length * ((mode + 1) // 2)
    x = length / points * torch.arange(points, dtype=torch.float64, device=device)
    phase = x[:, None] * wavenumber - 0.5 * math.pi * (mode % 2 == 0)  # even columns are sines
    basis = math.sqrt(2 / length) * torch.cos(phase)
    basis[:, 0] = 1 / math.sqrt(length)
    return basis, wavenumber


def _noise(num: int, shape: tuple[int, ...], generator: Generator) -> Tensor:
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device) for _ in range(num)]
    return torch.stack(draws)

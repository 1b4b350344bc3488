"""Incompressible Navier-Stokes equation in two dimensions, as vorticity on the unit torus."""

import math

import torch
from torch import Tensor

from common.errors import UserError
from ssmo.solvers.checks import as_coefficient, as_fields, as_source, bad_samples, time_steps

MAX_COURANT = 0.5  # |u| Δt / Δx


def solve_navier_stokes(
    w0: Tensor, viscosity: float | Tensor, t_end: float, forcing: Tensor | None = None, dt: float = 1 / 256
) -> Tensor:
    """ω at time `t_end`, (B, N, N) float64, of ω_t + u·∇ω = νΔω + f with Δψ = −ω, u = (ψ_y, −ψ_x), periodic on (0,1)².

    Fourier pseudo-spectral with the 2/3 rule (spectral in space), Crank-Nicolson for νΔ and Heun for the rest (order 2
    in time), with one step length for all samples: each sample is solved as if it were alone. Differentiable in all
    tensors. Source: "ssmo specification, section 5.2".

    Args:
        w0: (B, N, N) vorticity at (i/N, j/N), x first, of mean 0; modes from N/3 on are dropped.
        viscosity: ν, one number or (B,).
        forcing: f, (N, N) or (B, N, N), constant in time, of mean 0; none by default.
        dt: longest time step; must keep max|u| dt N below 0.5.

    Raises:
        UserError: if a shape does not fit, a field is not finite or its mean not 0, a number is not positive, or `dt`
            is too long at the start or at the end.
    """
    w0 = as_fields("w0", w0, dims=2)
    _require_mean_zero("w0", w0)
    viscosity = as_coefficient("viscosity", viscosity, w0)
    steps, dt = time_steps(t_end, dt)
    grid = _Spectral(w0.shape[-1], w0.device)
    force = torch.zeros((), dtype=torch.float64, device=w0.device)
    if forcing is not None:
        forcing = as_source("forcing", forcing, w0)
        _require_mean_zero("forcing", forcing)
        force = dt * grid.forward(forcing)
    decay = 0.5 * dt * viscosity * grid.square
    kept, implicit = (1 - decay) / (1 + decay), 1 / (1 + decay)

    w = grid.forward(w0)
    _require_small_courant(grid.velocity(w), dt)
    for _ in range(steps):
        first = dt * grid.advection(w) + force
        second = dt * grid.advection(kept * w + implicit * first) + force
        w = kept * w + 0.5 * implicit * (first + second)
    _require_small_courant(grid.velocity(w), dt)
    return grid.inverse(w)


class _Spectral:
    """Fourier coefficients (…, N, K) of real fields (…, N, N) with |k| < N/3 in both directions."""

    def __init__(self, points: int, device: torch.device) -> None:
        self.points, self.columns = points, math.ceil(points / 3)
        x = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64, device=device)[:, None]
        y = torch.arange(self.columns, dtype=torch.float64, device=device)
        self.resolved = x.abs() < points / 3
        x, y = 2 * math.pi * x, 2 * math.pi * y
        self.square = x.square() + y.square()
        inverse = 1 / self.square.clamp(min=1)  # k = 0 has no velocity: both numerators vanish there
        self.to_velocity = torch.stack([1j * y * inverse, -1j * x * inverse])[:, None]
        self.to_advection = torch.stack([x.square() - y.square(), x * y])[:, None]

    def forward(self, fields: Tensor) -> Tensor:
        return torch.fft.fft(torch.fft.rfft(fields)[..., : self.columns], dim=-2) * self.resolved

    def inverse(self, coefficients: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.ifft(coefficients, dim=-2), n=self.points)

    def velocity(self, w: Tensor) -> Tensor:
        """(2, B, N, N) velocity of the vorticity with coefficients `w`."""
        return self.inverse(self.to_velocity * w)

    def advection(self, w: Tensor) -> Tensor:
        """Coefficients of −u·∇ω, as −(∂xx − ∂yy)(uv) − ∂xy(v² − u²): four transforms instead of five."""
        u, v = self.velocity(w)
        return (self.to_advection * self.forward(torch.stack([u * v, v.square() - u.square()]))).sum(0)


def _require_mean_zero(name: str, values: Tensor) -> None:
    """(B, N, N) fields have mean 0 up to the round-off of float32: the torus has no other vorticity."""
    zero = values.mean((1, 2)).abs() <= 1e-6 * values.abs().amax((1, 2))
    if not zero.all():
        raise UserError(f"{name}: has not mean 0 in sample {bad_samples(zero)}; subtract the mean, the torus has none")


def _require_small_courant(velocity: Tensor, dt: float) -> None:
    courant = velocity.detach().norm(dim=0).amax((1, 2)) * dt * velocity.shape[-1]
    small = courant < MAX_COURANT  # False for NaN
    if not small.all():
        raise UserError(
            f"dt: steps of {dt:g} are too long for sample {bad_samples(small)}: |u| dt / dx reaches "
            f"{courant.max().item():.3g} and must stay below {MAX_COURANT}; use a shorter one"
        )

"""Batched PDE solvers in float64 on any device: the truth that operator learning is trained and judged on."""

from ssmo.solvers.burgers import solve_burgers
from ssmo.solvers.darcy import solve_darcy
from ssmo.solvers.navier_stokes import solve_navier_stokes

__all__ = ["solve_burgers", "solve_darcy", "solve_navier_stokes"]

"""Darcy flow on the unit square."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import pad

from common.errors import UserError
from ssmo.solvers.checks import as_fields, as_source, bad_samples

TOLERANCE = 1e-12  # of the residual in the norm of the preconditioner, relative to that of the right-hand side
MAX_ITERATIONS = 1000


def solve_darcy(a: Tensor, f: float | Tensor = 1.0) -> Tensor:
    """u, (B, N, N) float64, of −∇·(a∇u) = f on (0,1)², u = 0 on the boundary.

    Five-point finite volumes with harmonic means as face coefficients (order 2 for smooth `a`). The linear systems are
    solved by conjugate gradients, preconditioned by the exact inverse of the Laplacian in the sine basis: 15 to 40
    iterations on any grid for coefficients 3 and 12 and for log-normal ones. The specification names a sparse direct
    solve; this is the same system, solved to 1e-10, batched and on any device. Each sample stops by its own residual,
    as if it were alone. Differentiable in `a` and `f`, once, by a second solve. Source: "ssmo specification, section
    5.2"; preconditioner: Concus and Golub 1973, Use of fast direct methods for nonseparable elliptic equations.

    Args:
        a: (B, N, N) positive coefficient at the nodes (i, j) / (N − 1), boundary included.
        f: source, one number, (N, N) or (B, N, N) at the nodes; its boundary values are not used.

    Raises:
        UserError: if a shape does not fit, a value is not finite, `a` is not positive, or its contrast is too high for
            the iterations to converge.
    """
    a = as_fields("a", a, dims=2)
    if (bad := bad_samples(a > 0)) != "none":
        raise UserError(f"a: is not positive in sample {bad}; give a coefficient that is positive everywhere")
    f = as_source("f", f, a)
    return pad(_Solution.apply(a, f[:, 1:-1, 1:-1]), (1, 1, 1, 1))


class _Solution(torch.autograd.Function):
    """u of A(a) u = f on inner nodes. A is symmetric, so one more solve gives λ = A⁻¹ g and dL = λ·(df − dA u)."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, f: Tensor) -> Tensor:
        u = _conjugate_gradients(_faces(a), f)
        ctx.save_for_backward(a, u)
        return u

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, u = ctx.saved_tensors
        adjoint = _conjugate_gradients(_faces(a), gradient)
        with torch.enable_grad():
            a = a.detach().requires_grad_()
            work = (adjoint * _operator(_faces(a), u)).sum()
        return -torch.autograd.grad(work, a)[0], adjoint


def _faces(a: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients between neighbouring nodes along x, (B, N−1, N−2), and along y, (B, N−2, N−1)."""
    right, left = a[:, 1:, 1:-1], a[:, :-1, 1:-1]
    upper, lower = a[:, 1:-1, 1:], a[:, 1:-1, :-1]
    return 2 * right * left / (right + left), 2 * upper * lower / (upper + lower)


def _operator(faces: tuple[Tensor, Tensor], u: Tensor) -> Tensor:
    """A u, (B, N−2, N−2): the flux out of each inner node, divided by its area."""
    along_x = (faces[0] * pad(u, (0, 0, 1, 1)).diff(dim=-2)).diff(dim=-2)
    along_y = (faces[1] * pad(u, (1, 1)).diff(dim=-1)).diff(dim=-1)
    return -((u.shape[-1] + 1) ** 2) * (along_x + along_y)


def _conjugate_gradients(faces: tuple[Tensor, Tensor], f: Tensor) -> Tensor:
    precondition = _preconditioner(faces)
    u, residual = torch.zeros_like(f), f.clone()
    direction = precondition(residual)
    size = _dot(residual, direction)
    target = TOLERANCE**2 * size
    for _ in range(MAX_ITERATIONS):
        if (done := size <= target).all():
            return u
        image = _operator(faces, direction)
        # a finished sample stands still, so that it does not depend on the others in its batch
        step = torch.where(done, 0.0, size / torch.where(done, 1.0, _dot(direction, image)))
        u.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        preconditioned = precondition(residual)
        previous, size = size, _dot(residual, preconditioned)
        direction.mul_(torch.where(done, 0.0, size / torch.where(done, 1.0, previous))).add_(preconditioned)
    raise UserError(
        f"the Darcy solver did not converge in {MAX_ITERATIONS} iterations for sample {bad_samples(size <= target)}; "
        "use a coefficient field with less contrast"
    )


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.vecdot(left.flatten(1), right.flatten(1))[:, None, None]


def _preconditioner(faces: tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
    """An approximate inverse of A: D^(−1/2) (−Δ)⁻¹ D^(−1/2), with D the local coefficient where that helps, else 1.

    D = 1 bounds the condition number by the contrast of the faces, whatever they look like; the local coefficient wins
    where the field varies smoothly, and loses where it jumps.
    """
    x, y = faces
    local = 0.25 * (x[:, 1:] + x[:, :-1] + y[:, :, 1:] + y[:, :, :-1])
    contrast = local.amax((1, 2)) / local.amin((1, 2))
    jump = torch.maximum(_largest_step(local, -1), _largest_step(local, -2))
    smooth = (2 * jump < contrast.log())[:, None, None]
    scale = torch.where(smooth, local.rsqrt(), 1.0)

    inner = local.shape[-1]
    mode = torch.arange(1, inner + 1, dtype=torch.float64, device=local.device)
    sine = math.sqrt(2 / (inner + 1)) * torch.sin(math.pi / (inner + 1) * mode[:, None] * mode)
    eigenvalue = (2 * (inner + 1) * torch.sin(0.5 * math.pi / (inner + 1) * mode)).square()
    inverse = 1 / (eigenvalue[:, None] + eigenvalue)
    return lambda f: scale * (sine @ (inverse * (sine @ (scale * f) @ sine)) @ sine)


def _largest_step(local: Tensor, dim: int) -> Tensor:
    """(B,) largest change of the logarithm from a node to the next along `dim`."""
    return local.log().diff(dim=dim).abs().amax((1, 2))

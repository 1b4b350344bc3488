"""What every solver asks of its arguments and of its result."""

import math

import torch
from torch import Tensor

from common.errors import UserError


def as_fields(name: str, values: Tensor, dims: int) -> Tensor:
    """`values` in float64: B finite fields on an equal grid of at least 4 points in each of `dims` directions.

    Raises:
        UserError: if the shape is not (B, N) or (B, N, N), or a value is not finite.
    """
    shape = tuple(values.shape)
    if len(shape) != dims + 1 or min(shape[1:]) < 4 or len(set(shape[1:])) > 1:
        raise UserError(f"{name}: has shape {shape}; give (B{', N' * dims}) with N >= 4")
    if (bad := bad_samples(values.isfinite())) != "none":
        raise UserError(f"{name}: is not finite in sample {bad}; leave such samples out")
    return values.double()


def as_coefficient(name: str, value: float | Tensor, fields: Tensor) -> Tensor:
    """A positive number, or one per sample, in float64 and shaped to multiply `fields`.

    Raises:
        UserError: if a tensor is neither () nor (B,), or a value is not positive and finite.
    """
    value = torch.as_tensor(value, dtype=torch.float64, device=fields.device)
    if value.shape not in {(), fields.shape[:1]}:
        raise UserError(f"{name}: has shape {tuple(value.shape)}; give one number or ({len(fields)},)")
    if not ((value > 0) & value.isfinite()).all():
        raise UserError(f"{name}: {value.min().item():g} is not positive and finite; give a positive number")
    return value.reshape(-1, *[1] * (fields.ndim - 1))


def as_source(name: str, values: float | Tensor, fields: Tensor) -> Tensor:
    """`values` in float64 for each of the (B, N, N) `fields`: one number, (N, N) or (B, N, N).

    Raises:
        UserError: if the shape is another one, or a value is not finite.
    """
    values = torch.as_tensor(values, dtype=torch.float64, device=fields.device)
    if values.shape not in {(), fields.shape[1:], fields.shape}:
        allowed = f"one number, {tuple(fields.shape[1:])} or {tuple(fields.shape)}"
        raise UserError(f"{name}: has shape {tuple(values.shape)}; give {allowed}")
    return as_fields(name, values.expand_as(fields), dims=2)


def time_steps(t_end: float, dt: float) -> tuple[int, float]:
    """Number and length of the equal steps that reach `t_end`, the longest not above `dt`.

    Raises:
        UserError: if either time is not positive and finite.
    """
    for name, value in (("t_end", t_end), ("dt", dt)):
        if not 0 < value < math.inf:
            raise UserError(f"{name}: {value} is not positive and finite; give a positive time")
    count = max(1, math.ceil(t_end / dt - 1e-9))  # 1.1 / 0.1 must not become 12 steps
    return count, t_end / count


def bad_samples(good: Tensor) -> str:
    """The samples of (B, …) in which something is not good, as text: 'none', or '3 (and 2 more)'."""
    bad = (~good.reshape(len(good), -1).all(1)).nonzero().flatten().tolist()
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return f"{bad[0]}{more}" if bad else "none"

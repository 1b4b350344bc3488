"""Random crops and flips of whole batches, on the device."""

import torch
from torch import Tensor


def crop_flip(pictures: Tensor, draws: Tensor, pad: int, flip: bool, fill: Tensor | float) -> Tensor:
    """Pictures moved by up to `pad` pixels in each direction, half of them mirrored left to right.

    Args:
        pictures: (B, C, H, W), also label maps with C = 1.
        draws: (B, ≥3) uniform numbers: move down, move right, mirror.
        fill: what comes in at the edges, a number or (1, C, 1, 1).
    """
    height, width = pictures.shape[2:]
    down, right = ((draws[:, :2] * (2 * pad + 1)).long() - pad).unbind(1)
    rows = torch.arange(height, device=pictures.device) + down[:, None]
    columns = torch.arange(width, device=pictures.device) + right[:, None]
    if flip:
        columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
    sample = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    moved = pictures[sample, :, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return torch.where(inside[:, None], moved.permute(0, 3, 1, 2), fill).to(pictures.dtype)


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)

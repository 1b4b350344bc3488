"""Forecasters: the last L steps (B, L, C) in, the next H steps (B, H, C) out.

Source: "ssmo specification, section 3".
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from common.errors import UserError

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class DLinear(nn.Module):
    """A linear map of the trend plus one of the remainder, shared by all channels (Zeng et al. 2023, arXiv 2205.13504).

    Args:
        input_length, horizon: L and H in steps.
        kernel_size: odd length of the moving average that is the trend; the ends of the series are repeated for it.
    """

    task = "time_series"

    def __init__(self, input_length: Size, horizon: Size, kernel_size: Annotated[int, Field(ge=1)] = 25):
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size: {kernel_size} is even; give an odd one, so that the average has a middle.")
        self.kernel_size = kernel_size
        self.trend, self.remainder = nn.Linear(input_length, horizon), nn.Linear(input_length, horizon)

    def forward(self, series: Tensor) -> Tensor:
        series = series.mT
        padded = F.pad(series, (self.kernel_size // 2, self.kernel_size // 2), mode="replicate")
        trend = F.avg_pool1d(padded, self.kernel_size, stride=1)
        return (self.trend(trend) + self.remainder(series - trend)).mT


class PatchTST(nn.Module):
    """A transformer over patches of each channel by itself (Nie et al. 2023, arXiv 2211.14730).

    Each window is normalised by its own mean and deviation, and the forecast is given in its units. The last value is
    repeated for one more patch, as published; layers are normalised over features instead of over the batch.

    Args:
        input_length, horizon: L and H in steps.
        patch_length, stride: of the patches, in steps.
        dropout: in the transformer and before the head.

    Raises:
        UserError: if a patch is longer than the window or `hidden_dim` is no multiple of `num_heads`.
    """

    task = "time_series"

    def __init__(
        self,
        input_length: Size,
        horizon: Size,
        patch_length: Size = 16,
        stride: Size = 8,
        hidden_dim: Size = 16,
        num_layers: Size = 3,
        num_heads: Size = 4,
        feedforward_dim: Size = 128,
        dropout: Rate = 0.3,
    ):
        super().__init__()
        if patch_length > input_length:
            raise UserError(f"patch_length: {patch_length} is more than input_length={input_length}.")
        if hidden_dim % num_heads:
            raise UserError(f"hidden_dim: {hidden_dim} is no multiple of num_heads={num_heads}.")
        self.patch_length, self.stride = patch_length, stride
        num_patches = (input_length - patch_length) // stride + 2
        self.embed = nn.Linear(patch_length, hidden_dim)
        self.position = nn.Parameter(0.02 * torch.randn(num_patches, hidden_dim))
        layer = nn.TransformerEncoderLayer(
            hidden_dim, num_heads, feedforward_dim, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(hidden_dim), enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Flatten(-2), nn.Dropout(dropout), nn.Linear(num_patches * hidden_dim, horizon))

    def forward(self, series: Tensor) -> Tensor:
        series, mean, scale = normalise_window(series)
        patches = F.pad(series.mT, (0, self.stride), mode="replicate").unfold(-1, self.patch_length, self.stride)
        tokens = self.layers((self.embed(patches) + self.position).flatten(0, 1))
        forecast = self.head(tokens).unflatten(0, patches.shape[:2])
        return forecast.mT * scale + mean


class TCN(nn.Module):
    """Dilated causal convolutions over all channels (Bai et al. 2018, arXiv 1803.01271), windows normalised as above.

    Dilation doubles with every block; the state at the last step makes the whole forecast.

    Args:
        num_channels, horizon: C and H.
        num_blocks: residual blocks of two convolutions; 5 with kernels of 3 see 125 steps.
    """

    task = "time_series"

    def __init__(
        self,
        num_channels: Size,
        horizon: Size,
        hidden_dim: Size = 32,
        num_blocks: Size = 5,
        kernel_size: Annotated[int, Field(ge=2)] = 3,
        dropout: Rate = 0.1,
    ):
        super().__init__()
        self.horizon = horizon
        self.embed = nn.Conv1d(num_channels, hidden_dim, 1)
        self.blocks = nn.Sequential(
            *(CausalBlock(hidden_dim, kernel_size, 2**level, dropout) for level in range(num_blocks))
        )
        self.head = nn.Linear(hidden_dim, horizon * num_channels)

    def forward(self, series: Tensor) -> Tensor:
        series, mean, scale = normalise_window(series)
        last = self.blocks(self.embed(series.mT))[..., -1]
        return self.head(last).unflatten(-1, (self.horizon, -1)) * scale + mean


class CausalBlock(nn.Module):
    """(B, D, L) plus two convolutions of it that see no later step."""

    def __init__(self, hidden_dim: int, kernel_size: int, dilation: int, dropout: float):
        super().__init__()
        self.padding = (kernel_size - 1) * dilation
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden_dim, hidden_dim, kernel_size, dilation=dilation) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for convolution in self.convolutions:
            hidden = self.dropout(convolution(F.pad(hidden, (self.padding, 0))).relu())
        return x + hidden


def normalise_window(series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, C) with mean 0 and deviation 1 in time, and both (B, 1, C)."""
    mean = series.mean(1, keepdim=True)
    scale = (series.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    return (series - mean) / scale, mean, scale

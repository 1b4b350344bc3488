"""Neural operators: fields (B, C, *grid) in, fields (B, C_out, *grid) out, on one or two dimensions.

FNO, TFNO and UNO are those of neuraloperator; DeepONet and the latent attention network are written here. All answer on
other grids than the one they were trained on. Source: "ssmo specification, section 3".
"""

import contextlib
import io
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from common.errors import UserError

Size = Annotated[int, Field(ge=1)]
Grid = Annotated[Sequence[Size], Field(min_length=1, max_length=2)]


class FNO(nn.Module):
    """Fourier neural operator (Li et al. 2021, Fourier neural operator for parametric PDEs, arXiv 2010.08895).

    Args:
        num_dims: 1 or 2.
        num_modes: Fourier modes kept in each direction, counting positive and negative frequencies.
        coordinates: adds the position as input channels; without it a shifted periodic field gives the shifted answer.
        padding: share of the grid by which fields are continued; for fields that are not periodic.
    """

    task = "operator"

    def __init__(
        self,
        in_channels: Size,
        out_channels: Size,
        num_dims: Literal[1, 2],
        num_modes: Size = 16,
        hidden_dim: Size = 64,
        num_layers: Size = 4,
        coordinates: bool = True,
        padding: Annotated[float, Field(ge=0)] = 0.0,
    ):
        super().__init__()
        from neuralop.models import FNO as Network  # brings wandb and two CPU seconds: only for whoever builds one

        self.network = Network(
            n_modes=(num_modes,) * num_dims, in_channels=in_channels, out_channels=out_channels,
            hidden_channels=hidden_dim, n_layers=num_layers, positional_embedding="grid" if coordinates else None,
            domain_padding=padding or None,
        )  # fmt: skip
        self.register_state_dict_post_hook(_only_tensors)

    def forward(self, fields: Tensor) -> Tensor:
        return self.network(fields)


class TFNO(nn.Module):
    """FNO whose spectral weights are Tucker-factorised (Kossaifi et al. 2023, arXiv 2310.00120).

    Args:
        rank: parameters of the factorised weights as a share of the dense ones.
        num_dims, num_modes, coordinates, padding: as for `FNO`.
    """

    task = "operator"

    def __init__(
        self,
        in_channels: Size,
        out_channels: Size,
        num_dims: Literal[1, 2],
        num_modes: Size = 16,
        hidden_dim: Size = 64,
        num_layers: Size = 4,
        rank: Annotated[float, Field(gt=0, le=1)] = 0.1,
        coordinates: bool = True,
        padding: Annotated[float, Field(ge=0)] = 0.0,
    ):
        super().__init__()
        from neuralop.models import TFNO as Network

        self.network = Network(
            n_modes=(num_modes,) * num_dims, in_channels=in_channels, out_channels=out_channels,
            hidden_channels=hidden_dim, n_layers=num_layers, rank=rank,
            positional_embedding="grid" if coordinates else None, domain_padding=padding or None,
        )  # fmt: skip
        self.register_state_dict_post_hook(_only_tensors)

    def forward(self, fields: Tensor) -> Tensor:
        return self.network(fields)


class UNO(nn.Module):
    """U-shaped neural operator (Rahman et al. 2022, U-NO: U-shaped neural operators, arXiv 2204.11127).

    Args:
        num_dims, num_modes, coordinates: as for `FNO`.
        channels: of the Fourier layers.
        scalings: of the grid by each Fourier layer; their product is 1.

    Raises:
        UserError: if `channels` and `scalings` differ in length or the answer would lie on another grid.
    """

    task = "operator"

    def __init__(
        self,
        in_channels: Size,
        out_channels: Size,
        num_dims: Literal[1, 2],
        num_modes: Size = 8,
        hidden_dim: Size = 32,
        channels: Sequence[Size] = (32, 48, 48, 48, 32),
        scalings: Sequence[Annotated[float, Field(gt=0)]] = (1.0, 0.5, 1.0, 2.0, 1.0),
        coordinates: bool = True,
    ):
        super().__init__()
        if len(channels) != len(scalings):
            raise UserError(f"scalings: {len(scalings)} for {len(channels)} layers; give one per entry of channels.")
        if not math.isclose(math.prod(scalings), 1):
            raise UserError(
                f"scalings: their product is {math.prod(scalings):g}; it must be 1 to end on the input's grid."
            )
        from neuralop.models import UNO as Network

        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings for every layer
            self.network = Network(
                in_channels, out_channels, hidden_dim, lifting_channels=2 * hidden_dim,
                projection_channels=2 * hidden_dim, positional_embedding="grid" if coordinates else None,
                n_layers=len(channels), uno_out_channels=list(channels),
                uno_n_modes=[[num_modes] * num_dims] * len(channels),
                uno_scalings=[[scaling] * num_dims for scaling in scalings],
                channel_mlp_skip="linear",  # the default, soft gating, cannot change the number of channels
            )  # fmt: skip

    def forward(self, fields: Tensor) -> Tensor:
        return self.network(fields)


class DeepONet(nn.Module):
    """Deep operator network: values at sensors and query points meet in a scalar product (Lu et al., arXiv 1910.03193).

    The trunk is evaluated once per batch, for all samples share their query points. Fields on another grid are
    interpolated to the sensors, and the answer is given on their own grid.

    Args:
        grid: points per direction at which the branch was trained to read the field.
        hidden_dim: width of all layers and number of basis functions.
        num_layers: linear layers of the branch and of the trunk.
        periodic: whether the domain is a torus: points are i / N then, else i / (N − 1), the trunk sees sine and cosine
            of the position, and interpolation is by Fourier series instead of linear.
    """

    task = "operator"

    def __init__(
        self,
        in_channels: Size,
        out_channels: Size,
        grid: Grid,
        hidden_dim: Size = 128,
        num_layers: Annotated[int, Field(ge=2)] = 3,
        periodic: bool = False,
    ):
        super().__init__()
        self.grid, self.periodic, self.out_channels = tuple(grid), periodic, out_channels
        hidden = [hidden_dim] * (num_layers - 1)
        self.branch = mlp([in_channels * math.prod(grid), *hidden, out_channels * hidden_dim])
        self.trunk = mlp([len(grid) * (1 + periodic), *hidden, hidden_dim])
        self.bias = nn.Parameter(torch.zeros(out_channels, 1))

    def forward(self, fields: Tensor) -> Tensor:
        shape = fields.shape[2:]
        sensors = fields if shape == self.grid else interpolate(fields, self.grid, self.periodic)
        coefficients = self.branch(sensors.flatten(1)).unflatten(1, (self.out_channels, -1))
        basis = self.trunk(coordinates(shape, self.periodic, fields))
        return (coefficients @ basis.T + self.bias).unflatten(-1, shape)


class LatentAttention(nn.Module):
    """Fields read into latent tokens by cross-attention, worked on by a transformer, and read out at every point.

    The original notebooks call this `gnot`. The published GNOT (Hao et al. 2023, arXiv 2302.14376) is another network:
    it attends linearly among all points and mixes experts by their position. Cost is linear in the number of points.

    Args:
        num_dims: 1 or 2.
        num_latents: learned tokens.
        num_layers: transformer layers among the tokens.
        periodic: as for `DeepONet`.

    Raises:
        UserError: if `hidden_dim` is no multiple of `num_heads`.
    """

    task = "operator"

    def __init__(
        self,
        in_channels: Size,
        out_channels: Size,
        num_dims: Literal[1, 2],
        hidden_dim: Size = 64,
        num_latents: Size = 64,
        num_layers: Size = 4,
        num_heads: Size = 4,
        periodic: bool = False,
    ):
        super().__init__()
        if hidden_dim % num_heads:
            raise UserError(f"hidden_dim: {hidden_dim} is no multiple of num_heads={num_heads}.")
        self.periodic = periodic
        self.embed = nn.Linear(in_channels + num_dims * (1 + periodic), hidden_dim)
        self.latents = nn.Parameter(torch.randn(num_latents, hidden_dim) / math.sqrt(hidden_dim))
        self.read = nn.MultiheadAttention(hidden_dim, num_heads, batch_first=True)
        layer = nn.TransformerEncoderLayer(
            hidden_dim, num_heads, 4 * hidden_dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.write = nn.MultiheadAttention(hidden_dim, num_heads, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_channels))

    def forward(self, fields: Tensor) -> Tensor:
        batch, shape = len(fields), fields.shape[2:]
        position = coordinates(shape, self.periodic, fields).expand(batch, -1, -1)
        points = self.embed(torch.cat([fields.flatten(2).mT, position], -1))
        latents = self.latents.expand(batch, -1, -1)
        latents = self.layers(latents + self.read(latents, points, points, need_weights=False)[0])
        points = points + self.write(points, latents, latents, need_weights=False)[0]
        return self.head(points).mT.unflatten(-1, shape)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers, with GELU and layer normalisation between them."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for left, right in pairwise(widths[1:]):
        layers += [nn.GELU(), nn.LayerNorm(left), nn.Linear(left, right)]
    return nn.Sequential(*layers)


def coordinates(shape: Sequence[int], periodic: bool, like: Tensor) -> Tensor:
    """(N, D) positions of the N points of a grid in [0, 1]^D, or (N, 2D) their sines and cosines if `periodic`."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) / (n - 1 + periodic) for n in shape]
    position = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], -1)
    if not periodic:
        return position
    phase = 2 * math.pi * position
    return torch.cat([phase.sin(), phase.cos()], -1)


def interpolate(fields: Tensor, shape: Sequence[int], periodic: bool) -> Tensor:
    """Values of the fields (B, C, *grid) at the points of another grid: by Fourier series, or linear between nodes."""
    if not periodic:
        return F.interpolate(fields, tuple(shape), mode="bilinear" if len(shape) == 2 else "linear", align_corners=True)
    for dim, points in enumerate(shape, start=2):
        fields = _fourier_values(fields, dim, points)
    return fields


def _fourier_values(fields: Tensor, dim: int, points: int) -> Tensor:
    """The trigonometric polynomial through the values along `dim`, at `points` equal steps."""
    series = torch.fft.rfft(fields.movedim(dim, -1), norm="forward")
    mode = torch.arange(series.shape[-1], device=fields.device)
    unpaired = (mode == 0) | (
        2 * mode == fields.shape[dim]
    )  # all other modes stand for themselves and their conjugates
    series = torch.where(unpaired, 1, 2) * series
    phase = 2 * math.pi / points * (mode[:, None] * torch.arange(points, device=fields.device) % points)
    return (series.real @ phase.cos() - series.imag @ phase.sin()).movedim(-1, dim)


def _only_tensors(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    """neuraloperator adds its arguments, functions among them: no checkpoint could be loaded with `weights_only`."""
    state.pop("_metadata", None)

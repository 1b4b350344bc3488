"""The fusion network: price series and chart in, class logits of a shared head or of a sector's own head out.

Lasps specification, section 6. Parts: `TimeSeriesEncoder` and `ChartEncoder`, joined by `SectorFusion`, judged by a
common `ClassifierHead` or by `SectorHeads`.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from common.errors import UserError

NUM_FEATURES = 28
NUM_CLASSES = 3

Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class SectorFusion(nn.Module):
    """Classifies windows of a stock into SELL, HOLD and BUY.

    Args:
        num_sectors: S, from the data's sector scheme.
        input_dim: features per session; 28, feature versions 1 and 2 alike.
        dropout: in the encoder and in the heads.
        cnn_channels: one convolution block each; every block halves the chart.
        max_length: longest window in sessions.
        readout: which encoded session stands for the window. `last` is the session that the prediction is made at;
            the original's `first` is the oldest one. `cls` learns an extra token, `mean` averages.
        attention: `softmax`, or `linear` in the window's length.
        use_chart_cnn: without it the series alone decides.
        head_hidden: hidden width of the heads.
        num_aux: auxiliary targets that a linear head predicts in training.

    Attributes:
        heads_trained: (S,) bool, part of the weights: which sector heads have been trained. Whoever trains them
            sets it.

    Raises:
        UserError: if `input_dim` is not 28 or `hidden_dim` is no multiple of `num_heads`.
    """

    def __init__(
        self,
        num_sectors: Positive,
        input_dim: int = NUM_FEATURES,
        hidden_dim: Positive = 128,
        num_layers: Positive = 4,
        num_heads: Positive = 4,
        feedforward_dim: Positive = 512,
        dropout: Probability = 0.2,
        fusion_dropout: Probability = 0.3,
        cnn_channels: Annotated[Sequence[Positive], Field(min_length=1)] = (32, 64, 128, 256),
        cnn_dropout: Probability = 0.3,
        max_length: Positive = 120,
        readout: Literal["first", "last", "mean", "cls"] = "last",
        attention: Literal["softmax", "linear"] = "softmax",
        use_chart_cnn: bool = True,
        head_hidden: Positive = 64,
        num_aux: Annotated[int, Field(ge=0)] = 0,
    ):
        super().__init__()
        _check_sizes(input_dim, hidden_dim, num_heads)
        self.use_chart_cnn = use_chart_cnn
        self.encoder = TimeSeriesEncoder(
            input_dim, hidden_dim, num_layers, num_heads, feedforward_dim, dropout, max_length, readout, attention
        )
        self.chart = ChartEncoder(cnn_channels, hidden_dim, cnn_dropout) if use_chart_cnn else None
        fusion_input = 2 * hidden_dim if use_chart_cnn else hidden_dim
        self.fusion = nn.Sequential(nn.Linear(fusion_input, hidden_dim), nn.ReLU(), nn.Dropout(fusion_dropout))
        self.common_head = ClassifierHead(hidden_dim, head_hidden, dropout)
        self.sector_heads = SectorHeads(num_sectors, hidden_dim, head_hidden, dropout)
        self.aux_head = nn.Linear(hidden_dim, num_aux) if num_aux else None
        self.register_buffer("heads_trained", torch.zeros(num_sectors, dtype=torch.bool))

    def forward(
        self,
        series: Tensor,
        chart: Tensor | None,
        sector: Tensor | None = None,
        head: Literal["common", "sector"] = "sector",
    ) -> dict[str, Tensor]:
        """`logits` (B, 3), `probabilities` (B, 3) and `shared_features` (B, hidden_dim).

        Args:
            series: (B, T, 28) normalised features, oldest session first.
            chart: (B, 3, H, W) in [0, 1]; not looked at when the network has no chart encoder.
            sector: (B,) int64 in [0, S); needed by `head="sector"` only.

        Raises:
            ValueError: if a sector id is missing or out of range, or a needed chart is missing.
        """
        features = self.features(series, chart)
        if head == "common":
            logits = self.common_head(features)
        elif sector is None:
            raise ValueError("head='sector' needs the sector of every sample.")
        else:
            logits = self.sector_heads(features, sector)
        return {"logits": logits, "probabilities": logits.softmax(-1), "shared_features": features}

    def features(self, series: Tensor, chart: Tensor | None) -> Tensor:
        """(B, hidden_dim) fused features that all heads share."""
        encoded = self.encoder(series)
        if self.chart is None:
            return self.fusion(encoded)
        if chart is None:
            raise ValueError("this network has a chart encoder and needs a chart of every sample.")
        return self.fusion(torch.cat([encoded, self.chart(chart)], dim=-1))

    @torch.no_grad()
    def heads_from_common(self) -> None:
        """Make every sector head a copy of the common head."""
        first, second = self.common_head[0], self.common_head[3]
        self.sector_heads.weight1.copy_(first.weight.T.expand_as(self.sector_heads.weight1))
        self.sector_heads.bias1.copy_(first.bias.expand_as(self.sector_heads.bias1))
        self.sector_heads.weight2.copy_(second.weight.T.expand_as(self.sector_heads.weight2))
        self.sector_heads.bias2.copy_(second.bias.expand_as(self.sector_heads.bias2))


def _check_sizes(input_dim: int, hidden_dim: int, num_heads: int) -> None:
    if input_dim == 29:
        raise UserError("input_dim=29: the abandoned variant with sine/cosine calendar terms; retrain on 28 features.")
    if input_dim != NUM_FEATURES:
        raise UserError(f"input_dim={input_dim}: the network takes {NUM_FEATURES} features; convert the data.")
    if hidden_dim % num_heads:
        raise UserError(f"hidden_dim={hidden_dim}: not a multiple of num_heads={num_heads}; change one of the two.")


class TimeSeriesEncoder(nn.Module):
    """Transformer encoder over sessions with learnt positions: (B, T, input_dim) → (B, hidden_dim).

    Arguments as in `SectorFusion`. T may be anything up to `max_length`; position 0 is the oldest session.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, num_layers: int, num_heads: int, feedforward_dim: int, dropout: float,
        max_length: int, readout: Literal["first", "last", "mean", "cls"], attention: Literal["softmax", "linear"],
    ):  # fmt: skip
        super().__init__()
        self.readout = readout
        self.input = nn.Linear(input_dim, hidden_dim)
        self.position = nn.Parameter(0.02 * torch.randn(max_length, hidden_dim))
        self.cls = nn.Parameter(0.02 * torch.randn(hidden_dim)) if readout == "cls" else None
        self.layers = nn.ModuleList(
            EncoderLayer(hidden_dim, num_heads, feedforward_dim, dropout, attention) for _ in range(num_layers)
        )

    def forward(self, series: Tensor) -> Tensor:
        if series.shape[1] > len(self.position):
            raise ValueError(f"windows of {series.shape[1]} sessions; the encoder knows {len(self.position)}.")
        encoded = self.input(series) + self.position[: series.shape[1]]
        if self.cls is not None:
            encoded = torch.cat([self.cls.expand(len(series), 1, -1), encoded], dim=1)
        for layer in self.layers:
            encoded = layer(encoded)
        if self.readout == "mean":
            return encoded.mean(dim=1)
        return encoded[:, -1 if self.readout == "last" else 0]


class EncoderLayer(nn.Module):
    """Post-norm transformer layer with ReLU, as `nn.TransformerEncoderLayer`, with a choice of attention.

    Not that class, because its shortcut in evaluation mode computes something slightly different from training mode.
    """

    def __init__(
        self, hidden_dim: int, num_heads: int, feedforward_dim: int, dropout: float,
        attention: Literal["softmax", "linear"],
    ):  # fmt: skip
        super().__init__()
        self.attention = Attention(hidden_dim, num_heads, dropout, attention)
        self.feedforward = nn.Sequential(
            nn.Linear(hidden_dim, feedforward_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward_dim, hidden_dim),
        )
        self.norm1, self.norm2 = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequence: Tensor) -> Tensor:
        sequence = self.norm1(sequence + self.dropout(self.attention(sequence)))
        return self.norm2(sequence + self.dropout(self.feedforward(sequence)))


class Attention(nn.Module):
    """Multi-head self-attention: (B, T, hidden_dim) → (B, T, hidden_dim).

    Both kinds have the parameters of `nn.MultiheadAttention`. Dropout of attention weights exists for `softmax`
    only: `linear` never forms them.
    """

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float, kind: Literal["softmax", "linear"]):
        super().__init__()
        self.num_heads, self.dropout, self.kind = num_heads, dropout, kind
        self.qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, sequence: Tensor) -> Tensor:
        query, key, value = self.qkv(sequence).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.kind == "linear":
            mixed = linear_attention(query, key, value)
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with weights φ(q)·φ(k), φ = elu + 1, in time and memory proportional to the length T.

    Katharopoulos et al. 2020, "Transformers are RNNs", arXiv 2006.16236.

    Args:
        query, key, value: (B, heads, T, d).
    """
    query, key = F.elu(query) + 1, F.elu(key) + 1
    weight_sum = query @ key.sum(dim=-2).unsqueeze(-1)
    return query @ (key.transpose(-1, -2) @ value) / weight_sum.clamp(min=1e-6)


class ChartEncoder(nn.Module):
    """Convolutional encoder of chart images: (B, 3, H, W) → (B, hidden_dim), H and W free.

    Args:
        channels: one block of convolution, batch norm, pooling and ReLU each.
    """

    def __init__(self, channels: Sequence[int], hidden_dim: int, dropout: float):
        super().__init__()
        self.num_blocks = len(channels)
        layers: list[nn.Module] = []
        for before, after in zip([3, *channels], channels):
            # pooled before the ReLU: the same numbers, and a quarter of the work
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2), nn.ReLU()]
        self.blocks = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels[-1], hidden_dim)

    def forward(self, chart: Tensor) -> Tensor:
        """Encode.

        Raises:
            UserError: if the blocks would halve the chart to nothing.
        """
        height, width = chart.shape[-2:]
        if min(height, width) < 2**self.num_blocks:
            raise UserError(
                f"charts of {height}×{width} pixels: {self.num_blocks} blocks halve each side and need "
                f"{2**self.num_blocks} pixels; draw larger charts or name fewer cnn_channels."
            )
        # channels last: convolutions and batch norm take about half the time on a CPU
        pixels = self.blocks(chart.contiguous(memory_format=torch.channels_last))
        return self.projection(self.dropout(pixels.mean(dim=(2, 3)))).relu()


class ClassifierHead(nn.Sequential):
    """(…, input_dim) → (…, 3) logits."""

    def __init__(self, input_dim: int, hidden_dim: int, dropout: float):
        super().__init__(
            nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, NUM_CLASSES)
        )


class SectorHeads(nn.Module):
    """S classifier heads in one set of parameters whose first axis is the sector.

    Attributes:
        weight1, bias1, weight2, bias2: (S, input_dim, hidden_dim), (S, hidden_dim), (S, hidden_dim, 3), (S, 3).
        dropout: probability with which a hidden unit is dropped in training.
    """

    def __init__(self, num_sectors: int, input_dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.num_sectors, self.dropout = num_sectors, dropout
        # as S times nn.Linear
        self.weight1 = _uniform(input_dim, num_sectors, input_dim, hidden_dim)
        self.bias1 = _uniform(input_dim, num_sectors, hidden_dim)
        self.weight2 = _uniform(hidden_dim, num_sectors, hidden_dim, NUM_CLASSES)
        self.bias2 = _uniform(hidden_dim, num_sectors, NUM_CLASSES)

    def forward(self, features: Tensor, sector: Tensor) -> Tensor:
        """(B, 3) logits, each sample's from the head of its sector.

        Samples are laid out by sector, so that one batched product serves all. Measured on a CPU, this takes 0.2 to
        0.9 of the time of evaluating every head for every sample, and at most 0.35 of copying a head per sample.

        Args:
            features: (B, input_dim).
            sector: (B,) int64 in [0, S).

        Raises:
            ValueError: if a sector id is out of range, naming it.
        """
        wrong = sector[(sector < 0) | (sector >= self.num_sectors)]
        if len(wrong):
            raise ValueError(f"sector id {int(wrong[0])}: outside 0…{self.num_sectors - 1}.")
        slot, width = self._slots(sector)
        grouped = features.new_zeros(self.num_sectors * width, features.shape[-1]).index_copy(0, slot, features)
        return self.stacked(grouped.unflatten(0, (self.num_sectors, width))).flatten(0, 1)[slot]

    def _slots(self, sector: Tensor) -> tuple[Tensor, int]:
        """Each sample's row in a (S · width) table in which every sector has `width` rows."""
        counts = sector.bincount(minlength=self.num_sectors)
        order = sector.argsort(stable=True)
        first = counts.cumsum(0) - counts
        rank = torch.empty_like(sector)
        rank[order] = torch.arange(len(sector), device=sector.device) - first[sector[order]]
        width = int(counts.max())
        return sector * width + rank, width

    def stacked(self, features: Tensor, sectors: Tensor | None = None, dropout_mask: Tensor | None = None) -> Tensor:
        """(A, b, 3) logits of b samples for each of A heads.

        Args:
            features: (A, b, input_dim).
            sectors: (A,) int64, which heads; None means all S.
            dropout_mask: (A, b, hidden_dim) factors for the hidden units, in place of the module's own dropout.
        """
        weight1, bias1, weight2, bias2 = (
            parameter if sectors is None else parameter.index_select(0, sectors)
            for parameter in (self.weight1, self.bias1, self.weight2, self.bias2)
        )
        hidden = torch.baddbmm(bias1.unsqueeze(1), features, weight1).relu()
        hidden = F.dropout(hidden, self.dropout, self.training) if dropout_mask is None else hidden * dropout_mask
        return torch.baddbmm(bias2.unsqueeze(1), hidden, weight2)


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

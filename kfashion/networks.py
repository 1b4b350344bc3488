"""Attribute encoders: the five fields of a garment in, a vector of length 1 out.

Source: kfashion specification, section 3. Sizes of the default with the vocabularies of the original (one row of each
table for unknown and padding together): 76 rows × 128 + (640 + 1) × 256 + (256 + 1) × 512 = 305,408 parameters. Here
padding, unknown and missing have a row each, so the same tokens make 86 rows and 306,688 parameters.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from common.errors import UserError
from kfashion.records import FIELDS, MULTI, PAD, Codes

OUTPUT_DIM = 512
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
Rate = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1)]


class FieldEmbeddings(nn.Module):
    """One table per field; a multi field is the mean over its tokens, whatever their order and the padding.

    An empty field is a token of its own (MISSING), so it has a vector that is learnt.

    Args:
        vocab_sizes: rows of each field's table, by field.
        dim: width of every table.
    """

    def __init__(self, vocab_sizes: Mapping[str, int], dim: int):
        super().__init__()
        self.tables = nn.ModuleDict({
            field: nn.EmbeddingBag(vocab_sizes[field], dim, mode="mean", padding_idx=PAD)
            if field in MULTI
            else nn.Embedding(vocab_sizes[field], dim, padding_idx=PAD)
            for field in FIELDS
        })  # fmt: skip

    def forward(self, codes: Codes) -> list[Tensor]:
        """One (B, dim) per field, in the order of `FIELDS`."""
        return [self.tables[field](codes[field]) for field in FIELDS]


class AttributeEncoder(nn.Module):
    """The default: embeddings of the fields side by side, one hidden layer, unit length.

    Args:
        vocab_sizes: rows of each field's table, by field.
        field_dim: width of the embedding of one field.
        hidden_dim: width of the hidden layer.
        dropout: on the hidden layer.
        output_dim: 512, as the image vectors have; there is no other choice.
    """

    def __init__(
        self,
        vocab_sizes: Mapping[str, int],
        field_dim: Size = 128,
        hidden_dim: Size = 256,
        dropout: Rate = 0.1,
        output_dim: Literal[512] = OUTPUT_DIM,
    ):
        super().__init__()
        _check_output(output_dim)
        self.fields = FieldEmbeddings(vocab_sizes, field_dim)
        self.mlp = nn.Sequential(
            nn.Linear(len(FIELDS) * field_dim, hidden_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, output_dim),
        )

    def forward(self, codes: Codes) -> Tensor:
        """(B, 512) float32 vectors of length 1, also under mixed precision."""
        return normalize(self.mlp(torch.cat(self.fields(codes), dim=-1)).float(), dim=-1, eps=1e-12)


class ResidualEncoder(nn.Module):
    """As the default with 3, 5 or 7 hidden layers, each of which adds to what it was given.

    Args:
        num_layers: hidden layers.
        norm: before every layer's activation, of the batch or of each row.
    """

    def __init__(
        self,
        vocab_sizes: Mapping[str, int],
        field_dim: Size = 128,
        hidden_dim: Size = 256,
        num_layers: Literal[3, 5, 7] = 3,
        activation: Literal["relu", "gelu", "silu"] = "gelu",
        norm: Literal["batch", "layer"] = "layer",
        dropout: Rate = 0.1,
        output_dim: Literal[512] = OUTPUT_DIM,
    ):
        super().__init__()
        _check_output(output_dim)
        self.fields = FieldEmbeddings(vocab_sizes, field_dim)
        self.input = nn.Linear(len(FIELDS) * field_dim, hidden_dim)
        self.layers = nn.ModuleList([
            nn.Sequential(
                nn.BatchNorm1d(hidden_dim) if norm == "batch" else nn.LayerNorm(hidden_dim),
                ACTIVATIONS[activation](),
                nn.Linear(hidden_dim, hidden_dim),
                nn.Dropout(dropout),
            )
            for _ in range(num_layers)
        ])  # fmt: skip
        self.output = nn.Linear(hidden_dim, output_dim)

    def forward(self, codes: Codes) -> Tensor:
        """(B, 512) float32 vectors of length 1, also under mixed precision."""
        x = self.input(torch.cat(self.fields(codes), dim=-1))
        for layer in self.layers:
            x = x + layer(x)
        return normalize(self.output(x).float(), dim=-1, eps=1e-12)


class AttentionEncoder(nn.Module):
    """Experimental: the five fields are tokens that attend to each other (not for headline results, contradiction C3).

    Args:
        width: of a field's token.
        num_heads, num_layers: of the transformer.
        hidden_dim: of the layer between the fields and the output.
    """

    def __init__(
        self,
        vocab_sizes: Mapping[str, int],
        width: Literal[128, 256, 512] = 128,
        num_heads: Literal[4, 8, 16] = 4,
        num_layers: Literal[2, 4, 6] = 2,
        hidden_dim: Size = 256,
        dropout: Rate = 0.1,
        output_dim: Literal[512] = OUTPUT_DIM,
    ):
        super().__init__()
        _check_output(output_dim)
        self.fields = FieldEmbeddings(vocab_sizes, width)
        self.field_tag = nn.Parameter(0.02 * torch.randn(len(FIELDS), width))
        layer = nn.TransformerEncoderLayer(width, num_heads, 2 * width, dropout, batch_first=True, norm_first=True)
        self.attention = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.mlp = nn.Sequential(
            nn.Linear(len(FIELDS) * width, hidden_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, output_dim),
        )

    def forward(self, codes: Codes) -> Tensor:
        """(B, 512) float32 vectors of length 1, also under mixed precision."""
        tokens = torch.stack(self.fields(codes), dim=1) + self.field_tag
        return normalize(self.mlp(self.attention(tokens).flatten(1)).float(), dim=-1, eps=1e-12)


class FieldHeads(nn.Module):
    """Logits of every field's tokens from the encoder's output; stage 1 trains them and leaves them behind."""

    def __init__(self, vocab_sizes: Mapping[str, int]):
        super().__init__()
        self.heads = nn.ModuleDict({field: nn.Linear(OUTPUT_DIM, vocab_sizes[field]) for field in FIELDS})

    def forward(self, vectors: Tensor) -> dict[str, Tensor]:
        """(B, vocab size) logits by field, from (B, 512) vectors of length 1."""
        scaled = vectors * OUTPUT_DIM**0.5  # entries of size 1, which a linear layer is initialised for
        return {field: head(scaled) for field, head in self.heads.items()}


def _check_output(output_dim: int) -> None:
    if output_dim != OUTPUT_DIM:
        raise UserError(
            f"model.output_dim={output_dim}: image vectors have {OUTPUT_DIM} dimensions, and so must these."
        )

"""Networks that judge a sequence of commands (nandseq specification, section 6): tensors in, logits out.

All take `(categories, numbers, slot)` of B sequences of L commands and answer with a dict of logits:
`validity` (B,), positive for invalid; `strategy` (B, C) where there is a strategy head; `ops` (B, L), positive for a
bad command, where there is a head per command.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from nandseq.recurrent import FastGRU

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Inputs(nn.Module):
    """(B, L, (K + D) · E): each category embedded, each number through a linear map of its own, side by side.

    Args:
        category_sizes: how many values each of the K categories has.
        num_numbers: D.
        embedding_dim: E.
    """

    def __init__(self, category_sizes: Sequence[int], num_numbers: int, embedding_dim: int):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, embedding_dim) for size in category_sizes)
        self.linears = nn.ModuleList(nn.Linear(1, embedding_dim) for _ in range(num_numbers))
        self.width = (len(category_sizes) + num_numbers) * embedding_dim

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        parts = [embed(categories[..., k]) for k, embed in enumerate(self.embeddings)]
        parts += [linear(numbers[..., d : d + 1]) for d, linear in enumerate(self.linears)]
        return torch.cat(parts, -1)


class Heads(nn.Module):
    """Logits from the hidden states of all commands.

    Args:
        width: H of the hidden states (B, L, H).
        num_classes: size of the strategy head; 0 for none.
        op_head: whether each command gets a logit.
        pooling: `max`, because a sequence is invalid if any command is; `attention` averages, as the first model did.
    """

    def __init__(self, width: int, num_classes: int, op_head: bool, pooling: Literal["attention", "max"]):
        super().__init__()
        self.attention = nn.Linear(width, 1) if pooling == "attention" else None
        self.validity = nn.Linear(width, 1)
        self.strategy = nn.Linear(width, num_classes) if num_classes else None
        self.ops = nn.Linear(width, 1) if op_head else None

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        attention = self.attention
        pooled = hidden.amax(1) if attention is None else (attention(hidden).softmax(1) * hidden).sum(1)
        logits = {"validity": self.validity(pooled).squeeze(-1)}
        if self.strategy is not None:
            logits["strategy"] = self.strategy(pooled)
        if self.ops is not None:
            logits["ops"] = self.ops(hidden).squeeze(-1)
        return logits


class GruClassifier(nn.Module):
    """A GRU over the commands in the order of time.

    Two layers one way with attention on `oracle` features and without strategy head are the first classifier, 65 746
    parameters.

    Args:
        category_sizes, num_numbers: what the features hold.
        num_classes: classes of the strategy head; 0 for none.
        hidden_dim: per direction.
        dropout: between layers; a single layer has none.
    """

    def __init__(
        self,
        category_sizes: list[Size],
        num_numbers: Annotated[int, Field(ge=0)],
        num_classes: Annotated[int, Field(ge=0)],
        embedding_dim: Size = 16,
        hidden_dim: Size = 64,
        num_layers: Size = 1,
        dropout: Rate = 0.0,
        bidirectional: bool = True,
        pooling: Literal["attention", "max"] = "max",
        op_head: bool = False,
    ):
        super().__init__()
        self.inputs = Inputs(category_sizes, num_numbers, embedding_dim)
        self.gru = FastGRU(
            self.inputs.width, hidden_dim, num_layers, batch_first=True, bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )  # fmt: skip
        self.heads = Heads(hidden_dim * (1 + bidirectional), num_classes, op_head, pooling)

    def forward(self, categories: Tensor, numbers: Tensor, slot: Tensor) -> dict[str, Tensor]:
        return self.heads(self.gru(self.inputs(categories, numbers))[0])


class BlockScan(nn.Module):
    """A bidirectional GRU over each block's commands by themselves, as if they stood alone in the log.

    Under the base rules blocks do not touch each other, so that three interleaved counters become one. Where they do
    (busy dies, plane groups, copyback, suspend), `time_branch` adds a GRU over all commands in the order of time; the
    hidden states of both are put side by side.

    Args:
        category_sizes, num_numbers: what the features hold.
        num_classes: classes of the strategy head; 0 for none.
        slot_column: which category is the block's number, to be left out: within a block it says nothing.
        hidden_dim: per direction and branch.
        dropout: on the hidden states.
    """

    def __init__(
        self,
        category_sizes: list[Size],
        num_numbers: Annotated[int, Field(ge=0)],
        num_classes: Annotated[int, Field(ge=0)],
        slot_column: Annotated[int, Field(ge=0)] | None = None,
        embedding_dim: Size = 16,
        hidden_dim: Size = 64,
        dropout: Rate = 0.0,
        time_branch: bool = False,
        op_head: bool = True,
    ):
        super().__init__()
        self.kept = [k for k in range(len(category_sizes)) if k != slot_column]
        self.inputs = Inputs([category_sizes[k] for k in self.kept], num_numbers, embedding_dim)
        self.gru = BlockGru(self.inputs.width, hidden_dim)
        self.time_inputs, self.time_gru = None, None
        if time_branch:
            self.time_inputs = Inputs(category_sizes, num_numbers, embedding_dim)
            self.time_gru = FastGRU(self.time_inputs.width, hidden_dim, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.heads = Heads(2 * hidden_dim * (1 + time_branch), num_classes, op_head, "max")

    def forward(self, categories: Tensor, numbers: Tensor, slot: Tensor) -> dict[str, Tensor]:
        hidden = self.gru(self.inputs(categories[..., self.kept], numbers), slot)
        if self.time_gru is not None:
            hidden = torch.cat([hidden, self.time_gru(self.time_inputs(categories, numbers))[0]], -1)
        return self.heads(self.dropout(hidden))


class BlockGru(nn.Module):
    """(B, L, 2H) hidden states of a GRU that runs both ways over each block's commands alone, in the order of time.

    Every block of every sequence is a row of its own. Rows are padded at their end, for the way back those of the
    reversed commands, so that no state has passed through padding; on a CPU that takes two thirds of the time of a
    packed sequence.
    """

    def __init__(self, input_dim: int, hidden_dim: int):
        super().__init__()
        self.onward, self.back = FastGRU(input_dim, hidden_dim), FastGRU(input_dim, hidden_dim)

    def forward(self, x: Tensor, slot: Tensor) -> Tensor:
        """The states of the commands `x` (B, L, E), where equal numbers in `slot` (B, L) belong together."""
        source, row, position = block_rows(slot)
        lengths = torch.bincount(row)
        commands, states = x.flatten(0, 1)[source], []
        for gru, place in ((self.onward, position), (self.back, lengths[row] - 1 - position)):
            rows = x.new_zeros(int(lengths.max()), len(lengths), x.shape[-1])
            rows[place, row] = commands
            states.append(gru(rows)[0][place, row])
        both = torch.cat(states, -1)
        return torch.empty_like(both).index_copy(0, source, both).view(*slot.shape, -1)


def block_rows(slot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B · L,) each: where in the flattened input a command stands, its block's row, and its place in that row.

    Args:
        slot: (B, L) block of each command; rows are numbered over all sequences, commands keep their order within one.
    """
    order = torch.argsort(slot, dim=1, stable=True)
    grouped = slot.gather(1, order)
    first = torch.ones_like(grouped, dtype=torch.bool)
    first[:, 1:] = grouped[:, 1:] != grouped[:, :-1]
    row = first.flatten().cumsum(0) - 1
    starts = first.flatten().nonzero().squeeze(1)
    offsets = torch.arange(len(slot), device=slot.device).unsqueeze(1) * slot.shape[1]
    return (order + offsets).flatten(), row, torch.arange(len(row), device=slot.device) - starts[row]


class CausalTransformer(nn.Module):
    """Self-attention in which a command sees itself and what came before, so that its logit is known when it is sent.

    A learned bias on the distance within the order of time, cut at `max_distance`, takes the place of positions, so
    that longer sequences hold nothing new.

    Args:
        category_sizes, num_numbers: what the features hold.
        num_classes: classes of the strategy head; 0 for none.
    """

    def __init__(
        self,
        category_sizes: list[Size],
        num_numbers: Annotated[int, Field(ge=0)],
        num_classes: Annotated[int, Field(ge=0)],
        embedding_dim: Size = 16,
        hidden_dim: Size = 64,
        num_layers: Size = 2,
        num_heads: Size = 4,
        max_distance: Size = 32,
        dropout: Rate = 0.0,
        op_head: bool = True,
    ):
        super().__init__()
        if hidden_dim % num_heads:
            raise UserError(f"model.hidden_dim={hidden_dim}: not a multiple of num_heads={num_heads}.")
        self.inputs = Inputs(category_sizes, num_numbers, embedding_dim)
        self.project = nn.Linear(self.inputs.width, hidden_dim)
        self.layers = nn.ModuleList(AttentionLayer(hidden_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_dim)
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, max_distance + 1))
        self.heads = Heads(hidden_dim, num_classes, op_head, "max")

    def forward(self, categories: Tensor, numbers: Tensor, slot: Tensor) -> dict[str, Tensor]:
        x = self.project(self.inputs(categories, numbers))
        mask = self._mask(x)
        for layer in self.layers:
            x = layer(x, mask)
        return self.heads(self.norm(x))

    def _mask(self, x: Tensor) -> Tensor:
        """(heads, L, L) what is added to the attention of command i to command j."""
        at = torch.arange(x.shape[1], device=x.device)
        distance = at[:, None] - at
        bias = self.distance_bias[:, distance.clamp(0, self.distance_bias.shape[1] - 1)]
        return bias.masked_fill(distance < 0, -torch.inf)


class AttentionLayer(nn.Module):
    """Self-attention, then two linear maps, each added to its normalised input.

    PyTorch's own layer takes another way in evaluation mode, which gives NaN for a mask that differs by head.
    """

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.project, self.combine = nn.Linear(hidden_dim, 3 * hidden_dim), nn.Linear(hidden_dim, hidden_dim)
        self.feed = nn.Sequential(
            nn.Linear(hidden_dim, 2 * hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * hidden_dim, hidden_dim)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, H).

        Args:
            x: (B, L, H).
            mask: (heads, L, L) what is added to the attention of command i to command j.
        """
        heads = self.project(self.norms[0](x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.combine(seen))
        return x + self.dropout(self.feed(self.norms[1](x)))

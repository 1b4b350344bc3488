"""Which scenario a trace looks like, and what it does, in words (nandseq specification, section 8)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from nandseq.codes import Op
from nandseq.ops import Ops
from nandseq.trace_features import NAMES, trace_features

HABITS = {
    "programs of the next page": "of the programs go to the page after the block's newest",
    "reads 0 pages behind": "of the reads are of the newest page",
    "reads 5 or more pages behind": "of the reads are five pages or more behind it",
    "reads unwritten pages behind": "of the reads are of pages that the trace did not write",
    "reads of the page after the one read before": "of the reads go on where the block's last read ended",
    "erases of a block with pages": "of the erases clear a block that was written",
}


class ScenarioNetwork(nn.Module):
    """Logits of the scenarios from the features of a sequence.

    Args:
        num_features, num_scenarios: inputs and outputs.
        hidden_dim: 0 for a linear classifier.
    """

    def __init__(
        self,
        num_features: Annotated[int, Field(ge=1)],
        num_scenarios: Annotated[int, Field(ge=1)],
        hidden_dim: Annotated[int, Field(ge=0)] = 64,
    ):
        super().__init__()
        self.scale = nn.BatchNorm1d(num_features, affine=False)
        hidden = [nn.Linear(num_features, hidden_dim), nn.ReLU()] if hidden_dim else []
        self.layers = nn.Sequential(*hidden, nn.Linear(hidden_dim or num_features, num_scenarios))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(self.scale(features))


@dataclass
class Cut:
    """A trace cut into W pieces of up to L commands.

    Attributes:
        op, block, page: (W, L); blocks numbered within the trace.
        length: (W,) commands of each.
    """

    op: np.ndarray
    block: np.ndarray
    page: np.ndarray
    length: np.ndarray

    @property
    def features(self) -> np.ndarray:
        """(W, D) features, blocks numbered anew in each piece."""
        renumbered = np.zeros_like(self.block)
        for row, count in enumerate(self.length):
            renumbered[row, :count] = np.unique(self.block[row, :count], return_inverse=True)[1]
        return trace_features(self.op, renumbered, self.page, self.length)


def cut(ops: Ops, piece: int) -> Cut:
    """The trace in pieces of `piece` commands; a shorter rest is left out unless it is all there is."""
    addresses = np.stack([ops.die, ops.plane, ops.block], 1)
    block = np.unique(addresses, axis=0, return_inverse=True)[1].ravel()
    num_ops = len(ops)
    if num_ops < piece:
        return Cut(ops.op[None], block[None], ops.page[None], np.array([num_ops]))
    kept, shape = num_ops - num_ops % piece, (-1, piece)
    columns = (each[:kept].reshape(shape) for each in (ops.op, block, ops.page))
    return Cut(*columns, np.full(kept // piece, piece))


def describe(ops: Ops, shares: np.ndarray, scenarios: list[str], num_blocks: int) -> list[str]:
    """Sentences about a trace: its size, its mix, its habits, and what it looks like.

    Args:
        shares: (W, K) probabilities of the scenarios for each piece of the trace.
        scenarios: K names.
        num_blocks: of the device.
    """
    used, counts = np.unique(np.stack([ops.die, ops.plane, ops.block], 1), axis=0, return_counts=True)
    busiest = ", ".join(f"{name} {at}" for name, at in zip(("die", "plane", "block"), used[counts.argmax()].tolist()))
    mix = np.bincount(ops.op[ops.op >= 0], minlength=len(Op)) / len(ops)
    told = ", ".join(f"{share:.1%} {Op(kind).name.lower()}" for kind, share in enumerate(mix) if share > 0)
    sentences = [
        f"{len(ops):,} commands on {len(used):,} of {num_blocks:,} blocks ({len(used) / num_blocks:.1%}): {told}.",
        f"The busiest block ({busiest}) takes {counts.max() / len(ops):.1%} of the commands.",
    ]
    habits = dict(zip(NAMES, cut(ops, len(ops)).features[0].tolist()))
    sentences += [f"{habits[name]:.1%} {text}." for name, text in HABITS.items() if habits[name] > 0]
    return [*sentences, looks_like(shares, scenarios)]


def looks_like(shares: np.ndarray, scenarios: list[str]) -> str:
    """The sentence about the scenarios, those first that most pieces of the trace look like."""
    votes = np.bincount(shares.argmax(1), minlength=len(scenarios)) / len(shares)
    order = [k for k in votes.argsort()[::-1] if votes[k] > 0]
    named = ", ".join(f"{scenarios[k]} ({votes[k]:.0%})" for k in order)
    unsure = float((shares.max(1) < 0.5).mean())
    return f"Looks like {named} of {len(shares)} pieces; in {unsure:.0%} of them no scenario has half the probability."

"""The model: a shared backbone, heads and analyzers that read it, and experts that read the input itself."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from redheart.groups import Unit
from redheart.rows import NUM_OUTPUTS, TASKS, Task

Width = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
SPARE_OUTPUTS = 4  # of the spectral estimate: valence, arousal and two spare, which no loss reaches


def mlp(num_inputs: int, widths: Sequence[int], num_outputs: int, dropout: float) -> nn.Sequential:
    """Hidden layers of Linear, LayerNorm, GELU and dropout, then a Linear."""
    layers, before = [], num_inputs
    for width in widths:
        layers += [nn.Linear(before, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, num_outputs))


class ResidualBlock(nn.Module):
    """x + MLP(LayerNorm(x)), with one hidden layer."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        hidden, back = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.layers = nn.Sequential(nn.LayerNorm(dim), hidden, nn.GELU(), nn.Dropout(dropout), back)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Attention(nn.Module):
    """x + self-attention of LayerNorm(x), over the segments of a text."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.qkv, self.back = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return x + self.back(mixed.transpose(1, 2).flatten(2))


class ResidualBackbone(nn.Module):
    """Features (B, dim), the same for every task, of the mean of a text's segments.

    Args:
        num_inputs: size of the vectors.
    """

    def __init__(self, num_inputs: Width, dim: Width, hidden_dim: Width, num_blocks: Width, dropout: Rate):
        super().__init__()
        self.dim = dim
        blocks = [ResidualBlock(dim, hidden_dim, dropout) for _ in range(num_blocks)]
        self.layers = nn.Sequential(nn.Linear(num_inputs, dim), *blocks, nn.LayerNorm(dim))

    def forward(self, x: Tensor) -> dict[Task, Tensor]:
        return dict.fromkeys(TASKS, self.layers(whole(x)))


class TransformerBackbone(nn.Module):
    """Features (B, dim) of a text's segments, projected for each task by a hidden layer of its own.

    Args:
        num_inputs: size of the vectors.
        projection_dim: hidden units of each task's projection.
    """

    def __init__(
        self, num_inputs: Width, dim: Width, hidden_dim: Width, num_blocks: Width, num_heads: Width,
        projection_dim: Width, dropout: Rate,
    ):  # fmt: skip
        super().__init__()
        self.dim = dim
        blocks = [
            block
            for _ in range(num_blocks)
            for block in (Attention(dim, num_heads), ResidualBlock(dim, hidden_dim, dropout))
        ]
        self.layers = nn.Sequential(nn.Linear(num_inputs, dim), *blocks, nn.LayerNorm(dim))
        self.projections = nn.ModuleDict(
            {
                task: nn.Sequential(nn.Linear(dim, projection_dim), nn.GELU(), nn.Linear(projection_dim, dim))
                for task in TASKS
            }
        )

    def forward(self, x: Tensor) -> dict[Task, Tensor]:
        features = self.layers(x if x.dim() == 3 else x.unsqueeze(1)).mean(1)
        return {task: projection(features) for task, projection in self.projections.items()}


class DspKalman(nn.Module):
    """Emotion logits (B, 7): estimates from the spectrum of each segment, followed by a learned Kalman filter.

    The filter's state are the logits. For every segment the gain network reads state and estimate and gives the
    variances of process and measurement, alike for all logits.

    Args:
        num_inputs: size of the vectors; of their rFFT real and imaginary parts are read.
        widths: hidden layers of the estimate.
        gain_width: of the gain network.
    """

    def __init__(self, num_inputs: int, widths: Sequence[int], gain_width: int, dropout: float):
        super().__init__()
        self.num_classes = NUM_OUTPUTS["emotion"]
        self.estimate = mlp(2 * (num_inputs // 2 + 1), widths, self.num_classes + SPARE_OUTPUTS, dropout)
        self.gain = mlp(2 * self.num_classes, [gain_width], 2, dropout)

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """The state after the last segment.

        Args:
            x: (B, D) or (B, L, D).
            prior: (B, 7) logits that the filter starts from; None starts from zeros.
        """
        spectrum = torch.fft.rfft((x if x.dim() == 3 else x.unsqueeze(1)).float(), norm="ortho")
        estimates = self.estimate(torch.cat([spectrum.real, spectrum.imag], -1))[..., : self.num_classes]
        state = torch.zeros_like(estimates[:, 0]) if prior is None else prior
        variance = torch.ones_like(state[:, :1])
        for estimate in estimates.unbind(1):
            process, measurement = functional.softplus(self.gain(torch.cat([state, estimate], -1))).split(1, -1)
            variance = variance + process
            gain = variance / (variance + measurement)
            state, variance = state + gain * (estimate - state), (1 - gain) * variance
        return state


class MultiModule(nn.Module):
    """Logits of every unit for its tasks.

    Source: redheart specification, section 2. Logits are what is fused and cached: bentham and regret go through a
    sigmoid afterwards, emotion and surd through a softmax.

    Args:
        backbone: gives features by task, and has their size as `dim`.
        num_inputs: size of the vectors.
        head_widths, analyzer_widths, dsp_widths: hidden layers.
        expert_widths: hidden layers of the experts, by task.
        gain_width: of the Kalman filter's gain network.
        detach_analyzers: whether the analyzers' loss stops before the backbone; they depend on it all the same.
        dsp_source: what the spectrum is taken of, the input or the backbone's features.
        dsp_prior: what the Kalman filter starts from, zeros or the heads' emotion.
        split_heads: whether each head is a unit of its own.

    Attributes:
        graph: the units with what they read, in forward order.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_inputs: Width,
        head_widths: list[Width],
        analyzer_widths: list[Width],
        dsp_widths: list[Width],
        gain_width: Width,
        expert_widths: dict[Task, list[Width]],
        dropout: Rate,
        detach_analyzers: bool = False,
        dsp_source: Literal["input", "backbone"] = "input",
        dsp_prior: Literal["zeros", "heads"] = "zeros",
        split_heads: bool = False,
    ):
        super().__init__()
        if set(expert_widths) != set(TASKS):
            raise UserError(f"model.expert_widths={expert_widths}: need widths for each of {', '.join(TASKS)}.")
        dim = backbone.dim
        self.backbone = backbone
        self.heads = nn.ModuleDict({task: mlp(dim, head_widths, NUM_OUTPUTS[task], dropout) for task in TASKS})
        self.neural_analyzers = nn.ModuleDict(
            {task: mlp(dim, analyzer_widths, NUM_OUTPUTS[task], dropout) for task in TASKS}
        )
        self.dsp_kalman = DspKalman(num_inputs if dsp_source == "input" else dim, dsp_widths, gain_width, dropout)
        self.experts = nn.ModuleDict(
            {task: mlp(num_inputs, expert_widths[task], NUM_OUTPUTS[task], dropout) for task in TASKS}
        )
        self.detach_analyzers, self.split_heads = detach_analyzers, split_heads
        self.dsp_source, self.dsp_prior = dsp_source, dsp_prior
        self.graph = {unit.name: unit for unit in self._describe()}

    def _describe(self) -> list[Unit]:
        heads = tuple(self.head_unit(task) for task in TASKS)
        dsp_inputs = ("backbone",) if self.dsp_source == "backbone" else ()
        readers = (*dict.fromkeys(heads), *(() if self.detach_analyzers else ("neural_analyzers",)))
        readers += ("dsp_kalman",) if dsp_inputs else ()
        if self.dsp_prior == "heads":
            dsp_inputs += (self.head_unit("emotion"),)
        return [
            Unit("backbone", (), readers),
            *(Unit(name, ("backbone",), (name,)) for name in dict.fromkeys(heads)),
            Unit("neural_analyzers", ("backbone",), ("neural_analyzers",)),
            Unit("dsp_kalman", dsp_inputs, ("dsp_kalman",)),
            *(Unit(f"adv_{task}", (), (f"adv_{task}",)) for task in TASKS),
        ]

    def head_unit(self, task: Task) -> str:
        return f"head.{task}" if self.split_heads else "heads"

    @property
    def units(self) -> dict[str, nn.Module]:
        """The module of every unit, in the order of `graph`. Together they hold every parameter once."""
        modules = {f"head.{task}": head for task, head in self.heads.items()}
        modules |= {f"adv_{task}": expert for task, expert in self.experts.items()}
        return {name: modules[name] if name in modules else getattr(self, name) for name in self.graph}

    @property
    def branches(self) -> list[tuple[str, Task]]:
        """Every unit that answers a task, with that task; the backbone answers none."""
        return [
            *((self.head_unit(task), task) for task in TASKS),
            *(("neural_analyzers", task) for task in TASKS),
            ("dsp_kalman", "emotion"),
            *((f"adv_{task}", task) for task in TASKS),
        ]

    def forward(self, x: Tensor) -> dict[tuple[str, Task], Tensor]:
        """Logits by branch.

        Args:
            x: (B, D) vectors of texts, or (B, L, D) of their segments.
        """
        said: dict[str, dict[Task, Tensor]] = {}
        for unit in self.graph:
            said[unit] = self.run_unit(unit, x, said)
        return {(unit, task): said[unit][task] for unit, task in self.branches}

    def run_unit(self, unit: str, x: Tensor, said: Mapping[str, dict[Task, Tensor]]) -> dict[Task, Tensor]:
        """What one unit gives, by task: the backbone features, the others logits.

        Args:
            said: what the units that it reads gave for the same x.
        """
        if unit == "backbone":
            return self.backbone(x)
        if unit == "dsp_kalman":
            # a measurement for the filter, not a path for its gradient
            prior = said[self.head_unit("emotion")]["emotion"].detach() if self.dsp_prior == "heads" else None
            return {"emotion": self.dsp_kalman(x if self.dsp_source == "input" else said["backbone"]["emotion"], prior)}
        if unit.startswith("adv_"):
            task = unit.removeprefix("adv_")
            return {task: self.experts[task](whole(x))}
        features = said["backbone"]
        if unit == "neural_analyzers":
            seen = {task: each.detach() for task, each in features.items()} if self.detach_analyzers else features
            return {task: part(seen[task]) for task, part in self.neural_analyzers.items()}
        return {task: head(features[task]) for task, head in self.heads.items() if self.head_unit(task) == unit}


def whole(x: Tensor) -> Tensor:
    """(B, D): the mean over segments, where there are any."""
    return x.mean(1) if x.dim() == 3 else x

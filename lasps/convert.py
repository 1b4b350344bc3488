"""Weights of the first lasps as weights of `SectorFusion`, and back.

| ours                                       | original                                                      |
|--------------------------------------------|---------------------------------------------------------------|
| encoder.input.*                            | ts_encoder.input_projection.*                                 |
| encoder.position                           | ts_encoder.position                                           |
| encoder.layers.{i}.attention.qkv.weight    | ts_encoder.transformer.layers.{i}.self_attn.in_proj_weight    |
| encoder.layers.{i}.attention.qkv.bias      | ts_encoder.transformer.layers.{i}.self_attn.in_proj_bias      |
| encoder.layers.{i}.attention.out.*         | ts_encoder.transformer.layers.{i}.self_attn.out_proj.*        |
| encoder.layers.{i}.feedforward.0.*         | ts_encoder.transformer.layers.{i}.linear1.*                   |
| encoder.layers.{i}.feedforward.3.*         | ts_encoder.transformer.layers.{i}.linear2.*                   |
| encoder.layers.{i}.norm1.* and norm2.*     | ts_encoder.transformer.layers.{i}.norm1.* and norm2.*         |
| chart.blocks.{4j}.* and {4j+1}.*           | cnn.blocks.{4j}.* (convolution) and {4j+1}.* (batch norm)     |
| chart.projection.*                         | cnn.projection.*                                              |
| fusion.*                                   | shared_fusion.*                                               |
| common_head.{0,3}.*                        | common_head.{0,3}.*                                           |
| sector_heads.weight1[k], bias1[k]          | sector_heads.{k}.0.weight (transposed), .bias                 |
| sector_heads.weight2[k], bias2[k]          | sector_heads.{k}.3.weight (transposed), .bias                 |

The specification (section 6) gives the original's top-level names and those of the heads; the names inside
`ts_encoder` and `cnn` are taken to be those of `nn.TransformerEncoder` and of one `nn.Sequential`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from common.errors import UserError, nearest
from lasps.networks import SectorFusion

RENAMED = (
    ("encoder.input.", "ts_encoder.input_projection."),
    ("encoder.layers.", "ts_encoder.transformer.layers."),
    ("encoder.", "ts_encoder."),
    ("chart.", "cnn."),
    ("fusion.", "shared_fusion."),
)  # beginnings; the first that fits counts
RENAMED_IN_LAYER = (
    (".attention.qkv.", ".self_attn.in_proj_"),
    (".attention.out.", ".self_attn.out_proj."),
    (".feedforward.0.", ".linear1."),
    (".feedforward.3.", ".linear2."),
)
HEAD_PARTS = {"weight1": "0.weight", "bias1": "0.bias", "weight2": "3.weight", "bias2": "3.bias"}


def from_original(state: Mapping[str, Tensor], heads_trained: bool = True) -> dict[str, Tensor]:
    """State dict of a `SectorFusion` with the weights of an original checkpoint.

    Args:
        state: the original's state dict.
        heads_trained: False for a phase-1 checkpoint, whose sector heads are random. The weights do not show it.

    Raises:
        UserError: naming the first name that is missing or unexpected or has an unexpected shape, or if the network
            was made for another number of features than 28.
    """
    expected = to_original(_skeleton(state).state_dict())
    _compare(state, expected)
    shared = {name: value for name, value in state.items() if not name.startswith("sector_heads.")}
    ours = {_renamed(name, back=True): value for name, value in shared.items()}
    num_sectors = _count(state, r"sector_heads\.(\d+)\.")
    for part, name in HEAD_PARTS.items():
        heads = [state[f"sector_heads.{sector}.{name}"] for sector in range(num_sectors)]
        ours[f"sector_heads.{part}"] = torch.stack([head.T if head.dim() == 2 else head for head in heads])
    ours["heads_trained"] = torch.full((num_sectors,), heads_trained)
    return ours


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict with the weights of a `SectorFusion`; `heads_trained` has no place in it.

    Raises:
        UserError: if the network reads out a `cls` token, which the original has not.
    """
    if "encoder.cls" in state:
        raise UserError("encoder.cls: the original has no such token; use a network with readout first, last or mean.")
    shared = [name for name in state if not name.startswith("sector_heads.") and name != "heads_trained"]
    theirs = {_renamed(name): state[name] for name in shared}
    for part, name in HEAD_PARTS.items():
        for sector, head in enumerate(state[f"sector_heads.{part}"]):
            theirs[f"sector_heads.{sector}.{name}"] = (head.T if head.dim() == 2 else head).contiguous()
    return theirs


def _renamed(name: str, back: bool = False) -> str:
    for ours, theirs in RENAMED:
        old, new = (theirs, ours) if back else (ours, theirs)
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for ours, theirs in RENAMED_IN_LAYER:
        name = name.replace(theirs, ours) if back else name.replace(ours, theirs)
    return name


def _skeleton(state: Mapping[str, Tensor]) -> SectorFusion:
    """A network without storage whose sizes are read from an original state dict."""
    shape = {name: tuple(value.shape) for name, value in state.items()}
    num_blocks = _count(state, r"cnn\.blocks\.(\d+)\.(?:weight|bias)")
    try:
        hidden_dim, input_dim = shape["ts_encoder.input_projection.weight"]
        with torch.device("meta"):
            return SectorFusion(
                num_sectors=max(1, _count(state, r"sector_heads\.(\d+)\.")),
                input_dim=input_dim,
                hidden_dim=hidden_dim,
                num_layers=_count(state, r"ts_encoder\.transformer\.layers\.(\d+)\."),
                num_heads=1,  # no weight depends on it
                feedforward_dim=shape["ts_encoder.transformer.layers.0.linear1.weight"][0],
                cnn_channels=[shape[f"cnn.blocks.{index}.weight"][0] for index in range(0, num_blocks, 4)] or [1],
                max_length=shape["ts_encoder.position"][0],
                use_chart_cnn=any(name.startswith("cnn.") for name in state),
                head_hidden=shape["common_head.0.weight"][0],
            )
    except KeyError as missing:
        raise UserError(f"original weights: {missing.args[0]} is missing; is this a whole checkpoint?") from None


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that `pattern` finds at the beginning of a name; 0 without any."""
    return max((int(found[1]) + 1 for name in state if (found := re.match(pattern, name))), default=0)


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unexpected:
        parts = [f"{name} is missing" for name in missing[:1]] + [f"{name} is unexpected" for name in unexpected[:1]]
        hint = nearest(unexpected[0], missing) if unexpected else ""
        counts = f"({len(missing)} missing, {len(unexpected)} unexpected)"
        raise UserError(f"original weights: {' and '.join(parts)} {counts}.{hint}")
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise UserError(f"original weights: {name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}.")

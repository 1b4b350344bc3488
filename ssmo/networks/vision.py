"""Classifiers of images: (B, C, H, W) in, logits (B, K) out. Source: "ssmo specification, sections 2 and 3"."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from common.errors import UserError

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class CNN(nn.Module):
    """Stages of 3x3 convolutions that halve the image, then linear layers.

    Args:
        image_size: height and width.
        channels: of the stages.
        double: two convolutions per stage, the first one batch-normalised; else a single plain one.
        hidden_dim: width of a hidden linear layer; none by default.

    Raises:
        UserError: if nothing is left of the image after the last stage.
    """

    task = "classification"

    def __init__(
        self,
        in_channels: Size,
        num_classes: Size,
        image_size: Size,
        channels: Annotated[Sequence[Size], Field(min_length=1)] = (8, 16),
        double: bool = False,
        hidden_dim: Size | None = None,
        dropout: Rate = 0.0,
    ):
        super().__init__()
        side = image_size // 2 ** len(channels)
        if side == 0:
            raise UserError(f"channels: {len(channels)} stages halve {image_size} pixels to nothing; give fewer.")
        inputs = [in_channels, *channels[:-1]]
        self.stages = nn.Sequential(
            *(self._stage(left, right, double) for left, right in zip(inputs, channels, strict=True))
        )
        widths = [channels[-1] * side**2, *([hidden_dim] if hidden_dim else []), num_classes]
        self.head = mlp(widths, dropout=dropout)

    @staticmethod
    def _stage(inputs: int, outputs: int, double: bool) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1)]
        if double:
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)]
        return nn.Sequential(*layers, nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(images).flatten(1))


class MLP(nn.Module):
    """Linear layers on the whole image, or on its patches, whose features are averaged before the last layer.

    Args:
        image_size: height and width.
        patch_size: side of the patches; the whole image by default.
        hidden_dims: widths of the hidden layers.
        layer_norm: normalises every hidden layer.

    Raises:
        UserError: if patches do not tile the image.
    """

    task = "classification"

    def __init__(
        self,
        in_channels: Size,
        num_classes: Size,
        image_size: Size,
        patch_size: Size | None = None,
        hidden_dims: Annotated[Sequence[Size], Field(min_length=1)] = (128, 64),
        layer_norm: bool = False,
        dropout: Rate = 0.0,
    ):
        super().__init__()
        self.patch_size = patch_size or image_size
        _require_tiles(image_size, self.patch_size)
        hidden = mlp([in_channels * self.patch_size**2, *hidden_dims], layer_norm, dropout)
        last = [nn.LayerNorm(hidden_dims[-1])] if layer_norm else []
        self.features = nn.Sequential(*hidden, nn.ReLU(), *last)
        self.head = nn.Linear(hidden_dims[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = F.unfold(images, self.patch_size, stride=self.patch_size).mT
        return self.head(self.features(patches).mean(1))


class ResNet18(nn.Module):
    """ResNet-18 with a stem for small images: one 3x3 convolution and no pooling (He et al. 2015, arXiv 1512.03385).

    Args:
        width: channels of the first stage; each of the three others doubles them.
    """

    task = "classification"

    def __init__(self, in_channels: Size, num_classes: Size, width: Size = 64):
        super().__init__()
        self.stem = convolution(in_channels, width)
        stages, inputs = [], width
        for level in range(4):
            outputs = width * 2**level
            stages += [BasicBlock(inputs, outputs, stride=2 if level else 1), BasicBlock(outputs, outputs)]
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images)).mean((2, 3)))


class ViTTiny(nn.Module):
    """A transformer over patches, classified by their mean (Dosovitskiy et al. 2020, arXiv 2010.11929).

    Args:
        image_size: height and width.

    Raises:
        UserError: if patches do not tile the image or `hidden_dim` is no multiple of `num_heads`.
    """

    task = "classification"

    def __init__(
        self,
        in_channels: Size,
        num_classes: Size,
        image_size: Size,
        patch_size: Size = 4,
        hidden_dim: Size = 192,
        num_layers: Size = 6,
        num_heads: Size = 3,
        dropout: Rate = 0.0,
    ):
        super().__init__()
        _require_tiles(image_size, patch_size)
        if hidden_dim % num_heads:
            raise UserError(f"hidden_dim: {hidden_dim} is no multiple of num_heads={num_heads}.")
        self.embed = nn.Conv2d(in_channels, hidden_dim, patch_size, stride=patch_size)
        self.position = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2, hidden_dim))
        layer = nn.TransformerEncoderLayer(
            hidden_dim, num_heads, 4 * hidden_dim, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(hidden_dim), enable_nested_tensor=False)
        self.head = nn.Linear(hidden_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).mT + self.position
        return self.head(self.layers(tokens).mean(1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.first = convolution(inputs, outputs, stride=stride, dilation=dilation)
        self.second = convolution(outputs, outputs, dilation=dilation)[:2]  # no ReLU before the sum
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, kernel_size=1, stride=stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.second(self.first(x))).relu()


def convolution(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, batch normalisation, ReLU."""
    padding = dilation * (kernel_size // 2)
    layer = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def mlp(widths: Sequence[int], layer_norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU, normalisation if asked for, and dropout between them."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for left, right in pairwise(widths[1:]):
        norm = [nn.LayerNorm(left)] if layer_norm else []
        layers += [nn.ReLU(), *norm, nn.Dropout(dropout), nn.Linear(left, right)]
    return nn.Sequential(*layers)


def _require_tiles(image_size: int, patch_size: int) -> None:
    if image_size % patch_size:
        raise UserError(f"patch_size: {patch_size} does not divide the image of {image_size} pixels.")

"""Segmenters: images (B, C, H, W) in, logits per pixel (B, K, H, W) out. Source: "ssmo specification, section 3"."""

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssmo.networks.vision import BasicBlock, convolution

Size = Annotated[int, Field(ge=1)]


class UNet(nn.Module):
    """An encoder and a decoder with a skip at every resolution (Ronneberger et al. 2015, arXiv 1505.04597).

    Args:
        width: channels at full resolution; every halving doubles them.
        depth: how often the image is halved.
    """

    task = "segmentation"

    def __init__(self, in_channels: Size, num_classes: Size, width: Size = 16, depth: Size = 3):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_double(left, right) for left, right in pairwise([in_channels, *widths]))
        self.up = nn.ModuleList(_double(3 * each, each) for each in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.down[0](images)
        skips = []
        for stage in self.down[1:]:
            skips.append(x)
            x = stage(F.max_pool2d(x, 2))
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            x = stage(torch.cat([skip, resize(x, skip)], 1))
        return self.head(x)


class DeepLabV3Plus(nn.Module):
    """A ResNet of 1/16 resolution, context at several rates, edges from 1/4 (Chen et al. 2018, arXiv 1802.02611).

    Args:
        width: channels of the encoder's first stage; the last one has 8 times as many.
    """

    task = "segmentation"
    RATES = (6, 12, 18)

    def __init__(self, in_channels: Size, num_classes: Size, width: Size = 16):
        super().__init__()
        self.stem = nn.Sequential(convolution(in_channels, width, stride=2), convolution(width, width, stride=2))
        self.fine = _stage(width, width)
        self.coarse = nn.Sequential(
            _stage(width, 2 * width, stride=2),
            _stage(2 * width, 4 * width, stride=2),
            _stage(4 * width, 8 * width, dilation=2),
        )
        self.context = Context(8 * width, 4 * width, self.RATES)
        self.edges = convolution(width, width, kernel_size=1)
        self.decoder = nn.Sequential(_double(5 * width, 4 * width), nn.Conv2d(4 * width, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(self.stem(images))
        context = self.context(self.coarse(fine))
        logits = self.decoder(torch.cat([self.edges(fine), resize(context, fine)], 1))
        return resize(logits, images)


class Context(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, a 3x3 one at each rate and the image's mean, joined."""

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                convolution(inputs, outputs, kernel_size=1),
                *(convolution(inputs, outputs, dilation=rate) for rate in rates),
            ]
        )
        # not batch-normalised: a batch of one image has a single value per channel here
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1), nn.ReLU())
        self.join = convolution((len(rates) + 2) * outputs, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        return self.join(torch.cat([*parts, self.whole(x).expand_as(parts[0])], 1))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """`x` at the resolution of `like`."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(convolution(inputs, outputs), convolution(outputs, outputs))


def _stage(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride, dilation), BasicBlock(outputs, outputs, dilation=dilation))

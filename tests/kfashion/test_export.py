"""The encoder as one file: what was saved is loaded again, also what the first version wrote."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from common.errors import UserError
from kfashion.encoders import Projection
from kfashion.export import load_encoder, save_encoder
from kfashion.networks import AttributeEncoder
from kfashion.records import Vocabulary

WORDS = {"category": ("레트로",), "style": ("모던",), "silhouette": ("루즈",), "material": ("니트",), "detail": ("띠",)}
RECORD = {"category": "레트로", "style": ["모던", "펑크"], "silhouette": None, "material": ["니트"], "detail": []}
FIRST_VERSION = Path(__file__).parent / "encoder_version_1.pt"  # as `judged` below has it


def judged():
    vocabulary = Vocabulary(WORDS)
    sizes = {"vocab_sizes": vocabulary.sizes, "field_dim": 1, "hidden_dim": 1}
    network = AttributeEncoder(**sizes)
    with torch.no_grad():
        for number, weights in enumerate(network.parameters()):
            weights.copy_(torch.linspace(-1, 1 + number / 8, weights.numel()).view_as(weights))
    model = OmegaConf.create({"_target_": "kfashion.networks.AttributeEncoder", **sizes})
    projection = Projection(np.full(2, 0.5, np.float32), np.ones((2, 3), np.float32))
    data = SimpleNamespace(
        vocabulary=vocabulary, projection=projection, facts={"encoder": "pixels16", "preprocess": "squashed"}
    )
    loaded = SimpleNamespace(config=SimpleNamespace(model=model), module=SimpleNamespace(network=network))
    return SimpleNamespace(data=data, loaded=loaded)


def vector(encoder):
    with torch.inference_mode():
        return encoder.network(encoder.vocabulary.encode([RECORD]))[0]


def test_what_was_saved_is_loaded_again(tmp_path):
    one = judged()
    save_encoder(tmp_path / "best_model.pt", one, {"hit_at_5": 0.5})
    encoder = load_encoder(tmp_path / "best_model.pt", Vocabulary(WORDS).hash, "pixels16")
    assert (encoder.encoder, encoder.preprocess, encoder.metrics) == ("pixels16", "squashed", {"hit_at_5": 0.5})
    assert encoder.vocabulary == Vocabulary(WORDS)
    assert (encoder.projection.mean == 0.5).all()
    with torch.inference_mode():
        expected = one.loaded.module.network.eval()(Vocabulary(WORDS).encode([RECORD]))[0]
    torch.testing.assert_close(vector(encoder), expected)


def test_a_file_of_the_first_version_keeps_loading(tmp_path):
    save_encoder(tmp_path / "now.pt", judged(), {})
    old = load_encoder(FIRST_VERSION)
    torch.testing.assert_close(vector(old), vector(load_encoder(tmp_path / "now.pt")), atol=1e-6, rtol=0)
    assert old.projection.matrix.shape == (2, 3)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [({"vocabulary": "another"}, "vocabulary .* need another"), ({"encoder": "another"}, "image encoder pixels16")],
)
def test_another_vocabulary_or_image_encoder_is_refused(wanted, message):
    with pytest.raises(UserError, match=message):
        load_encoder(FIRST_VERSION, **wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 2}, "version 2; this program reads version 1"), ({"vocabulary": "0" * 64}, "changed by hand")],
)
def test_a_file_of_another_version_or_changed_by_hand_is_refused(tmp_path, change, message):
    content = torch.load(FIRST_VERSION, weights_only=True) | change
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(UserError, match=message):
        load_encoder(tmp_path / "changed.pt")


@pytest.mark.parametrize("content", [None, b"", b"nothing"])
def test_what_is_no_encoder_is_told_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match="no encoder can be read"):
        load_encoder(tmp_path / "x.pt")

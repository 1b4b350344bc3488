"""The encoder as one file: weights, vocabulary, and the image encoder whose vectors it was aligned with.

Source: kfashion specification, section 9.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from common.errors import UserError
from common.files import plain, write_atomic
from kfashion.encoders import Projection
from kfashion.records import FIELDS, Vocabulary

if TYPE_CHECKING:  # it imports Lightning, which a service that only reads encoders can do without
    from kfashion.judging import Judged

VERSION = 1


@dataclass
class Encoder:
    """What is needed to turn records into vectors beside those of images.

    Attributes:
        network: in evaluation mode.
        encoder, preprocess: id of the image encoder and hash of its preparation of pixels.
        projection: of its vectors; None where they have 512 dimensions.
    """

    network: nn.Module
    vocabulary: Vocabulary
    encoder: str
    preprocess: str
    projection: Projection | None
    metrics: dict[str, Any]


def save_encoder(path: Path, judged: "Judged", metrics: dict[str, Any]) -> None:
    """Write the encoder of a run: tensors and plain values only."""
    data, config, projection = judged.data, judged.loaded.config, judged.data.projection
    content = {
        "version": VERSION,
        "model": OmegaConf.to_container(config.model, resolve=True),
        "state": {name: value.cpu() for name, value in judged.loaded.module.network.state_dict().items()},
        "tokens": {field: list(data.vocabulary.tokens[field]) for field in FIELDS},
        "vocabulary": data.vocabulary.hash,
        "encoder": data.facts["encoder"],
        "preprocess": data.facts["preprocess"],
        "projection": None if projection is None else {
            "mean": torch.from_numpy(projection.mean.copy()), "matrix": torch.from_numpy(projection.matrix.copy()),
        },
        "metrics": plain(metrics),
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, lambda file: file.write(buffer.getvalue()))


def load_encoder(path: Path, vocabulary: str | None = None, encoder: str | None = None) -> Encoder:
    """The encoder that `save_encoder` wrote.

    Args:
        vocabulary, encoder: hash and id that it must have; None for any.

    Raises:
        UserError: if the file is missing, damaged, of another version, or belongs to another vocabulary or encoder.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content["version"]
    except Exception as error:  # bytes that are no checkpoint can make the reader fail in any way
        raise UserError(
            f"{path}: no encoder can be read ({type(error).__name__}); use one of a retrieval analysis."
        ) from None
    if version != VERSION:
        raise UserError(f"{path}: version {version}; this program reads version {VERSION}.")
    words = Vocabulary({field: tuple(content["tokens"][field]) for field in FIELDS})
    for what, wanted, found in (("vocabulary", vocabulary, words.hash), ("image encoder", encoder, content["encoder"])):
        if wanted not in (None, found):
            raise UserError(f"{path}: made with {what} {found[:40]}, need {wanted[:40]}; take the files of one run.")
    if words.hash != content["vocabulary"]:
        raise UserError(f"{path}: its tokens do not fit their hash; it was changed by hand, make it anew.")
    network = instantiate(content["model"], _convert_="all")
    network.load_state_dict(content["state"])
    held = content["projection"]
    projection = None if held is None else Projection(held["mean"].numpy(), held["matrix"].numpy())
    return Encoder(network.eval(), words, content["encoder"], content["preprocess"], projection, content["metrics"])

"""A small service for tests: pictures of one colour, an untrained encoder, a catalogue of a dozen products."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kfashion.encoders import ImageEncoder, PixelProjection
from kfashion.export import Encoder
from kfashion.networks import AttributeEncoder
from kfashion.records import Vocabulary
from kfashion.search import Identity
from kfashion.service.app import Settings, create_app
from kfashion.service.catalogue import Product, ProductStore, Stored
from kfashion.service.embedding import jpeg
from kfashion.service.recommend import Recommender

KEY = "a key of the tests"
IDENTITY = Identity("pixels", "small", "words", "weights")
VOCABULARY = Vocabulary({
    "category": ("레트로", "리조트"), "style": ("레트로", "모던"), "silhouette": ("루즈",),
    "material": ("니트", "데님"), "detail": ("단추", "지퍼"),
})  # fmt: skip
NUM_PRODUCTS = 12


def picture(number: int, side: int = 24) -> Image.Image:
    """Noise that differs by its number."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(noise).resize((4 * side, 5 * side), Image.Resampling.NEAREST)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def stored(number: int, is_new: bool = True, images: ImageEncoder | None = None) -> Stored:
    """Product `item<number>`; even ones are 레트로, odd ones 리조트; 2n and 2n + 1 are of one owner."""
    images = images or PixelProjection()
    category = VOCABULARY.tokens["category"][number % 2]
    record = {"category": category, "style": ["모던"], "silhouette": None, "material": ["니트"], "detail": []}
    vector = images.encode(images.prepare(picture(number))[None])[0].numpy()
    product = Product(f"item{number:02d}", record, f"owner {number // 2}", is_new, {"brand": "무명"})
    return Stored(product, vector, jpeg(picture(number)))


def recommender(path: Path, count: int = NUM_PRODUCTS, backend: str = "exact") -> Recommender:
    """With `count` new products, and `seller`, which is none of them."""
    torch.manual_seed(0)
    network = AttributeEncoder(VOCABULARY.sizes, field_dim=8, hidden_dim=16).eval()
    store, images = ProductStore(path, IDENTITY), PixelProjection()
    if not store.filled:
        seller = stored(count, False, images)
        store.fill([*(stored(number, True, images) for number in range(count)), seller])
    return Recommender(
        Encoder(network, VOCABULARY, images.id, images.preprocess_hash, None, {}), images, store, backend
    )


def application(path: Path, **limits: float):
    return create_app(Settings(KEY, **{"rate": 0, **limits}), recommender(path))

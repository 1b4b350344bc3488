"""Vectors of pictures and records at request time: requests that wait are worked on together, results are kept."""

import asyncio
import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kfashion.encoders import ImageEncoder, Projection
from kfashion.images import load_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MOST_PIXELS = 40_000_000
MOST_ELONGATED = 100  # times as long as wide: in the encoder's square nothing would be left of it
MOST_SCANS = 50  # of a JPEG, which has ten: each goes over all pixels, and 60 bytes are enough to ask for one more
DECODED_AT_ONCE = 2  # a picture of 40 million pixels takes 120 MB, twice that with transparency
EMBEDDED_AT_ONCE = 8
REMEMBERED = 4096
Query, Answer = TypeVar("Query"), TypeVar("Answer")


class NotAnImage(Exception):
    """Bytes that no picture can be decoded from, or a picture that nobody draws."""


class TooManyPixels(Exception):
    """A picture larger than is decoded."""


class Batcher(Generic[Query, Answer]):
    """Answers to single queries, worked out in one thread for all that wait at once.

    While one batch is worked on, the next one gathers; nobody waits for company.

    Args:
        work: queries → answers in the same order; an exception goes to all of them.
        most: queries in one batch.
        thread: to work in, of one worker; batchers that share it work by turns, and batches are larger; None: an own.
    """

    def __init__(
        self, work: Callable[[list[Query]], list[Answer]], most: int, thread: ThreadPoolExecutor | None = None
    ):
        self.work, self.most = work, most
        self.thread = thread or ThreadPoolExecutor(1)
        self.waiting: list[tuple[Query, asyncio.Future]] = []
        self.working = False

    async def __call__(self, query: Query) -> Answer:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((query, future))
        if not self.working:
            self._start()
        return await future

    def _start(self) -> None:
        batch, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
        self.working = bool(batch)
        if batch:
            done = asyncio.get_running_loop().run_in_executor(self.thread, self.work, [query for query, _ in batch])
            done.add_done_callback(lambda done: self._deliver([future for _, future in batch], done))

    def _deliver(self, futures: list[asyncio.Future], done: asyncio.Future) -> None:
        error = done.exception()
        for number, future in enumerate(futures):
            if future.done():  # whoever asked has gone
                continue
            if error is None:
                future.set_result(done.result()[number])
            else:
                future.set_exception(error)
        self._start()


class Remembered(Generic[Query, Answer]):
    """The answers used last, by key."""

    def __init__(self, size: int = REMEMBERED):
        self.size = size
        self.answers: OrderedDict[Query, Answer] = OrderedDict()

    def get(self, key: Query) -> Answer | None:
        if key in self.answers:
            self.answers.move_to_end(key)
        return self.answers.get(key)

    def put(self, key: Query, answer: Answer) -> None:
        self.answers[key] = answer
        if len(self.answers) > self.size:
            self.answers.popitem(last=False)


class ImageEmbedder:
    """Bytes of pictures to vectors.

    Args:
        encoder: frozen; its `encode` is called in one thread only.
        projection: of its vectors; None where they have 512 dimensions.
    """

    def __init__(self, encoder: ImageEncoder, projection: Projection | None):
        self.encoder, self.projection = encoder, projection
        self.decoding = ThreadPoolExecutor(DECODED_AT_ONCE)
        self.batcher = Batcher(self._encode, EMBEDDED_AT_ONCE)
        self.remembered: Remembered[bytes, tuple[np.ndarray, tuple[int, int]]] = Remembered()

    async def embed(self, raw: bytes) -> tuple[np.ndarray, tuple[int, int], bool]:
        """(512,) vector of length 1, width and height, and whether the same bytes had been there before.

        Raises:
            NotAnImage: for bytes that cannot be decoded to the end.
            TooManyPixels: told by the header; nothing is decoded then.
        """
        key = hashlib.sha256(raw).digest()
        known = self.remembered.get(key)
        if known is not None:
            return *known, True
        loop = asyncio.get_running_loop()
        pixels, size = await loop.run_in_executor(self.decoding, self._prepare, raw)
        vector = await self.batcher(pixels)
        self.remembered.put(key, (vector, size))
        return vector, size, False

    async def small_jpeg(self, raw: bytes) -> bytes:
        """See `jpeg`. Raises as `embed`."""
        return await asyncio.get_running_loop().run_in_executor(self.decoding, lambda: jpeg(decode(raw)))

    def _prepare(self, raw: bytes) -> tuple[Tensor, tuple[int, int]]:
        image = decode(raw)
        return self.encoder.prepare(image), image.size

    def _encode(self, pixels: list[Tensor]) -> list[np.ndarray]:
        vectors = self.encoder.encode(torch.stack(pixels)).numpy()
        return list(vectors if self.projection is None else self.projection.apply(vectors))


def decode(raw: bytes) -> Image.Image:
    """The picture upright, in RGB; its format is told by its content. Raises as `ImageEmbedder.embed`."""
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as header:
            width, height = header.size
            scans = raw.count(b"\xff\xda") if header.format in ("JPEG", "MPO") else 1
    except Image.DecompressionBombError:
        raise TooManyPixels from None
    except Exception:  # hostile bytes can make a decoder fail in any way
        raise NotAnImage from None
    if width * height > MOST_PIXELS:
        raise TooManyPixels
    if scans > MOST_SCANS or max(width, height) > MOST_ELONGATED * min(width, height):
        raise NotAnImage
    try:
        return load_rgb(io.BytesIO(raw))
    except Exception:
        raise NotAnImage from None


def jpeg(image: Image.Image, side: int = 512) -> bytes:
    """The picture as a JPEG of at most `side` pixels on a side, without what the file said beyond the pixels."""
    small = image.copy()
    small.info = {}
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()

"""Load on the recommendation service over loopback, with a catalogue of 100,000 products of which all are made up.

Bars: attribute queries and known images at 20 concurrent p50 ≤ 50 ms, p99 ≤ 150 ms, ≥ 200 requests a second; unseen
images at 4 concurrent p50 ≤ 250 ms; mixed load with writes: no error, memory growth < 5 %. The client runs on the same
cores. `python benchmarks/kfashion_service.py [PRODUCTS] [SECONDS] [exact | ivf]`; SECONDS are those of each part.
"""

import asyncio
import io
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import numpy as np
from PIL import Image

KEY, MOST_SECONDS, MOST_PRODUCTS = "benchmark", 600, 200_000
SIZES = {"category": 23, "style": 23, "silhouette": 7, "material": 25, "detail": 40}
WORDS = {field: [f"{field} {number}" for number in range(size)] for field, size in SIZES.items()}


def serve(path: Path, count: int, backend: str, port: int) -> None:
    import torch
    import uvicorn

    from kfashion.encoders import EfficientNetLite0, fit_projection
    from kfashion.export import Encoder
    from kfashion.networks import AttributeEncoder
    from kfashion.records import Vocabulary
    from kfashion.search import Identity
    from kfashion.service.app import Settings, create_app
    from kfashion.service.catalogue import Product, ProductStore, Stored
    from kfashion.service.recommend import Recommender

    images = EfficientNetLite0("cpu")
    words = Vocabulary({field: tuple(sorted(tokens)) for field, tokens in WORDS.items()})
    projection = fit_projection("orthonormal", np.zeros((1, images.dim), np.float32), 0)
    encoder = Encoder(AttributeEncoder(words.sizes).eval(), words, images.id, images.preprocess_hash, projection, {})
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2_000, 512)).astype(np.float32)

    def made(number: int) -> Stored:
        vector = centres[number % len(centres)] + 0.75 * rng.standard_normal(512).astype(np.float32)
        return Stored(
            Product(f"item{number:06d}", record(rng), f"owner {number}"), vector / np.linalg.norm(vector), b"-"
        )

    store = ProductStore(path, Identity(images.id, "", "", ""))
    if not store.filled:
        store.fill(made(number) for number in range(count))
    torch.manual_seed(0)
    app = create_app(Settings(KEY, rate=0))
    begin = time.process_time()
    app.state.recommender = Recommender(encoder, images, store, backend)
    print(f"index of {count:,} ({backend}) made of the file in {time.process_time() - begin:.1f} CPU s", flush=True)
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def record(rng: np.random.Generator) -> dict:
    one = {field: str(rng.choice(WORDS[field])) for field in ("category", "silhouette")}
    return one | {
        field: rng.choice(WORDS[field], 2, replace=False).tolist() for field in ("style", "material", "detail")
    }


def photo(rng: np.random.Generator) -> bytes:
    """A JPEG of 600 × 800 pixels that nobody has sent before."""
    small = Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((600, 800), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Load:
    """Requests by some clients for some seconds, with the time and the outcome of each."""

    def __init__(self, server: int, url: str):
        self.server, self.url = server, url
        self.rng, self.known = np.random.default_rng(1), photo(np.random.default_rng(2))
        self.added: list[str] = []
        self.photos: list[bytes] = []

    async def by_attributes(self, client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/api/recommend/style", json={"style_description": record(self.rng)})

    async def known_image(self, client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/api/recommend/customer_input", files={"file": ("a.jpg", self.known)})

    async def unseen_image(self, client: httpx.AsyncClient) -> httpx.Response:
        raw = self.photos.pop() if self.photos else photo(self.rng)
        return await client.post("/api/recommend/customer_input", files={"file": ("a.jpg", raw)})

    async def write(self, client: httpx.AsyncClient) -> httpx.Response:
        headers = {"X-API-Key": KEY}
        if len(self.added) > 20:
            return await client.delete(f"/api/catalog/new_products/{self.added.pop(0)}", headers=headers)
        files, data = {"file": ("a.jpg", photo(self.rng))}, record(self.rng)
        response = await client.post("/api/catalog/new_products", files=files, data=data, headers=headers)
        if response.status_code == 201:
            self.added.append(response.json()["item_id"])
        return response

    async def mixed(self, client: httpx.AsyncClient) -> httpx.Response:
        kinds = [self.by_attributes, self.known_image, self.unseen_image, self.write]
        return await kinds[self.rng.choice(4, p=[0.7, 0.2, 0.07, 0.03])](client)

    async def run(self, name: str, ask: Callable[..., Awaitable[httpx.Response]], clients: int, seconds: float) -> None:
        taken: list[float] = []
        failed: list[str] = []
        end = time.perf_counter() + seconds

        async def one() -> None:
            async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
                while time.perf_counter() < end:
                    begin = time.perf_counter()
                    response = await ask(client)
                    taken.append(1e3 * (time.perf_counter() - begin))
                    if response.status_code >= 400:
                        failed.append(response.text[:200])

        begin, worked = time.perf_counter(), cpu_seconds(self.server)
        await asyncio.gather(*(one() for _ in range(clients)))
        p50, p99 = np.percentile(taken, [50, 99])
        rate = len(taken) / (time.perf_counter() - begin)
        cpu_ms = 1e3 * (cpu_seconds(self.server) - worked) / len(taken)
        print(f"{name}, {clients} at once: {len(taken)} requests, {rate:.0f} a second, p50 {p50:.0f} ms, "
              f"p99 {p99:.0f} ms, {cpu_ms:.1f} ms of the server's CPU each, {len(failed)} errors {failed[:1] or ''}",
              flush=True)  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; it does not depend on what else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    count = min(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, MOST_PRODUCTS)
    seconds = min(float(sys.argv[2]) if len(sys.argv) > 2 else 10, MOST_SECONDS)
    backend = sys.argv[3] if len(sys.argv) > 3 else "exact"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(Path(folder) / "catalogue.db", count, backend, port)
        )
        process.start()
        try:
            while process.is_alive() and not _ready(url):
                time.sleep(0.5)
            asyncio.run(_measure(process.pid, url, seconds))
        finally:
            process.kill()
            process.join()


async def _measure(pid: int, url: str, seconds: float) -> None:
    load = Load(pid, url)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    await load.run("warm-up", load.mixed, 4, min(seconds, 5))
    await load.run("attribute queries", load.by_attributes, 20, seconds)
    await load.run("a known image", load.known_image, 20, seconds)
    load.photos = [photo(load.rng) for _ in range(int(40 * min(seconds, 15)))]
    await load.run("unseen images", load.unseen_image, 4, seconds)
    before = resident_mb(pid)
    await load.run("mixed with writes", load.mixed, 8, seconds)
    after = resident_mb(pid)
    print(f"memory {before:.0f} → {after:.0f} MB ({after / before - 1:+.1%})")
    metrics = httpx.get(f"{url}/metrics").text.splitlines()
    print(json.dumps([line for line in metrics if line.startswith("kfashion_products")]))


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()

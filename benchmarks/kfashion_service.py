"""Load on the recommendation service, run as a user does, over loopback, with a catalogue of 100,000 made-up products.

Bars: attribute queries and known images at 20 concurrent p50 ≤ 50 ms, p99 ≤ 150 ms, ≥ 200 requests a second; unseen
images at 4 concurrent p50 ≤ 250 ms; ten minutes of mixed load with writes: no error, memory growth < 5 %; start with
all files at hand to /ready ≤ 10 s; after 20 kills no acknowledged write is lost and nothing removed is back.

`python benchmarks/kfashion_service.py [--seconds 10] [--mixed 600] [--kills 20] …` takes 20 minutes and 2.5 GB of disk
and needs a run of kfashion_stage2, of which it works on a copy. The clients run on the same cores. A request that fails
because we have killed the service is no error; whether it was done is asked after the next start. Memory growth is that
of the resident set from the second tenth of the mixed load to its last, medians of each. Exit code 1: a write was lost,
or a request failed.
"""

import argparse
import asyncio
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import uvloop
from PIL import Image

from common.cli import fail
from common.errors import UserError
from common.rundir import Run, resolve_run
from kfashion.fields import FIELDS, MULTI

ROOT = Path(__file__).resolve().parents[1]
KEY = "benchmark"
MOST_SECONDS, MOST_KILLS, MOST_PRODUCTS = 1800, 100, 200_000
MIX = {"attributes": 0.70, "known": 0.20, "unseen": 0.07, "write": 0.03}
MIXED_CLIENTS, WRITERS, KEPT = 8, 4, 20  # products that are added before the oldest of them is removed
PRODUCTS = "/api/catalog/new_products"
FOUND_AGAIN = 5  # written products that are looked for by their pictures after each start
Answer = tuple[int, bytes]


def fill(run: Run, count: int) -> dict[str, list[str]]:
    """Start the service's files for a run and add made-up products; returns the tokens of its vocabulary.

    A made-up vector lies between those of two garments of the run, so that there are dense regions and empty ones.
    """
    from kfashion.service.catalogue import Product, Stored
    from kfashion.service.loading import load_recommender

    service, rng = load_recommender(run, None, None, "exact"), np.random.default_rng(0)
    tokens = {field: list(service.encoder.vocabulary.tokens[field]) for field in FIELDS}
    ids, _, vectors = service.store.new_products()
    picture, draw = service.store.picture(ids[0]), random.Random(0)

    def made(number: int) -> Stored:
        one, other = vectors[rng.integers(0, len(vectors), 2)]
        vector = one + rng.random() * other + 0.02 * rng.standard_normal(512)
        product = Product(f"item{number:06d}", record(draw, tokens), f"owner {number}")
        return Stored(product, (vector / np.linalg.norm(vector)).astype(np.float32), picture)

    service.store.fill(made(number) for number in range(count - len(ids)))
    service.close()
    return tokens


def record(draw: random.Random, tokens: dict[str, list[str]]) -> dict[str, str | list[str]]:
    return {
        field: draw.sample(words, min(2, len(words))) if field in MULTI else draw.choice(words)
        for field, words in tokens.items()
    }


def photo(number: int, width: int) -> bytes:
    """A JPEG of blurred noise that differs by its number, three wide to four high."""
    small = Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 9, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((width, width * 4 // 3), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def commented(raw: bytes, text: str) -> bytes:
    """The same JPEG in other bytes: cheap to make, and as dear to answer as any other."""
    comment = text.encode()
    return raw[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + raw[2:]


class Server:
    """`python -m kfashion.serve` in a process of its own."""

    def __init__(self, run: Run, backend: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.words = [f"run={run.path}", f"port={self.port}", f"backend={backend}", "rate=0"]
        self.killed = False

    def launch(self) -> None:
        environment = {**os.environ, "KFASHION_API_KEY": KEY}
        command = [sys.executable, "-m", "kfashion.serve", *self.words]
        self.killed, self.launched = False, time.perf_counter()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    async def ready(self) -> float:
        """Seconds from the launch until it answers that it is ready."""
        while True:
            client = Client(self)
            try:
                if (await client.ask("GET", "/ready"))[0] == 200:
                    return time.perf_counter() - self.launched
            except (OSError, EOFError):
                if self.process.poll() is not None and not self.killed:
                    raise UserError(f"the service has ended with code {self.process.returncode}; start it by hand: "
                                    f"python -m kfashion.serve {' '.join(self.words)}") from None  # fmt: skip
                if self.killed:
                    raise
            finally:
                client.close()
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        self.killed = True
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def cpu_seconds(self) -> float:
        """User and system time; it does not depend on what else the machine does."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Client:
    """One connection, kept open. A library's client would take as much of the two cores as the service does."""

    def __init__(self, server: Server):
        self.server, self.streams = server, None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Answer:
        """Status and body. Raises OSError or EOFError when the connection breaks."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.server.port)
        reader, writer = self.streams
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {KEY}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        return int(head[9:12]), await reader.readexactly(length)

    async def send(self, path: str, fields: dict[str, str | list[str]], raw: bytes) -> Answer:
        """POST a form with a picture."""
        parts = [b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + raw]
        for name, value in fields.items():
            for each in value if isinstance(value, list) else [value]:
                parts.append(f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{each}'.encode())
        return await self.ask("POST", path, b"\r\n".join([*parts, b"--b--\r\n"]), "multipart/form-data; boundary=b")

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


class Writes:
    """What has been written, as far as the service has acknowledged it.

    Attributes:
        present, gone: numbers of products whose addition, or removal, was acknowledged last.
        unsure: those of which a change was asked for and not answered.
    """

    def __init__(self, tokens: dict[str, list[str]]):
        self.tokens, self.draw = tokens, random.Random(1)
        self.number = 0
        self.present: dict[int, None] = {}
        self.gone: set[int] = set()
        self.unsure: set[int] = set()

    async def write(self, client: Client) -> Answer:
        """Add a product, or remove the oldest where there are enough."""
        if len(self.present) > KEPT:
            number = next(iter(self.present))
            del self.present[number]
            self.unsure.add(number)
            answer = await client.ask("DELETE", f"{PRODUCTS}/w{number}")
            self._settle(number, answer[0] != 200)
            return answer
        number = self.number = self.number + 1
        self.unsure.add(number)
        fields = {"item_id": f"w{number}", **record(self.draw, self.tokens)}
        answer = await client.send(PRODUCTS, fields, photo(number, 150))
        self._settle(number, answer[0] == 201)
        return answer

    async def check(self, client: Client, count: int) -> list[str]:
        """What of the catalogue is not as it was acknowledged, after which nothing is unsure.

        Args:
            count: of products that were there before the first write.
        """
        wrong = []
        there = {number: await self._is_there(client, number) for number in (*self.present, *self.gone, *self.unsure)}
        wrong += [f"w{number} lost" for number in self.present if not there[number]]
        wrong += [f"w{number} back" for number in self.gone if there[number]]
        for number in list(self.unsure):
            self._settle(number, there[number])
        total = json.loads((await client.ask("GET", f"{PRODUCTS}?limit=1"))[1])["total"]
        if total != count + sum(there.values()):
            wrong.append(f"{total} products, not {count + sum(there.values())}")
        for number in [*list(self.present)[-FOUND_AGAIN:], *list(self.gone)[-FOUND_AGAIN:]]:
            _, body = await client.send("/api/recommend/customer_input", {"top_k": "1"}, photo(number, 150))
            found = [each["item_id"] for each in json.loads(body)["recommendations"]]
            if (f"w{number}" in found) != there[number]:
                wrong.append(f"w{number} {'not ' if there[number] else ''}found by its picture")
        return wrong

    def _settle(self, number: int, present: bool) -> None:
        self.unsure.discard(number)
        if present:
            self.present[number] = None
        else:
            self.gone.add(number)

    async def _is_there(self, client: Client, number: int) -> bool:
        return (await client.ask("GET", f"{PRODUCTS}/w{number}"))[0] == 200


class Load:
    """Kinds of requests, and clients that repeat them for some seconds."""

    def __init__(self, server: Server, tokens: dict[str, list[str]]):
        self.server, self.tokens, self.writes = server, tokens, Writes(tokens)
        self.draw, self.sent = random.Random(2), 0
        self.photos = [photo(10**6 + number, 600) for number in range(20)]
        self.kinds = {
            "attributes": self.attributes, "known": self.known, "unseen": self.unseen, "write": self.writes.write,
        }  # fmt: skip

    async def attributes(self, client: Client) -> Answer:
        body = json.dumps({"style_description": record(self.draw, self.tokens)}).encode()
        return await client.ask("POST", "/api/recommend/style", body)

    async def known(self, client: Client) -> Answer:
        return await client.send("/api/recommend/customer_input", {}, self.photos[0])

    async def unseen(self, client: Client) -> Answer:
        self.sent += 1
        raw = commented(self.photos[self.sent % len(self.photos)], f"{self.sent}")
        return await client.send("/api/recommend/customer_input", {}, raw)

    async def mixed(self, client: Client) -> Answer:
        return await self.kinds[self.draw.choices(list(MIX), list(MIX.values()))[0]](client)

    async def run(self, name: str, ask: Callable[[Client], Awaitable[Answer]], clients: int, seconds: float) -> int:
        """Prints what was measured; returns the number of errors."""
        taken: list[float] = []
        errors: Counter[str] = Counter()
        begin, worked = time.perf_counter(), self.server.cpu_seconds()

        async def one() -> None:
            client = Client(self.server)
            while time.perf_counter() < begin + seconds:
                asked = time.perf_counter()
                try:
                    status, body = await ask(client)
                    if status >= 400:
                        errors[f"{status} {body[:200].decode()}"] += 1
                except (OSError, EOFError) as error:
                    errors[repr(error)] += 1
                    client.close()
                taken.append(1e3 * (time.perf_counter() - asked))
            client.close()

        await asyncio.gather(*(one() for _ in range(clients)))
        p50, p99 = np.percentile(taken, [50, 99])
        cpu_ms = 1e3 * (self.server.cpu_seconds() - worked) / len(taken)
        print(f"{name}, {clients} at once: {len(taken)} requests, {len(taken) / (time.perf_counter() - begin):.0f} a "
              f"second, p50 {p50:.0f} ms, p99 {p99:.0f} ms, {cpu_ms:.1f} ms of the service's CPU each, "
              f"{errors.total()} errors {dict(errors.most_common(3)) or ''}", flush=True)  # fmt: skip
        return errors.total()


async def latencies(load: Load, seconds: float) -> int:
    await load.run("warm-up", load.mixed, 4, min(seconds, 5))
    errors = await load.run("attribute queries", load.attributes, 20, seconds)
    errors += await load.run("a known image", load.known, 20, seconds)
    return errors + await load.run("unseen images", load.unseen, 4, seconds)


async def mixed_load(load: Load, seconds: float) -> int:
    """Errors of requests, and writes that are not as acknowledged; prints the growth of memory."""
    sizes: list[float] = []

    async def watch() -> None:
        while True:
            sizes.append(load.server.resident_mb())
            await asyncio.sleep(seconds / 100)

    watching = asyncio.create_task(watch())
    errors = await load.run("mixed with writes", load.mixed, MIXED_CLIENTS, seconds)
    watching.cancel()
    begin, end = np.median(sizes[10:20]), np.median(sizes[-10:])
    print(f"memory {sizes[0]:.0f} MB at first, {begin:.0f} MB in the second tenth, {end:.0f} MB in the last "
          f"({end / begin - 1:+.1%})", flush=True)  # fmt: skip
    return errors


async def killed(load: Load, count: int, kills: int) -> int:
    """Launch, write, kill at a random moment, check; again and again. Returns what was wrong; prints how often.

    The moments are uniform over twice the time of a start, so that about half of the kills meet the start.
    """
    server, draw, starts, wrong = load.server, random.Random(3), [], []
    begin = len(load.writes.present) + len(load.writes.gone)
    usual = await restarted(server)
    for _ in range(kills):
        server.kill()
        server.launch()
        moment = draw.uniform(0, 2 * usual)
        working = asyncio.create_task(write_until_killed(load))
        await asyncio.sleep(moment)
        server.kill()
        wrong += await working
        starts.append(await restarted(server))
        client = Client(server)
        wrong += await load.writes.check(client, count)
        client.close()
    written = len(load.writes.present) + len(load.writes.gone) - begin
    print(f"{kills} kills, {written} products written, starts {np.median(starts):.1f} s (slowest {max(starts):.1f} s), "
          f"{len(wrong)} wrong {wrong[:3] or ''}", flush=True)  # fmt: skip
    return len(wrong)


async def restarted(server: Server) -> float:
    """Kill and launch; the seconds until it is ready."""
    server.kill()
    server.launch()
    return await server.ready()


async def write_until_killed(load: Load) -> list[str]:
    """Some clients that write as soon as the service is ready; returns what failed before the kill."""
    wrong: list[str] = []

    async def one() -> None:
        client = Client(load.server)
        try:
            await load.server.ready()
            while not load.server.killed:
                status, body = await load.writes.write(client)
                if status >= 400:
                    wrong.append(f"{status} {body[:200].decode()}")
        except (OSError, EOFError) as error:
            if not load.server.killed:
                wrong.append(repr(error))
        finally:
            client.close()

    await asyncio.gather(*(one() for _ in range(WRITERS)))
    return wrong


async def measure(server: Server, tokens: dict[str, list[str]], options: argparse.Namespace) -> int:
    """What went wrong: failed requests and lost writes."""
    print(f"{options.products:,} products, {options.backend}; load average {os.getloadavg()[0]:.1f} on "
          f"{os.cpu_count()} cores")  # fmt: skip
    server.launch()
    print(f"first start {await server.ready():.1f} s, {server.cpu_seconds():.1f} CPU s", flush=True)
    print(f"start {await restarted(server):.1f} s, {server.cpu_seconds():.1f} CPU s", flush=True)
    load = Load(server, tokens)
    wrong = await latencies(load, options.seconds)
    wrong += await mixed_load(load, options.mixed)
    return wrong + (await killed(load, options.products, options.kills) if options.kills else 0)


def main(words: list[str] | None = None) -> int:
    options = parsed(words)
    with tempfile.TemporaryDirectory() as folder:
        source = resolve_run(options.run, options.output_dir)
        run = Run(shutil.copytree(source.path, Path(folder) / "run", ignore=shutil.ignore_patterns("service")))
        tokens = fill(run, options.products)
        server = Server(run, options.backend)
        try:
            wrong = uvloop.run(measure(server, tokens, options))
        finally:
            server.kill()
    print(f"{wrong} errors" if wrong else "no errors, no lost write")
    return int(wrong > 0)


def parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest:kfashion_stage2")
    parser.add_argument("--output-dir", default=os.environ.get("OUTPUT_DIR", str(ROOT / "outputs")))
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10, help="of each kind of request")
    parser.add_argument("--mixed", type=float, default=600, help="seconds of mixed load")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--backend", choices=["exact", "ivf"], default="ivf")
    options = parser.parse_args(words)
    options.products = min(options.products, MOST_PRODUCTS)
    options.seconds, options.mixed = min(options.seconds, MOST_SECONDS), min(options.mixed, MOST_SECONDS)
    options.kills = min(options.kills, MOST_KILLS)
    return options


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        fail(str(error))

"""`python -m kfashion.serve`: its words, and a service that is trained, served, killed and served again."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from common.rundir import resolve_run
from kfashion.serve import main
from kfashion.service.loading import load_recommender
from kfashion.service.recommend import Wanted
from kfashion.synthetic import synthetic_root
from tests.kfashion.service_parts import png
from tests.processes import ROOT, command

SMALL = ["data.num_images=100", "data.num_designs=20", "encoder@data.encoder=kfashion/pixels", "phase.epochs=1"]


def mistake(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("prot=1", "Did you mean port?"), ("--run", "unknown word"),
        ("port=http", "need a number"), ("port=70000", "need 1 to 65535"), ("rate=-1", "0 or more"),
        ("backend=hnsw", "exact, ivf"), ("catalog.path=/nowhere", "no such folder"), ("run=/nowhere", "no config.yaml"),
        ("hosts=,", "names nobody"), ("run=latest:kfashion_stag2", "no finished run"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(word, answer, capsys, tmp_path):
    assert answer in mistake([f"paths.output_dir={tmp_path}", word], capsys)


def test_a_key_that_no_header_can_hold_is_refused(capsys, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("name: x")
    monkeypatch.setenv("KFASHION_API_KEY", "열쇠")
    assert "printable ASCII" in mistake([f"run={tmp_path}"], capsys)


def test_a_port_that_is_taken_is_told(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("name: x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = mistake([f"run={tmp_path}", f"port={taken.getsockname()[1]}"], capsys)
    assert "take another port" in line


def test_help_answers_without_loading_anything():
    code = "import sys, kfashion.serve; kfashion.serve.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "run=latest:kfashion_stage2" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


class Served:
    """The command in a process of its own, ready to be asked."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {**os.environ, "OUTPUT_DIR": str(folder), "KFASHION_API_KEY": "key"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kfashion.serve", f"port={port}"],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines = iter(self.process.stdout.readline, "")
        assert any(re.match("ready:", line) for line in lines), self.process.stderr.read()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "key"}, timeout=60)

    def stop(self, how):
        self.process.send_signal(how)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = command("train.py", "experiment=kfashion_stage2", *SMALL, env={"OUTPUT_DIR": str(folder)})
    assert done.code == 0, done.err
    return folder


@pytest.mark.slow
def test_a_trained_run_is_served_and_what_it_was_given_outlives_a_kill(trained):
    first = Served(trained)
    item = first.client.get("/api/catalog/new_products").json()["items"][0]
    data = {"item_id": "added", "category": item["category"]}
    added = first.client.post("/api/catalog/new_products", files={"file": ("a.png", png(1))}, data=data)
    assert added.status_code == 201, added.text
    assert first.client.delete(f"/api/catalog/new_products/{item['item_id']}").status_code == 200
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    again = Served(trained)
    found = again.client.post("/api/recommend/customer_input", files={"file": ("a.png", png(1))}).json()
    assert found["recommendations"][0]["item_id"] == "added"
    assert again.client.get(f"/api/catalog/new_products/{item['item_id']}").status_code == 404
    assert again.client.get("/").status_code == 200
    assert again.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_folder_of_pictures_of_your_own_becomes_the_catalogue(trained, tmp_path):
    root = synthetic_root(tmp_path, 50, 10, 7)
    service = load_recommender(resolve_run("latest:kfashion_stage2", trained), root, None, "exact")
    name = service.store.page(0, 1)[0].item_id
    asked, count = asyncio.run(service.from_item(name)), service.store.count()
    assert count == len(service.index) >= 40
    own = service.index.search(asked.vector[None], 1, [frozenset()])[0][0]
    assert own[1] == pytest.approx(1, abs=1e-5)
    again = asyncio.run(service.recommend(asked, Wanted(20, -1.0)))
    owner = service.store.find([name])[name].owner
    assert again.products
    assert owner not in {product.owner for product, _ in again.products}
    service.close()

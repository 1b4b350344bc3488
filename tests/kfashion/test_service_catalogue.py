"""The catalogue's file and its index: what is kept through kills, refused, and found while it changes."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from common.errors import UserError
from kfashion.service.catalogue import ItemExists, ProductStore
from kfashion.service.live_index import LiveIndex
from tests.kfashion.service_parts import IDENTITY, recommender, stored

KILLS = 20


@lru_cache
def pattern():
    return stored(0)


def named(name):
    return replace(pattern(), product=replace(pattern().product, item_id=name))


@pytest.fixture
def store(tmp_path):
    store = ProductStore(tmp_path / "catalogue.db", IDENTITY)
    yield store
    store.close()


def unit(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, 512)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _write_until_killed(path, round_, acknowledged):
    """Adds products in two threads, and removes every third; tells each change when it has returned."""
    store = ProductStore(path, IDENTITY)

    def write(thread):
        for number in range(10**6):
            name = f"{round_}-{thread}-{number}"
            store.add(named(name))
            os.write(acknowledged, f"+{name}\n".encode())
            if number % 3 == 0:
                store.remove(name)
                os.write(acknowledged, f"-{name}\n".encode())

    threading.Thread(target=write, args=(1,), daemon=True).start()
    write(0)


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_and_no_half_one_kept_through_kills(tmp_path):
    path, rng, pattern_vector = tmp_path / "catalogue.db", np.random.default_rng(0), pattern().vector
    added, removed = set(), set()
    for round_ in range(KILLS):
        reading, writing = os.pipe()
        child = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(path, round_, writing))
        child.start()
        os.close(writing)
        first = os.read(reading, 1)
        time.sleep(float(rng.uniform(0, 0.1)))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with os.fdopen(reading, "rb") as pipe:
            lines = (first + pipe.read()).decode().splitlines()
        added |= {line[1:] for line in lines if line[0] == "+"}
        removed |= {line[1:] for line in lines if line[0] == "-"}
        again = ProductStore(path, IDENTITY)
        ids, _, vectors = again.new_products()
        assert again._read("PRAGMA integrity_check") == [("ok",)]
        again.close()
        in_flight = (added - removed) - set(ids)
        assert all(int(name.rpartition("-")[2]) % 3 == 0 for name in in_flight)  # its removal was under way
        assert not removed & set(ids)
        assert (vectors == pattern_vector).all()
        added -= in_flight
    assert len(added) > KILLS


def test_a_write_is_on_disk_when_it_returns_and_a_reader_elsewhere_sees_all_of_it(store):
    store.add(named("a"))
    other = sqlite3.connect(store.path)
    assert other.execute("SELECT item_id, length(vector) FROM products").fetchall() == [("a", 2048)]
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_interrupted_filling_leaves_nothing(store):
    def broken():
        yield named("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fill(broken())
    assert not store.filled
    assert store.count() == 0


def test_a_name_is_taken_once_whoever_is_first(store):
    outcomes = []

    def add(number):
        try:
            store.add(replace(named("same"), picture=bytes([number])))
            outcomes.append(number)
        except ItemExists:
            pass

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(outcomes) == 1
    assert store.picture("same") == bytes(outcomes)


def test_two_services_do_not_share_a_file(store):
    with pytest.raises(UserError, match="another service"):
        ProductStore(store.path, IDENTITY)


def test_vectors_of_other_weights_are_refused(tmp_path):
    ProductStore(tmp_path / "a.db", IDENTITY).close()
    with pytest.raises(UserError, match="other weights"):
        ProductStore(tmp_path / "a.db", replace(IDENTITY, model="others"))
    ProductStore(tmp_path / "a.db", IDENTITY).close()  # the refusal has let go of the file


def test_a_file_that_is_no_catalogue_is_told(tmp_path):
    (tmp_path / "a.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="no catalogue can be read"):
        ProductStore(tmp_path / "a.db", IDENTITY)


def test_a_catalogue_damaged_in_its_middle_is_told(tmp_path):
    path = tmp_path / "a.db"
    recommender(path, 200).close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 4)
        file.write(b"\xff" * (size // 2))
    with pytest.raises(UserError, match="cannot be read"):
        recommender(path)


def test_all_products_of_an_owner_are_named_however_many(store):
    for number in range(30):
        store.add(named(f"of {number % 2}: {number}"))
    theirs = replace(pattern().product, item_id="theirs", owner="another")
    store.add(replace(pattern(), product=theirs))
    assert len(store.of_same_owner("of 0: 0")) == 30
    assert store.of_same_owner("theirs") == ["theirs"]
    assert store.of_same_owner("nobody") == []


def test_what_was_changed_is_there_after_a_restart(tmp_path):
    first = recommender(tmp_path / "a.db")
    first.add(replace(named("kept"), vector=unit(1)[0]))
    first.remove("item03")
    first.close()
    second = recommender(tmp_path / "a.db")
    names = [name for name, _ in second.index.search(unit(1), 50, [frozenset()])[0]]
    assert names[0] == "kept"
    assert "item03" not in names
    assert second.tokens["category", "레트로"] == 7
    second.close()


@pytest.mark.parametrize("backend", ["exact", "ivf"])
def test_a_changing_index_finds_what_a_new_one_of_the_same_garments_finds(backend):
    rng, vectors = np.random.default_rng(0), unit(400)
    ids, categories = [f"g{number:03d}" for number in range(400)], ["a" if number % 4 else "b" for number in range(400)]
    live = LiveIndex(IDENTITY, ids[:300], vectors[:300], categories[:300], backend)
    for number in range(300, 400):
        live.add(ids[number], vectors[number], categories[number])
    gone = set(rng.choice(400, 150, replace=False).tolist())
    for number in gone:
        live.remove(ids[number])
    left = [number for number in range(400) if number not in gone]
    assert len(live) == 250
    wanted = [frozenset(), frozenset("b"), frozenset("ab"), frozenset("c")] * 5
    for query, only, found in zip(unit(20, 1), wanted, live.search(unit(20, 1), 10, wanted)):
        chosen = [number for number in left if not only or categories[number] in only]
        scores = {ids[number]: float(query @ vectors[number]) for number in chosen}
        best = sorted(scores, key=lambda name: -scores[name])[:10]
        assert len(set(best) & {name for name, _ in found}) >= (len(best) if backend == "exact" else len(best) - 1)
        assert all(score == pytest.approx(scores[name], abs=2e-6) for name, score in found)


def test_equal_cosines_are_ordered_by_name():
    vectors = np.repeat(unit(1), 5, 0)
    live = LiveIndex(IDENTITY, ["d", "b", "e"], vectors[:3], [None] * 3)
    live.add("a", vectors[3], None)
    live.add("c", vectors[4], None)
    assert [name for name, _ in live.search(unit(1), 5, [frozenset()])[0]] == ["a", "b", "c", "d", "e"]
    assert LiveIndex(IDENTITY, [], vectors[:0], []).search(unit(2), 5, [frozenset()] * 2) == [[], []]

"""Search indices: what they find, refuse, keep, and replace."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from kfashion.search import Identity, build_index, load_index

IDENTITY = Identity("encoder 1", "pixels", "words", "weights")
every_backend = pytest.mark.parametrize("backend", ["exact", "ivf"])


def unit(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def index(backend="exact", count=200):
    return build_index(IDENTITY, [f"item{number}" for number in range(count)], unit(count), backend)


@every_backend
def test_a_vector_finds_itself_first_and_scores_fall(backend):
    built = index(backend)
    found, scores = built.search(unit(200), 5)
    assert (found[:, 0] == np.arange(200)).all()
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)


@every_backend
def test_more_than_there_are_gives_all(backend):
    found, _ = index(backend, 7).search(unit(2, 1), 50)
    assert [sorted(row) for row in found.tolist()] == [list(range(7))] * 2


@every_backend
def test_only_what_is_allowed_is_found(backend):
    allowed = np.zeros(200, bool)
    allowed[[3, 50, 199]] = True
    found, _ = index(backend).search(unit(4, 1), 10, allowed)
    assert [sorted(row) for row in found.tolist()] == [[3, 50, 199]] * 4


@every_backend
def test_what_is_added_is_found_and_what_is_removed_is_not(backend):
    built, new = index(backend), unit(3, 9)
    built.add(["a", "b", "c"], new)
    assert built.ids[built.search(new, 1)[0][:, 0]].tolist() == ["a", "b", "c"]
    built.remove(["b", "item0"])
    assert len(built) == 201
    found = built.ids[built.search(new, 1)[0][:, 0]]
    assert (found[0], found[2]) == ("a", "c")
    assert found[1] != "b"


@every_backend
def test_a_saved_index_finds_the_same(backend, tmp_path):
    built, path = index(backend), tmp_path / "new.index"
    built.save(path)
    again = load_index(path, IDENTITY)
    assert again.backend == backend
    for one, other in zip(built.search(unit(9, 1), 5), again.search(unit(9, 1), 5)):
        np.testing.assert_array_equal(one, other)
    manifest = again.manifest()
    assert (manifest["count"], manifest["dim"], manifest["metric"]) == (200, 16, "cosine")


@pytest.mark.parametrize("part", ["encoder", "preprocess", "vocabulary", "model"])
def test_an_index_of_another_identity_is_refused(part, tmp_path):
    index().save(tmp_path / "index")
    with pytest.raises(UserError, match=f"built with {part}"):
        load_index(tmp_path / "index", replace(IDENTITY, **{part: "other"}))


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    (tmp_path / "index").write_bytes(b"PK nothing")
    for name in ("index", "missing"):
        with pytest.raises(UserError, match="no index can be read"):
            load_index(tmp_path / name, IDENTITY)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path, built = tmp_path / "index", index()
    built.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", lambda file, **_: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        built.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_and_vectors_are_checked():
    built = index()
    with pytest.raises(UserError, match="item3: is in the index already"):
        built.add(["item3"], unit(1))
    with pytest.raises(UserError, match="length 2"):
        built.add(["new"], 2 * unit(1))
    with pytest.raises(UserError, match="more than once"):
        built.add(["x", "x"], unit(2))
    with pytest.raises(UserError, match="shape"):
        built.add(["x"], np.ones((1, 3), np.float32))
    with pytest.raises(UserError, match="none: is not in the index"):
        built.remove(["none"])
    with pytest.raises(UserError, match="backend=hnsw"):
        build_index(IDENTITY, ["a"], unit(1), "hnsw")


def test_an_approximate_index_knows_what_it_misses():
    built = index("ivf", 2000)
    assert built.recall_at_10 >= 0.99
    built.recall_at_10 = 0.9
    assert "0.900" in built.manifest()["warning"]
    assert index().manifest()["warning"] is None

import numpy as np
import pytest

from kfashion.catalogue import Reading, read_catalogue
from kfashion.synthetic import FLAWS, draw_catalogue, make_designs, synthetic_root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    draw_catalogue(root / "labels", 120, 30, 0)
    return root / "labels"


@pytest.fixture(scope="module")
def catalogue(drawn):
    return read_catalogue(drawn, drawn.parent / "cache", Reading())


def test_the_reader_finds_the_designs_that_were_drawn(catalogue):
    designs = make_designs(30, np.random.default_rng(0))
    known = {
        (d.part, d.category, (d.category, d.substyle)[: 1 + bool(d.substyle)], d.silhouette, d.materials, d.details)
        for d in designs
    }
    columns = ("part", "category", "style", "silhouette", "material", "detail")
    rows = catalogue.items.select(columns).to_pylist()
    assert {tuple(tuple(v) if isinstance(v, list) else v for v in row.values()) for row in rows} <= known
    assert 120 < len(rows) < 170


def test_the_designs_differ_in_their_fields():
    designs = make_designs(200, np.random.default_rng(1))
    assert len({(d.category, d.substyle, d.silhouette, d.materials, d.details) for d in designs}) == 200


def test_every_hundredth_label_is_flawed_in_turn(catalogue):
    assert set(catalogue.reasons) == {FLAWS[0]}


def test_every_flaw_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("kfashion.synthetic.ONE_FLAWED_IN", 2)
    draw_catalogue(tmp_path / "labels", 10, 20, 0)
    assert set(read_catalogue(tmp_path / "labels", tmp_path / "cache", Reading()).reasons) == set(FLAWS)


def test_what_the_fields_say_can_be_seen(catalogue):
    """The mean colour of a crop tells the category, of which there are five."""
    rows = catalogue.items.to_pylist()
    colours = np.array([np.asarray(catalogue.crop(n)).mean((0, 1)) for n in range(len(rows))])
    category = np.array([row["category"] for row in rows])
    means = {name: colours[category == name].mean(0) for name in np.unique(category)}
    nearest = np.array([min(means, key=lambda name: np.abs(means[name] - colour).sum()) for colour in colours])
    assert (nearest == category).mean() > 0.7


def test_the_same_parameters_are_drawn_once(tmp_path):
    first = synthetic_root(tmp_path, 3, 12, 0)
    stamp = next(first.rglob("*.json")).stat().st_mtime_ns
    assert synthetic_root(tmp_path, 3, 12, 0) == first
    assert next(first.rglob("*.json")).stat().st_mtime_ns == stamp
    assert synthetic_root(tmp_path, 3, 12, 1) != first


def test_drawing_is_a_function_of_the_seed(tmp_path):
    for name in ("one", "other"):
        draw_catalogue(tmp_path / name, 3, 12, 5)
    files = [sorted((tmp_path / name).rglob("*.*")) for name in ("one", "other")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]

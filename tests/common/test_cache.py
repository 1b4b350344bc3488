import numpy as np
import pytest

from common.cache import cached_arrays


@pytest.fixture
def compute():
    calls = []

    def made():
        calls.append(1)
        return {"features": np.arange(12.0).reshape(4, 3), "labels": np.arange(4)}

    made.calls = calls
    return made


def test_the_second_time_is_read_from_disk(tmp_path, compute):
    first = cached_arrays(tmp_path, {"weights": "a"}, compute)
    second = cached_arrays(tmp_path, {"weights": "a"}, compute)
    assert len(compute.calls) == 1
    assert isinstance(second["features"], np.memmap)
    assert all(np.array_equal(first[name], second[name]) for name in ("features", "labels"))


@pytest.mark.parametrize("key", [{"weights": "b"}, {"weights": "a", "data": "x"}, {"data": "a"}])
def test_another_key_is_another_entry(tmp_path, compute, key):
    cached_arrays(tmp_path, {"weights": "a"}, compute)
    cached_arrays(tmp_path, key, compute)
    assert len(compute.calls) == 2


@pytest.mark.parametrize("damage", ["truncate", "unfinished", "missing"])
def test_a_damaged_entry_is_computed_again(tmp_path, compute, damage):
    cached_arrays(tmp_path, {"weights": "a"}, compute)
    (path,) = tmp_path.glob("*/features.npy")
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "missing":
        path.unlink()
    else:
        (path.parent / "key.json").unlink()
    again = cached_arrays(tmp_path, {"weights": "a"}, compute)
    assert len(compute.calls) == 2
    assert np.array_equal(again["features"], np.arange(12.0).reshape(4, 3))

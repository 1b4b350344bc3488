import errno
import json

import numpy as np
import pytest

from common.files import hash_arrays, hash_record, plain, write_atomic, write_json


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"value": 1})

    def disk_full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, disk_full)
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict_and_plain():
    record = {"nan": float("nan"), "array": np.array([1.5, np.inf]), "number": np.int64(3), "none": None, 4: "text"}
    assert plain(record) == {"nan": None, "array": [1.5, None], "number": 3, "none": None, "4": "text"}


def test_array_hash_depends_on_values_type_and_shape():
    base = np.arange(6, dtype=np.int64)
    others = [base + 1, base.astype(np.int32), base.reshape(2, 3), base[::-1]]
    assert len({hash_arrays(array) for array in (base, *others)}) == 5
    assert hash_arrays(base) == hash_arrays(base.copy())
    assert hash_arrays(base, base) != hash_arrays(base)


def test_record_hash_ignores_the_order_of_keys():
    assert hash_record({"a": 1, "b": [2]}) == hash_record({"b": [2], "a": 1})
    assert hash_record({"a": 1, "b": [2]}) != hash_record({"a": 1, "b": [3]})

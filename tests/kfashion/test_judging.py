"""What a run's garments are judged by, and where the results are found again."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch

from kfashion.judging import encode, point_latest, view_rows
from kfashion.networks import AttributeEncoder
from kfashion.records import UNKNOWN, Records
from tests.kfashion.codes import SIZES, random_codes, random_vectors


def test_equal_codes_get_the_same_vector_to_the_last_bit():
    codes = {field: code[[0, 1, 0, 2, 0]] for field, code in random_codes(3).items()}
    codes["category"][[0, 4]] = UNKNOWN
    torch.manual_seed(0)
    vectors = encode(AttributeEncoder(SIZES, 32, 64), codes)
    assert (vectors[0] == vectors[4]).all()
    assert not np.allclose(vectors[0], vectors[2])


def test_categories_that_training_lacks_are_still_different():
    codes = random_codes(4)
    codes["category"][:] = torch.tensor([5, UNKNOWN, UNKNOWN, UNKNOWN])
    items = pa.table({"category": ["셔츠", "모자", "장갑", "모자"]})
    numbers = torch.arange(4)
    records = Records(codes, numbers, numbers, np.array(list("abcd")))
    data = SimpleNamespace(records=records, vectors=random_vectors(4), catalogue=SimpleNamespace(items=items))
    judged = view_rows(SimpleNamespace(data=data), np.array([3, 1, 2]), AttributeEncoder(SIZES, 32, 64))
    assert judged.category.tolist() == ["모자", "모자", "장갑"]
    assert judged.items.category[0] == judged.items.category[1] != judged.items.category[2]


def test_a_missing_category_is_none_that_can_be_shared():
    codes, numbers = random_codes(3), torch.arange(3)
    items = pa.table({"category": ["셔츠", None, None]})
    data = SimpleNamespace(records=Records(codes, numbers, numbers, np.array(list("abc"))), vectors=random_vectors(3),
                           catalogue=SimpleNamespace(items=items))  # fmt: skip
    judged = view_rows(SimpleNamespace(data=data), np.arange(3), AttributeEncoder(SIZES, 32, 64))
    assert judged.category.tolist() == ["셔츠", "(none)", "(none)"]
    assert judged.items.category.tolist()[1:] == [-1, -1]
    assert judged.items.category[0] >= 0


def test_latest_holds_the_newest_file_of_every_analysis(tmp_path):
    for name, file, text in (("1_a", "results/a.json", "old"), ("2_b", "temp_logs/b.json", "b"),
                             ("3_a", "results/a.json", "new")):  # fmt: skip
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
        (tmp_path / name / "summary.json").write_text("{}")
        point_latest(tmp_path / name)
    latest = tmp_path / "latest"
    assert (latest / "results/a.json").read_text() == "new"
    assert (latest / "temp_logs/b.json").read_text() == "b"
    assert not (latest / "summary.json").exists()

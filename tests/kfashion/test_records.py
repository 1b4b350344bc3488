import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from kfashion.fields import FIELDS, MULTI, TYPES
from kfashion.records import MISSING, PAD, UNKNOWN, Records, Vocabulary, attribute_keys, code_keys


def garment(category="레트로", style=(), silhouette=None, material=(), detail=()):
    return {
        "category": category, "style": list(style), "silhouette": silhouette, "material": list(material),
        "detail": list(detail),
    }  # fmt: skip


TRAIN = [
    garment("레트로", ["레트로", "로맨틱"], "루즈", ["시폰", "레이스"], ["리본"]),
    garment("로맨틱", ["로맨틱"], None, ["니트"]),
]
words = st.lists(st.sampled_from(["가", "나", "다", "라"]), max_size=3, unique=True)
garments = st.builds(garment, st.sampled_from("가나"), words, st.none() | st.sampled_from("가나"), words, words)


def test_tokens_are_sorted_by_code_point_after_the_three_reserved_codes():
    vocabulary = Vocabulary.from_items(TRAIN)
    assert vocabulary.tokens["material"] == ("니트", "레이스", "시폰")
    assert vocabulary.sizes == {"category": 5, "style": 5, "silhouette": 4, "material": 6, "detail": 4}
    assert vocabulary.encode(TRAIN)["material"].tolist() == [[5, 4], [3, PAD]]


def test_unknown_and_missing_differ_from_padding():
    codes = Vocabulary.from_items(TRAIN).encode([garment("모던", ["모던", "레트로"]), garment(None)])
    assert codes["category"].tolist() == [UNKNOWN, MISSING]
    assert codes["style"].tolist() == [[UNKNOWN, 3], [MISSING, PAD]]
    assert codes["silhouette"].tolist() == [MISSING, MISSING]
    assert codes["detail"].tolist() == [[MISSING], [MISSING]]


def test_tables_and_records_are_encoded_alike():
    vocabulary = Vocabulary.from_items(TRAIN)
    table = pa.Table.from_pylist(TRAIN, pa.schema(list(TYPES.items())))
    assert Vocabulary.from_items(table) == vocabulary
    for field in FIELDS:
        assert torch.equal(vocabulary.encode(table)[field], vocabulary.encode(TRAIN)[field])


@given(st.lists(garments, min_size=1, max_size=6))
def test_what_was_encoded_is_decoded(items):
    vocabulary = Vocabulary.from_items(items)
    codes = vocabulary.encode(items)
    assert [vocabulary.decode(codes, row) for row in range(len(items))] == items


@given(garments, garments)
def test_keys_are_equal_just_where_the_fields_are(one, other):
    same = all(set(one[field] or "") == set(other[field] or "") for field in FIELDS)
    keys = attribute_keys([one, other])
    assert (keys[0] == keys[1]).item() == same
    codes = Vocabulary.from_items([one, other]).encode([one, other])
    by_code = code_keys(codes)
    assert (by_code[0] == by_code[1]).item() == same


def test_a_word_counts_in_its_field_only():
    one, other = garment(style=["가"], material=["나"]), garment(style=["나"], material=["가"])
    assert len(attribute_keys([one, other, garment(style=["가", "나"])]).unique()) == 3


def test_keys_do_not_depend_on_the_other_garments():
    assert attribute_keys(TRAIN)[1] == attribute_keys(TRAIN[1:])[0]
    assert attribute_keys(TRAIN[:1]).tolist() == [KEY_OF_FIRST]


KEY_OF_FIRST = -2689754439116783424  # stored in results: another value needs another version


def test_a_batch_holds_the_rows_it_was_asked_for():
    items = pa.Table.from_pylist(
        [{"item_id": f"i{n}", **item} for n, item in enumerate(TRAIN)],
        pa.schema([("item_id", pa.string()), *TYPES.items()]),
    )
    records = Records.from_items(items, Vocabulary.from_items(items), np.array([4, 7]))
    batch = records.batch(np.array([1]), torch.zeros(1, 512))
    assert (batch.item_index.tolist(), batch.group_index.tolist(), len(batch)) == ([1], [7], 1)
    assert batch.codes["material"].tolist() == [[3, 0]]
    assert all(batch.codes[field].dtype == torch.int64 for field in MULTI)
    assert records.item_id.tolist() == ["i0", "i1"]


def test_a_saved_vocabulary_is_read_again(tmp_path):
    vocabulary = Vocabulary.from_items(TRAIN)
    vocabulary.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json", vocabulary.hash) == vocabulary


def changed(path: Path, change: dict) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"sha256": "0" * 64}, "do not fit"),
        ({"tokens": {"category": []}}, "no vocabulary"),
    ],
)
def test_a_vocabulary_that_is_another_is_refused(tmp_path, change, message):
    vocabulary = Vocabulary.from_items(TRAIN)
    vocabulary.save(tmp_path / "vocab.json")
    with pytest.raises(UserError, match=message):
        Vocabulary.load(changed(tmp_path / "vocab.json", change))


def test_the_vocabulary_of_another_run_is_refused(tmp_path):
    Vocabulary.from_items(TRAIN).save(tmp_path / "vocab.json")
    with pytest.raises(UserError, match="same run"):
        Vocabulary.load(tmp_path / "vocab.json", Vocabulary.from_items(TRAIN[:1]).hash)

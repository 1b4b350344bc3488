"""Changed records: what may change, what must not, and that a changed record is another record."""

import pytest
import torch

from kfashion.augment import (
    EMPHASIS,
    SYNONYMS,
    RecordAugmentation,
    drop_fields,
    emphasise,
    mix_fields,
    mix_vectors,
    replace_synonyms,
)
from kfashion.fields import FIELDS, MULTI
from kfashion.records import MISSING, Vocabulary, code_keys
from tests.kfashion.codes import random_codes, random_vectors

RECORDS = [
    {"category": "로맨틱", "style": ["로맨틱"], "silhouette": "루즈", "material": ["시폰"], "detail": ["러플", "프릴"]},
    {"category": "로맨틱", "style": ["페미닌"], "silhouette": "오버사이즈", "material": ["데님"], "detail": ["러플"]},
    {"category": "레트로", "style": ["클래식"], "silhouette": None, "material": [], "detail": []},
    {"category": "모던", "style": [], "silhouette": "노멀", "material": ["데님"], "detail": ["프릴"]},
]
VOCABULARY = Vocabulary.from_items(RECORDS)


def codes_of(records):
    return {field: code.long() for field, code in VOCABULARY.encode(records).items()}


def words(codes, row):
    return VOCABULARY.decode(codes, row)


def empty(code):
    return (code if code.dim() == 1 else code[:, 0]) == MISSING


def test_fields_are_dropped_at_the_rate_asked_for_but_never_all():
    torch.manual_seed(0)
    codes = random_codes(4000)
    for rate in (0.2, 0.95):
        dropped, taken = drop_fields(codes, rate, drop_category=True)
        lost = torch.stack([empty(dropped[field]) for field in FIELDS], 1)
        assert not lost.all(1).any()
        assert torch.equal(lost, torch.stack(list(taken.values()), 1))
        expected = rate if rate < 0.5 else (5 * rate - rate**5) / 5  # one is spared where all five would go
        assert lost.float().mean().item() == pytest.approx(expected, abs=0.02)


def test_the_category_is_dropped_only_if_that_is_asked_for():
    dropped, _ = drop_fields(random_codes(200), 0.9, drop_category=False)
    assert not empty(dropped["category"]).any()


def test_a_record_with_one_field_keeps_it():
    codes = codes_of([RECORDS[2] | {"category": None}])
    for seed in range(20):
        torch.manual_seed(seed)
        assert words(drop_fields(codes, 0.9, True)[0], 0)["style"] == ["클래식"]


def test_a_dropped_field_holds_missing_and_padding_only():
    dropped, taken = drop_fields(random_codes(50), 0.5, True)
    for field in MULTI:
        rows = dropped[field][taken[field]]
        assert (rows[:, 0] == MISSING).all()
        assert not rows[:, 1:].any()


def test_synonyms_are_exchanged_unless_the_record_has_both():
    changed = replace_synonyms(codes_of(RECORDS), 1.0, VOCABULARY.tokens)
    assert words(changed, 0)["silhouette"] == "오버사이즈"
    assert words(changed, 0)["style"] == ["페미닌"]
    assert words(changed, 0)["detail"] == ["러플", "프릴"]
    assert words(changed, 1)["detail"] == ["프릴"]
    assert words(changed, 1)["material"] == ["데님"]
    assert words(changed, 2) == words(codes_of(RECORDS), 2)


def test_a_word_has_one_synonym():
    for pairs in SYNONYMS.values():
        flat = [word for pair in pairs for word in pair]
        assert len(set(flat)) == len(flat)


def test_mixing_takes_fields_from_records_of_the_same_category_only():
    torch.manual_seed(0)
    codes = random_codes(300)
    mixed = mix_fields(codes, 0.5)
    assert torch.equal(mixed["category"], codes["category"])
    assert (code_keys(mixed) != code_keys(codes)).float().mean() > 0.8
    for field in FIELDS[1:]:
        for category in codes["category"].unique():
            own = codes["category"] == category
            before = {tuple(row) for row in codes[field][own].reshape(int(own.sum()), -1).tolist()}
            assert {tuple(row) for row in mixed[field][own].reshape(int(own.sum()), -1).tolist()} <= before


def test_emphasis_adds_a_style_that_goes_with_the_category_where_the_vocabulary_has_one():
    assert set(EMPHASIS["로맨틱"]) & set(VOCABULARY.tokens["style"]) == {"페미닌"}
    changed = emphasise(codes_of(RECORDS), 1.0, VOCABULARY.tokens)
    assert words(changed, 0)["style"] == ["로맨틱", "페미닌"]
    assert words(changed, 1)["style"] == ["페미닌"]
    assert words(changed, 2)["style"] == ["클래식"]
    assert words(changed, 3)["style"] == []
    bare = emphasise(codes_of([RECORDS[0] | {"style": []}]), 1.0, VOCABULARY.tokens)
    assert words(bare, 0)["style"] == ["페미닌"]
    assert not (bare["style"] == MISSING).any()


def test_the_same_seed_gives_the_same_records_and_the_given_ones_stay():
    codes = codes_of(RECORDS)
    before = {field: code.clone() for field, code in codes.items()}
    augment = RecordAugmentation(0.3, True, 0.5, 0.5, 0.5)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(code_keys(augment(codes, VOCABULARY.tokens)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert all(torch.equal(codes[field], before[field]) for field in FIELDS)


def test_nothing_is_changed_at_rates_of_zero():
    assert not RecordAugmentation().active
    assert RecordAugmentation(emphasis=0.1).active


def test_mixed_vectors_have_length_1_and_lie_between_their_two():
    torch.manual_seed(3)
    vectors = random_vectors(8)
    mixed, mixing = mix_vectors(vectors, 1.0)
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(mixing.sum(1), torch.ones(8))
    torch.testing.assert_close(torch.nn.functional.normalize(mixing @ vectors, dim=1), mixed)
    assert ((mixing > 0).sum(1) <= 2).all()

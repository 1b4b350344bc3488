"""Central garments, well described ones, and whether a difference between kinds of queries is one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from kfashion.queries import _against_sales, contrast, describe
from kfashion.query_sets import completeness, most_central, query_sets
from tests.kfashion.codes import random_codes, random_vectors


def test_a_tenth_is_rounded_down_at_least_one_and_ties_go_by_name():
    assert most_central(np.zeros(2172), np.arange(2172).astype(str), 0.1).sum() == 217
    assert most_central(np.array([3.0, 1.0, 2.0]), np.array(["a", "b", "c"]), 0.1).tolist() == [True, False, False]
    chosen = most_central(np.array([1.0, 2.0, 1.0, 1.0]), np.array(["d", "b", "c", "a"]), 0.5)
    assert chosen.tolist() == [False, True, False, True]


def test_the_balanced_set_has_equally_many_of_every_category_and_none_without_one():
    category = np.array(["a"] * 5 + ["b"] * 3 + ["(none)"])
    records = SimpleNamespace(codes=random_codes(9), item_id=np.arange(9).astype(str))
    data = SimpleNamespace(records=records, vectors=random_vectors(9), datasets={"train": SimpleNamespace(index=[0])})
    judged = SimpleNamespace(rows=np.arange(9), category=category, image=random_vectors(9).numpy(),
                             item_id=records.item_id, data=data)  # fmt: skip
    balanced = query_sets(judged, 0.1)["category_balanced"]
    assert np.unique(category[balanced], return_counts=True)[1].tolist() == [3, 3]


def test_every_described_field_counts_25_points():
    codes = random_codes(3)
    codes["silhouette"][0] = 2
    for field in ("style", "material", "detail", "silhouette"):
        if field == "silhouette":
            codes[field][1] = 2
        else:
            codes[field][1] = torch.tensor([2, 0, 0, 0])
    assert completeness(codes, np.arange(3)).tolist() == [75, 0, 100]


def test_a_clear_difference_is_confirmed_its_opposite_refuted_and_none_inconclusive():
    rng = np.random.default_rng(0)
    chosen, group = np.arange(400) % 4 == 0, np.arange(400)
    metric = rng.random(400)
    assert contrast(metric + chosen, chosen, group)["verdict"] == "confirmed"
    refuted = contrast(metric - chosen, chosen, group)
    assert refuted["verdict"] == "refuted"
    assert refuted["interval"]["estimate"] == pytest.approx(metric[chosen].mean() - 1 - metric[~chosen].mean())
    assert refuted["p_value"] < 0.01
    assert contrast(metric, chosen, group)["verdict"] == "inconclusive"
    assert contrast(metric, chosen, np.zeros(400))["interval"] is None


def test_a_group_counts_once_however_many_queries_it_has():
    metric, chosen = np.tile([1.0, 0.0, 0.0, 1.0], 50), np.tile([True, False, True, False], 50)
    few, many = (contrast(metric, chosen, group)["interval"] for group in (np.arange(200) % 4, np.arange(200)))
    assert few["high"] - few["low"] > many["high"] - many["low"]


def held_against(tmp_path, text, count=20):
    """Garments g0, g1, …, each more central than the one before, against sales."""
    (tmp_path / "sales.csv").write_text(text, encoding="utf-8")
    judged = SimpleNamespace(item_id=np.array([f"g{number}" for number in range(count)]))
    return _against_sales(np.arange(count), judged, "sales.csv", str(tmp_path))


def test_centrality_is_held_against_sales_which_add_up_by_garment(tmp_path):
    table = ["item_id,units", *(f"g{number},{number}" for number in range(20)), "g0,100", "g3,", "other,7"]
    found = held_against(tmp_path, "\n".join(table))
    order = np.argsort(np.argsort([100, *range(1, 20)]))
    assert found["n"] == 20
    assert found["spearman"] == pytest.approx(np.corrcoef(np.arange(20), order)[0, 1])
    assert found["precision"] == 0.5  # g19 is both; g18 is central, g0 sold most


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,units\na,1\n", "need columns item_id and units; it has item, units"),
        ("item_id,units\ng1,1\ng2,much\n", "sales of 1 of the 20 garments"),
        ("item_id,units\n" + "".join(f"g{number},3\n" for number in range(20)), "sold equally often"),
        ("", "no sales can be read"),
    ],
)
def test_sales_that_say_nothing_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        held_against(tmp_path, text)


def test_a_description_holds_what_the_values_say():
    found = describe(np.array([1.0, 2.0, 6.0]))
    assert (found["count"], found["mean"], found["median"], found["max"]) == (3, 3, 2, 6)
    assert found["std"] == pytest.approx(np.sqrt(7))
    assert np.isnan(describe(np.ones(3))["skewness"])

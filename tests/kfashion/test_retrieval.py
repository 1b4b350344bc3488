"""Retrieval metrics: by hand, against brute force over all orders of ties, and at chance where nothing is known."""

import itertools

import numpy as np
import pytest

from kfashion import retrieval
from kfashion.retrieval import KS, LEVELS, Items, chance_metrics, embedding_quality, hubness, rank, summarise


def items(keys, category=None, group=None):
    number = np.arange(len(keys))
    return Items(number, np.array(keys), np.array(keys if category is None else category),
                 number if group is None else np.array(group))  # fmt: skip


def unit(count, dim=8, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(scores, relevant):
    """Every metric as the mean over all orders in which the scores fall."""
    orders = [
        order for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]  # fmt: skip
    sums = dict.fromkeys([*(f"{name}_at_{k}" for k in KS for name in ("hit", "recall", "precision")), "mrr", "map",
                          "ndcg_at_10"], 0.0)  # fmt: skip
    for order in orders:
        hits = np.array([relevant[j] for j in order], float)
        ranks = np.flatnonzero(hits) + 1
        for k in KS:
            top = hits[:k]
            sums[f"hit_at_{k}"] += top.any()
            sums[f"recall_at_{k}"] += top.sum() / hits.sum()
            sums[f"precision_at_{k}"] += top.mean()
        sums["mrr"] += 1 / ranks[0]
        sums["map"] += np.mean([np.sum(hits[:r]) / r for r in ranks])
        ideal = sum(1 / np.log2(1 + r) for r in range(1, min(10, len(ranks)) + 1))
        sums["ndcg_at_10"] += sum(1 / np.log2(1 + r) for r in ranks if r <= 10) / ideal
    return {name: total / len(orders) for name, total in sums.items()}


@pytest.mark.parametrize("seed", range(6))
def test_with_ties_every_metric_is_the_mean_over_all_orders(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3, 7).astype(np.float32)  # few values: many ties
    keys = rng.integers(0, 2, 7)
    keys[0] = 1
    found = rank(np.ones((1, 1), np.float32), values[:, None], items([1]), items(keys), ["attr"])["attr"]
    for name, expected in brute_force(values, keys == 1).items():
        assert found.metrics[name][0] == pytest.approx(expected, abs=1e-12), name


def test_values_worked_out_by_hand():
    # five items by falling score: no, yes, no, no, yes
    scores = np.array([[5], [4], [3], [2], [1]], np.float32)
    found = rank(np.ones((1, 1), np.float32), scores, items([1]), items([0, 1, 0, 0, 1]), ["attr"])["attr"]
    metrics = {name: value[0] for name, value in found.metrics.items()}
    assert (metrics["hit_at_1"], metrics["hit_at_3"], metrics["mrr"]) == (0, 1, 0.5)
    assert (metrics["recall_at_3"], metrics["recall_at_5"], metrics["capped_recall_at_1"]) == (0.5, 1, 0)
    assert (metrics["precision_at_3"], metrics["precision_at_5"]) == (pytest.approx(1 / 3), 0.4)
    assert metrics["precision_at_20"] == 0.4  # 20 is more than there is
    assert metrics["map"] == pytest.approx((1 / 2 + 2 / 5) / 2)
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg_at_10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(6)) / ideal)


def test_chance_is_k_over_n_for_one_relevant_item_and_hypergeometric_for_more():
    chance = chance_metrics(np.array([1, 2, 1]), np.array([16, 16, 3]))
    assert chance["hit_at_5"] == pytest.approx([5 / 16, 1 - (11 * 10) / (16 * 15), 1])
    assert chance["mrr"][0] == pytest.approx(sum(1 / r for r in range(1, 17)) / 16)  # 0.211, the specification's
    assert chance["recall_at_10"][1] == pytest.approx(10 / 16)


@pytest.mark.parametrize("level", LEVELS)
def test_a_constant_encoder_scores_exactly_chance(level):
    rng = np.random.default_rng(0)
    labels = items(rng.integers(0, 9, 60), rng.integers(0, 3, 60), rng.integers(0, 40, 60))
    constant = np.repeat(unit(1, 512), 60, axis=0)
    found = rank(unit(60, 512, 1), constant, labels, labels)[level]
    for name, values in found.metrics.items():
        np.testing.assert_allclose(values, found.chance[name], atol=1e-12, err_msg=name)


def test_a_constant_query_finds_its_own_crop_as_often_as_chance():
    labels = items(np.arange(50))
    found = rank(np.repeat(unit(1), 50, axis=0), unit(50, seed=1), labels, labels, ["instance"])["instance"]
    for k in KS:
        assert found.metrics[f"hit_at_{k}"].mean() == pytest.approx(k / 50)


def test_random_vectors_are_at_chance_within_their_interval():
    rng = np.random.default_rng(3)
    keys = rng.integers(0, 40, 400)
    labels = items(keys, keys // 10)
    for level, found in rank(unit(400, 64, 4), unit(400, 64, 5), labels, labels).items():
        row = summarise(found, labels.group, labels.category)["hit_at_10"]
        assert row["low"] <= row["chance"] <= row["high"], level


def test_a_perfect_encoder_finds_everything():
    labels = items([0, 0, 1, 2, 2], group=[0, 1, 2, 3, 4])
    vectors = unit(3)[[0, 0, 1, 2, 2]]
    found = rank(vectors, vectors, labels, labels)
    for name in ("hit_at_1", "mrr", "map", "ndcg_at_10"):
        assert (found["attr"].metrics[name] == 1).all(), name
    assert found["instance"].metrics["hit_at_1"].tolist() == [0.5, 0.5, 1, 0.5, 0.5]


def test_at_category_level_the_own_group_is_not_in_the_gallery():
    labels = items([0, 1, 2, 3], category=[0, 0, 0, 1], group=[0, 0, 1, 2])
    scores = np.array([[4], [3], [2], [1]], np.float32)
    found = rank(np.ones((4, 1), np.float32), scores, labels, labels)["category"]
    assert found.gallery_size.tolist() == [2, 2, 3, 3]
    assert found.num_relevant.tolist() == [1, 1, 2, 0]
    assert found.metrics["mrr"][:3].tolist() == [1, 1, 1]
    assert np.isnan(found.metrics["mrr"][3])  # nothing to be found


def test_without_the_own_group_an_image_does_not_find_itself():
    labels = items([0, 0, 0, 1], group=[0, 0, 1, 2])
    vectors = unit(4)
    found = rank(vectors, vectors, labels, labels, ["attr"], others_only=True)["attr"]
    assert found.gallery_size.tolist() == [2, 2, 3, 3]
    assert found.num_relevant.tolist() == [1, 1, 2, 0]


def test_distractors_are_in_the_way_and_never_right():
    # the gallery by falling score: another record, an equal one, then the split's own two
    offered = items([9, 0, 0, 1])
    offered = Items(np.array([7, 8, 0, 1]), offered.attr_key, offered.category, offered.group)
    scores, more = np.array([[4], [3], [2], [1]], np.float32), np.array([True, True, False, False])
    found = rank(np.ones((2, 1), np.float32), scores, offered[[2, 3]], offered, distractors=more)
    assert found["attr"].num_relevant.tolist() == [1, 1]
    assert found["attr"].gallery_size.tolist() == [3, 4]  # the first query's equal record is left out
    assert found["attr"].metrics["mrr"].tolist() == [1 / 2, 1 / 4]
    assert found["instance"].metrics["mrr"].tolist() == [1 / 3, 1 / 4]


def test_blocks_of_queries_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    labels = items(rng.integers(0, 9, 50), rng.integers(0, 3, 50), rng.integers(0, 30, 50))
    queries, gallery = unit(50), unit(50, seed=1)
    whole = rank(queries, gallery, labels, labels)
    spread = hubness(queries, gallery)
    monkeypatch.setattr(retrieval, "SCORES_AT_ONCE", 350)
    for level, found in rank(queries, gallery, labels, labels).items():
        for name, values in found.metrics.items():
            np.testing.assert_allclose(values, whole[level].metrics[name], rtol=1e-12)
    assert hubness(queries, gallery) == spread


def test_the_mean_is_over_queries_and_the_macro_mean_over_categories():
    labels = items([0, 0, 0, 1], category=[0, 0, 0, 1])
    scores = np.array([[4], [3], [2], [1]], np.float32)
    row = summarise(rank(np.ones((4, 1), np.float32), scores, labels, labels)["attr"], labels.group, labels.category)
    assert row["mrr"]["value"] == pytest.approx((1 + 1 + 1 + 1 / 4) / 4)
    assert row["mrr"]["macro"] == pytest.approx((1 + 1 / 4) / 2)
    assert row["mrr"]["low"] < row["mrr"]["value"] < row["mrr"]["high"]


def test_items_without_a_category_have_none_in_common_and_are_no_category_of_the_macro_mean():
    labels = items([0, 1, 2, 3], category=[5, 5, -1, -1])
    scores = np.array([[4], [3], [2], [1]], np.float32)
    found = rank(np.ones((4, 1), np.float32), scores, labels, labels)
    assert found["category"].num_relevant.tolist() == [1, 1, 0, 0]
    row = summarise(found["attr"], labels.group, labels.category)
    assert row["mrr"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert row["mrr"]["macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert summarise(found["attr"], labels.group, np.full(4, -1))["mrr"]["macro"] is None


def test_one_group_has_no_interval():
    labels = items([0, 1, 0], group=[5, 5, 5])
    row = summarise(rank(unit(3), unit(3), labels, labels, ["attr"])["attr"], labels.group, labels.category)
    assert row["mrr"]["low"] is None


def test_effective_rank_counts_the_directions_that_are_used():
    corners = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    quality = embedding_quality(corners)
    assert quality["effective_rank"] == pytest.approx(4)
    assert quality["norm_error"] == 0
    assert embedding_quality(corners[[0, 4]])["effective_rank"] == pytest.approx(1)


def test_an_item_that_answers_everything_is_a_hub():
    gallery = np.concatenate([np.ones((1, 2)), -np.ones((30, 2))]).astype(np.float32)
    assert hubness(np.ones((5, 2), np.float32), gallery, k=1) == pytest.approx(5.29, abs=0.01)

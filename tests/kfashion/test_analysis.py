"""Figures in batches, as the original measured them, and the targets."""

from types import SimpleNamespace

import numpy as np
import pytest

from kfashion.analysis import inbatch_hit
from kfashion.retrieval import Items, rank
from kfashion.targets import TARGETS, target_rows
from tests.kfashion.codes import random_vectors


def judged(count, attribute_seed=0, data_source="real"):
    """Garments of different records with random vectors; those of records are those of images for seed 0."""
    rows = np.arange(count)
    image = random_vectors(count)
    data = SimpleNamespace(
        data_source=data_source, vectors=image, datasets={"train": SimpleNamespace(index=rows[: count // 2])}
    )
    return SimpleNamespace(rows=rows, attribute=random_vectors(count, attribute_seed).numpy(), image=image.numpy(),
                           items=Items(rows, rows, rows, rows), item_id=rows.astype(str), data=data)  # fmt: skip


def test_in_batches_of_16_chance_is_five_of_16_and_the_right_vectors_find_everything():
    assert inbatch_hit(judged(64), 16) == {"batch_size": 16, "hit_at_5": 1.0, "chance": 5 / 16}
    assert inbatch_hit(judged(64, attribute_seed=1), 16)["hit_at_5"] == pytest.approx(5 / 16, abs=0.1)
    assert np.isnan(inbatch_hit(judged(15), 16)["hit_at_5"])


def ranking(one):
    return rank(one.attribute, one.image, one.items, one.items, ["attr"])["attr"]


def test_targets_say_what_was_reached_of_all_and_of_central_garments():
    one = judged(40)
    rows = target_rows(one, ranking(one))
    assert [row["wanted"] for row in rows] == [wanted for *_, wanted in TARGETS]
    assert all(row["achieved"] and row["value"] == 1 for row in rows)
    found = ranking(one)
    central = np.argsort(-one.image @ one.image[:20].mean(0))[:4]
    found.metrics["recall_at_10"][:] = 0.8
    found.metrics["recall_at_10"][central] = 0.5
    reached = {row["target"]: (row["value"], row["achieved"]) for row in target_rows(one, found)}
    assert reached["all queries: Recall@10 (to 0.80)"] == (pytest.approx(0.77), True)
    assert reached["anchor queries: Recall@10 (to 0.92)"] == (pytest.approx(0.5), False)


def test_drawn_data_reach_no_target():
    one = judged(40, data_source="synthetic")
    assert all(row["value"] is None and row["achieved"] is None for row in target_rows(one, ranking(one)))

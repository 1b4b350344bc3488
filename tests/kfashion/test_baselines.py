"""Rivals of the encoder: they learn what can be learnt, and know nothing of the rows that are judged."""

import numpy as np
import pytest
import torch

from kfashion.baselines import fit_classifiers, one_hot, rivals
from kfashion.records import FIELDS
from kfashion.retrieval import Items, rank
from tests.kfashion.codes import SIZES, random_codes


@pytest.fixture(scope="module")
def world():
    """Images that are the sum of a direction for each token, and noise."""
    codes = random_codes(400)
    directions = np.random.default_rng(0).standard_normal((sum(SIZES.values()), 64)).astype(np.float32)
    image = one_hot(codes, SIZES) @ directions
    image += 0.5 * np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)
    return codes, image / np.linalg.norm(image, axis=1, keepdims=True)


def fitted(codes, image):
    rows = np.arange(400)
    return rivals(codes, SIZES, image, rows[:300], rows // 2, rows[300:])


def test_a_record_is_one_at_each_of_its_tokens():
    codes = random_codes(1) | {"category": torch.tensor([4]), "material": torch.tensor([[2, 0, 0, 0]])}
    hot = one_hot(codes, SIZES)[0]
    assert hot[: SIZES["category"]].tolist() == [0, 0, 0, 0, 1, 0]
    start = sum(SIZES[field] for field in FIELDS[:3])
    assert np.flatnonzero(hot[start : start + SIZES["material"]]).tolist() == [2]


@pytest.mark.slow
def test_rivals_find_images_that_are_made_of_their_tokens(world):
    number = np.arange(100)
    items = Items(number, number, number, number)
    hits = {
        name: rank(each.queries, each.gallery, items, items, ["instance"])["instance"].metrics["hit_at_5"].mean()
        for name, each in fitted(*world).items()
    }
    assert hits["ridge"] > 0.95
    assert hits["attribute classifiers"] > 0.9
    assert hits["attribute prototypes"] > 0.3
    assert 0.05 < hits["category mean"] < 0.5
    assert hits["random vectors"] < 0.15


@pytest.mark.slow
def test_the_judged_images_teach_no_rival_anything(world):
    codes, image = world
    changed = image.copy()
    changed[300:] = changed[300:][::-1]
    before, after = fitted(codes, image), fitted(codes, changed)
    for name, each in before.items():
        np.testing.assert_array_equal(each.queries, after[name].queries, err_msg=name)
    np.testing.assert_allclose(
        before["attribute classifiers"].gallery, after["attribute classifiers"].gallery[::-1], rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_classifiers_agree_with_scikit_learn(world):
    linear_model = pytest.importorskip("sklearn.linear_model")
    codes, image = world
    weights = fit_classifiers(one_hot(codes, SIZES), image, SIZES).numpy()
    logits = np.concatenate([image, np.ones((400, 1), np.float32)], 1) @ weights
    ours = logits[:, : SIZES["category"]].argmax(1)
    reference = linear_model.LogisticRegression(C=1 / (2 * 1e-4 * 400), max_iter=500).fit(image, codes["category"])
    assert (ours == reference.predict(image)).mean() > 0.97

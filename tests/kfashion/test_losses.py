"""Contrastive losses against formulas written out, and what they must and must not depend on."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from kfashion.losses import ContrastiveLoss
from tests.kfashion.codes import random_vectors

FORMS = ("supcon_out", "supcon_in", "infonce", "mask_duplicates")
every_form = pytest.mark.parametrize("form", FORMS)
KEYS = torch.tensor([3, 7, 3, 1, 7, 3])


def pairs(count=6, dim=16):
    return random_vectors(count, 1, dim), random_vectors(count, 2, dim)


def written_out(form, attribute, image, keys, temperature=0.07):
    """The definition, one row and one direction at a time, in Python's own floats."""
    scores = (attribute @ image.T / temperature).double().tolist()
    size, total = len(keys), 0.0
    for table in (scores, [list(column) for column in zip(*scores)]):
        for i, row in enumerate(table):
            positives = [j for j in range(size) if keys[j] == keys[i]]
            left = [j for j in range(size) if form != "mask_duplicates" or j == i or j not in positives]
            norm = sum(math.exp(row[j]) for j in left)
            share = {j: math.exp(row[j]) / norm for j in {*left, i}}
            if form == "supcon_out":
                total += -sum(math.log(share[j]) for j in positives) / len(positives)
            elif form == "supcon_in":
                total += -math.log(sum(share[j] for j in positives) / len(positives))
            else:
                total += -math.log(share[i])
    return total / (2 * size)


@every_form
def test_the_value_is_that_of_the_definition(form):
    attribute, image = pairs()
    found = ContrastiveLoss(form)(attribute, image, KEYS).item()
    assert found == pytest.approx(written_out(form, attribute, image, KEYS.tolist()), abs=1e-5)


@every_form
def test_all_forms_are_infonce_where_no_records_are_equal(form):
    attribute, image = pairs()
    logits, target = attribute @ image.T / 0.1, torch.arange(6)
    reference = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    found = ContrastiveLoss(form, 0.1)(attribute, image, torch.arange(6))
    torch.testing.assert_close(found, reference, atol=1e-6, rtol=0)


@every_form
def test_a_constant_encoder_is_at_the_log_of_what_is_left_in_the_softmax(form):
    same = random_vectors(1).expand(6, -1)
    found = ContrastiveLoss(form)(same, same, KEYS).item()
    left = [4, 5, 4, 6, 5, 4] if form == "mask_duplicates" else [6] * 6
    assert found == pytest.approx(sum(map(math.log, left)) / 6, abs=1e-5)


def test_with_m_equal_records_infonce_stops_at_ln_m_and_supcon_in_goes_to_ln_m_less_ln_m():
    vectors = random_vectors(2, dim=512)[[0, 0, 0, 1, 1, 1]]
    keys = torch.tensor([0, 0, 0, 1, 1, 1])
    assert ContrastiveLoss("infonce", 0.01)(vectors, vectors, keys).item() == pytest.approx(math.log(3), abs=1e-4)
    assert ContrastiveLoss("mask_duplicates", 0.01)(vectors, vectors, keys).item() == pytest.approx(0, abs=1e-4)


@every_form
def test_order_of_the_rows_does_not_matter(form):
    (attribute, image), order, loss = pairs(), torch.tensor([4, 2, 0, 5, 1, 3]), ContrastiveLoss(form)
    torch.testing.assert_close(loss(attribute, image, KEYS), loss(attribute[order], image[order], KEYS[order]))


@pytest.mark.parametrize("form", ["supcon_out", "infonce"])
def test_mixing_nothing_changes_nothing_and_a_whole_exchange_exchanges_the_targets(form):
    (attribute, image), loss = pairs(), ContrastiveLoss(form)
    torch.testing.assert_close(loss(attribute, image, KEYS, torch.eye(6)), loss(attribute, image, KEYS))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    exchanged = loss(attribute, image[order], KEYS, torch.eye(6)[order])
    torch.testing.assert_close(exchanged, loss(attribute, image, KEYS))


def test_targets_are_mixed_as_the_images_are():
    (attribute, image), keys = pairs(2), torch.arange(2)
    mixing = torch.tensor([[0.7, 0.3], [0.0, 1.0]])
    log_p = [(attribute @ image.T / 0.07).log_softmax(1), (image @ attribute.T / 0.07).log_softmax(1)]
    # record 0 is to be found in 0.7 of image 0; record 1 in 0.3 of image 0 and all of image 1, in shares of their sum
    records = [-log_p[0][0, 0], -(0.3 * log_p[0][1, 0] + log_p[0][1, 1]) / 1.3]
    images = [-(0.7 * log_p[1][0, 0] + 0.3 * log_p[1][0, 1]), -log_p[1][1, 1]]
    torch.testing.assert_close(ContrastiveLoss()(attribute, image, keys, mixing), sum(records + images) / 4)


def test_a_learnt_temperature_has_a_gradient_and_a_floor():
    loss = ContrastiveLoss(temperature=0.07, learnable=True)
    loss(*pairs(), KEYS).backward()
    assert loss.log_temperature.grad
    with torch.no_grad():
        loss.log_temperature.fill_(-100.0)
    assert loss.temperature.item() == pytest.approx(0.01)
    assert not list(ContrastiveLoss().parameters())
    assert not ContrastiveLoss().state_dict()

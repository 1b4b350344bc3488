"""Pairs of epochs inside a dependency group."""

import csv

import numpy as np
import pytest

from redheart.combine import Source
from redheart.crossover import draw_pairs, pair_losses
from tests.redheart.collected import EPOCHS, contributions


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return contributions(tmp_path_factory.mktemp("units"))


def test_every_unit_is_tried_on_every_epoch_of_those_it_reads(kept):
    pairs = pair_losses(kept)
    assert set(pairs) == {("heads", "backbone"), ("neural_analyzers", "backbone")}
    assert kept.passes == len(EPOCHS) + 2 * len(EPOCHS) ** 2  # the backbone once an epoch
    for (unit, read), losses in pairs.items():
        for row, own in enumerate(EPOCHS):
            for column, other in enumerate(EPOCHS):
                said = kept.answers(unit, kept.units.everywhere(own) | {read: Source.mean([other])})
                assert losses[row, column] == kept.losses(said).mean()


def test_the_picture_has_the_table_behind_it(tmp_path):
    losses = np.arange(9.0).reshape(3, 3)
    draw_pairs({("heads", "backbone"): losses}, list(EPOCHS), tmp_path)
    assert (tmp_path / "heads_on_backbone.png").exists()
    with open(tmp_path / "heads_on_backbone.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[5] == {"heads": "4", "backbone": "6", "select_loss": "5.0"}

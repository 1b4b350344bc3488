"""Figures name categories in letters that any font has."""

import csv

import numpy as np

from kfashion.figures import STYLES, plot_centrality, shown_name
from kfashion.label_schema import PUBLISHED


def test_every_style_has_an_english_name_of_its_own():
    assert {*PUBLISHED["style"], "기타"} == set(STYLES)
    assert len(set(STYLES.values())) == len(STYLES)
    assert all(name.isascii() for name in STYLES.values())


def test_other_names_are_told_by_their_place():
    assert [shown_name(name, ["Hat", "레트로", "모자"]) for name in ("Hat", "레트로", "모자")] == [
        "Hat",
        "retro",
        "category 3",
    ]


def test_centrality_is_drawn_from_the_least_to_the_most_central(tmp_path):
    category = np.array(["레트로", "모자", "레트로", "Hat"])
    plot_centrality(np.array([0.5, 0.1, 0.7, 0.3]), category, 0.6, tmp_path / "centrality.png")
    with open(tmp_path / "centrality.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["category"], row["n"]) for row in rows] == [("모자", "1"), ("Hat", "1"), ("레트로", "2")]
    assert (tmp_path / "centrality.png").stat().st_size > 0

"""Hydra's sweep syntax becomes the distributions it says, and values become overrides again."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from common.errors import UserError
from common.search_space import as_words, corners, grid, parse_space


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("1,2", CategoricalDistribution([1, 2])),
        ("true,null", CategoricalDistribution([True, "null"])),
        ("int(interval(1,4))", IntDistribution(1, 4)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"])),
        ("interval(0.5,4)", FloatDistribution(0.5, 4)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("range(1,4)", IntDistribution(1, 3)),
        ("range(10,60,25)", IntDistribution(10, 35, step=25)),
        ("range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
    ],
)
def test_a_text_becomes_its_distribution(text, distribution):
    space, shared = parse_space({"key": text}, [])
    assert space == {"key": distribution}
    assert shared == {}


def test_the_command_line_replaces_what_the_file_says():
    space, shared = parse_space({"a": "choice(1,2)", "b": "choice(1,2)", "c": 3}, ["a=7", "c=choice(1,2)", "d=x"])
    assert list(space) == ["b", "c"]
    assert shared == {"a": "a=7", "d": "d=x"}


@pytest.mark.parametrize("text", ["interval(2,1)", "tag(log,interval(0,1))"])
def test_an_impossible_space_is_told(text):
    with pytest.raises(UserError, match="key="):
        parse_space({"key": text}, [])


def test_values_come_back_through_hydras_grammar():
    values = {"a": None, "b": True, "c": 1e-05, "d": "lasps/small", "e": 3, "f": "'x y'"}
    parsed = OverridesParser.create().parse_overrides(as_words(values))
    assert [each.value() for each in parsed] == [None, True, 1e-05, "lasps/small", 3, "x y"]


def test_a_grid_has_every_point_once_and_the_last_key_fastest():
    space, _ = parse_space({"a": "choice(x,y)", "b": "range(1,4,2)", "c": "range(0,0.5,0.25)"}, [])
    assert grid(space)[:3] == [{"a": "x", "b": 1, "c": 0}, {"a": "x", "b": 1, "c": 0.25}, {"a": "x", "b": 3, "c": 0}]
    assert len({tuple(point.values()) for point in grid(space)}) == 8


def test_a_grid_of_an_interval_is_told():
    with pytest.raises(UserError, match="lr: a grid needs single values"):
        grid(parse_space({"lr": "interval(0.1,1)"}, [])[0])


def test_corners_show_every_choice_and_both_ends_once():
    space, _ = parse_space({"a": "choice(x,y,z)", "b": "interval(1,9)"}, [])
    assert corners(space) == [{"a": "x", "b": 1}, {"a": "y", "b": 1}, {"a": "z", "b": 1}, {"a": "x", "b": 9}]

import pytest

from redheart.groups import Unit, dependency_groups


def unit(name, *inputs):
    return Unit(name, inputs, (name,))


def test_what_reads_another_belongs_to_its_group():
    units = [unit("a"), unit("b", "a"), unit("c"), unit("d", "b")]
    assert dependency_groups(units) == {"a": ["a", "b", "d"], "c": ["c"]}


def test_two_that_are_read_by_one_belong_together():
    assert dependency_groups([unit("a"), unit("b"), unit("c", "a", "b")]) == {"a": ["a", "b", "c"]}


def test_a_later_reader_joins_groups_that_were_apart():
    units = [unit("a"), unit("b", "a"), unit("x"), unit("y", "x"), unit("z", "b", "y")]
    assert dependency_groups(units) == {"a": ["a", "b", "x", "y", "z"]}


def test_the_order_of_declaration_does_not_matter():
    assert dependency_groups([unit("b", "a"), unit("a")]) == {"b": ["b", "a"]}


def test_an_input_that_is_no_unit_is_refused():
    with pytest.raises(ValueError, match="unit b reads c, which is no unit"):
        dependency_groups([unit("a"), unit("b", "c")])

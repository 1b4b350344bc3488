"""Searches find what trying every combination finds, and keep what chance alone would move."""

from itertools import product

import numpy as np
import pytest

from redheart.search import best_each, coordinate_descent, exact, greedy_soup, surely_better, tpe

rng = np.random.default_rng(0)
OPTIONS = {"a": range(4), "b": range(3), "c": range(5)}


def brute_force(loss, options):
    """The combination of the lowest loss, all of them tried."""
    return min((dict(zip(options, at)) for at in product(*options.values())), key=loss)


def rows(loss):
    """Losses of twenty rows that differ by the same between any two choices: every gain is sure."""
    return lambda choice: loss(choice) + np.linspace(-1, 1, 20)


@pytest.mark.parametrize("seed", range(5))
def test_where_every_group_has_its_own_loss_the_best_of_each_is_the_best_of_all(seed):
    own = {name: np.random.default_rng(seed + k).normal(size=len(at)) for k, (name, at) in enumerate(OPTIONS.items())}

    def loss(choice):
        return sum(own[name][at] for name, at in choice.items())

    expected = brute_force(loss, OPTIONS)
    assert best_each(own) == expected
    found = coordinate_descent(rows(loss), dict.fromkeys(OPTIONS, 0), OPTIONS)
    assert found.choice == expected
    assert found.evaluations <= 1 + 2 * sum(len(at) - 1 for at in OPTIONS.values())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "scopes", [["ab", "bc"], ["abc"], ["ab", "ac", "bc"], ["a", "bc"], ["ba", "ca", "a"]], ids=" ".join
)
def test_elimination_finds_the_optimum_of_any_sum_of_tables(seed, scopes):
    made = np.random.default_rng(seed)
    tables = {tuple(names): made.normal(size=[len(OPTIONS[name]) for name in names]) for names in scopes}

    def loss(choice):
        return sum(table[tuple(choice[name] for name in names)] for names, table in tables.items())

    choice, value = exact(tables)
    assert choice == brute_force(loss, OPTIONS)
    assert value == pytest.approx(loss(choice))


def test_a_mean_of_squares_is_a_sum_of_tables_and_not_of_losses_of_each():
    one, other = rng.normal(size=4), rng.normal(size=3)
    fused = (one[:, None] + other[None]) ** 2
    _, value = exact({("a", "b"): fused})
    assert value == fused.min()
    assert value < fused[np.argmin(one**2), np.argmin(other**2)]


def test_coordinate_descent_ends_where_no_single_move_is_surely_better():
    table = rng.normal(size=[4, 3, 5])

    def losses_of(choice):
        return rows(lambda choice: table[tuple(choice.values())])(choice)

    found = coordinate_descent(losses_of, dict.fromkeys(OPTIONS, 0), OPTIONS)
    for name, values in OPTIONS.items():
        for value in values:
            assert losses_of(found.choice | {name: value}).mean() >= found.losses.mean()
    assert found.losses.mean() <= losses_of(dict.fromkeys(OPTIONS, 0)).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("errors", "moved"), [(0.9, 0), (1.1, 1)])
def test_a_gain_moves_something_only_above_one_standard_error(errors, moved):
    incumbent, pattern = rng.normal(size=50), rng.normal(size=50)
    pattern = (pattern - pattern.mean()) / pattern.std(ddof=1)
    losses = [incumbent, incumbent - (pattern + errors / 50**0.5)]
    for method in (coordinate_descent, tpe):
        assert method(lambda choice: losses[choice["a"]], {"a": 0}, {"a": range(2)}).choice == {"a": moved}


def test_the_error_is_that_of_the_pairs():
    hard = np.random.default_rng(2).normal(0, 10, 50)
    assert surely_better(hard - 0.1, hard)
    assert not surely_better(hard, hard)
    assert not surely_better(hard + 0.1, hard)
    assert not surely_better(np.array([0.0]), np.array([1.0]))  # of one row nothing is sure


@pytest.mark.slow
def test_optuna_finds_the_optimum_of_a_small_space_and_is_repeatable():
    table = rng.normal(size=[4, 3, 5])

    def losses_of(choice):
        return rows(lambda choice: table[tuple(choice.values())])(choice)

    start = dict.fromkeys(OPTIONS, 0)
    found = tpe(losses_of, start, OPTIONS, num_trials=150)
    assert found.losses.mean() <= np.sort(table.ravel())[2]
    assert found.evaluations <= 60
    assert tpe(losses_of, start, OPTIONS, num_trials=150).choice == found.choice


def test_a_soup_takes_in_what_lowers_its_loss_and_nothing_else():
    value = {2: -1.0, 4: 0.5, 6: 2.0, 8: 9.0}

    def loss_of(members):
        return abs(np.mean([value[member] for member in members]))

    assert greedy_soup(loss_of, list(value)) == [2, 4]  # 0.5; with −1 it is 0.25; with 2 it would be 0.5 again
    assert greedy_soup(loss_of, [8]) == [8]

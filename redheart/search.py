"""Searching for the best combination: exact where the loss is a sum of small parts, step by step otherwise.

Arrays in, choices out. Source: redheart specification, section 8.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike

Choice = dict[str, Any]  # an option of every part
Losses = Callable[[Choice], np.ndarray]  # (n,) losses by row


@dataclass(frozen=True)
class Found:
    """What a search ends with.

    Attributes:
        losses: (n,) of the choice, by row.
        evaluations: how many combinations were tried.
    """

    choice: Choice
    losses: np.ndarray
    evaluations: int


def surely_better(losses: np.ndarray, incumbent: np.ndarray) -> bool:
    """Whether the mean of (n,) paired losses is lower by more than one standard error of the difference."""
    gain = incumbent - losses
    return len(gain) > 1 and bool(gain.mean() > gain.std(ddof=1) / math.sqrt(len(gain)))


def best_each(own: Mapping[str, ArrayLike]) -> dict[str, int]:
    """The position of the lowest (E,) loss of each part: the optimum where every part has a loss of its own."""
    return {name: int(np.argmin(losses)) for name, losses in own.items()}


def exact(tables: Mapping[tuple[str, ...], np.ndarray]) -> tuple[dict[str, int], float]:
    """Positions that minimise the sum of all tables over every combination, and that sum.

    Parts are eliminated one by one, the one with the smallest joint table first (Bertelè and Brioschi 1972): 6 groups
    of 30 epochs, 7 · 10⁸ combinations, cost as much as their largest table.

    Args:
        tables: by names of parts, an array with an axis for each of them.
    """
    left = [(names, np.asarray(table, dtype=np.float64)) for names, table in tables.items()]
    steps, value = [], 0.0
    while left:
        names = min((_joint(left, name) for names, _ in left for name in names), key=len)
        touching = [each for each in left if names[0] in each[0]]
        joint = sum(_aligned(each, names) for each in touching)
        steps.append((names, joint.argmin(0)))
        left = [each for each in left if names[0] not in each[0]]
        if len(names) > 1:
            left.append((names[1:], joint.min(0)))
        else:
            value += float(joint.min(0))
    choice: dict[str, int] = {}
    for (name, *others), best in reversed(steps):
        choice[name] = int(best[tuple(choice[other] for other in others)])
    return choice, value


Table = tuple[tuple[str, ...], np.ndarray]


def _joint(tables: list[Table], name: str) -> tuple[str, ...]:
    """A part, then all that share a table with it."""
    return tuple(dict.fromkeys([name, *(each for names, _ in tables if name in names for each in names)]))


def _aligned(table: Table, names: tuple[str, ...]) -> np.ndarray:
    """The table with an axis for each of `names`, of length 1 where it does not depend on one."""
    own, values = table
    order = [own.index(name) for name in names if name in own]
    return np.expand_dims(values.transpose(order), [k for k, name in enumerate(names) if name not in own])


def coordinate_descent(losses_of: Losses, start: Choice, options: Mapping[str, Sequence]) -> Found:
    """Part by part its best option, the others fixed, until a whole sweep changes nothing.

    A move is made only for a gain of more than one paired standard error: the lowest of many means is low by chance.
    """
    choice, losses, tried = dict(start), losses_of(start), 1
    moved = True
    while moved:
        moved = False
        for name, values in options.items():
            others = [value for value in values if value != choice[name]]
            each = [losses_of(choice | {name: value}) for value in others]
            tried += len(others)
            best = min(range(len(others)), key=lambda k: each[k].mean(), default=None)
            if best is not None and surely_better(each[best], losses):
                choice, losses, moved = choice | {name: others[best]}, each[best], True
    return Found(choice, losses, tried)


def tpe(
    losses_of: Losses, start: Choice, options: Mapping[str, Sequence], num_trials: int = 300, seed: int = 0
) -> Found:
    """The best of Optuna's trials (tree-structured Parzen estimator), or `start` if none is surely better."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept: dict[tuple[int, ...], np.ndarray] = {}

    def objective(trial: optuna.Trial) -> float:
        at = tuple(trial.suggest_categorical(name, range(len(values))) for name, values in options.items())
        if at not in kept:
            kept[at] = losses_of({name: values[k] for k, (name, values) in zip(at, options.items())})
        return float(kept[at].mean())

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({name: list(values).index(start[name]) for name, values in options.items()})
    study.optimize(objective, n_trials=num_trials)
    first = kept[tuple(study.trials[0].params[name] for name in options)]
    best = tuple(study.best_params[name] for name in options)
    if not surely_better(kept[best], first):
        return Found(dict(start), first, len(kept))
    return Found({name: values[k] for k, (name, values) in zip(best, options.items())}, kept[best], len(kept))


def greedy_soup(loss_of: Callable[[list], float], members: Sequence) -> list:
    """Those members, tried from the lowest loss on, whose addition lowers the loss of the whole.

    Source: Wortsman et al. 2022, Model soups, arXiv:2203.05482.

    Args:
        loss_of: of several members together, in the order of `members`.
    """
    first, *others = sorted(members, key=lambda member: loss_of([member]))
    soup, lowest = [first], loss_of([first])
    for member in others:
        larger = [each for each in members if each in soup or each == member]
        if (loss := loss_of(larger)) < lowest:
            soup, lowest = larger, loss
    return soup

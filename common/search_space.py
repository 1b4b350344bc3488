"""A search space: Hydra's sweep syntax as Optuna distributions, and values drawn from them as overrides."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from omegaconf import DictConfig, open_dict, read_write
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from common.config import initialised, options
from common.errors import UserError
from common.schema import validate_part

Space = dict[str, BaseDistribution]


def parse_space(params: Mapping[str, Any], arguments: Iterable[str]) -> tuple[Space, dict[str, str]]:
    """Distributions by key, and by key the words that every trial shares.

    `choice(a,b)` and `a,b` are categorical; `interval(a,b)` includes its ends, `int(interval(a,b))` is of integers,
    `tag(log,interval(a,b))` is drawn in the logarithm; `range(a,b,step)` excludes b, as everywhere in Hydra.

    Args:
        params: of the sweep file, key → text in that syntax or one value.
        arguments: words of the command line; they replace what the file says of the same key.

    Raises:
        UserError: for an empty or impossible range.
    """
    words = [f"{key}={as_word(value)}" for key, value in params.items()]
    space: Space = {}
    shared: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides([*words, *arguments]):
        key = override.get_key_element()
        space.pop(key, None)
        shared.pop(key, None)
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            shared[key] = override.input_line
    return space, shared


def read_sweep(words: Iterable[str]) -> tuple[DictConfig, Space, dict[str, str]]:
    """Of the words of `train.py -m`: the config with Hydra's part, the space, and by key the words all trials share.

    Raises:
        UserError, HydraException: for a mistake in the words.
    """
    words = list(words)
    _, typed = parse_space({}, words)
    for key in ("experiment", "sweep"):
        if key not in typed:
            raise UserError(f"{key}: which one? There are {', '.join(options(key))}.")
    with initialised():
        config = hydra.compose("train", list(typed.values()), return_hydra_config=True)
    validate_part(config.hydra.sweeper, "hydra.sweeper")
    space, shared = parse_space(config.hydra.sweeper.params, words)
    if not space:
        raise UserError("sweep: nothing to search; choose a sweep=… or write for example 'optim.lr=1e-3,1e-2'.")
    return config, space, shared


def compose_trial(words: Iterable[str]) -> DictConfig:
    """The config of one trial, as `train.py` composes it; from then on Hydra knows it as this process's."""
    with initialised():
        config = hydra.compose("train", list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def as_words(params: Mapping[str, Any]) -> list[str]:
    """Overrides that set the values of a trial."""
    return [f"{key}={as_word(value)}" for key, value in params.items()]


def as_word(value: Any) -> str:
    """A value as Hydra's grammar writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def corners(space: Space) -> list[dict[str, Any]]:
    """Points that together show every choice and both ends of every range, the first of them all lower ends."""
    ends = {key: list(each.choices) if isinstance(each, CategoricalDistribution) else [each.low, each.high]
            for key, each in space.items()}  # fmt: skip
    first = {key: values[0] for key, values in ends.items()}
    return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]


def grid(space: Space) -> list[dict[str, Any]]:
    """All points of a space of choices and ranges, the last key fastest.

    Raises:
        UserError: if a key may take any value of an interval.
    """
    return [dict(zip(space, point, strict=True)) for point in product(*(_values(*each) for each in space.items()))]


def _values(key: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if distribution.log or distribution.step is None:
        raise UserError(f"{key}: a grid needs single values; write choice(…) or range(…).")
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + number * distribution.step for number in range(count)]


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    try:
        if override.is_interval_sweep():
            whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
            kind = IntDistribution if whole else FloatDistribution
            return kind(sweep.start, sweep.end, log="log" in sweep.tags)
        values = list(override.sweep_iterator(transformer=Transformer.encode))
        if override.is_range_sweep():
            whole = all(isinstance(value, int) for value in values)
            kind = IntDistribution if whole else FloatDistribution
            return kind(min(values), max(values), step=abs(sweep.step))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {str(error).rstrip('.')}.") from None
    return CategoricalDistribution(values)

"""Checks a composed config before anything is loaded.

The trunk's own keys are described by the dataclasses below. A node with a `_target_` is described by the signature of
what it names: its parameters are the allowed keys, their annotations (`Literal`, `Annotated[int, Field(ge=1)]`) the
allowed values. So a key, its type and its range are written once, where they are used.
"""

import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from common.errors import UserError, nearest

STRICT = ConfigDict(extra="forbid")
LOOSE = ConfigDict(arbitrary_types_allowed=True)
Target = dict[str, Any]


@dataclass(config=STRICT)
class PathsConfig:
    """Where data is read and runs are written."""

    data_dir: str | None
    output_dir: str


@dataclass(config=STRICT)
class PhaseConfig:
    """What trains, how long, and from which weights it starts."""

    epochs: Annotated[int, Field(ge=1)]
    trainable: list[str]
    schedule: Target
    init_from: str | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    gradient_clip: Annotated[float, Field(gt=0)] | None = None


@dataclass(config=STRICT)
class TrialConfig:
    """Which trial of the study a run is; a sweeper sets it."""

    number: Annotated[int, Field(ge=0)]
    storage: str


@dataclass(config=STRICT)
class TrainConfig:
    """The keys of train.yaml."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    monitor: str
    mode: Literal["min", "max"]
    parents: Literal["auto", "never"]
    init_from: str | None
    resume: str | None
    run_dir: str
    analysis: str
    paths: PathsConfig
    phase: PhaseConfig
    data: Target
    model: Target
    loss: Target
    optim: Target
    module: Target
    trainer: Target
    callbacks: dict[str, Target]
    logger: dict[str, Target]
    facts: dict[str, Any] = Field(default_factory=dict)
    objectives: Annotated[list[str], Field(min_length=1)] | None = None
    pruner: Target = Field(default_factory=dict)
    study: str | None = None
    trial: TrialConfig | None = None


def validate(config: DictConfig) -> None:
    """Check a config for unknown keys, wrong types, values out of range and missing values.

    Values that refer to facts of the data (`${facts.…}`) are checked once those are known: call again then.

    Raises:
        UserError: naming the key, its value, what is allowed, and the nearest known name.
    """
    written = OmegaConf.to_container(config, resolve=False)
    for key in _missing(written, ""):
        raise UserError(f"{key}: has no default; pass {key}=….")
    _check(TypeAdapter(TrainConfig), written, "", TrainConfig.__annotations__)
    _check_task(config)
    for path, node in _targets(config, ""):
        _check_target(path, node, facts_known="facts" in config)


def validate_part(node: DictConfig, path: str) -> None:
    """Check what a node outside a run's own config would build, such as `hydra.sweeper`, against its constructors.

    Raises:
        UserError: as `validate`.
    """
    for each_path, each in _targets(node, path):
        _check_target(each_path, each, facts_known=True)


def _missing(node: Any, path: str) -> Iterator[str]:
    if node == "???":
        yield path
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from _missing(value, f"{path}.{key}" if path else key)


def _targets(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_`, and its path. References are not followed: what they name is met elsewhere."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield path, node
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        if not OmegaConf.is_interpolation(node, key) and OmegaConf.is_config(node[key]):
            yield from _targets(node[key], f"{path}.{key}" if path else str(key))


def _check_task(config: DictConfig) -> None:
    """Where data and networks say which `task` they are for, it must be one and the same."""
    named = [(path, locate(path, node["_target_"])) for group in ("data", "model")
             for path, node in _targets(config[group], group)]  # fmt: skip
    first, *others = [(path, each.__name__, each.task) for path, each in named if hasattr(each, "task")] or [None]
    for path, name, task in others:
        if task != first[2]:
            raise UserError(f"{path}: {name} is for {task}, {first[1]} for {first[2]}; choose another model.")


def _check_target(path: str, node: DictConfig, facts_known: bool) -> None:
    target = locate(path, node["_target_"])
    parameters = inspect.signature(target).parameters
    given = OmegaConf.to_container(node, resolve=False)
    keys = [key for key in given if key not in ("_target_", "_partial_", "_convert_", "_recursive_")]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in keys:
            if key not in parameters:
                raise UserError(f"{path}.{key}: unknown key.{nearest(key, parameters)} Known: {', '.join(parameters)}.")
    required = [name for name, parameter in parameters.items() if _required(parameter) and name not in given]
    if required and not node.get("_partial_", False):
        raise UserError(f"{path}.{required[0]}: missing; {node['_target_']} needs it.")
    hints = _hints(target)
    for key in keys:
        if key in hints and (facts_known or "${facts." not in str(given[key])):
            try:
                value = node[key]
            except InterpolationKeyError:
                raise UserError(f"{path}.{key}={given[key]}: there is no such key or fact of the data.") from None
            _check_value(hints[key], value, f"{path}.{key}")


def _check_value(hint: Any, value: Any, path: str) -> None:
    if OmegaConf.is_config(value):
        if "_target_" in str(value):  # to be instantiated: checked as a node of its own
            return
        value = OmegaConf.to_container(value, resolve=True)
    try:
        adapter = TypeAdapter(hint, config=None if _has_own_config(hint) else LOOSE)
    except (PydanticSchemaGenerationError, PydanticUserError):  # a type that no plain value can have
        return
    _check(adapter, value, path, ())


def _check(adapter: TypeAdapter, value: Any, path: str, known: Iterable[str]) -> None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([*([path] if path else []), *_location(value, first["loc"])])
        if first["type"] == "unexpected_keyword_argument":
            owner, _, name = key.rpartition(".")
            names = PhaseConfig.__annotations__ if owner == "phase" else known
            raise UserError(f"{key}: unknown key.{nearest(name, names)} Known: {', '.join(names)}.") from None
        choices = re.findall(r"'(.+?)'", first["ctx"]["expected"]) if first["type"] == "literal_error" else ()
        hint = nearest(first["input"], choices)
        raise UserError(f"{key}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}.{hint}") from None


def _location(value: Any, loc: tuple[int | str, ...]) -> Iterator[str]:
    """The steps of a pydantic location that lead into `value`; others name alternatives of a type."""
    for part in loc:
        inside = (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int))
        if inside:
            value = value[part]
            yield str(part)


def locate(path: str, target: str) -> Any:
    """What a `_target_` names.

    Raises:
        UserError: if there is no such module or name in it.
    """
    try:
        return get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}._target_={target}: cannot be imported ({str(error).splitlines()[0]}).") from None


def _required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError):  # a library's annotations need not resolve
        return {}


def _has_own_config(hint: Any) -> bool:
    return hasattr(hint, "__pydantic_config__") or hasattr(hint, "model_config")

"""Which units belong together: what reads what, and which of them may be taken from epochs of their own."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A part of the model that is saved on its own.

    Attributes:
        inputs: units whose outputs it reads in the forward pass. A detached input is read all the same: without its
            gradient, but in its coordinates.
        grad_from: units whose loss reaches its parameters.
    """

    name: str
    inputs: tuple[str, ...]
    grad_from: tuple[str, ...]


def dependency_groups(units: Iterable[Unit]) -> dict[str, list[str]]:
    """The connected components of the graph of inputs, each named by its first unit, in the order of `units`.

    Units of different groups may be mixed freely; within a group one reads what another was trained to write.

    Raises:
        ValueError: if a unit reads one that does not exist.
    """
    units = list(units)
    component = {unit.name: unit.name for unit in units}
    for unit in units:
        for name in unit.inputs:
            if name not in component:
                raise ValueError(f"unit {unit.name} reads {name}, which is no unit")
            old, new = component[unit.name], component[name]
            component = {each: new if its == old else its for each, its in component.items()}
    members: dict[str, list[str]] = {}
    for name, its in component.items():
        members.setdefault(its, []).append(name)
    return {names[0]: names for names in members.values()}

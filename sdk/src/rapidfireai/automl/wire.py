"""Python configs -> the JSON of the resource: knobs as markers, objects lifted out into the code bundle."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

from rapidfireai.automl.knobs import List, Range
from rapidfireai.errors import ConfigError
from rapidfireai.expand import LIST, NONE, RANGE

Lift = Callable[[object, str], dict[str, Any]]
"""Takes an object that JSON cannot hold and its path; returns the reference that stands for it."""


@runtime_checkable
class Arguments(Protocol):
    """What knows its own arguments: a config class."""

    def given(self) -> Mapping[str, Any]:
        """Return the arguments that the user gave."""
        ...


def to_wire(value: object, path: str, lift: Lift) -> Any:
    """Return `value` as JSON.

    Args:
        value: A value of a config, or a whole config.
        path: Where it stands, for messages and for the names of lifted objects.
        lift: Called for everything that is no JSON: functions, instances of classes.

    Raises:
        ConfigError: If a number is not finite or a key is not a string.
    """
    if isinstance(value, enum.Enum):
        return to_wire(value.value, path, lift)
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(path, f"must be a finite number, not {value}")
        return value + 0.0  # -0.0 does not survive JSON
    if isinstance(value, PurePath):
        return str(value)
    return _markers(value, path, lift)


def _markers(value: object, path: str, lift: Lift) -> Any:
    if value is None:
        return {NONE: True}
    if isinstance(value, List):
        return {LIST: _members(value.values, path, lift)}
    if isinstance(value, Range):
        return {RANGE: value.to_wire()}
    return _collection(value, path, lift)


def _collection(value: object, path: str, lift: Lift) -> Any:
    if isinstance(value, list | tuple):
        return _members(value, path, lift)
    if isinstance(value, set | frozenset):
        return sorted(_members(value, path, lift))
    if isinstance(value, Mapping):
        return _mapping(value, path, lift)
    if isinstance(value, Arguments):
        return _mapping(value.given(), path, lift)
    scalar = _scalar(value)
    return lift(value, path) if scalar is None else to_wire(scalar, path, lift)


def _members(values: Iterable[object], path: str, lift: Lift) -> list[Any]:
    """Return the members of a list, where null survives."""
    return [None if v is None else to_wire(v, f"{path}[{i}]", lift) for i, v in enumerate(values)]


def _mapping(value: Mapping[Any, Any], path: str, lift: Lift) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(path, f"keys must be strings, not {key!r}")
    return {key: to_wire(each, f"{path}.{key}", lift) for key, each in value.items()}


def _scalar(value: object) -> float | bool | str | None:
    """Return the Python number of a NumPy or torch scalar, or None if it is something else."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return None
    item = value.item()
    return item if isinstance(item, bool | int | float | str) else None

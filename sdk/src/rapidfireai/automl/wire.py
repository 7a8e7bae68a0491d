"""Python configs -> the JSON of the resource: knobs as markers, objects lifted out into the code bundle."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

from rapidfireai.automl.installed import installed_name
from rapidfireai.automl.knobs import List, Range
from rapidfireai.config_fields import CLASS, LIST, NONE, RANGE
from rapidfireai.errors import ConfigError

Lift = Callable[[object, str], dict[str, Any]]
"""Takes an object that JSON cannot hold and its path; returns the reference that stands for it."""

_INSTANCES = frozenset({"document_loader", "text_splitter", "retriever", "example_prompt_template"})
"""Fields that take objects, for which their classes are easily mistaken."""


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
    if isinstance(value, type):
        return _class(value, path, lift)
    if isinstance(value, list | tuple):
        return _members(value, path, lift)
    if isinstance(value, set | frozenset):
        return sorted(_members(value, path, lift))
    if isinstance(value, Mapping | Arguments):
        return _mapping(value if isinstance(value, Mapping) else value.given(), path, lift)
    return _other(value, path, lift)


def _other(value: object, path: str, lift: Lift) -> Any:
    """Return a number of another library as one of Python's, a hidden text as text, and anything else as an object."""
    reveal = getattr(value, "get_secret_value", None)
    if callable(reveal):  # pydantic's SecretStr, which would be pickled with what it hides
        return to_wire(reveal(), path, lift)
    scalar = _scalar(value)
    return _object(value, path, lift) if scalar is None else to_wire(scalar, path, lift)


def _class(value: type, path: str, lift: Lift) -> dict[str, Any]:
    """Return a class: by its name where one is wanted and workers have it, else as an object of the bundle."""
    field = _field(path)
    if field in _INSTANCES:
        raise ConfigError(path, f"must be an object such as {value.__name__}(...), not the class")
    name = installed_name(value) if _wants_class(field) else None
    return lift(value, path) if name is None else {CLASS: name}


def _object(value: object, path: str, lift: Lift) -> dict[str, Any]:
    """Return the reference to an object.

    Raises:
        ConfigError: If a class or a function is wanted.
    """
    field, name = _field(path), type(value).__name__
    if field.endswith("_fn") and not callable(value):
        raise ConfigError(path, f"must be a function, not {name}(...)")
    if field.endswith("_cls"):
        where = f"{field.removesuffix('_cls')}_kwargs"
        raise ConfigError(path, f"must be the class {name}, not an instance of it; its arguments go into {where}")
    return lift(value, path)


def _field(path: str) -> str:
    """Return the name of the field that a path ends with, its place in a list aside."""
    return path.rpartition(".")[2].partition("[")[0]


def _wants_class(field: str) -> bool:
    return field.endswith("_cls") or field in {"class", "vector_store"}


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

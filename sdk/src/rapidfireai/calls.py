"""Arguments under the names that users know them by, and a sentence for the names that do not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rapidfireai.arguments import did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def one_of(function: str, name: str, value: Any, aliases: Sequence[str], others: dict[str, Any]) -> Any:
    """Return the value of an argument that may have been given under another name, which is taken out of `others`.

    Raises:
        TypeError: If it was given twice.
    """
    for alias in aliases:
        if alias in others:
            other = others.pop(alias)
            if value is not None:
                raise TypeError(f"{function}: {alias} is another name of {name}; give one of them")
            value = other
    return value


def no_others(function: str, others: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse arguments that do not exist.

    Raises:
        TypeError: Naming the argument that was probably meant.
    """
    for name in others:
        raise TypeError(f"{function} has no argument {name}{did_you_mean(name, known)}")


def whole(function: str, name: str, value: Any, least: int) -> int:
    """Return a whole number.

    Raises:
        TypeError: If it is missing.
        ValueError: If it is something else, or less than `least`.
    """
    if value is None:
        raise TypeError(f"{function} needs {name}")
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{function}: {name} must be a whole number of at least {least}, not {value!r}")
    return value


def arguments_of(
    function: str, kind: type[DataclassInstance], positional: Sequence[Any], named: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a function by the fields of a dataclass; named ones are taken out of `named`.

    Raises:
        TypeError: If there are too many, or one is given twice.
    """
    names = [each.name for each in fields(kind)]
    if len(positional) > len(names):
        raise TypeError(f"{function} takes at most {len(names)} arguments, not {len(positional)}")
    given = dict(zip(names, positional, strict=False))
    for name in names:
        if name in named:
            if name in given:
                raise TypeError(f"{function}: {name} is given twice, by its place and by its name")
            given[name] = named.pop(name)
    return given

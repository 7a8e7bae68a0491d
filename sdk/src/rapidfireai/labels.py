"""What people call the objects of a config: functions by their names, instances by how they were made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from rapidfireai.credentials import is_secret

LONGEST_LABEL = 128
_LONGEST_TEXT = 40
_SCALARS = (bool, int, float, str)


def label_of(value: object) -> str:
    """Return what people call an object.

    That is the qualified name of a function or class. An instance is called by its class and those arguments that
    differ from their defaults, as far as it keeps them: `RecursiveCharacterTextSplitter(chunk_size=256)`. No label has
    an address in memory or a secret in it.
    """
    name = getattr(value, "__qualname__", None)
    return (name if isinstance(name, str) else _described(value))[:LONGEST_LABEL]


def _described(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return repr(value)
    said = [f"{name}={each!r}" for name, each in _arguments(value)]
    return f"{kind.__name__}({', '.join(said)})"


def _arguments(value: object) -> Iterator[tuple[str, Any]]:
    """Yield the short arguments of an instance that differ from their defaults."""
    for name, parameter in _parameters(type(value)).items():
        kept = _attribute(value, name)
        is_short = isinstance(kept, _SCALARS) and not (isinstance(kept, str) and len(kept) > _LONGEST_TEXT)
        if is_short and kept != parameter.default and not is_secret(name, kept):
            yield name, kept


def _attribute(value: object, name: str) -> Any:
    """Return what an instance keeps under the name of an argument, with or without an underscore before it."""
    try:
        there = vars(value)
    except TypeError:  # it has slots alone
        return None
    return there.get(name, there.get(f"_{name}"))


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class: its own, and its bases' as long as it passes further ones on to them."""
    found: dict[str, inspect.Parameter] = {}
    if declared := getattr(kind, "model_fields", None):  # pydantic
        of_fields = ((name, getattr(field, "default", None)) for name, field in declared.items())
        kinds = inspect.Parameter.KEYWORD_ONLY
        return {name: inspect.Parameter(name, kinds, default=default) for name, default in of_fields}
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        try:
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        except (TypeError, ValueError):  # written in C
            break
        for each in parameters:
            if each.kind not in {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
                found.setdefault(each.name, each)
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
            break
    return found

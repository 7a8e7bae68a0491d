"""What TRL's and peft's config classes accept, without importing them: names, kinds of values, near misses."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rapidfireai.errors import ConfigError

Kind = Literal["null", "bool", "int", "float", "str", "list", "dict", "object"]
"""A kind of JSON value; `object` is an instance of a Python class, which only a code bundle can carry."""

_WORDS: Mapping[Kind, str] = {
    "null": "null",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "list": "a list",
    "dict": "a mapping",
    "object": "a Python object",
}
_KINDS: Mapping[type, Kind] = {type(None): "null", bool: "bool", list: "list", dict: "dict"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a config class.

    Attributes:
        kinds: The kinds of values that it accepts.
        literals: If not empty, the only strings that it accepts.
        synonyms: Strings that mean one of the literals.
        below: If not None, what every number must be below.
    """

    kinds: tuple[Kind, ...]
    literals: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    below: float | None = None

    def expected(self) -> str:
        """Return what may be written, in words."""
        words = [
            _WORDS[kind] for kind in self.kinds if kind not in {"null", "object"} and not self._only_literals(kind)
        ]
        words += [f"one of {', '.join(self.literals)}"] if self.literals else []
        words += [_WORDS["object"]] if "object" in self.kinds else []
        return " or ".join(words) + (f" below {self.below:g}" if self.below is not None else "")

    def _only_literals(self, kind: Kind) -> bool:
        return kind == "str" and bool(self.literals)


@dataclass(frozen=True, slots=True)
class Former:
    """An argument that the installed class no longer has, and that the worker gives its meaning.

    Attributes:
        argument: What may be written.
        meaning: What it does, for people.
        equals: The program with the installed library that gives the same result.
    """

    argument: Argument
    meaning: str
    equals: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """An argument that has another name now, and the same meaning.

    Attributes:
        name: Its name now.
        argument: What may be written under the earlier name; None if that is what the new one takes.
    """

    name: str
    argument: Argument | None = None


@dataclass(frozen=True, slots=True)
class ArgumentTable:
    """The arguments of one config class, as the installed library declares them.

    Attributes:
        owner: The class, such as `SFTConfig`.
        arguments: Its arguments by name.
        owned: Arguments that this system decides itself, each with a sentence that says what to do instead.
        moved: Names that earlier versions or other systems used, each with what to write now.
        synonyms: Values of an argument that mean another one here.
        former: Arguments that an earlier version had and that still work.
        renamed: Earlier names of arguments, taken for the ones of now.
    """

    owner: str
    arguments: Mapping[str, Argument]
    owned: Mapping[str, str]
    moved: Mapping[str, str]
    synonyms: Mapping[str, Mapping[str, str]]
    former: Mapping[str, Former] = field(default_factory=dict)
    renamed: Mapping[str, Renamed] = field(default_factory=dict)

    @property
    def writable(self) -> tuple[str, ...]:
        """The names that a user may write."""
        names = dict.fromkeys((*self.arguments, *self.former, *self.renamed))
        return tuple(name for name in names if name not in self.owned)

    def is_former(self, name: str) -> bool:
        """Return whether the installed class lacks `name` and the worker gives it its meaning."""
        return name in self.former and name not in self.arguments

    def current(self, name: str) -> str:
        """Return the name of now for a name of any time."""
        renamed = self.renamed.get(name)
        return name if renamed is None or name in self.arguments else renamed.name

    def argument(self, name: str, path: str) -> Argument:
        """Return the argument `name`.

        Raises:
            ConfigError: If there is no such argument or it is not the user's to set; the nearest name is suggested.
        """
        if name in self.owned:
            raise ConfigError(path, self.owned[name])
        if name in self.arguments:
            return replace(self.arguments[name], synonyms=self.synonyms.get(name, {}))
        if name in self.former:
            return self.former[name].argument
        if name in self.renamed:
            renamed = self.renamed[name]
            return renamed.argument or self.argument(renamed.name, path)
        if name in self.moved:
            raise ConfigError(path, f"unknown field of {self.owner}; {self.moved[name]}")
        raise ConfigError(path, f"unknown field of {self.owner}{did_you_mean(name, self.writable)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest known name, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def coerce(value: Any, argument: Argument, path: str) -> Any:
    """Return a JSON value as the type that its argument has.

    JSON does not tell 1.0 from 1, YAML 1.1 reads `1e-4` as a string and `no` as false: the argument's type
    decides what was meant.

    Raises:
        ConfigError: If the value is none of the kinds that the argument accepts.
    """
    if isinstance(value, bool):
        if value is False and "bool" not in argument.kinds and "no" in argument.literals:
            return "no"
    elif isinstance(value, int | float):
        return _number(value, argument, path)
    elif isinstance(value, str):
        return _string(value, argument, path)
    if _KINDS.get(type(value)) in argument.kinds:
        return value
    raise _wrong(value, argument, path)


def _number(value: float, argument: Argument, path: str) -> float:
    if not math.isfinite(value) or (argument.below is not None and value >= argument.below):
        raise ConfigError(path, f"must be {argument.expected()}, not {value}")
    if "float" in argument.kinds and ("int" not in argument.kinds or isinstance(value, float)):
        return float(value)
    if "int" in argument.kinds and float(value).is_integer():
        return int(value)
    raise _wrong(value, argument, path)


def _string(value: str, argument: Argument, path: str) -> str | float:
    if "str" in argument.kinds:
        value = argument.synonyms.get(value, value)
        if argument.literals and value not in argument.literals:
            near = did_you_mean(value, argument.literals)
            raise ConfigError(path, f"{value!r} is not known{near}" if near else _must_be(argument, value))
        return value
    if {"int", "float"} & set(argument.kinds):
        try:
            return _number(float(value), argument, path)
        except ValueError as error:
            raise _wrong(value, argument, path) from error
    raise _wrong(value, argument, path)


def _wrong(value: Any, argument: Argument, path: str) -> ConfigError:
    if value is None:
        return ConfigError(path, f"must be {argument.expected()}, not null; leave it out for the library's default")
    return ConfigError(path, _must_be(argument, value))


def _must_be(argument: Argument, value: Any) -> str:
    return f"must be {argument.expected()}, not {value!r}"

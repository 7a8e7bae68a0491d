"""Checks of values in the config of an evaluation: numbers, classes, objects, mappings; knobs kept. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rapidfireai.arguments import Argument, Kind, did_you_mean
from rapidfireai.config_fields import (
    CLASS,
    FUNCTION,
    KWARGS,
    LIST,
    NONE,
    REF,
    Drawn,
    free,
    mapping,
    marker_of,
    members,
    typed,
)
from rapidfireai.errors import ConfigError

Check = Callable[[Any, str], Any]
"""Takes a value and its path; returns it checked, with knobs kept."""
_SLIP: Final = 0.85
"""From this likeness on an unknown name is taken for a known one that was mistyped."""


@dataclass(frozen=True, slots=True)
class Number:
    """Checks that a value, or every value of a knob, is a number within bounds.

    Attributes:
        kind: `int` or `float`.
        least: What it must be at least.
        above: What it must be above.
        most: What it may be at most.
        below: What it must be below.
        hint: What to do instead, as the end of a sentence.
    """

    kind: Kind
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    hint: str = ""

    def __call__(self, value: Any, path: str) -> Any:
        """Return the value with its type put right.

        Raises:
            ConfigError: If it is no such number.
        """
        checked = typed(value, Argument((self.kind, "null")), path)
        for number, where in _numbers(checked, path):
            if not self._takes(number):
                raise ConfigError(where, f"must be {self._words()}, not {number}{self.hint and f'; {self.hint}'}")
        return checked

    def _takes(self, number: float) -> bool:
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def _words(self) -> str:
        noun = "a whole number" if self.kind == "int" else "a number"
        bounds = (("of at least", self.least), ("above", self.above), ("of at most", self.most), ("below", self.below))
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return f"{noun} {said}".rstrip()


def of(*kinds: Kind, one_of: tuple[str, ...] = ()) -> Check:
    """Return the check of values of these kinds.

    Args:
        kinds: The kinds; null is always one.
        one_of: If not empty, the only texts that may be written.
    """
    argument = Argument((*kinds, "null"), literals=one_of)
    return lambda value, path: typed(value, argument, path)


def refused(sentence: str) -> Check:
    """Return the check of a field that may not be written, with the reason and the fix."""

    def check(_: Any, path: str) -> Any:
        raise ConfigError(path, sentence)

    return check


def fields(owner: str, known: Mapping[str, Check]) -> Check:
    """Return the check of a mapping whose names are all known, or of a knob of such mappings.

    Args:
        owner: What it is, such as `a rag`.
        known: The check of each field.
    """

    def check(value: Any, path: str) -> Any:
        return _each(value, path, lambda given, here: _checked(given, known, here, owner))

    return check


def arguments_of(owner: str, known: Mapping[str, Check]) -> Check:
    """Return the check of the arguments of a library, or of a knob of such mappings.

    Args:
        owner: Who takes them, such as `vLLM's engine`.
        known: The checks of the arguments that are known; others may be anything.
    """

    def check(value: Any, path: str) -> Any:
        return _each(value, path, lambda given, here: _checked(given, known, here, owner, others=True))

    return check


def class_of(value: Any, path: str) -> Any:
    """Return a class, or a knob of classes.

    Raises:
        ConfigError: If it is something else, or an instance.
    """
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [class_of(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if value is None or marker == NONE:
        return None
    if marker == CLASS and value.get(KWARGS):
        stem = path.rpartition(".")[2].partition("[")[0].removesuffix("_cls")
        raise ConfigError(path, f"must be a class alone; its arguments go into {stem}_kwargs, not into {KWARGS}")
    if marker in {REF, FUNCTION, CLASS}:
        return value
    raise ConfigError(path, f'must be a class, in a manifest {{"{CLASS}": "module:Name"}}, not {_shown(value)}')


def object_of(what: str) -> Check:
    """Return the check of an object of the user's, or of a knob of them.

    Args:
        what: What it is, such as `a text splitter`.
    """

    def check(value: Any, path: str) -> Any:
        marker = marker_of(value, path)
        if marker == LIST:
            return {LIST: [check(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
        if value is None or marker == NONE:
            return None
        if marker in {REF, FUNCTION, CLASS}:
            return free(value, path)
        spelled = f'{{"{CLASS}": "module:Name", "{KWARGS}": {{...}}}}'
        raise ConfigError(path, f"must be {what}, in a manifest {spelled}, not {_shown(value)}")

    return check


def function_of(value: Any, path: str) -> Any:
    """Return a function, or a knob of functions.

    Raises:
        ConfigError: If it is something else.
    """
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [function_of(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if value is None or marker == NONE:
        return None
    if marker in {REF, FUNCTION}:
        return value
    raise ConfigError(path, f'must be a function, in a manifest {{"{FUNCTION}": "name"}} of spec.code')


def examples(value: Any, path: str) -> Any:
    """Return the examples of a prompt manager: a list of mappings, or a knob of such lists."""
    marker = marker_of(value, path)
    if marker == LIST:
        return {LIST: [examples(each, f"{path}[{index}]") for index, each in enumerate(members(value, path))]}
    if value is None or marker == NONE:
        return None
    if not isinstance(value, list) or not all(isinstance(each, Mapping) and each for each in value):
        raise ConfigError(path, "must be a list of mappings, such as {user_query: ..., answer: ...}")
    return free(value, path)


def _each(value: Any, path: str, check: Callable[[dict[str, Any], str], Any]) -> Any:
    """Check a mapping, or each of a knob's; None stays None."""
    marker = marker_of(value, path)
    if marker == LIST:
        alternatives = enumerate(members(value, path))
        return {LIST: [_each(member, f"{path}[{index}]", check) for index, member in alternatives]}
    if value is None or marker == NONE:
        return None
    if not isinstance(value, dict):
        raise ConfigError(path, f"must be a mapping, not a {type(value).__name__}")  # which may be a key
    return check(mapping(value, path), path)


def _checked(
    given: Mapping[str, Any], known: Mapping[str, Check], path: str, owner: str, others: bool = False
) -> dict[str, Any]:
    checked = {}
    for key, value in given.items():
        here, name = f"{path}.{key}", str(key)
        if name in known:
            if value is not None:
                checked[name] = known[name](value, here)
        elif not others:
            raise ConfigError(here, f"unknown field of {owner}{did_you_mean(name, known)}")
        elif near := difflib.get_close_matches(name, list(known), n=1, cutoff=_SLIP):
            raise ConfigError(here, f"{owner} takes no such argument; did you mean {near[0]}?")
        else:
            checked[name] = free(value, here)
    return checked


def _numbers(value: Any, path: str) -> Iterator[tuple[float, str]]:
    """Yield the numbers that a checked value may come to, and where each stands."""
    if isinstance(value, Drawn):
        yield value.range.start, path
        yield value.range.end, path
    elif isinstance(value, dict) and LIST in value:
        for index, each in enumerate(value[LIST]):
            yield from _numbers(each, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value, path


def _shown(value: Any) -> str:
    """Return a wrong value as a message shows it: it may be long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""What differs between the configs of two runs, for people and as a patch. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from rapidfireai.clone.spelling import is_plain, written
from rapidfireai.config_fields import CLASS, KWARGS, NONE, name_of

_ABSENT: Final = object()
_EMPTY_IF_ABSENT: Mapping[str, Any] = {"training_args": {}, "model_kwargs": {}}
"""Sections of which nothing and an empty mapping are the same."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs between two configs.

    Attributes:
        path: Where, as users write it: `training_args.learning_rate`.
        before: The value in the first config; None if it has none.
        after: The value in the second config; None if it has none.
        kind: Whether both have one.
    """

    path: str
    before: Any
    after: Any
    kind: Literal["added", "removed", "changed"]

    def __str__(self) -> str:
        before = "-" if self.kind == "added" else spelled(self.before)
        after = "-" if self.kind == "removed" else spelled(self.after)
        return f"{self.path}: {before} -> {after}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two runs' configs, in the order of the paths."""
    return [_change(".".join(steps), old, new) for steps, old, new in _between(before, after)]


def patch_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch with which a run of the first config is cloned to one of the second."""
    patch: dict[str, Any] = {}
    for steps, _, new in _between(before, after):
        place = patch
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = None if new is _ABSENT else _explicit(new)
    return patch


def spelled(value: Any) -> str:
    """Return a value of a config as people read it: functions by their names."""
    name = name_of(value)
    if name is not None:
        return name
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={spelled(each)}" for key, each in value.items()) or "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"  # the API server makes 1 of 1.0
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    yield from _differences({**_EMPTY_IF_ABSENT, **written(before)}, {**_EMPTY_IF_ABSENT, **written(after)}, ())


def _differences(old: Any, new: Any, steps: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if is_plain(old) and is_plain(new):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*steps, key))
    elif _is_instance(old) and _is_instance(new) and old[CLASS] == new[CLASS]:
        yield from _differences(old[KWARGS], new[KWARGS], (*steps, KWARGS))
    elif old != new or isinstance(old, bool) != isinstance(new, bool):  # true is not 1, and 1 is 1.0
        yield steps, old, new


def _is_instance(value: Any) -> bool:
    """Return whether a value is an instance of a class that the manifest names, whose arguments may differ by one."""
    return isinstance(value, Mapping) and CLASS in value and isinstance(value.get(KWARGS), Mapping)


def _change(path: str, old: Any, new: Any) -> Change:
    if old is _ABSENT:
        return Change(path, None, new, "added")
    if new is _ABSENT:
        return Change(path, old, None, "removed")
    return Change(path, old, new, "changed")


def _explicit(value: Any) -> Any:
    """Return a value as a patch says it, in which null takes a key away."""
    if value is None:
        return {NONE: True}
    return {key: _explicit(each) for key, each in value.items()} if is_plain(value) else value

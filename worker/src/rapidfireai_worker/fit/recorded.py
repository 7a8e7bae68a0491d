"""A config that remembers what was read of it: so a loaded model is found again by what it really depends on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_WHOLE = "*"
"""In a recorded path: all that lies there."""
_KIND = "?"
"""In a recorded path: whether a mapping lies there, whatever is in it."""


class Recorded(dict[str, Any]):
    """A config that remembers what was read of it. Whatever looks at it as a whole has read all of it.

    Args:
        values: The config.
        reads: Filled with the paths that were read; shared by nested ones.
        path: Where in the config this part lies.
    """

    def __init__(self, values: Mapping[str, Any], reads: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._reads = reads
        self._path = path
        for key, value in values.items():
            nested = isinstance(value, Mapping)
            super().__setitem__(key, Recorded(value, reads, (*path, key)) if nested else value)

    def _all(self) -> None:
        self._reads.add((*self._path, _WHOLE))

    def _one(self, key: str) -> None:
        """Note that `key` was read; of a nested part only that it is there, and what is read inside it later."""
        nested = isinstance(super().get(key), Recorded)
        self._reads.add((*self._path, key, _KIND) if nested else (*self._path, key))

    def __getitem__(self, key: str) -> Any:
        self._one(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As dict's; counts as reading the key."""
        self._one(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._reads.add((*self._path, str(key)))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self._all()
        return super().__iter__()

    def __len__(self) -> int:
        self._all()
        return super().__len__()

    def __eq__(self, other: object) -> bool:
        self._all()
        return super().__eq__(other)

    __hash__ = None

    def __repr__(self) -> str:
        return repr(self._plain())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (dict, (self._plain(),))

    def __or__(self, other: Any) -> Any:
        return self._plain() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._plain()

    def keys(self) -> Any:
        """As dict's; counts as reading everything."""
        self._all()
        return super().keys()

    def values(self) -> Any:
        """As dict's; counts as reading everything."""
        self._all()
        return super().values()

    def items(self) -> Any:
        """As dict's; counts as reading everything."""
        self._all()
        return super().items()

    def pop(self, key: str, *default: Any) -> Any:
        """As dict's; counts as reading the key."""
        self._reads.add((*self._path, key))
        return super().pop(key, *default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As dict's; counts as reading the key."""
        self._reads.add((*self._path, key))
        return super().setdefault(key, default)

    def popitem(self) -> tuple[str, Any]:
        """As dict's; counts as reading everything."""
        self._all()
        return super().popitem()

    def copy(self) -> dict[str, Any]:
        """Return a plain copy, which counts as having read everything."""
        return self._plain()

    def _plain(self) -> dict[str, Any]:
        self._all()
        return {key: value._plain() if isinstance(value, Recorded) else value for key, value in super().items()}


def value_at(config: Any, path: tuple[str, ...]) -> str:
    """Return what lies at a recorded path of a raw config, as text that compares."""
    for key in path:
        if key == _WHOLE:
            break
        if key == _KIND and isinstance(config, Mapping):
            return "a mapping"
        if not isinstance(config, Mapping) or key not in config:
            return "absent"
        config = config[key]
    return json.dumps(config, sort_keys=True, default=repr)

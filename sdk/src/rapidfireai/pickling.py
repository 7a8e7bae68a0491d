"""Pickles that are equal for equal objects, whatever process writes them: what digests need."""

from __future__ import annotations

import io
import re
from collections import ChainMap
from types import CodeType
from typing import Any

import cloudpickle

_KERNEL_DIRECTORY = re.compile(r"ipykernel_\d+(?=/)")
"""Where a notebook's kernel says that its cells are: the number is the kernel's process."""
_ADDRESS = re.compile(r":(\d{6,})\b")
"""A class's address in memory, by which pydantic tells classes of one name apart within a schema."""
_SCHEMA = "__pydantic_core_schema__"
_COMPILED = "pydantic_core._pydantic_core"


def pickled(value: object) -> tuple[bytes, list[CodeType]]:
    """Return the pickle of an object, and the code objects in it.

    Raises:
        Exception: Whatever the object's own pickling raises.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.codes


def steady_path(path: str) -> str:
    """Return the path of a file of source without what differs from process to process."""
    return _KERNEL_DIRECTORY.sub("ipykernel", path)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles objects so that equal ones give equal bytes in every process; remembers their code."""

    def __init__(self, file: io.BytesIO) -> None:
        self.codes: list[CodeType] = []
        self._schemas: dict[int, tuple[object, object]] = {}
        self._numbers: dict[str, int] = {}
        self.dispatch_table = ChainMap({CodeType: self._reduce_code}, cloudpickle.Pickler.dispatch_table)
        super().__init__(file, protocol=5)

    def reducer_override(self, value: Any) -> Any:
        """Pickle classes and instances without what differs from process to process."""
        reduced = super().reducer_override(value)
        kind = type(value)
        if isinstance(value, type):
            return self._steady_class(reduced) if isinstance(reduced, tuple) and len(reduced) > 2 else reduced
        if kind.__module__ == _COMPILED and kind.__name__ in {"SchemaValidator", "SchemaSerializer"}:
            make, (schema, *rest) = value.__reduce__()
            return make, (self._steady_schema(schema), *rest)
        if reduced is NotImplemented and kind.__module__ != "builtins" and kind not in self.dispatch_table:
            return _steady_instance(value)
        return reduced

    def _reduce_code(self, code: CodeType) -> tuple[Any, ...]:
        self.codes.append(code)
        make, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
        return make, tuple(_steady_part(part) for part in parts)

    def _steady_class(self, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return how a class is made, without the name that cloudpickle makes up for it in each process.

        The name lets later pickles of the process find the class again; here each bundle brings its own.
        """
        make, arguments, (attributes, slots), *rest = reduced
        *arguments, _, extra = arguments
        if _SCHEMA in attributes:
            attributes = {**attributes, _SCHEMA: self._steady_schema(attributes[_SCHEMA])}
        return make, (*arguments, None, extra), (_sorted_sets(attributes), slots), *rest

    def _steady_schema(self, schema: object) -> object:
        """Return a schema of pydantic with classes numbered in the order in which they come; one copy of each."""
        if id(schema) not in self._schemas:
            self._schemas[id(schema)] = schema, self._numbered(schema)
        return self._schemas[id(schema)][1]

    def _numbered(self, part: object) -> object:
        if type(part) is dict:
            return {key: self._member(key, each) for key, each in part.items()}
        if type(part) in {list, tuple}:
            return type(part)(self._numbered(each) for each in part)  # type: ignore[call-arg,attr-defined]
        return part

    def _member(self, key: object, value: object) -> object:
        names_a_class = key in {"ref", "schema_ref"} and isinstance(value, str)
        return self._number(str(value)) if names_a_class else self._numbered(value)

    def _number(self, reference: str) -> str:
        return _ADDRESS.sub(lambda found: f":{self._numbers.setdefault(found[1], len(self._numbers))}", reference)


class _Sorted:
    """A set that is pickled in one order; in memory it has another one in every process."""

    def __init__(self, members: frozenset[Any] | set[Any]) -> None:
        self._members = members

    def __reduce__(self) -> tuple[type, tuple[list[Any]]]:
        return type(self._members), (sorted(self._members, key=repr),)


def _steady_instance(value: object) -> Any:
    """Return how an instance is made, its sets in one order."""
    reduced = value.__reduce_ex__(5)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], dict | tuple):
        return reduced
    make, arguments, state, *rest = reduced
    return make, arguments, _sorted_sets(state), *rest


def _sorted_sets(state: Any) -> Any:
    """Return the state of an object with the sets among its attributes in one order."""
    if type(state) in {set, frozenset}:
        return _Sorted(state) if len(state) > 1 else state
    if type(state) is dict:
        return {name: _sorted_sets(each) for name, each in state.items()}
    return tuple(_sorted_sets(each) for each in state) if type(state) is tuple else state


def _steady_part(part: object) -> object:
    """Return a part of a code object without what differs from process to process."""
    if isinstance(part, tuple):
        return tuple(_Sorted(each) if isinstance(each, frozenset) else each for each in part)
    return steady_path(part) if isinstance(part, str) else part

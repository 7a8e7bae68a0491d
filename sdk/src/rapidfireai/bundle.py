"""Python objects -> one content-addressed file that workers load: the user's functions, by value."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import inspect
import io
import json
import platform
import re
import sys
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import cloudpickle

from rapidfireai.errors import BundleError
from rapidfireai.expand import REF
from rapidfireai.local_code import lines_of, local_modules_by_value, modules_imported_by

FORMAT = 1
"""The version of the file's layout."""
CREATE_MODEL = "create_model_fn"
"""The key of the function that makes the model and its tokenizer."""
RECORDED_PACKAGES = ("accelerate", "cloudpickle", "datasets", "numpy", "peft", "torch", "transformers", "trl")
"""Packages whose versions matter to who unpickles, recorded where they are installed."""
_LONGEST_LABEL = 128
_KERNEL_DIRECTORY = re.compile(r"ipykernel_\d+(?=/)")
"""Where a notebook's kernel says that its cells are: the number is the kernel's process."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A finished bundle.

    Attributes:
        data: The file.
        digest: Its sha256.
        python: The Python version that made it, such as `3.11`.
    """

    data: bytes
    digest: str
    python: str


class BundleBuilder:
    """Collects objects while configs are turned into JSON.

    `lift` gives each object a key and returns the reference that stands for it in the config. The references are
    complete only after `build`, since the bundle's digest is in them: turn the configs into JSON once more then.
    """

    def __init__(self) -> None:
        self._objects: dict[str, object] = {}
        self._digest = "0" * 64

    def add(self, key: str, value: object) -> None:
        """Put `value` into the bundle under `key`."""
        self._objects[key] = value

    def lift(self, value: object, path: str) -> dict[str, Any]:
        """Put an object of a config into the bundle and return its reference."""
        key = next((key for key, known in self._objects.items() if known is value), path)
        self._objects[key] = value
        return {REF: {"bundle": self._digest, "key": key, "label": label_of(value)}}

    def build(self) -> Bundle | None:
        """Return the bundle, or None if there is nothing in it.

        Raises:
            BundleError: If an object cannot be sent to the workers; the message names it.
        """
        if not self._objects:
            return None
        bundle = make_bundle(self._objects)
        self._digest = bundle.digest
        return bundle


def make_bundle(objects: Mapping[str, object]) -> Bundle:
    """Return a bundle of `objects` by key.

    Functions and classes of notebooks, scripts and local modules go by value; what is installed in site-packages goes
    by name and has to be installed on the workers too. Local modules that a function imports while it runs go along as
    files. Equal functions give equal bundles, as far as pickling is deterministic.

    Raises:
        BundleError: If an object cannot be pickled; the message names it and what it refers to.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    ordered = {key: objects[key] for key in sorted(objects)}
    with local_modules_by_value():
        try:
            pickled, codes = _pickled(ordered)
        except Exception as error:
            raise BundleError(_culprit(ordered, error)) from error
    header = {
        "format": FORMAT,
        "python": python,
        "implementation": platform.python_implementation(),
        "packages": _versions(),
        "keys": {key: label_of(value) for key, value in ordered.items()},
        "lines": {_steady(file): blocks for file, blocks in lines_of(codes).items()},
        "modules": {name: dataclasses.asdict(module) for name, module in modules_imported_by(codes).items()},
    }
    data = json.dumps(header, sort_keys=True).encode() + b"\n" + pickled
    return Bundle(data, hashlib.sha256(data).hexdigest(), python)


class _Sorted:
    """A frozenset that is pickled in one order; in memory it has another one in every process."""

    def __init__(self, members: frozenset[Any]) -> None:
        self._members = members

    def __reduce__(self) -> tuple[type, tuple[list[Any]]]:
        return frozenset, (sorted(self._members, key=repr),)


def _steady(part: object) -> object:
    """Return a part of a code object without what differs from process to process."""
    if isinstance(part, tuple):
        return tuple(_Sorted(each) if isinstance(each, frozenset) else each for each in part)
    if isinstance(part, str):
        return _KERNEL_DIRECTORY.sub("ipykernel", part)
    return part


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles functions so that equal ones give equal bytes in every process; remembers their code."""

    def __init__(self, file: io.BytesIO) -> None:
        self.codes: list[CodeType] = []
        self.dispatch_table = ChainMap({CodeType: self._reduce_code}, cloudpickle.Pickler.dispatch_table)
        super().__init__(file, protocol=5)

    def _reduce_code(self, code: CodeType) -> tuple[Any, ...]:
        self.codes.append(code)
        make, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
        return make, tuple(_steady(part) for part in parts)


def _pickled(value: object) -> tuple[bytes, list[CodeType]]:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.codes


def label_of(value: object) -> str:
    """Return what people call an object: the qualified name of a function, else its text."""
    name = getattr(value, "__qualname__", None)
    return (name if isinstance(name, str) else repr(value))[:_LONGEST_LABEL]


def _versions() -> dict[str, str]:
    installed = {}
    for name in RECORDED_PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _culprit(objects: Mapping[str, object], error: Exception) -> str:
    """Return a sentence that names the object, and what it refers to, that cannot be pickled."""
    for key, value in objects.items():
        reason = _why_not(value)
        if reason is None:
            continue
        for name, used in _used_by(value):
            inner = _why_not(used)
            if inner is not None:
                return (
                    f"{key}: cannot be sent to the workers, because {label_of(value)} uses `{name}`, and a "
                    f"{type(used).__name__} cannot be pickled ({inner}); make `{name}` inside of the function"
                )
        return f"{key}: {label_of(value)} cannot be sent to the workers ({reason}); make what it needs in a function"
    return f"the functions cannot be sent to the workers: {error}"


def _why_not(value: object) -> str | None:
    try:
        _pickled(value)
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def _used_by(value: object) -> Iterator[tuple[str, object]]:
    """Yield the outer variables that a function uses, by name."""
    if not inspect.isfunction(value):
        return
    variables = inspect.getclosurevars(value)
    yield from {**variables.globals, **variables.nonlocals}.items()

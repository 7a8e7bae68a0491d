"""Python objects -> one content-addressed file that workers load: the user's functions, by value."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rapidfireai.config_fields import REF
from rapidfireai.errors import BundleError
from rapidfireai.labels import label_of
from rapidfireai.local_code import lines_of, local_modules_by_value, modules_imported_by
from rapidfireai.pickling import pickled, steady_path

FORMAT = 1
"""The version of the file's layout."""
CREATE_MODEL = "create_model_fn"
"""The key of the function that makes the model and its tokenizer."""
RECORDED_PACKAGES = ("accelerate", "cloudpickle", "datasets", "numpy", "peft", "torch", "transformers", "trl")
"""Packages whose versions matter to who unpickles, recorded where they are installed."""


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
        self._digests: dict[str, str] = {}
        self._digest = "0" * 64

    def add(self, key: str, value: object) -> None:
        """Put `value` into the bundle under `key`."""
        self._objects[key] = value

    def lift(self, value: object, path: str) -> dict[str, Any]:
        """Put an object of a config into the bundle and return its reference.

        That of a loader, a splitter and the like has the object's own digest in it, by which an index that was made of
        it is found again. Functions have none: they make no index.

        Raises:
            BundleError: If it cannot be sent to the workers.
        """
        key = next((key for key, known in self._objects.items() if known is value), path)
        self._objects[key] = value
        reference = {"bundle": self._digest, "key": key, "label": label_of(value)}
        if not inspect.isroutine(value):
            if key not in self._digests:
                self._digests[key] = digest_of(value, key)
            reference["digest"] = self._digests[key]
        return {REF: reference}

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
            body, codes = pickled(ordered)
        except Exception as error:
            raise BundleError(_culprit(ordered, error)) from error
    header = {
        "format": FORMAT,
        "python": python,
        "implementation": platform.python_implementation(),
        "packages": _versions(),
        "keys": {key: label_of(value) for key, value in ordered.items()},
        "lines": {steady_path(file): blocks for file, blocks in lines_of(codes).items()},
        "modules": {name: dataclasses.asdict(module) for name, module in modules_imported_by(codes).items()},
    }
    data = json.dumps(header, sort_keys=True).encode() + b"\n" + body
    return Bundle(data, hashlib.sha256(data).hexdigest(), python)


def digest_of(value: object, key: str = "") -> str:
    """Return the sha256 of an object's own pickle.

    Equal objects have equal digests in every process with the same versions of Python and of the libraries that they
    are made of. Classes of notebooks, scripts and local modules count with their code, their file's path and their line
    numbers, so an edit above one in its file is another digest.

    Args:
        value: The object.
        key: What it is called, for messages.

    Raises:
        BundleError: If it cannot be pickled.
    """
    with local_modules_by_value():
        try:
            data, _ = pickled(value)
        except Exception as error:
            raise BundleError(_culprit({key: value}, error)) from error
    return hashlib.sha256(data).hexdigest()


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
        pickled(value)
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def _used_by(value: object) -> Iterator[tuple[str, object]]:
    """Yield the outer variables that a function uses, by name."""
    if not inspect.isfunction(value):
        return
    variables = inspect.getclosurevars(value)
    yield from {**variables.globals, **variables.nonlocals}.items()

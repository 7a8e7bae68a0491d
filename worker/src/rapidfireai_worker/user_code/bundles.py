"""The user's Python objects, and what names them in a config."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import cloudpickle

from rapidfireai.bundle import CREATE_MODEL
from rapidfireai.config_fields import CLASS, FUNCTION, KWARGS
from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.failures import last_lines
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.user_code.shipped import provide_modules, show_shipped_lines
from rapidfireai_worker.user_code.source import installed_function, load_source, own_function

FORMAT = 1
"""The bundle format that this worker reads."""


class Bundles:
    """The code bundles of the volume; each is loaded once a process.

    Args:
        volume: Where they lie.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._loaded: dict[str, dict[str, Any]] = {}

    def objects(self, digest: str) -> dict[str, Any]:
        """Return the objects of a bundle by their keys.

        Raises:
            RunFailure: If it is missing or damaged, or was made with a Python or with packages that differ.
        """
        if digest not in self._loaded:
            self._loaded[digest] = _load(self._volume, digest)
        return self._loaded[digest]

    def object(self, reference: Mapping[str, str]) -> Any:
        """Return the object that a `$ref` names.

        Raises:
            RunFailure: If its bundle cannot be loaded or has no such key.
        """
        objects = self.objects(reference["bundle"])
        if reference["key"] not in objects:
            raise RunFailure(
                "BundleInvalid",
                f"code bundle {reference['bundle'][:12]} has no object {reference['key']!r}; it has {sorted(objects)}",
            )
        return objects[reference["key"]]


class UserCode:
    """All of the user's Python that runs may name: of bundles, of an experiment's source, of installed modules.

    Args:
        volume: Where bundles lie.
    """

    def __init__(self, volume: Volume) -> None:
        self._bundles = Bundles(volume)

    def load(self, job: RunJob) -> None:
        """Load the code of a run's experiment, unless that was done.

        Raises:
            RunFailure: If it cannot be loaded, naming the field, the line and the fix.
        """
        if job.source is not None:
            load_source(job.source, job.source_name)
        elif job.bundle is not None:
            self._bundles.objects(job.bundle)

    def create_model(self, job: RunJob) -> Callable[..., Any] | None:
        """Return the function that makes the run's model, or None if the model is loaded by its name.

        Raises:
            RunFailure: If there is no such function.
        """
        if job.create_model is not None:
            return self._function(job.create_model, job)
        return None if job.bundle is None else self._bundles.objects(job.bundle).get(CREATE_MODEL)

    def resolve(self, value: Any, job: RunJob) -> Any:
        """Return `value` with every marker in it replaced by what it names: objects, functions, classes, variables.

        A class without kwargs is itself under a key that ends in `_cls`, and elsewhere an instance made with none.

        Raises:
            RunFailure: If there is no such thing, or an instance cannot be made.
        """
        if isinstance(value, Mapping):
            return self._resolve_mapping(value, job)
        if isinstance(value, list):
            return [self.resolve(item, job) for item in value]
        return value

    def _resolve_mapping(self, value: Mapping[str, Any], job: RunJob) -> Any:
        match value:
            case {"$ref": reference}:
                return self._bundles.object(reference)
            case {"$function": name}:
                return self._function(name, job)
            case {"$env": name}:
                return variable(name)
            case {"$class": name}:
                return made(name, self.resolve(value.get(KWARGS) or {}, job))
            case _:
                return {key: self._resolve_field(key, item, job) for key, item in value.items()}

    def _resolve_field(self, key: str, value: Any, job: RunJob) -> Any:
        if key.endswith("_cls") and isinstance(value, Mapping) and set(value) == {CLASS}:
            return installed_function(value[CLASS])
        return self.resolve(value, job)

    def _function(self, name: str, job: RunJob) -> Callable[..., Any]:
        if ":" in name:
            return installed_function(name)
        if job.source is None:
            raise RunFailure("InvalidCode", f"{job.source_name}: is not there, and a config names {name!r} of it")
        return own_function(load_source(job.source, job.source_name), name, job.source_name)


def made(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return an instance of the class that `module:Name` names.

    Raises:
        RunFailure: If there is no such class, or it refuses the arguments.
    """
    kind = installed_function(name)
    try:
        return kind(**arguments)
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise RunFailure(
            "InvalidConfig", f"{name}({', '.join(arguments)}) raised {type(error).__name__}: {error}"
        ) from error


def variable(name: str) -> str:
    """Return a variable of the worker's environment.

    Raises:
        RunFailure: If it is not set.
    """
    value = os.environ.get(name)
    if value is None:
        message = f"the worker has no variable {name}; set it in spec.workers.template, from a Secret if it is a key"
        raise RunFailure("InvalidConfig", message)
    return value


def names_content(reference: Mapping[str, Any] | None) -> bool:
    """Return whether a reference to a function, with the digest of the run's code, says what the function is.

    That of an installed module does not: another image may have another one under its name.
    """
    return reference is None or ":" not in str(reference.get(FUNCTION, ""))


def _load(volume: Volume, digest: str) -> dict[str, Any]:
    path = volume.bundle(digest)
    name = f"spec.code.bundle: {digest[:12]}"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        message = f"{name} is not on the volume ({path}); upload it again by running the script or notebook once more"
        raise RunFailure("BundleMissing", message) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise RunFailure("BundleInvalid", f"{name}: {path} does not have that digest; delete the file and upload again")
    head, _, body = data.partition(b"\n")
    try:
        header: dict[str, Any] = json.loads(head)
    except ValueError as error:
        raise RunFailure("BundleInvalid", f"{name}: the first line of {path} is not JSON") from error
    _check_versions(name, header)
    show_shipped_lines(header.get("lines") or {})
    provide_modules(header.get("modules") or {})
    try:
        objects: dict[str, Any] = cloudpickle.loads(body)
    except Exception as error:
        message = f"{name} cannot be loaded in the worker, whose environment must have what your code imports\n"
        raise RunFailure("BundleInvalid", (message + last_lines(error))[:4096]) from error
    return objects


def _check_versions(name: str, header: Mapping[str, Any]) -> None:
    if header.get("format") != FORMAT:
        raise RunFailure("BundleInvalid", f"{name} has format {header.get('format')}; this worker reads {FORMAT}")
    theirs, ours = str(header.get("python")), f"{sys.version_info.major}.{sys.version_info.minor}"
    if theirs != ours:
        raise RunFailure(
            "PythonMismatch",
            f"{name} was made with Python {theirs} and this worker runs Python {ours}; functions do not travel between "
            f"them: run your script with Python {ours}, or name a worker image with Python {theirs} in "
            "spec.workers.template",
        )
    differing = [
        f"{package} {version} there, {here} here"
        for package, version in sorted(dict(header.get("packages") or {}).items())
        if (here := _installed(package)) is not None and _minor(here) != _minor(str(version))
    ]
    if differing:
        raise RunFailure(
            "PackageMismatch",
            f"{name} was made with other package versions than this worker has ({'; '.join(differing)}): install the "
            "worker's versions where your script runs, or name a worker image that has yours in spec.workers.template",
        )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> list[str]:
    return version.split("+", maxsplit=1)[0].split(".")[:2]

"""What a part of a config is, as text that is equal for equal parts, in whatever process and experiment."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rapidfireai_worker.durable import sha256_of
from rapidfireai_worker.engine import RunJob

_PASSWORD = re.compile(r"(://[^/:@\s]*):[^/@\s]*@")


def identity(value: Any, job: RunJob, *, contents: bool = True) -> Any:
    """Return what a config value is, as JSON: markers by what they name, files and folders by what is in them.

    A variable of the environment is known by its name: its value may be a secret, and stands in no file.

    Args:
        value: The value with its markers unresolved and its paths located.
        job: The run; a function of its own source is known by the source.
        contents: Know files and folders by what is in them; otherwise by their names.
    """
    if isinstance(value, Mapping):
        match value:
            case {"$ref": reference}:
                return {"object": reference.get("digest") or [reference["bundle"], reference["key"]]}
            case {"$function": str(name)} if ":" not in name:
                return {"function": [job.code, name]}
            case _:
                return {str(key): identity(each, job, contents=contents) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [identity(each, job, contents=contents) for each in value]
    return _text(value, contents) if isinstance(value, str) else _number(value)


def digest_of(value: Any) -> str:
    """Return the sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def version(package: str) -> str | None:
    """Return the installed version of a package, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_of(kind: type) -> str:
    """Return the package that a class comes from, with its version where it has one."""
    top = kind.__module__.split(".", maxsplit=1)[0]
    found = version(top.replace("_", "-"))
    return f"{kind.__module__}:{kind.__qualname__}" + (f" {found}" if found else "")


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class's constructor; none if it does not tell them."""
    try:
        return dict(inspect.signature(kind).parameters)
    except (TypeError, ValueError):
        return {}


def _number(value: Any) -> Any:
    """Return a number as the API server gives it back, where 1.0 has become 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: str, contents: bool) -> Any:
    path = Path(value)
    if contents and value.startswith("/") and path.exists():
        return {"files": _content(path)}
    return _PASSWORD.sub(r"\1@", value)


def _content(path: Path) -> str:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    names = [(str(each.relative_to(path)), _file(each)) for each in files]
    return digest_of(names)


def _file(path: Path) -> str:
    seen = path.stat()
    return _version_of_file(path, seen.st_mtime_ns, seen.st_size, seen.st_ino)


@functools.lru_cache(maxsize=4096)
def _version_of_file(path: Path, *_: int) -> str:
    return sha256_of(path)

"""Where the files of a data set or model lie, and what is in them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.permission import check_readable

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""Which reader of the datasets library reads a file, by its suffix."""
_GLOB = frozenset("*?[")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a data set, in the order of their rows.

    Attributes:
        builder: What reads them.
        paths: The files.
        digest: The sha256 of the data set: equal ones have equal rows.
    """

    builder: str
    paths: tuple[Path, ...]
    digest: str


def resolve_path(
    uri: str, field: str, volume: Volume, claims: Mapping[str, Path], *, missing: str = "DatasetNotFound"
) -> Path:
    """Return the path that a `pvc://`, `blob://` or `file://` URI names.

    Args:
        uri: The URI.
        field: The field that holds it, for messages.
        volume: The shared volume.
        claims: Where each claim is mounted.
        missing: The reason of the failure if nothing is there.

    Raises:
        RunFailure: If nothing is there, or it may not be read.
    """
    root, path = _located(uri, field, volume, claims, missing)
    _check_inside(path, root, uri, field, missing)
    check_readable(path, field, uri, model=missing == "ModelNotFound")
    if not path.exists():
        fix = "upload it again" if uri.startswith("blob://") else "put it there or correct the URI"
        raise RunFailure(missing, f"{field}: {uri} does not exist (looked for {path}); {fix}")
    return path.resolve()


def located(value: Any, field: str, volume: Volume, claims: Mapping[str, Path]) -> Any:
    """Return a config value with every `pvc://CLAIM/path` in it replaced by the path where this worker has it.

    Raises:
        RunFailure: If nothing is there, naming the field and the URI.
    """
    if isinstance(value, str) and value.startswith("pvc://"):
        return str(resolve_path(value, field, volume, claims, missing="ModelNotFound"))
    if isinstance(value, Mapping):
        return {key: located(each, f"{field}.{key}", volume, claims) for key, each in value.items()}
    if isinstance(value, list):
        return [located(each, f"{field}[{index}]", volume, claims) for index, each in enumerate(value)]
    return value


def local_files(uri: str, field: str, volume: Volume, claims: Mapping[str, Path]) -> Files:
    """Return the files that a `pvc://`, `blob://` or `file://` URI names: one, those of a directory, or a pattern's.

    Args:
        uri: The URI.
        field: The field that holds it, for messages.
        volume: The shared volume.
        claims: Where each claim is mounted.

    Raises:
        RunFailure: If nothing is there, it may not be read, or it is not only files of one known kind.
    """
    root, path = _located(uri, field, volume, claims, "DatasetNotFound")
    check_readable(path, field, uri, model=False)
    if not path.exists() and _GLOB & set(uri):
        found = sorted(each for each in root.glob(str(path.relative_to(root))) if each.is_file())
        if not found:
            raise RunFailure("DatasetNotFound", f"{field}: {uri} matches no file; put some there or correct the URI")
    else:
        path = resolve_path(uri, field, volume, claims)
        found = (
            [path] if path.is_file() else sorted(each for each in path.rglob("*") if is_data(each.relative_to(path)))
        )
    for each in found:
        _check_inside(each, root, uri, field, "DatasetNotFound")
        check_readable(each, field, uri, model=False)
    return described(uri, field, found)


def described(uri: str, field: str, paths: Iterable[Path]) -> Files:
    """Return files with what reads them and their digest.

    Raises:
        RunFailure: If there are none, or they are not all of one known kind.
    """
    paths = tuple(paths)
    kinds = {builder_of(path): path for path in reversed(paths)}
    if not paths or None in kinds:
        what = f"{kinds[None].name} is no" if paths else "holds no"
        raise RunFailure(
            "DatasetUnreadable", f"{field}: {uri}: {what} file that ends in {', '.join(BUILDERS)} (.gz may follow)"
        )
    if len(kinds) > 1:
        names = ", ".join(sorted(path.name for path in kinds.values())[:_SHOWN])
        raise RunFailure(
            "DatasetUnreadable",
            f"{field}: {uri} mixes kinds of files ({names}); name those of one kind, as with *.jsonl",
        )
    builder = str(next(iter(kinds)))
    digests = [_file_digest(path) for path in paths]
    return Files(builder, paths, hashlib.sha256(json.dumps([builder, digests]).encode()).hexdigest())


def builder_of(path: PurePath) -> str | None:
    """Return what reads a file of this name, or None if nothing does."""
    name = path.name.removesuffix(".gz")
    return BUILDERS.get(PurePath(name).suffix)


def is_data(path: PurePath) -> bool:
    """Return whether a file in a directory is part of a data set, by its path in it: not what other programs hide."""
    return builder_of(path) is not None and not any(part.startswith((".", "_")) for part in path.parts)


def _located(uri: str, field: str, volume: Volume, claims: Mapping[str, Path], missing: str) -> tuple[Path, Path]:
    """Return the root that a URI may not lead out of, and the path that it names."""
    scheme, _, rest = uri.partition("://")
    if scheme == "pvc":
        claim, _, inside = rest.partition("/")
        if claim not in claims:
            known = ", ".join(sorted(claims)) or "none"
            raise RunFailure(missing, f"{field}: {uri}: no claim {claim!r} is mounted here; mounted: {known}")
        return claims[claim], claims[claim] / inside
    if scheme == "blob":
        return volume.root, volume.dataset(rest.removeprefix("sha256/"))
    if scheme == "file":
        return Path("/"), Path(rest)
    raise RunFailure(missing, f"{field}: {uri}: write pvc://CLAIM/path, file:///path or an absolute path")


def _check_inside(path: Path, root: Path, uri: str, field: str, missing: str) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise RunFailure(missing, f"{field}: {uri} leads out of the claim; write a path inside it")


def _file_digest(path: Path) -> str:
    seen = path.stat()
    return _digest_of_version(path, seen.st_mtime_ns, seen.st_size, seen.st_ino)


@functools.lru_cache(maxsize=4096)
def _digest_of_version(path: Path, *version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

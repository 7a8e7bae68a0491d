"""Read an image's archive, as `tools/images.py` writes it: its configuration and the files in its layers."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any


def config(archive: Path) -> dict[str, Any]:
    """Return an image's configuration: architecture, history, and under `config` what its containers start with."""
    with tarfile.open(archive) as outer:
        found: dict[str, Any] = json.loads(_read(outer, _manifest(outer)["Config"]))
    return found


def names(archive: Path) -> list[str]:
    """Return the names that the archive gives its image."""
    with tarfile.open(archive) as outer:
        return list(_manifest(outer)["RepoTags"])


def layer_sizes(archive: Path) -> list[int]:
    """Return the sizes of an image's layers in bytes, uncompressed, lowest first."""
    with tarfile.open(archive) as outer:
        return [outer.getmember(name).size for name in _layers(outer)]


def files(archive: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield path and content of the regular files in an image that are wanted.

    Files that a later layer removes are yielded too; of a file that it replaces, the last content comes last.
    """
    with tarfile.open(archive) as outer:
        for name in _layers(outer):
            layer = outer.extractfile(name)
            if layer is None:
                continue
            with tarfile.open(fileobj=layer) as inner:
                for member in inner:
                    path = PurePosixPath(member.name)
                    if member.isreg() and wanted(path):
                        yield path, _read(inner, member)


def _manifest(outer: tarfile.TarFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_read(outer, "manifest.json"))[0]
    return found


def _layers(outer: tarfile.TarFile) -> list[str]:
    """Return the members that are layers. An older writer names equal ones twice, by links."""
    layers = []
    for name in _manifest(outer)["Layers"]:
        member = outer.getmember(name)
        layers.append(str(PurePosixPath(name).parent / member.linkname) if member.issym() else name)
    return layers


def _read(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    handle = archive.extractfile(member)
    if handle is None:
        raise ValueError(f"{archive.name}: {member} is not a file")
    return handle.read()

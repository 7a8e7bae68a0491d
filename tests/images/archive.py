"""Read an image's archive, as `tools/images.py` writes it: its configuration and its names."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any


def config(archive: Path) -> dict[str, Any]:
    """Return an image's configuration: architecture, history, and under `config` what its containers start with."""
    with tarfile.open(archive) as outer:
        return _read(outer, _manifest(outer)["Config"])


def names(archive: Path) -> list[str]:
    """Return the names that the archive gives its image."""
    with tarfile.open(archive) as outer:
        return list(_manifest(outer)["RepoTags"])


def _manifest(outer: tarfile.TarFile) -> dict[str, Any]:
    return _read(outer, "manifest.json")[0]


def _read(outer: tarfile.TarFile, member: str) -> Any:
    handle = outer.extractfile(member)
    assert handle is not None
    return json.load(handle)

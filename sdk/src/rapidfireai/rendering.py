"""Rendering a script: its experiments become manifests instead of being run.

`RAPIDFIREAI_RENDER` names a directory. While it is set `run_fit` writes `<name>.yaml` there and returns. With
`RAPIDFIREAI_RENDER_OFFLINE` no cluster is asked: code and data are written to the directory too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rapidfireai.errors import RapidFireError
from rapidfireai.names import free_name, slug
from rapidfireai.volume import Kind, Sent, VolumeClient

DIRECTORY_ENV = "RAPIDFIREAI_RENDER"
OFFLINE_ENV = "RAPIDFIREAI_RENDER_OFFLINE"
_KINDS: tuple[Kind, ...] = ("bundles", "datasets")


class Rendering:
    """Where the experiments of this process are written instead of being run.

    Args:
        directory: Where the manifests go.
        offline: Whether code and data go there as well, and not to a cluster.
    """

    def __init__(self, directory: Path, *, offline: bool) -> None:
        self.directory = directory
        self.offline = offline
        self._names: set[str] = set()

    def free_name(self, experiment_name: str) -> str:
        """Return the experiment's name, with a suffix if this process has rendered one of that name."""
        return free_name(experiment_name, self._names.__contains__)

    def write(self, experiment_name: str, manifest: str) -> Path:
        """Write the manifest of an experiment; return the file."""
        name = slug(experiment_name)
        self._names.add(name)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{name}.yaml"
        path.write_text(manifest)
        return path


def environment(directory: Path, *, offline: bool) -> dict[str, str]:
    """Return the variables that make a script render.

    Args:
        directory: Where the manifests go.
        offline: Whether code and data go there as well.
    """
    return {DIRECTORY_ENV: str(directory), OFFLINE_ENV: "1" if offline else ""}


def is_rendering() -> bool:
    """Return whether this process renders what it else would run."""
    return bool(os.environ.get(DIRECTORY_ENV))


@cache
def rendering() -> Rendering:
    """Return how this process renders."""
    return Rendering(Path(os.environ[DIRECTORY_ENV]), offline=bool(os.environ.get(OFFLINE_ENV)))


class Folder:
    """Keeps code and data in a directory of this machine, until `upload` sends them.

    Args:
        directory: The directory; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, kind: Kind, digest: str, source: Path | bytes, sent: Sent) -> None:
        """Keep a file under its digest, unless it is there already."""
        path = self._directory / kind / digest
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        if isinstance(source, bytes):
            unfinished.write_bytes(source)
        else:
            shutil.copyfile(source, unfinished)
        unfinished.rename(path)
        size = path.stat().st_size
        sent(size, size)

    def files(self) -> Mapping[tuple[Kind, str], Path]:
        """Return what it keeps, by kind and digest."""
        found = {kind: sorted((self._directory / kind).glob("?" * 64)) for kind in _KINDS}
        return {(kind, path.name): path for kind in _KINDS for path in found[kind]}

    def upload(self, volume: VolumeClient) -> int:
        """Send all of it to a volume, except for what is there already; return how many files there are.

        Raises:
            RapidFireError: If there is nothing.
            VolumeError: If the volume service refuses or cannot be reached.
        """
        files = self.files()
        if not files:
            raise RapidFireError(f"{self._directory}: has no code and no data; name the directory that was rendered to")
        for (kind, digest), path in files.items():
            volume.put(kind, digest, path)
        return len(files)

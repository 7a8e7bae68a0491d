"""The model files of a checkpoint, fetched file by file, verified, and resumed where they broke off."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from rapidfireai.api.run import Checkpoint
from rapidfireai.errors import VolumeError
from rapidfireai.volume import VolumeClient

MANIFEST = "manifest.json"
_MODEL = "model/"
_PARTS = ".parts"
_BLOCK = 1 << 20
_TRIES = 5
"""How often one file is asked for in a row that brings nothing new."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        facts: All of it: library versions, the device, and so on.
        files: The model's files by their names below the model's folder: (sha256, bytes).
    """

    facts: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]

    @property
    def bytes(self) -> int:
        """The size of the model's files together."""
        return sum(size for _, size in self.files.values())


def fetch_manifest(volume: VolumeClient, checkpoint: Checkpoint) -> Manifest:
    """Return the manifest of a checkpoint.

    Raises:
        VolumeError: If it is not there, or not the one that was committed.
    """
    with volume.file(checkpoint.path, MANIFEST) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != checkpoint.digest:
        raise VolumeError(
            f"{checkpoint.path}/{MANIFEST} is not the one that was committed: the volume is damaged there"
        )
    return manifest_of(content)


def manifest_of(content: bytes) -> Manifest:
    """Return what a manifest says.

    Raises:
        VolumeError: If it names a file that would lie outside of the model's folder.
    """
    facts = json.loads(content)
    files = {}
    for name, file in facts["files"].items():
        if name.startswith(_MODEL):
            inner = PurePosixPath(name.removeprefix(_MODEL))
            if inner.is_absolute() or ".." in inner.parts or inner.parts[:1] == (_PARTS,):
                raise VolumeError(f"the manifest names {name}, which is no file of a model")
            files[str(inner)] = (str(file["sha256"]), int(file["bytes"]))
    return Manifest(facts, files)


def fetch_model(
    volume: VolumeClient, checkpoint: Checkpoint, manifest: Manifest, folder: Path, done: Callable[[int, int], None]
) -> None:
    """Fetch the model's files into a folder; what is there already, whole or in part, is not fetched again.

    Args:
        volume: The volume service.
        checkpoint: The checkpoint.
        manifest: Its manifest.
        folder: Where the files go; whatever else is in it is removed.
        done: Told how many bytes of how many are here.

    Raises:
        VolumeError: If a file cannot be fetched, or is damaged on the volume.
        OSError: If the folder cannot be written.
    """
    parts = folder / _PARTS
    parts.mkdir(parents=True, exist_ok=True)
    _clear(folder, manifest.files.keys())
    here = 0
    for name, (digest, size) in sorted(manifest.files.items()):
        target = folder / name
        if not (target.is_file() and _sha256(target) == digest):
            part = parts / digest
            for fetched in _fetch(volume, checkpoint, name, part, size):
                done(here + fetched, manifest.bytes)
            if _sha256(part) != digest:
                part.unlink()
                raise VolumeError(f"{checkpoint.path}/{_MODEL}{name} came damaged; try again")
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
        here += size
        done(here, manifest.bytes)
    shutil.rmtree(parts)


def _fetch(volume: VolumeClient, checkpoint: Checkpoint, name: str, part: Path, size: int) -> Iterator[int]:
    """Fetch what is missing of a file and yield how many bytes are here."""
    tries = 0
    with part.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        while (start := file.tell()) < size:
            try:
                with volume.file(checkpoint.path, f"{_MODEL}{name}", start) as answer:
                    if start and answer.status_code != httpx.codes.PARTIAL_CONTENT:
                        file.truncate(0)  # it is sent from its beginning
                    for block in answer.iter_bytes(_BLOCK):
                        file.write(block)
                        yield file.tell()
            except httpx.TransportError as error:
                tries = 0 if file.tell() > start else tries + 1
                if tries == _TRIES:
                    raise VolumeError(f"{name} broke off ({error}); call it again to go on there") from error


def _clear(folder: Path, wanted: Collection[str]) -> None:
    """Remove what another checkpoint or try left; parts stay, they are named by their digests."""
    for path in folder.rglob("*"):
        inner = path.relative_to(folder)
        if path.is_file() and inner.parts[0] != _PARTS and inner.as_posix() not in wanted:
            path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

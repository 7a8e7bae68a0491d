"""Whether a commit on the volume is whole: every file of it is there and has its digest. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfireai.api.run import Checkpoint
from rapidfireai_worker.volume.store import open_inside

FORMAT = 1
"""The newest form of a manifest that is understood."""
_PATH = re.compile(r"experiments/[0-9a-f-]{36}/runs/[0-9a-f-]{36}/(?:checkpoints|shards)/(?P<step>\d+)-\d+")
_MANIFEST = "manifest.json"
_MANIFEST_BYTES = 64 << 20


class Broken(Exception):  # noqa: N818 - it is an outcome
    """A commit is not whole; the message names the file."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that a record names.

    Attributes:
        path: Its directory, relative to the volume.
        digest: The sha256 of its manifest; None if the record does not tell.
    """

    path: str
    digest: str | None = None

    @property
    def step(self) -> int:
        """The step that its name says."""
        found = _PATH.fullmatch(self.path)
        return int(found["step"]) if found else -1


def verified(root: Path, commit: Commit) -> Checkpoint:
    """Return a commit after reading every file of it, and of those that it is linked to. It blocks.

    Args:
        root: The volume.
        commit: What to verify.

    Raises:
        Broken: If a file is missing or another one than it was.
    """
    link: Commit | None = commit
    digests: dict[str, str] = {}
    while link is not None:
        if link.step < 0 or link.path in digests:
            raise Broken(f"{link.path} is no commit, or comes before itself")
        digests[link.path], link = _verify(root, link)
    return Checkpoint(path=commit.path, digest=digests[commit.path], step=commit.step)


def _verify(root: Path, commit: Commit) -> tuple[str, Commit | None]:
    """Verify one directory; return the digest of its manifest, and what it is linked to."""
    directory = Path(commit.path)
    content = _read(root, directory / _MANIFEST)
    digest = hashlib.sha256(content).hexdigest()
    if commit.digest is not None and digest != commit.digest:
        raise Broken(f"{directory / _MANIFEST} is not the one that was committed")
    try:
        manifest: dict[str, Any] = json.loads(content)
        files = {str(name): _expected(entry) for name, entry in manifest["files"].items()}
        step = int(manifest.get("rows", manifest.get("step", commit.step)))
        before = manifest.get("previous")
        previous = None if before is None else Commit(str(before["path"]), str(before["digest"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Broken(f"{directory / _MANIFEST} is no manifest") from error
    if manifest.get("format", FORMAT) > FORMAT:
        raise Broken(f"a newer version wrote {directory}; install that one")
    if step != commit.step:
        raise Broken(f"{directory / _MANIFEST} is of step {step}")
    for name, expected in files.items():
        if _sha256(root, directory / name) != expected:
            raise Broken(f"{directory / name} is another file than was committed")
    return digest, previous


def _expected(entry: str | Mapping[str, Any]) -> str:
    return entry if isinstance(entry, str) else str(entry["sha256"])


def _open(root: Path, relative: Path) -> int:
    try:
        return open_inside(root, relative, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Broken(f"{relative} cannot be read ({why})") from error


def _read(root: Path, relative: Path) -> bytes:
    with os.fdopen(_open(root, relative), "rb") as file:
        return file.read(_MANIFEST_BYTES)


def _sha256(root: Path, relative: Path) -> str:
    with os.fdopen(_open(root, relative), "rb") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Broken(f"{relative} cannot be read ({error.strerror})") from error

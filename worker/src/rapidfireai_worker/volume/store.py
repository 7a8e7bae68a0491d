"""The files of the volume as the service sends and takes them. Nothing is ever unpickled, and no link is followed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from rapidfireai_worker.durable import sync_directory
from rapidfireai_worker.layout import Volume

BLOCK = 1 << 20
_ABANDONED_SECONDS = 24 * 3600.0


class TooLarge(Exception):  # noqa: N818 - an answer
    """The upload has more bytes than are allowed."""


class WrongDigest(Exception):  # noqa: N818 - an answer
    """The upload is not what its name says."""


class WrongOffset(Exception):  # noqa: N818 - an answer
    """An upload is to go on where its bytes do not end; the text is where they do."""


class Upload:
    """A file that is being uploaded: unseen until it is whole and its digest is right.

    What came of an upload that broke off stays, so that it can go on there. One request at a time writes to it, which
    holds a lock; another one that sends the same at the same time begins at its first byte, in a file of its own.
    All methods block; whoever made it calls `close`.

    Args:
        volume: The shared volume.
        digest: The sha256 that it must have.
        limit: The most bytes that it may have.
        offset: How many of its bytes are there already.

    Raises:
        WrongOffset: If fewer are there, or another request is about to send the rest.
        OSError: If the volume does not take it.
    """

    def __init__(self, volume: Volume, digest: str, limit: int, offset: int = 0) -> None:
        self._digest = digest
        self._limit = limit
        remove_abandoned(volume)
        volume.uploads.mkdir(parents=True, exist_ok=True)
        self._path = volume.partial_upload(digest)
        file = _open_locked(self._path, os.O_RDWR | os.O_CREAT)
        if file is None and offset == 0:
            self._path = volume.uploads / f"{digest}.{uuid.uuid4().hex}"
            file = self._path.open("xb+", buffering=0)
        if file is None:
            raise WrongOffset(0)
        there = os.fstat(file.fileno()).st_size
        if there < offset:
            file.close()
            raise WrongOffset(there)
        file.truncate(offset)
        self._file = file
        self._hash = hashlib.file_digest(file, "sha256")
        self._broken_off = True
        self.bytes = offset

    def write(self, block: bytes) -> None:
        """Take some bytes.

        Raises:
            TooLarge: If there are too many by now.
            OSError: If the volume does not take them.
        """
        self.bytes += len(block)
        if self.bytes > self._limit:
            self._broken_off = False
            raise TooLarge
        self._hash.update(block)
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._broken_off = False  # a full volume needs its room more than what came so far
            raise

    def keep(self, target: Path) -> None:
        """Make the file durable at `target`; whoever was there first has the same bytes and stays.

        Raises:
            WrongDigest: If the bytes are others than the digest says.
            OSError: If the volume does not take them.
        """
        self._broken_off = False
        if self._hash.hexdigest() != self._digest:
            raise WrongDigest(self._hash.hexdigest())
        os.fsync(self._file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            self._path.rename(target)
            sync_directory(target.parent)
            sync_directory(target.parent.parent)

    def close(self) -> None:
        """Close the file; take it away if it was not kept and nobody can go on with it."""
        if not self._broken_off or self.bytes == 0:
            self._path.unlink(missing_ok=True)  # still locked: nobody else has begun to write to it
        self._file.close()


def received(volume: Volume, digest: str) -> int:
    """Return how many bytes of an upload are there that broke off, 0 while a request holds them."""
    try:
        file = _open_locked(volume.partial_upload(digest), os.O_RDWR)
    except FileNotFoundError:
        return 0
    if file is None:
        return 0
    with file:
        return os.fstat(file.fileno()).st_size


def _open_locked(path: Path, flags: int) -> io.FileIO | None:
    """Open a file that no other request writes to; None if one does."""
    while True:
        file = io.FileIO(os.open(path, flags | os.O_NOFOLLOW, 0o644), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                return file
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            file.close()
            raise
        file.close()  # whoever held it finished and took it away in between


def _is_at(file: io.FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def remove_abandoned(volume: Volume) -> None:
    """Remove uploads that nobody went on with for a day."""
    if not volume.uploads.is_dir():
        return
    for file in volume.uploads.iterdir():
        with suppress(FileNotFoundError):  # another request has taken it away
            if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                file.unlink()


def open_inside(root: Path, relative: Path, flags: int) -> int:
    """Open a file below `root`, following no link on the way.

    Returns:
        The file descriptor; the caller closes it.

    Raises:
        OSError: If it does not exist, or if a link is on the way.
        ValueError: If `relative` leads out.
    """
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{relative}: leads out of the volume")
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in relative.parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = below
        return os.open(relative.name, flags | os.O_NOFOLLOW, dir_fd=handle)
    finally:
        os.close(handle)

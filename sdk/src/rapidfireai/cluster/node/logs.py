"""Container logs: one line of the file is a time, a tag and what the container wrote.

The tag is `F` for a full line and `P` for a part of one that was too long or not ended yet. A file that grows over
`ROTATE_BYTES` is moved to `<name>.1` (the one before is dropped).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import structlog

from rapidfireai.cluster.node.api import now

ROTATE_BYTES = 10 * 2**20
LONGEST_LINE = 16 * 1024
_CHUNK = 64 * 1024
_LAST_BYTES = 2 * LONGEST_LINE
_LAST_LINES = 80
_LAST_CHARACTERS = 2048

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What a reader wants; None means no limit.

    Attributes:
        follow: Go on until the container's process ends.
        tail: Only so many of the last lines.
        since: Only lines written from this time on.
        timestamps: Begin each line with its time.
        limit: At most so many bytes.
    """

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit: int | None = None


class LogFile:
    """The log of one run of a container; the node writes it and readers may follow it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = True
        self._file: BinaryIO | None = None
        self._rest = b""
        self._changed = asyncio.Event()

    @property
    def _older(self) -> Path:
        return self.path.with_name(f"{self.path.name}.1")

    async def fill(self, output: asyncio.StreamReader) -> None:
        """Write what comes out of a container until it ends; what a full disk does not take is dropped."""
        self.closed = False
        dropped = 0
        try:
            while chunk := await output.read(_CHUNK):
                try:
                    self._write(chunk)
                except OSError as error:  # the container must not block on its output
                    dropped += len(chunk)
                    log.warning("log not written", file=str(self.path), error=str(error), dropped_bytes=dropped)
        finally:
            with suppress(OSError):  # reported above
                self._end()
            self.closed = True
            self._notify()

    def _write(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        stored = [_stored(b"F", line) for line in lines]
        while len(self._rest) > LONGEST_LINE:
            stored.append(_stored(b"P", self._rest[:LONGEST_LINE]))
            self._rest = self._rest[LONGEST_LINE:]
        self._append(stored)
        self._notify()

    def _append(self, stored: Iterable[bytes]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        self._file.writelines(stored)
        self._file.flush()
        if self._file.tell() > ROTATE_BYTES:
            self._file.close()
            self._file = None
            self.path.replace(self._older)

    def _end(self) -> None:
        if self._rest:
            self._append([_stored(b"P", self._rest)])
        if self._file is not None:
            self._file.close()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, options: LogOptions) -> AsyncIterator[bytes]:
        """Yield the log as `kubectl logs` shows it."""
        budget = options.limit
        async for line in self._lines(options):
            text = line if budget is None else line[:budget]
            if text:
                yield text
            if budget is not None:
                budget -= len(text)
                if budget <= 0:
                    return

    def last_words(self) -> str:
        """Return the end of the log, as much of it as fits into a status."""
        with suppress(FileNotFoundError):  # nothing was written
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) > _LAST_BYTES:
                    file.seek(-_LAST_BYTES, os.SEEK_END)
                    file.readline()  # the rest of a line
                else:
                    file.seek(0)
                stored = deque(file, maxlen=_LAST_LINES)
            return b"".join(render(stored, LogOptions())).decode(errors="replace")[-_LAST_CHARACTERS:].strip()
        return ""

    async def _lines(self, options: LogOptions) -> AsyncIterator[bytes]:
        followed = _Tail(self.path)
        try:
            stored = await asyncio.to_thread(self._kept, followed, options.tail)
            for line in render(stored, options):
                yield line
            while options.follow:
                changed, closed = self._changed, self.closed
                for line in render(followed.lines(), options):
                    yield line
                if closed:
                    return
                await changed.wait()
        finally:
            followed.close()

    def _kept(self, followed: _Tail, tail: int | None) -> Iterable[bytes]:
        """Return what is in the files now, and leave `followed` at their end."""

        def lines() -> Iterator[bytes]:
            with suppress(FileNotFoundError), self._older.open("rb") as older:  # most logs were never rotated
                yield from older
            yield from followed.lines()

        return list(lines()) if tail is None else deque(lines(), maxlen=tail)


class _Tail:
    """Reads the lines of a file as they come, across rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines that were added since the last call."""
        while True:
            if self._file is None:
                try:
                    self._file = self._path.open("rb")
                except FileNotFoundError:  # nothing was written yet
                    return
            yield from self._rest(self._file)
            if not self._was_rotated(self._file):
                return
            yield from self._rest(self._file)  # what was written just before
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rest(self, file: BinaryIO) -> Iterator[bytes]:
        while line := file.readline():
            if not line.endswith(b"\n"):
                file.seek(-len(line), os.SEEK_CUR)  # being written: left for the next time
                return
            yield line

    def _was_rotated(self, file: BinaryIO) -> bool:
        try:
            return not os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return True


def _stored(tag: bytes, line: bytes) -> bytes:
    return b"%s %s %s\n" % (now().strftime("%Y-%m-%dT%H:%M:%S.%f000Z").encode(), tag, line)


def render(stored: Iterable[bytes], options: LogOptions) -> Iterator[bytes]:
    """Turn stored lines into what a reader sees."""
    since = options.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").encode() if options.since else b""
    for line in stored:
        time, tag, text = line.split(b" ", 2)
        if time >= since:
            yield (time + b" " if options.timestamps else b"") + (text if tag == b"F" else text[:-1])


def since_of(seconds: str | None, time: str | None) -> datetime | None:
    """Return from when on to read, of the two ways to say it.

    Raises:
        ValueError: If one of them is malformed.
    """
    if seconds is not None:
        return now() - timedelta(seconds=int(seconds))
    return datetime.fromisoformat(time) if time is not None else None

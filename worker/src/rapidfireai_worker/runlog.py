"""A run's log on the volume: `logs/metrics.jsonl`, append-only, the truth that everything else is fed from.

A line is named for ever by its kind and its sequence number, which grows within a kind. So whoever writes or reads
needs to remember one number a kind to have every line exactly once, whatever was replayed or torn in between.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rapidfireai_worker.durable import sync_directory
from rapidfireai_worker.engine import LogKind
from rapidfireai_worker.failures import storage_failure

_BEFORE_ALL = -2
"""Sequence numbers begin with 0, or with -1 for what a warm clone begins with."""
READ_LIMIT = 4 << 20
"""How many bytes of a log are read at a time; no single line comes near it."""


class LogLine(BaseModel):
    """One line of the log.

    Attributes:
        kind: What logged it.
        sequence: Its number within the kind.
        step: The optimizer step.
        time: When it was logged, in seconds since the epoch.
        values: The metrics; null stands for a number that is not finite.
    """

    model_config = ConfigDict(frozen=True)

    kind: LogKind
    sequence: int
    step: int
    time: float
    values: dict[str, float | None]


class Cursor(BaseModel):
    """A place in a log, and what was seen up to there.

    Attributes:
        position: Bytes from the beginning; always the beginning of a line.
        last: The last sequence number of each kind.
    """

    model_config = ConfigDict(frozen=True)

    position: Annotated[int, Field(ge=0)] = 0
    last: dict[str, int] = {}

    def __str__(self) -> str:
        """Return a form that fits in a URL."""
        return ".".join([str(self.position), *(f"{kind}-{number}" for kind, number in sorted(self.last.items()))])

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that `str` made.

        Raises:
            ValueError: If `text` is something else.
        """
        position, *pairs = text.split(".")
        return cls.model_validate({"position": position, "last": dict(pair.split("-", 1) for pair in pairs)})


def read_after(path: Path, cursor: Cursor, limit: int = READ_LIMIT) -> tuple[list[LogLine], Cursor]:
    """Return the lines that came after `cursor`, at most `limit` bytes of them, and the place behind them.

    A line that is not finished yet is left for the next time, one that was torn by a kill is passed over, and so is
    one that was seen before. A log that does not exist is empty.
    """
    try:
        with path.open("rb") as file:
            file.seek(cursor.position)
            block = file.read(limit)
    except FileNotFoundError:
        return [], cursor
    whole = block[: block.rfind(b"\n") + 1]
    last = dict(cursor.last)
    lines = []
    for text in whole.splitlines():
        line = _parse(text)
        if line is not None and line.sequence > last.get(line.kind, _BEFORE_ALL):
            last[line.kind] = line.sequence
            lines.append(line)
    return lines, Cursor(position=cursor.position + len(whole), last=last)


def _parse(text: bytes) -> LogLine | None:
    try:
        return LogLine.model_validate_json(text)
    except ValidationError:
        return None


def end_of(path: Path, cursor: Cursor | None = None) -> Cursor:
    """Return the place behind the last whole line, going on from `cursor`."""
    here = cursor or Cursor()
    while (there := read_after(path, here)[1]) != here:
        here = there
    return here


def to_json_lines(lines: Iterable[LogLine]) -> bytes:
    """Return `lines` as they stand in a log."""
    return b"".join(line.model_dump_json().encode() + b"\n" for line in lines)


class RunLog:
    """The writing end. Appending never raises: what could not be written is kept and tried again.

    Args:
        path: The file; made with its directory at the first line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: int | None = None
        self._last: dict[str, int] = {}
        self._pending: list[LogLine] = []
        self._torn = False

    def append(self, kind: LogKind, sequence: int, step: int, values: Mapping[str, float]) -> None:
        """Add a line, unless the log has it already. Thread-safe."""
        with self._lock:
            numbers: dict[str, float | None] = {name: float(value) for name, value in values.items()}
            self._pending.append(LogLine(kind=kind, sequence=sequence, step=step, time=time.time(), values=numbers))
            try:
                self._open()
                self._flush()
            except OSError:
                return  # kept in `_pending`; `sync` reports it if it stays

    def sync(self) -> None:
        """Make every line durable.

        Raises:
            RunFailure: If the volume does not take them.
        """
        with self._lock:
            try:
                if self._pending:
                    self._open()
                    self._flush()
                if self._file is not None:
                    os.fsync(self._file)
            except OSError as error:
                raise storage_failure(error, f"the run's log {self._path}") from error

    def close(self) -> None:
        """Close the file; lines that are still pending are dropped, they belong to no commit."""
        with self._lock:
            self._pending.clear()
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> None:
        if self._file is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        end = end_of(self._path)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = os.fstat(file).st_size > end.position
        self._last = dict(end.last)
        self._file = file
        sync_directory(self._path.parent)

    def _flush(self) -> None:
        """Write the pending lines one by one; a line that was cut short is written again, on a line of its own."""
        while self._pending:
            line = self._pending[0]
            if line.sequence > self._last.get(line.kind, _BEFORE_ALL):
                self._write(to_json_lines([line]))
                self._last[line.kind] = line.sequence
            self._pending.pop(0)

    def _write(self, text: bytes) -> None:
        if self._file is None:
            raise OSError(errno.EBADF, "the log is not open")
        whole = b"\n" + text if self._torn else text
        self._torn = True
        if os.write(self._file, whole) < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False

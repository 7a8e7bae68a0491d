"""What workers wrote, line by line, and which of it concerns a run. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_SHOWN_FIRST = ("timestamp", "level", "event", "logger", "exception", "run", "chunk", "attempt", "worker", "experiment")
"""What a line says at a fixed place, or says for itself."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a worker.

    Attributes:
        time: When the pod wrote it, as the node says it.
        worker: The worker slot.
        run: The run that it concerns, or empty.
        text: What a person reads.
    """

    time: str
    worker: str
    run: str
    text: str

    def line(self) -> str:
        """Return it as it is printed, the time in hours, minutes and seconds."""
        return f"{self.time[11:19]} {self.worker}  {self.text}"


@dataclass(slots=True)
class WorkerLog:
    """Reads the log of one pod; lines that are not ours belong to the run that is computed then.

    Args:
        worker: The worker slot.
    """

    worker: str
    _run: str = ""
    _seen: set[str] = field(default_factory=set)
    _latest: str = ""

    def read(self, lines: Iterable[str]) -> Iterator[LogEntry]:
        """Yield what is new in the lines of a log that begin with their times; what was read before is passed over."""
        for line in lines:
            time, _, text = line.rstrip("\n").partition(" ")
            if time < self._latest or line in self._seen:
                continue
            if time > self._latest:
                self._latest, self._seen = time, set()
            self._seen.add(line)
            yield self._entry(time, text)

    def _entry(self, time: str, text: str) -> LogEntry:
        record = _record_of(text)
        if record is None:
            return LogEntry(time, self.worker, self._run, text)
        run = str(record.get("run", ""))
        if record["event"] == "begun":
            self._run = run
        entry = LogEntry(time, self.worker, run, readable(record))
        if record["event"] == "ended" and run == self._run:
            self._run = ""
        return entry


def of_run(entries: Iterable[LogEntry], run: str) -> Iterator[LogEntry]:
    """Return the lines that concern a run; all of them if `run` is empty."""
    return (entry for entry in entries if not run or entry.run == run)


def readable(record: Mapping[str, Any]) -> str:
    """Return a structured line as a person reads it, a traceback below it."""
    level = str(record.get("level", "info"))
    words = [f"{level:8}", str(record["event"])]
    words += [f"{key}={record[key]}" for key in ("run", "chunk", "attempt") if key in record]
    words += [f"{key}={_plain(value)}" for key, value in record.items() if key not in _SHOWN_FIRST]
    trace = str(record.get("exception", "")).rstrip()
    return " ".join(words) + (f"\n{trace}" if trace else "")


def _record_of(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record else None


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

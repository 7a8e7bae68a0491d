"""The view for logs and pipes: one line whenever a run commits a chunk or shard, or changes its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rapidfireai.api.experiment import Mode
from rapidfireai.progress.picture import Picture, RunRow
from rapidfireai.words import WORDS


def lines_between(before: Picture | None, now: Picture) -> list[str]:
    """Return what happened between two pictures, one line an event; with nothing before, how everything stands."""
    return list(_events(before, now))


def _events(before: Picture | None, now: Picture) -> Iterator[str]:
    known = {row.name: row for row in before.rows} if before else {}
    for note in now.notes:
        if before is None or note not in before.notes:
            yield note
    for row in now.rows:
        old = known.get(row.name)
        if old is None or row.chunks_done > old.chunks_done or row.state != old.state or _further(old, row):
            yield _line(now.mode, row, announce=old is None)
        if row.problem and (old is None or not old.problem):
            yield f"{row.name}  {row.problem}"
    if before is not None and before.state != now.state:
        yield f"{now.name}  {now.state}" + (f"  best {now.best}" if now.best else "")


def _further(old: RunRow, row: RunRow) -> bool:
    """Return whether an index has begun, is there, or got on by a tenth."""
    if old.index is None or row.index is None:
        return old.index is not row.index
    return old.index.tenths != row.index.tenths


def _line(mode: Mode, row: RunRow, *, announce: bool) -> str:
    words = WORDS[mode]
    chunks = f"{words.piece} {row.chunks_done}/{row.chunks_total}" if row.chunks_total else ""
    parts = [row.name, row.standing, chunks]
    if mode == "evals":
        parts += [f"row {row.rows}" if row.rows else "", f"{row.throughput} rows/s" if row.throughput else ""]
        parts += [f"{name} {text}" for name, text in sorted(row.estimates.items())]
    else:
        parts.append(f"step {row.step}/{row.total_steps}" if row.total_steps else "")
        parts.append(f"loss {row.loss}" if row.loss else "")
        parts.append(f"objective {row.objective}" if row.objective else "")
    parts += [f"on {row.worker}" if row.worker else "", row.about if announce else ""]
    return "  ".join(part for part in parts if part)


class LineView:
    """Writes what happened, line by line.

    Args:
        write: Takes one line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._before: Picture | None = None
        self._noted = ""

    def update(self, picture: Picture) -> None:
        """Write what is new."""
        for line in lines_between(self._before, picture):
            self._write(line)
        self._before = picture
        self._noted = ""

    def note(self, text: str) -> None:
        """Write a sentence about something outside of the experiment, once until the next picture."""
        if text != self._noted:
            self._write(text)
            self._noted = text

    def close(self) -> None:
        """Nothing is open."""

"""The view for logs and pipes: one line whenever a run commits a chunk or changes its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rapidfireai.progress.picture import Picture, RunRow


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
        if old is None or row.chunks_done > old.chunks_done or row.state != old.state:
            yield _line(row, announce=old is None)
        if row.problem and (old is None or not old.problem):
            yield f"{row.name}  {row.problem}"
    if before is not None and before.state != now.state:
        yield f"{now.name}  {now.state}" + (f"  best {now.best}" if now.best else "")


def _line(row: RunRow, *, announce: bool) -> str:
    chunks = f"chunk {row.chunks_done}/{row.chunks_total}" if row.chunks_total else ""
    step = f"step {row.step}/{row.total_steps}" if row.total_steps else ""
    loss = f"loss {row.loss}" if row.loss else ""
    objective = f"objective {row.objective}" if row.objective else ""
    worker = f"on {row.worker}" if row.worker else ""
    parts = (row.name, row.standing, chunks, step, loss, objective, worker, row.about if announce else "")
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

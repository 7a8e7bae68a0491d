"""What the workers of an experiment write, kept in a file of this machine: a pod's log goes with the pod."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kubernetes.client import ApiException

from rapidfireai.errors import RapidFireError
from rapidfireai.progress import Picture
from rapidfireai.show.worker_logs import LogEntry

_PODS_PER_SECOND = 10
"""How many logs may be read a second while an experiment is followed; its workers leave as soon as it is finished."""


class TrainingLog:
    """A view that adds to a file what workers wrote: a time, the worker, and its line.

    What a worker wrote just before its pod went may be missing.

    Args:
        path: The file; what is in it stays.
        read: Returns what workers have written since it was last called.
    """

    def __init__(self, path: Path, read: Callable[[], Sequence[LogEntry]]) -> None:
        self._path = path
        self._read = read
        self._last = _last_times(path)
        self._due = 0.0

    def update(self, picture: Picture) -> None:
        """Fetch what is new; less often where there are many workers."""
        if time.monotonic() >= self._due:
            self.fetch()
            workers = int(picture.workers.rpartition("/")[2])
            self._due = time.monotonic() + workers / _PODS_PER_SECOND

    def note(self, text: str) -> None:
        """Nothing of it is from a worker."""

    def close(self) -> None:
        """Fetch the rest."""
        self.fetch()

    def fetch(self) -> None:
        """Add what is new to the file."""
        try:
            entries = self._read()
        except (RapidFireError, ApiException):
            # No cluster, or no right to read logs: training does not depend on this file.
            return
        new = [entry for entry in entries if entry.time > self._last.get(entry.worker, "")]
        if not new:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.writelines(f"{entry.time} {entry.worker} {entry.text}\n" for entry in new)


def _last_times(path: Path) -> dict[str, str]:
    """Return the time of the last line of each worker that an earlier process has written."""
    last: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            written, _, rest = line.partition(" ")
            if written[:2] == "20" and written.endswith("Z"):  # other lines are of a traceback
                last[rest.partition(" ")[0]] = written
    return last

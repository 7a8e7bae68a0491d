"""Background processes that outlive the command that started them, and are never confused with strangers."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil


class BackgroundProcess:
    """A named process whose pid and start time are kept in a file, so that a reused pid is not taken for it."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self._record = home / "pid" / f"{name}.json"
        self.log = home / "log" / f"{name}.log"

    def find(self) -> psutil.Process | None:
        """Return the running process, or None if it ended, was never started or its record is unreadable."""
        try:
            record = json.loads(self._record.read_text())
            process = psutil.Process(int(record["pid"]))
            same = abs(process.create_time() - float(record["started"])) < 1.0
            ended = process.status() == psutil.STATUS_ZOMBIE
        except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
            return None
        return process if same and not ended else None

    def start(self, command: Sequence[str]) -> None:
        """Start `command` in a session of its own, unless it runs already; output goes to the log."""
        if self.find() is not None:
            return
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        started = psutil.Process(child.pid).create_time()
        self._record.write_text(json.dumps({"pid": child.pid, "started": started}))

    def stop(self, grace: float = 10.0) -> None:
        """Ask the process to end, and end it by force after `grace` seconds."""
        for end in (psutil.Process.terminate, psutil.Process.kill):
            process = self.find()
            if process is None:
                break
            with suppress(psutil.NoSuchProcess):  # it has just ended
                end(process)
            self._wait(grace)
        self._record.unlink(missing_ok=True)

    def _wait(self, seconds: float) -> None:
        """Wait for the end. Not for the pid to vanish: that is up to whoever adopted the process."""
        deadline = time.monotonic() + seconds
        while self.find() is not None and time.monotonic() < deadline:
            time.sleep(0.02)

    def last_lines(self, count: int = 5) -> str:
        """Return the end of the log, for an error message."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

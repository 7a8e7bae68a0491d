"""Whether this worker's user may read what a config names, and in which words it is told if not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rapidfireai_worker.engine import RunFailure


def check_readable(path: Path, field: str, name: str, *, model: bool, files: bool = False) -> None:
    """Do nothing if a file or folder can be read, or is not there.

    It is tried, not worked out from modes: a file server has its own opinion of users.

    Args:
        path: The file or folder.
        field: The field that names it, for the message.
        name: What the field says.
        model: Whether it is of a model, not of a data set.
        files: Whether the files in the folder are tried too; hidden ones and folders in it are not.

    Raises:
        RunFailure: If the worker's user may not, naming what is closed and what opens it.
    """
    try:
        _try(path, files)
    except PermissionError as error:
        closed = _closed(Path(error.filename or path))
        reason = "ModelUnreadable" if model else "DatasetUnreadable"
        raise RunFailure(reason, _sentence(closed, field, name)) from error
    except OSError:
        return  # it is not there, or the storage fails: whoever reads it says so


def _try(path: Path, files: bool) -> None:
    if not stat.S_ISDIR(path.stat().st_mode):
        path.open("rb").close()
        return
    with os.scandir(path) as entries:
        found = [Path(each.path) for each in entries if not each.name.startswith(".") and each.is_file()]
    for each in found if files else ():
        each.open("rb").close()
    (path / ".").stat()  # a folder that may be listed and not entered is closed too


def _closed(path: Path) -> Path:
    """Return the innermost that can be looked at: what is behind it cannot, because of it."""
    for each in (path, *path.parents):
        try:
            each.stat()
        except OSError:
            continue
        return each
    return path


def _sentence(closed: Path, field: str, name: str) -> str:
    try:
        seen = closed.stat()
        whose = f" ({stat.filemode(seen.st_mode)}, user {seen.st_uid}, group {seen.st_gid})"
    except OSError:  # it was taken away meanwhile
        whose = ""
    return (
        f"{field}: {name} may not be read: this worker is user {os.geteuid()} of group {os.getegid()}, and {closed} is "
        f"closed to it{whose}. Open it with `chmod -R a+rX {closed}`, where it can be written"
    )

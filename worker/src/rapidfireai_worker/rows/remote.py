"""Data sets behind a URL or in a bucket: copied onto the volume once for an experiment, so that all see the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow.fs
import structlog
import tenacity
from fsspec.implementations.arrow import ArrowFSWrapper

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.durable import sync_directory
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.rows.places import is_data

SCHEMES = ("https", "http", "s3", "gs")
_ATTEMPTS = 4
_WAIT = 1.0
"""Seconds before the second attempt; they double from one to the next."""
_CREDENTIALS = (
    "the worker's environment has to hold credentials: env with valueFrom.secretKeyRef in spec.workers.template"
)
_log = structlog.get_logger(__name__)


def fetched(uri: str, field: str, directory: Path) -> list[Path]:
    """Return copies of the files that a URI names, in the order of their names.

    Args:
        uri: `https://`, `http://`, or `s3://` or `gs://` with the name of a file, a directory or a pattern.
        field: The field that holds it, for messages.
        directory: Where the experiment keeps what was fetched.

    Raises:
        RunFailure: If nothing is there or it cannot be read, naming the field and the fix.
    """
    place = directory / hashlib.sha256(uri.encode()).hexdigest()[:32]
    if not place.is_dir():
        try:
            _copy(uri, field, place)
        except RunFailure:
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise
            raise _explained(uri, field, error) from error
    return sorted(path for path in place.rglob("*") if path.is_file())


def _copy(uri: str, field: str, place: Path) -> None:
    files, remote = _opened(uri)
    names = list(_names(files, remote, uri, field))
    temporary = place.with_name(f".tmp-{uuid.uuid4().hex}")
    begun, size = time.monotonic(), 0
    try:
        for source, name in names:
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _patiently(files.get_file, source, str(target))
            size += target.stat().st_size
        try:
            temporary.rename(place)
        except OSError:
            if not place.is_dir():  # else another worker was first: its copy is everybody's
                raise
        sync_directory(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # nothing is left of it if it has its name by now
    seconds = round(time.monotonic() - begun, 1)
    _log.info("fetched", field=field, uri=uri, files=len(names), bytes=size, seconds=seconds)


def _opened(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI and the path in it."""
    if uri.startswith("http"):
        return fsspec.filesystem("http", client_kwargs={"trust_env": True}), uri
    # pyarrow's own clients take their credentials, region and endpoint from the environment.
    files, path = pyarrow.fs.FileSystem.from_uri(uri)
    return ArrowFSWrapper(files), path


def _names(files: Any, remote: str, uri: str, field: str) -> Iterator[tuple[str, str]]:
    """Yield each file of a data set, and its name in the copy."""
    if uri.startswith("http"):
        yield remote, PurePosixPath(urlsplit(uri).path).name
        return
    if any(letter in remote for letter in "*?["):
        found = sorted(_patiently(files.glob, remote))
    elif _patiently(files.isfile, remote):
        found = [remote]
    else:
        inside = {path: PurePosixPath(path).relative_to(remote.rstrip("/")) for path in _patiently(files.find, remote)}
        found = sorted(path for path, relative in inside.items() if is_data(relative))
    if not found:
        raise RunFailure("DatasetNotFound", f"{field}: {uri} names no file; put some there or correct the URI")
    top = os.path.commonpath([str(PurePosixPath(path).parent) for path in found])
    for path in found:
        yield path, str(PurePosixPath(path).relative_to(top))


def _patiently(do: Any, *arguments: str) -> Any:
    """Try again for some seconds if the network fails; what is not there or is forbidden is not tried again."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_of_the_network),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=_WAIT, max=8 * _WAIT),
        reraise=True,
    )(do, *arguments)


def _is_of_the_network(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError) or is_of_the_machine(error):
        return False
    status = getattr(error, "status", None)  # aiohttp's
    return status >= 500 if isinstance(status, int) else isinstance(error, OSError | TimeoutError)


def _explained(uri: str, field: str, error: Exception) -> RunFailure:
    status = getattr(error, "status", None)
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, FileNotFoundError) or status == 404:
        return RunFailure("DatasetNotFound", f"{field}: {uri} does not exist; put it there or correct the URI")
    if status in {401, 403} or isinstance(error, PermissionError) or "ACCESS_DENIED" in words:
        return RunFailure("DatasetUnreadable", f"{field}: {uri} may not be read; {_CREDENTIALS}. {words}"[:4096])
    return RunFailure("DatasetUnreadable", f"{field}: {uri} cannot be read: {words}"[:4096])

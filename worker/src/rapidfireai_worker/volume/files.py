"""Files of the volume as they are sent: plain ones alone, through no link, whole or from any byte on."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import StreamingResponse

from rapidfireai_worker.volume.store import BLOCK, open_inside


async def send(root: Path, relative: Path, byte_range: str, absence: str) -> StreamingResponse:
    """Return the answer with a file in it.

    Args:
        root: The volume.
        relative: The file, as seen from there.
        byte_range: The request's header `Range`; empty for all of it.
        absence: What it means if the file is not there.

    Raises:
        HTTPException: If it is not there, or shorter than the range.
    """
    try:
        opened, size = await asyncio.to_thread(_open, root, relative)
    except OSError as error:
        raise HTTPException(404, f"{relative} is not there ({error.strerror}); {absence}") from error
    try:
        start = _start(byte_range, size)
    except HTTPException:
        os.close(opened)
        raise
    headers = {"Content-Length": str(size - start)}
    if start:
        headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    return StreamingResponse(
        _blocks(opened, start, size), 206 if start else 200, headers, media_type="application/octet-stream"
    )


def _open(root: Path, relative: Path) -> tuple[int, int]:
    """Open a plain file; return its descriptor and its size."""
    opened = open_inside(root, relative, os.O_RDONLY | os.O_NONBLOCK)
    info = os.fstat(opened)
    if not stat.S_ISREG(info.st_mode):
        os.close(opened)
        raise FileNotFoundError(2, "no plain file")
    return opened, info.st_size


def _start(byte_range: str, size: int) -> int:
    """Return the first byte of a range to the end, the only kind that is known; others are answered whole."""
    match = re.fullmatch(r"bytes=(\d+)-", byte_range.strip())
    start = int(match[1]) if match else 0
    if start and start >= size:
        raise HTTPException(416, f"the file has {size} bytes; ask for it from its beginning")
    return start


def _blocks(opened: int, start: int, size: int) -> Iterator[bytes]:
    with os.fdopen(opened, "rb") as file:
        file.seek(start)
        left = size - start
        while left:
            block = file.read(min(BLOCK, left))
            if not block:
                raise OSError("the file became shorter while it was read")
            left -= len(block)
            yield block

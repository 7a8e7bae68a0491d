"""The checkpoints of a run as users fetch them: which there are, and their files one by one, from any byte on."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from rapidfireai_worker.layout import Volume
from rapidfireai_worker.record import recorded_commits
from rapidfireai_worker.volume.auth import Verb
from rapidfireai_worker.volume.store import BLOCK, open_inside

Uid = Annotated[str, InPath(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Name = Annotated[str, InPath(pattern=r"^\d+-\d+$")]
MANIFEST = "manifest.json"
MODEL = "model"
Admit = Callable[[Request, Verb], Awaitable[Any]]


def add_checkpoint_routes(app: FastAPI, admit: Admit, volume: Volume) -> None:
    """Add the routes.

    Args:
        app: The service.
        admit: Lets a request in, or raises what it is answered with.
        volume: The shared volume.
    """

    @app.get("/v1/experiments/{experiment}/runs/{run}/checkpoints")
    async def checkpoints(request: Request, experiment: Uid, run: Uid) -> dict[str, Any]:
        await admit(request, "get")
        return {"checkpoints": await asyncio.to_thread(recorded_commits, volume.run(experiment, run))}

    @app.get("/v1/experiments/{experiment}/runs/{run}/checkpoints/{name}/{file:path}")
    async def content(
        request: Request,
        experiment: Uid,
        run: Uid,
        name: Name,
        file: str,
        byte_range: Annotated[str, Header(alias="Range")] = "",
    ) -> StreamingResponse:
        await admit(request, "get")
        inside = PurePosixPath(file)
        if file != MANIFEST and (inside.parts[:1] != (MODEL,) or ".." in inside.parts):
            raise HTTPException(404, f"{file}: ask for {MANIFEST} or for what it names below {MODEL}/")
        directory = volume.run(experiment, run).checkpoints.relative_to(volume.root) / name
        try:
            opened, size = await asyncio.to_thread(_open, volume.root, directory / inside)
        except OSError as error:
            raise HTTPException(
                404, f"{directory / inside} is not there ({error.strerror}); the checkpoint may have been removed"
            ) from error
        start = _start(byte_range, size)
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

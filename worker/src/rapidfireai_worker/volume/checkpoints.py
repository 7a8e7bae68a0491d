"""The checkpoints of a run as users fetch them: which there are, and their files one by one, from any byte on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from rapidfireai_worker.layout import Volume
from rapidfireai_worker.record import recorded_commits
from rapidfireai_worker.volume.auth import Verb
from rapidfireai_worker.volume.files import send

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
        return await send(volume.root, directory / inside, byte_range, "the checkpoint may have been removed")

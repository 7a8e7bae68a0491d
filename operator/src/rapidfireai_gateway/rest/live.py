"""Live changes as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from rapidfireai_gateway.feed import Change
from rapidfireai_gateway.rest.asking import Me, Name, Namespace, problems

router = APIRouter(prefix="/namespaces/{ns}/experiments", tags=["experiments"])
_ALIVE_SECONDS = 15.0
"""Proxies close what is silent for long."""
_SNAPSHOT = 'event: snapshot\ndata: {"experiment": {...}, "runs": [...], "icops": [...]}\n\n'


@router.get(
    "/{name}/changes",
    responses={
        200: {
            "description": "`snapshot` first, then `experiment`, `run`, `icop` and `gone` with the object; `error` "
            "`{detail, status, final}` while the API server does not answer, and a `snapshot` when it does again. "
            "Whoever reads slowly gets the latest of each object. Comments keep the connection alive.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _SNAPSHOT}},
        },
        **problems(404),
    },
)
async def changes(ns: Namespace, name: Name, me: Me) -> StreamingResponse:
    """Stream an experiment, its runs and IC Ops as they change."""
    stream = me.changes(ns, name)
    first = await anext(stream)  # refusals are answers, not events
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(first, stream), media_type="text/event-stream", headers=headers)


async def _events(first: Change, stream: AsyncGenerator[Change]) -> AsyncIterator[str]:
    yield _event(first)
    coming: asyncio.Task[Change] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(stream))
            done, _ = await asyncio.wait({coming}, timeout=_ALIVE_SECONDS)
            if not done:
                yield ": alive\n\n"
                continue
            try:
                change = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield _event(change)
    finally:
        if coming is not None:
            coming.cancel()  # which ends the stream as well
        else:
            await stream.aclose()


def _event(change: Change) -> str:
    return f"event: {change.event}\ndata: {json.dumps(change.data, separators=(',', ':'))}\n\n"

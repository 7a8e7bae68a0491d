"""How much one caller may ask for: a token bucket each, and a largest body. Plain ASGI."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import LRUCache
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_CALLERS = 10_000


@dataclass(slots=True)
class Bucket:
    """What one caller has left."""

    left: float
    at: float


class TokenBuckets:
    """One bucket a caller: each request takes one, and they fill up steadily.

    Args:
        rate: How many come back a second.
        burst: How many a bucket holds.
        clock: Seconds that never go back.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: LRUCache[str, Bucket] = LRUCache(_MOST_CALLERS)

    def take(self, caller: str) -> float:
        """Take one and return 0, or return in how many seconds there is one."""
        now = self._clock()
        bucket: Bucket = self._buckets.get(caller) or Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets[caller] = bucket
        if bucket.left < 1:
            return (1 - bucket.left) / self._rate
        bucket.left -= 1
        return 0.0


class RateLimit:
    """Answers 429 to callers who ask too often.

    Args:
        app: What answers the others.
        buckets: What each caller has left.
        free: Paths that cost nothing: probes of the cluster.
    """

    def __init__(self, app: ASGIApp, buckets: TokenBuckets, free: frozenset[str] = frozenset({"/healthz"})) -> None:
        self._app, self._buckets, self._free = app, buckets, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "http" and scope["path"] not in self._free:
            seconds = self._buckets.take(_caller(scope))
            if seconds:
                wait = math.ceil(seconds)
                await _refuse(
                    send, 429, f"too many requests at once; try again in {wait} s", ("retry-after", str(wait))
                )
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Answers 413 to bodies that are too large, without reading them to their end.

    Args:
        app: What answers the others.
        most: How many bytes are taken.
        unlimited: Says of which paths the bodies are streams that somebody else limits.
    """

    def __init__(self, app: ASGIApp, most: int, unlimited: Callable[[str], bool]) -> None:
        self._app, self._most, self._unlimited = app, most, unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or self._unlimited(scope["path"]):
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "")
        if said.isdecimal() and int(said) > self._most:
            await self._too_large(send)
            return
        # Without a length the body is counted as it comes, and kept: it is small or refused.
        messages, size = [], 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._most:
                await self._too_large(send)
                return
            if not message.get("more_body", False):
                break

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)

    async def _too_large(self, send: Send) -> None:
        await _refuse(
            send, 413, f"the body is larger than {self._most} bytes; data sets and code go to the volume service", None
        )


def _caller(scope: Scope) -> str:
    """Return what tells callers apart: what they prove who they are with, else where they come from."""
    headers = Headers(scope=scope)
    proof = headers.get("authorization") or headers.get("cookie")
    if proof:
        return hashlib.sha256(proof.encode()).hexdigest()
    return str((scope.get("client") or ("",))[0])


async def _refuse(send: Send, status: int, detail: str, header: tuple[str, str] | None) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if header:
        headers.append((header[0].encode(), header[1].encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

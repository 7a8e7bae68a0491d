"""An API in OpenAI's style on loopback that fails as a script says, and that remembers when it was asked what.

It answers by itself, or passes on to a real server behind it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

KEY = "sk-loopback-0123456789abcdef"
MODELS = ("tiny", "small")


@dataclass
class Asked:
    """One request.

    Attributes:
        at: When it came, on the monotonic clock.
        text: The content of its last message.
        tokens: What it took in the end, prompt and answer.
        status: What it was answered with; 0 if the connection was cut, or the client went.
        body: All that it said.
    """

    at: float
    text: str
    tokens: int = 0
    status: int = 0
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """What happens to a request: it is answered late, refused, or cut off.

    Attributes:
        status: Answered with this status; 0 for the ordinary answer.
        seconds: After so many seconds.
        retry_after: The header, if there is one.
        cut: The connection is cut instead of an answer.
        error: The body's `error`.
    """

    status: int = 0
    seconds: float = 0.0
    retry_after: str | None = None
    cut: bool = False
    error: dict[str, Any] = field(default_factory=dict)


Script = Callable[[int, Asked], Fault]
"""Says what happens to the n-th request (from 0)."""


@dataclass
class FaultProxy:
    """The proxy; `url` is the `base_url` of clients."""

    script: Script = lambda number, asked: Fault()
    upstream: str | None = None
    seconds: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def texts(self) -> list[str]:
        return [each.text for each in self.asked]

    def most_in(self, window: float, worth: Callable[[Asked], int] = lambda asked: 1) -> int:
        """Return the most that came in any window of so many seconds."""
        times = sorted((each.at, worth(each)) for each in self.asked)
        most = total = first = 0
        for at, count in times:
            total += count
            while times[first][0] <= at - window:
                total -= times[first][1]
                first += 1
            most = max(most, total)
        return most

    async def complete(self, request: web.Request) -> web.StreamResponse:
        at = time.monotonic()
        body = await request.json()
        asked = Asked(at, str(body["messages"][-1]["content"]), body=body)
        self.asked.append(asked)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._answer(request, asked, self.script(len(self.asked) - 1, asked))
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.Request, asked: Asked, fault: Fault) -> web.StreamResponse:
        await asyncio.sleep(self.seconds + fault.seconds)
        if fault.cut:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault.status:
            asked.status = fault.status
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return web.json_response(
                {"error": {"message": "as told", **fault.error}}, status=fault.status, headers=headers
            )
        if self.upstream is not None:
            return await self._pass_on(request, asked)
        return self._own(request, asked)

    def _own(self, request: web.Request, asked: Asked) -> web.Response:
        """Answer as an API does that echoes; a word is a token."""
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if key != KEY:
            asked.status = 401
            masked = f"{key[:8]}********{key[-4:]}"
            return web.json_response(
                {"error": {"message": f"Incorrect API key provided: {masked}.", "code": "invalid_api_key"}}, status=401
            )
        if asked.body["model"] not in MODELS:
            asked.status = 404
            message = f"The model `{asked.body['model']}` does not exist."
            return web.json_response({"error": {"message": message, "code": "model_not_found"}}, status=404)
        prompt = sum(len(str(message["content"]).split()) for message in asked.body["messages"])
        asked.tokens, asked.status = prompt + 3, 200
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": f"echo: {asked.text}"},
        }
        usage = {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": asked.body["model"]}
        return web.json_response({**answer, "choices": [choice], "usage": usage})

    async def _pass_on(self, request: web.Request, asked: Asked) -> web.Response:
        headers = {
            name: value for name, value in request.headers.items() if name.lower() in ("authorization", "content-type")
        }
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, f"{self.upstream}{request.path}", data=await request.read(), headers=headers
            ) as answer,
        ):
            body = await answer.read()
            asked.status = answer.status
            if answer.status == 200 and request.method == "POST":
                asked.tokens = (await answer.json())["usage"]["total_tokens"]
            return web.Response(body=body, status=answer.status, content_type=answer.content_type)

    async def models(self, request: web.Request) -> web.Response:
        if self.upstream is not None:
            return await self._pass_on(request, Asked(time.monotonic(), ""))
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in MODELS]
        return web.json_response({"object": "list", "data": data})


@contextmanager
def fault_proxy(
    script: Script | None = None, upstream: str | None = None, seconds: float = 0.0
) -> Iterator[FaultProxy]:
    """Serve a proxy on a free port.

    Args:
        script: What happens to which request; all are answered by default.
        upstream: The address of a real server, without `/v1`.
        seconds: How long each answer takes.
    """
    proxy = FaultProxy(script or (lambda number, asked: Fault()), upstream, seconds)
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes([web.post("/v1/chat/completions", proxy.complete), web.get("/v1/models", proxy.models)])
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        proxy.port = runner.addresses[0][1]
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

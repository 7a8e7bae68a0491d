"""What callers who ask for too much get, without a cluster."""

from __future__ import annotations

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rapidfireai_gateway.limits import BodyLimit, RateLimit, TokenBuckets
from rapidfireai_gateway.rest.uploads import is_upload


async def size(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


APP = Starlette(routes=[Route("/{path:path}", size, methods=["GET", "POST", "PUT"])])


def http(app: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")  # type: ignore[arg-type]


async def test_who_asks_too_often_is_told_how_long_to_wait() -> None:
    buckets = TokenBuckets(rate=0.5, burst=2, clock=lambda: 0.0)
    async with http(RateLimit(APP, buckets)) as client:
        mine = {"Authorization": "Bearer mine"}
        answers = [await client.get("/", headers=mine) for _ in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429]
        assert answers[2].headers["Retry-After"] == "2"
        assert "try again in 2 s" in answers[2].json()["detail"]
        assert (await client.get("/", headers={"Authorization": "Bearer other"})).status_code == 200
        assert [(await client.get("/healthz", headers=mine)).status_code for _ in range(5)] == [200] * 5


async def test_a_body_up_to_the_limit_arrives_whole_and_a_larger_one_does_not() -> None:
    async def blocks(count: int):  # type: ignore[no-untyped-def]
        for _ in range(count):
            yield b"x" * 10

    async with http(BodyLimit(APP, 100, is_upload)) as client:
        assert (await client.post("/", content=b"x" * 100)).text == "100"
        assert (await client.post("/", content=blocks(10))).text == "100"
        assert (await client.post("/", content=b"x" * 101)).status_code == 413
        assert (await client.post("/", content=blocks(11))).status_code == 413
        upload = f"/api/v1/namespaces/a/datasets/{'0' * 64}"
        assert (await client.put(upload, content=blocks(11))).text == "110"

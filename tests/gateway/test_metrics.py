"""Requests are counted by their route's template, errors among them."""

from __future__ import annotations

import httpx
from fastapi import FastAPI, HTTPException
from prometheus_client import generate_latest

from rapidfireai_gateway.metrics import GatewayMetrics


async def test_requests_are_counted_by_route_and_code() -> None:
    app = FastAPI()

    @app.get("/things/{name}")
    async def thing(name: str) -> str:
        if name == "none":
            raise HTTPException(404)
        if name == "broken":
            raise ValueError
        return name

    metrics = GatewayMetrics(lambda: 3)
    transport = httpx.ASGITransport(metrics.measured(app, "api"), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for path in ("/things/a", "/things/b", "/things/none", "/things/broken", "/else", "/more"):
            await client.get(path)
    text = generate_latest(metrics.registry).decode()
    template = 'method="GET",port="api",route="/things/{name}"'
    for line in (
        f'rapidfire_gateway_requests_total{{code="200",{template}}} 2.0',
        f'rapidfire_gateway_requests_total{{code="404",{template}}} 1.0',
        f'rapidfire_gateway_requests_total{{code="500",{template}}} 1.0',
        'rapidfire_gateway_requests_total{code="404",method="GET",port="api",route="other"} 2.0',
        f"rapidfire_gateway_request_seconds_count{{{template}}} 4.0",
        "rapidfire_gateway_requests_under_way 0.0",
        "rapidfire_gateway_feeds 3.0",
    ):
        assert line in text

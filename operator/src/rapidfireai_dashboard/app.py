"""The dashboard as an ASGI application: pages of NiceGUI, the routes of logging in, and what browsers may load."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from nicegui import app as nicegui_app
from nicegui import ui
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rapidfireai_dashboard import experiment_page, experiments_page
from rapidfireai_dashboard.lanes import LaneBook
from rapidfireai_dashboard.login_page import login_page
from rapidfireai_dashboard.visit import Desk
from rapidfireai_gateway.backend import Services
from rapidfireai_gateway.login import login_routes

STATIC = Path(__file__).parent / "static"
_RECONNECT_SECONDS = 30.0
"""How long the server keeps a page for a browser that went to sleep."""
_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Vue compiles its templates in the browser.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self' ws: wss:",
        "frame-ancestors 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
"""Nothing comes from another host, and no other site shows the dashboard in a frame."""


def create_app(services: Services) -> FastAPI:
    """Return the application that the gateway serves on its dashboard's port; one a process.

    Args:
        services: What all callers share.
    """
    app = FastAPI(title="RapidFire AI dashboard", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(login_routes(services))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/login", response_class=HTMLResponse)
    async def login(problem: str = "") -> HTMLResponse:
        return HTMLResponse(login_page(problem), headers={"Cache-Control": "no-store"})

    desk = Desk(services, LaneBook())
    # Asked for anew, and answered from the cache if nothing changed: an upgrade needs no reload by hand.
    nicegui_app.add_static_files("/static", STATIC, max_cache_age=0)

    @ui.page("/", title="Experiments - RapidFire AI")
    def experiments(request: Request) -> object:
        return experiments_page.show(desk, request)

    @ui.page("/experiments/{namespace}/{name}")
    def experiment(request: Request, namespace: str, name: str) -> object:
        return experiment_page.show(desk, request, namespace, name)

    ui.run_with(
        app,
        title="RapidFire AI",
        reconnect_timeout=_RECONNECT_SECONDS,
        tailwind=False,
        show_welcome_message=False,
        storage_secret=None,
    )
    app.add_middleware(_Headers)
    return app


class _Headers:
    """Adds to every answer what the browser may do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Referrer-Policy", "same-origin")
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except RuntimeError as error:
            # What starlette says when the browser went away before it was answered: nobody waits for the answer.
            if str(error) != "No response returned.":
                raise

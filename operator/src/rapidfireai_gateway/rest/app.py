"""The REST API as one application."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect

from rapidfireai.volume import CURSOR_HEADER, OFFSET_HEADER
from rapidfireai_gateway.backend import Services
from rapidfireai_gateway.dispatcher import routes as dispatcher
from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.limits import BodyLimit, RateLimit, TokenBuckets
from rapidfireai_gateway.mistakes import sentence_of
from rapidfireai_gateway.rest import account, experiments, icops, live, runs, uploads

_ABOUT = """Steer fine-tuning experiments: watch their runs, stop, resume, clone and delete them.

Each request acts with its caller's own token against the Kubernetes API, and that decides what they may do.
Errors are `{"detail": "a sentence with the fix"}`."""
_WORDS: Mapping[int, str] = {
    404: "there is no such path; see /openapi.json",
    405: "this path does not know the method; see /openapi.json",
}
_log = structlog.get_logger(__name__)


def create_app(services: Services) -> FastAPI:
    """Return the REST API over services that are open already."""
    public = services.settings.gateway_url
    app = FastAPI(
        title="RapidFire AI gateway",
        version="v1",
        description=_ABOUT,
        servers=[{"url": public}] if public else None,  # else clients ask where they have found the description
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    for module in (account, experiments, runs, icops, live, uploads):
        app.include_router(module.router, prefix="/api/v1")
    app.include_router(dispatcher.router, prefix="/dispatcher")

    @app.get("/healthz", tags=["account"])
    async def healthz() -> dict[str, str]:
        """Say that the gateway is there. It asks nobody: a silent API server is no reason to restart it."""
        return {"status": "ok"}

    _add_errors(app)
    _add_limits(app, services)
    return app


def _add_limits(app: FastAPI, services: Services) -> None:
    """Add what stands around the routes; the last one is the outermost."""
    settings = services.settings
    app.add_middleware(GZipMiddleware, minimum_size=2048)
    app.add_middleware(BodyLimit, most=settings.max_body_bytes, unlimited=uploads.is_upload)
    app.add_middleware(RateLimit, buckets=TokenBuckets(settings.requests_per_second, settings.burst))
    # Notebooks come from any origin with their token; cookies are never taken from another one.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["Authorization", "Content-Type", "If-None-Match", OFFSET_HEADER],
        expose_headers=[CURSOR_HEADER, OFFSET_HEADER, "ETag", "Retry-After"],
        max_age=600,
    )


def _add_errors(app: FastAPI) -> None:
    """Turn every error into `{"detail": "a sentence with the fix"}`."""

    def answer(request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        detail = detail.encode(errors="replace").decode()  # half a character that somebody sent is no text
        # Clients of the original system read `error`.
        more = {"error": detail} if request.url.path.startswith("/dispatcher/") else {}
        return JSONResponse({"detail": detail, **more}, status, headers)

    @app.exception_handler(GatewayError)
    async def refused(request: Request, error: GatewayError) -> JSONResponse:
        return answer(request, error.status, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, 422, sentence_of(error.errors()))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        detail = _WORDS.get(error.status_code, str(error.detail))
        return answer(request, error.status_code, detail, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> JSONResponse:
        return answer(request, 400, "the request broke off")

    @app.exception_handler(RecursionError)
    async def deep(request: Request, _: RecursionError) -> JSONResponse:
        return answer(request, 422, "the body is nested too deeply; a config has a few levels")

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        _log.error("a request failed", method=request.method, path=request.url.path, exc_info=error)
        return answer(request, 500, "the gateway failed; its log has the reason")

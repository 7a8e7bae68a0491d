"""Logging in and out with a browser: routes for the dashboard's port."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from rapidfireai_gateway.auth import check_same_origin
from rapidfireai_gateway.backend import Services
from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.sessions import COOKIE

_ON = '<!doctype html><title>RapidFire AI</title><meta http-equiv="refresh" content="0;url=/"><a href="/">Go on</a>'
"""A redirect would still count as coming from the page with the link, and strict cookies stay at home then."""
_USED = (
    '<!doctype html><html lang="en"><title>RapidFire AI</title><p>This login link was used already, or is too old. '
    'Ask for a new one with <code>rapidfireai dashboard</code>, or <a href="/login">log in with a token</a>.</p></html>'
)
_PRIVATE = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def link(services: Services, token: str) -> str:
    """Return the address that opens the dashboard once, logged in as the owner of `token`."""
    return f"{services.settings.public_dashboard_url}/login/once?code={services.sessions.new_code(token)}"


def login_routes(services: Services) -> APIRouter:
    """Return the routes: `GET /login/once?code=`, `POST /login/token` with the form field `token`, `POST /logout`.

    The page with that form, `GET /login`, is the dashboard's. It shows the query's `problem`.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/login/once")
    async def once(code: str = "") -> Response:
        session = services.sessions.redeem(code)
        if session is None:
            return HTMLResponse(_USED, 401, _PRIVATE)
        return _logged_in(services, session, HTMLResponse(_ON, headers=_PRIVATE))

    @router.post("/login/token")
    async def with_token(request: Request, token: Annotated[str, Form()] = "") -> Response:
        try:
            check_same_origin(request)  # nobody shall be logged in as somebody else
            await services.backend(token.strip()).user()
        except GatewayError as error:
            return RedirectResponse(f"/login?{urlencode({'problem': error.detail})}", 303, _PRIVATE)
        return _logged_in(services, services.sessions.open(token.strip()), RedirectResponse("/", 303, _PRIVATE))

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        try:
            check_same_origin(request)
        except GatewayError as error:
            return HTMLResponse(error.detail, error.status)
        services.sessions.close(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303, _PRIVATE)
        answer.delete_cookie(COOKIE)
        return answer

    return router


def _logged_in(services: Services, session: str, answer: Response) -> Response:
    answer.set_cookie(
        COOKIE,
        session,
        max_age=int(services.settings.session_seconds),
        httponly=True,
        samesite="strict",
        secure=services.settings.public_dashboard_url.startswith("https:"),
    )
    return answer

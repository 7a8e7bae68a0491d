"""Whose request it is: a bearer token, a token that a proxy forwards, or a browser's session.

The last two come by themselves with whatever a browser sends, so that a page of somebody else could use them. Requests
that change something therefore have to come from a page of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from rapidfireai_gateway.errors import GatewayError, not_logged_in
from rapidfireai_gateway.sessions import COOKIE, Sessions

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOG_IN = (
    "send `Authorization: Bearer TOKEN`; locally the token is in ~/.rapidfireai/token, on a cluster ask for one with "
    "`kubectl create token rapidfire-user`"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Attributes:
        token: Their token for the API server.
        source: Where it came from.
    """

    token: str
    source: Literal["bearer", "forwarded", "session"]


def caller(request: HTTPConnection, sessions: Sessions, forwarded_header: str = "") -> Caller | None:
    """Return who makes a request; None if nobody says.

    Args:
        request: The request.
        sessions: Who is logged in.
        forwarded_header: The header in which a trusted proxy forwards the user's token; empty trusts none.
    """
    token = bearer(request.headers.get("authorization", ""))
    if token:
        return Caller(token, "bearer")
    forwarded = request.headers.get(forwarded_header, "").strip() if forwarded_header else ""
    if forwarded:
        return Caller(bearer(forwarded) or forwarded, "forwarded")
    session = sessions.token(request.cookies.get(COOKIE, ""))
    return Caller(session, "session") if session else None


def require(request: HTTPConnection, sessions: Sessions, forwarded_header: str = "") -> Caller:
    """Return who makes a request, if they may make it from where they do.

    Raises:
        GatewayError: 401 if nobody says who it is; 403 if a page of somebody else makes it.
    """
    found = caller(request, sessions, forwarded_header)
    if found is None:
        raise not_logged_in(LOG_IN)
    method = str(request.scope.get("method", "GET"))
    if found.source != "bearer" and method not in SAFE_METHODS:
        check_same_origin(request)
    return found


def check_same_origin(request: HTTPConnection) -> None:
    """Check that a page of ours made a request.

    Raises:
        GatewayError: 403 if another page did, or the browser does not say.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    if site == "same-origin" or (site is None and origin and urlsplit(origin).netloc == request.headers.get("host")):
        return
    raise GatewayError(
        403, "a session's cookie is accepted from this server's own pages alone; send `Authorization: Bearer TOKEN`"
    )


def bearer(authorization: str) -> str:
    """Return the token of an Authorization header; empty if there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""

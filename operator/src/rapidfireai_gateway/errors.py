"""The one error of the gateway: an HTTP status and a sentence. The words of the API server become such. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)")?'
)
_SINGULAR = {"experiments": "experiment", "runs": "run", "icops": "ICOp"}
_LONGEST_HINT = 300
API_SERVER_SILENT = "the API server does not answer; try again in a moment (locally: `rapidfireai status`)"


class GatewayError(Exception):
    """An answer that is not what was asked for.

    Attributes:
        status: The HTTP status.
        detail: A sentence with the fix.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def unavailable(detail: str = API_SERVER_SILENT) -> GatewayError:
    """Return the error for an API server that does not answer now."""
    return GatewayError(503, detail, {"Retry-After": "2"})


def not_logged_in(
    detail: str = "the token is not valid or has expired; log in again, or send a new one",
) -> GatewayError:
    """Return the error for a caller whom nobody knows."""
    return GatewayError(401, detail, {"WWW-Authenticate": "Bearer"})


def from_api_server(status: int, body: str) -> GatewayError:
    """Return the error for a refusal of the API server.

    Args:
        status: Its HTTP status.
        body: Its body, usually a `Status` as JSON.
    """
    message = _message(body)
    match status:
        case 401:
            error = not_logged_in()
        case 403:
            error = GatewayError(403, _forbidden(message))
        case 404:
            error = GatewayError(404, _not_found(body, message))
        case 429:
            words = "the API server has too much to do; try again in a moment"
            error = GatewayError(429, words, {"Retry-After": "1"})
        case 409 | 413:
            error = GatewayError(status, message or f"the API server answered {status}")
        case _ if status < 500:
            error = GatewayError(422, message or f"the API server answered {status}")
        case _:
            error = unavailable(f"the API server is not ready: {message or status}; try again in a moment")
    return error


def _message(body: str) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        return body.strip()[:_LONGEST_HINT]
    return str(found.get("message", "")) if isinstance(found, dict) else ""


def _forbidden(message: str) -> str:
    """Say who may not do what where; what an admission policy says is a sentence already."""
    found = _FORBIDDEN.search(message)
    if found is None:
        return message or "you may not do this"
    what = f"{found['resource']}.{found['group']}" if found["group"] else found["resource"]
    if found["namespace"] is None:
        return f"{found['user']} may not {found['verb']} {what}; ask an administrator for this right"
    return (
        f"{found['user']} may not {found['verb']} {what} in namespace {found['namespace']}; ask an administrator to "
        f"bind you to the Role rapidfire-user there"
    )


def _not_found(body: str, message: str) -> str:
    try:
        details = json.loads(body).get("details") or {}
    except (ValueError, AttributeError):
        details = {}
    kind, name = str(details.get("kind", "")), details.get("name")
    if not name:
        return f"{message or 'not found'}; is the chart of RapidFire AI installed on this cluster?"
    return f"there is no {_SINGULAR.get(kind, kind)} {name}"

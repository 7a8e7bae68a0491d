"""What every route has in common: who asks, and how errors are described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from fastapi import Depends, Path, Request
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import BaseModel, Field

from rapidfireai_gateway.auth import require
from rapidfireai_gateway.backend import Backend, Services
from rapidfireai_gateway.sessions import COOKIE

_BEARER = HTTPBearer(auto_error=False, description="Your own token for the Kubernetes API.")
_SESSION = APIKeyCookie(name=COOKIE, auto_error=False, description="A browser's session, from a login link.")
_EXAMPLES: Mapping[int, tuple[str, str]] = {
    400: ("The body lacks something; it is named.", "run_id: must be the number of a run, not None"),
    401: (
        "Nobody knows the token, or there is none.",
        "the token is not valid or has expired; log in again, or send a new one",
    ),
    403: (
        "The caller lacks a right; it is named.",
        "alice may not patch runs.rapidfire.ai in namespace team-a; ask an administrator to bind you to the Role "
        "rapidfire-user there",
    ),
    404: ("There is no such object, or no such workspace.", "there is no run sft-r9"),
    409: ("It does not go together with what is.", "sft-r3 has finished; clone it to go on from its weights"),
    413: (
        "The body is too large.",
        "the body is larger than 2097152 bytes; data sets and code go to the volume service",
    ),
    422: (
        "Something in the request is wrong; the field and the fix are named.",
        "training_args.learning_rte: unknown field of SFTConfig; did you mean learning_rate?",
    ),
    429: ("Too many requests; `Retry-After` says how long to wait.", "too many requests at once; try again in 1 s"),
    502: (
        "The volume service does not answer.",
        "the volume service of namespace team-a does not answer; try again in a moment",
    ),
    503: (
        "The API server does not answer.",
        "the API server does not answer; try again in a moment (locally: `rapidfireai status`)",
    ),
}


class Problem(BaseModel):
    """Why a request was not answered as it was asked."""

    detail: Annotated[str, Field(description="A sentence with the fix.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route: these, and those of every route.

    Args:
        statuses: HTTP statuses.
    """
    return {
        status: {
            "model": Problem,
            "description": _EXAMPLES[status][0],
            "content": {"application/json": {"example": {"detail": _EXAMPLES[status][1]}}},
        }
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }


def answers(model: Any, description: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Describe a good answer that the route writes itself."""
    return {status: {"model": model, "description": description}}


def services_of(request: Request) -> Services:
    """Return what all callers share."""
    return cast(Services, request.app.state.services)


def backend_of(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    _bearer: Annotated[object, Depends(_BEARER)],
    _session: Annotated[object, Depends(_SESSION)],
) -> Backend:
    """Return what the caller of a request can see and do.

    Raises:
        GatewayError: If nobody says who calls, or a page of somebody else does.
    """
    return services.backend(require(request, services.sessions, services.settings.forwarded_token_header).token)


Shared = Annotated[Services, Depends(services_of)]
Me = Annotated[Backend, Depends(backend_of)]
Namespace = Annotated[str, Path(description="The workspace.", examples=["default"], max_length=63)]
Name = Annotated[str, Path(description="The experiment's name.", examples=["sft-smollm2"], max_length=253)]
RunName = Annotated[str, Path(description="The run's name.", examples=["sft-smollm2-r3"], max_length=253)]

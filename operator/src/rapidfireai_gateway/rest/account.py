"""Who the caller is, and how their browser gets in."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from rapidfireai_gateway.auth import require
from rapidfireai_gateway.config_schema import config_schema
from rapidfireai_gateway.login import link
from rapidfireai_gateway.rest.asking import Me, Shared, problems

router = APIRouter(tags=["account"])


class WhoAmI(BaseModel):
    """The caller, as the API server knows them."""

    user: Annotated[str, Field(examples=["system:serviceaccount:default:rapidfire-user"])]
    namespaces: Annotated[list[str], Field(description="The workspaces whose experiments they may list.")]


class LoginLink(BaseModel):
    """An address that logs a browser in, once."""

    url: Annotated[str, Field(examples=["http://127.0.0.1:8853/login/once?code=..."])]
    expiresSeconds: Annotated[int, Field(description="How long it can be used.")]  # noqa: N815 - the wire's spelling


@router.get("/whoami", responses=problems())
async def whoami(me: Me) -> WhoAmI:
    """Say who the caller is, and in which workspaces they may work."""
    return WhoAmI(user=await me.user(), namespaces=await me.namespaces())


@router.post("/login-links", responses=problems())
async def login_links(request: Request, me: Me, services: Shared) -> LoginLink:
    """Make an address that opens the dashboard, logged in as the caller. It works once, and not for long."""
    await me.user()
    token = require(request, services.sessions, services.settings.forwarded_token_header).token
    return LoginLink(url=link(services, token), expiresSeconds=int(services.settings.link_seconds))


@router.get("/config-schema", responses=problems())
async def schema(
    _: Me, trainer: Annotated[str, Query(description="SFT, DPO or GRPO.", examples=["SFT"])] = "SFT"
) -> dict[str, Any]:
    """Return the JSON schema of one run's config, as users write it: what forms of clones are made of."""
    return config_schema(trainer)

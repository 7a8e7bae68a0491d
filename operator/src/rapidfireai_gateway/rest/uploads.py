"""Code bundles and data sets, passed through to the volume service as the streams that they are."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel

from rapidfireai.volume import OFFSET_HEADER
from rapidfireai_gateway.rest.asking import Me, Namespace, problems

router = APIRouter(prefix="/namespaces/{ns}", tags=["uploads"])
Kind = Annotated[Literal["bundles", "datasets"], Path(description="What it is.")]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The sha256 of the whole.")]
_PATH = re.compile(r"/api/v1/namespaces/[^/]+/(bundles|datasets)/[^/]+")


class Uploaded(BaseModel):
    """What lies on the volume now."""

    digest: str
    bytes: int


def is_upload(path: str) -> bool:
    """Say whether a path takes bodies that the volume service limits."""
    return _PATH.fullmatch(path) is not None


@router.head(
    "/{kind}/{digest}",
    responses={
        404: {"description": "It is not there whole; `Upload-Offset` says how many bytes of it are."},
        **{status: text for status, text in problems(502).items() if status != 404},
    },
)
async def look(ns: Namespace, kind: Kind, digest: Digest, me: Me) -> Response:
    """Ask whether the volume has it, and if not, how many bytes of an upload that broke off."""
    async with me.upload(ns, "HEAD", kind, digest) as answer:
        kept = {name: answer.headers[name] for name in (OFFSET_HEADER,) if name in answer.headers}
        return Response(status_code=answer.status_code, headers=kept)


@router.put(
    "/{kind}/{digest}",
    status_code=201,
    responses=problems(404, 409, 413, 502),
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def put(
    request: Request,
    ns: Namespace,
    kind: Kind,
    digest: Digest,
    me: Me,
    upload_offset: Annotated[int, Header(ge=0, le=2**53, description="How many bytes are there already.")] = 0,
) -> Uploaded:
    """Send the bytes behind the first `Upload-Offset` ones. What breaks off goes on there later."""
    headers = {"Content-Type": "application/octet-stream", OFFSET_HEADER: str(upload_offset)}
    if length := request.headers.get("content-length"):
        headers["Content-Length"] = length
    async with me.upload(ns, "PUT", kind, digest, headers, request.stream()) as answer:
        return Uploaded.model_validate_json(await answer.aread())

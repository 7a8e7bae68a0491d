"""Runs: one config each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from rapidfireai.api import Run
from rapidfireai.api.run import DesiredState, When
from rapidfireai.volume import CURSOR_HEADER
from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.rest.asking import Me, Name, Namespace, RunName, answers, problems

router = APIRouter(prefix="/namespaces/{ns}", tags=["runs"])


class Runs(BaseModel):
    """Runs of an experiment."""

    items: list[Run]


class RunPatch(BaseModel):
    """What may be changed about a run by hand."""

    model_config = ConfigDict(extra="forbid")

    desiredState: DesiredState | None = None  # noqa: N815 - the wire's spelling
    when: When | None = None


class ClonePatch(BaseModel):
    """How a clone shall differ from its parent."""

    model_config = ConfigDict(extra="forbid")

    patch: Annotated[dict[str, Any], Field(description="A merge patch on the parent's config; dotted paths too.")] = {}
    warmStart: Annotated[bool, Field(description="Whether it begins with the parent's weights.")] = False  # noqa: N815


class KnobChange(BaseModel):
    """One knob that differs."""

    path: str
    before: Any
    after: Any


class ClonePreview(BaseModel):
    """A clone that is not made yet."""

    config: dict[str, Any]
    changes: list[KnobChange]
    obstacle: Annotated[str | None, Field(description="Why it cannot begin with its parent's weights.")]


@router.get("/experiments/{name}/runs", responses={**answers(Runs, "The runs, by number."), **problems(404)})
async def list_runs(
    ns: Namespace,
    name: Name,
    me: Me,
    view: Annotated[
        Literal["full", "table"], Query(description="`table` leaves out what a table does not show.")
    ] = "full",
    if_none_match: Annotated[str, Header(description="An `ETag` of before: 304 if nothing has changed.")] = "",
) -> Response:
    """List the runs of an experiment."""
    runs = await me.runs(ns, name, view)
    tag = _tag(view, runs)
    if if_none_match == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return JSONResponse({"items": runs}, headers={"ETag": tag})


@router.get("/runs/{run}", responses={**answers(Run, "The run."), **problems(404)})
async def get_run(ns: Namespace, run: RunName, me: Me) -> Response:
    """Return one run."""
    return JSONResponse(await me.run(ns, run))


@router.patch("/runs/{run}", responses={**answers(Run, "As it is now."), **problems(404, 409)})
async def patch_run(
    ns: Namespace, run: RunName, me: Me, patch: Annotated[RunPatch, Body(examples=[{"desiredState": "Stopped"}])]
) -> Response:
    """Say what a run shall be, as `kubectl patch` does. An IC Op does the same, and leaves a record."""
    spec = patch.model_dump(exclude_none=True)
    if not spec:
        raise GatewayError(422, "the patch changes nothing; write desiredState or when")
    return JSONResponse(await me.patch_run(ns, run, spec))


@router.delete("/runs/{run}", status_code=204, responses=problems(404))
async def delete_run(ns: Namespace, run: RunName, me: Me) -> Response:
    """Remove a run and its record, as `kubectl delete` does. The IC Op `Delete` keeps the record."""
    await me.delete_run(ns, run)
    return Response(status_code=204)


@router.post("/runs/{run}/clone-preview", responses=problems(404))
async def clone_preview(
    ns: Namespace,
    run: RunName,
    me: Me,
    clone: Annotated[ClonePatch, Body(examples=[{"patch": {"training_args.learning_rate": 3e-4}, "warmStart": True}])],
) -> ClonePreview:
    """Say what a clone would be: its config, what differs, and whether it can begin with its parent's weights."""
    try:
        json.dumps(clone.patch, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise GatewayError(422, f"patch: is no JSON that can be kept: {error}") from error
    made = await me.clone_preview(ns, run, clone.patch, clone.warmStart)
    changes = [KnobChange(path=each.path, before=each.before, after=each.after) for each in made.changes]
    return ClonePreview(config=made.config, changes=changes, obstacle=made.obstacle)


@router.get(
    "/runs/{run}/metrics",
    responses={
        200: {
            "description": "JSON lines, one a log line. `Rapidfire-Cursor` of the answer is the next `after`.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
        **problems(404, 502),
    },
)
async def metrics(
    ns: Namespace,
    run: RunName,
    me: Me,
    after: Annotated[str, Query(description="What came after this cursor.", max_length=256)] = "",
) -> Response:
    """Return what a run logged, at most 4 MiB at a time: go on until an answer is empty."""
    lines, cursor = await me.metrics(ns, run, after)
    return Response(lines, media_type="application/x-ndjson", headers={CURSOR_HEADER: cursor})


def _tag(view: str, runs: Iterable[Mapping[str, Any]]) -> str:
    versions = "".join(f"{run['metadata']['uid']}/{run['metadata']['resourceVersion']} " for run in runs)
    return f'W/"{hashlib.sha256(f"{view} {versions}".encode()).hexdigest()[:32]}"'

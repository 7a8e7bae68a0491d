"""IC Ops: stop, resume, clone with changes, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from rapidfireai.api import ICOp
from rapidfireai_gateway.backend import LONGEST_WAIT
from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.operations import refusal_of
from rapidfireai_gateway.rest.asking import Me, Name, Namespace, answers, problems

router = APIRouter(prefix="/namespaces/{ns}", tags=["icops"])
_STOP = {"op": "Stop", "runs": ["sft-smollm2-r3"], "when": "Boundary"}
_CLONE = {
    "op": "CloneModify",
    "runs": ["sft-smollm2-r1"],
    "clone": {"patch": {"training_args": {"learning_rate": 3e-4}}, "warmStart": True},
}
Wait = Annotated[
    float, Query(ge=0, le=LONGEST_WAIT, description="Answer as soon as it is complete, after so many seconds at most.")
]


class ICOps(BaseModel):
    """IC Ops of an experiment."""

    items: list[ICOp]


@router.get("/experiments/{name}/icops", responses={**answers(ICOps, "The IC Ops, oldest first."), **problems(404)})
async def list_icops(ns: Namespace, name: Name, me: Me) -> Response:
    """List what was done to the runs of an experiment, by whom, and what became of it."""
    return JSONResponse({"items": await me.icops(ns, name)})


@router.post(
    "/experiments/{name}/icops",
    status_code=201,
    responses={**answers(ICOp, "It is written down, and carried out soon.", 201), **problems(404, 409)},
)
async def create_icop(
    ns: Namespace,
    name: Name,
    me: Me,
    spec: Annotated[
        dict[str, Any], Body(description="An ICOp's spec without `experimentRef`.", examples=[_STOP, _CLONE])
    ],
    wait: Wait = 0,
) -> Response:
    """Stop, resume, clone or delete runs. With `wait`, an operation that every run refused answers 409 and why."""
    made = await me.create_icop(ns, name, spec)
    if wait:
        made = await me.icop(ns, made["metadata"]["name"], wait)
        if refused := refusal_of(made):
            raise GatewayError(409, refused)
    return JSONResponse(made, 201)


@router.get("/icops/{icop}", responses={**answers(ICOp, "The IC Op."), **problems(404)})
async def get_icop(
    ns: Namespace, icop: Annotated[str, Path(description="Its name.", max_length=253)], me: Me, wait: Wait = 0
) -> Response:
    """Return one IC Op, with `wait` as soon as it is complete."""
    return JSONResponse(await me.icop(ns, icop, wait))

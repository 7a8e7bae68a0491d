"""Experiments."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from rapidfireai.api import Experiment
from rapidfireai_gateway.rest.asking import Me, Name, Namespace, answers, problems
from rapidfireai_gateway.workers import Slot

router = APIRouter(prefix="/namespaces/{ns}/experiments", tags=["experiments"])
_MANIFEST = {
    "metadata": {"name": "sft-smollm2"},
    "spec": {
        "configs": [
            {
                "trainer": "SFT",
                "config": {
                    "model_name": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "training_args": {"learning_rate": {"$list": [1e-4, 1e-3]}},
                },
            }
        ],
        "data": {"train": {"uri": "hf://trl-lib/Capybara"}},
    },
}


class Experiments(BaseModel):
    """Experiments of a workspace."""

    items: list[Experiment]


class Items(BaseModel):
    """Objects of the cluster, as it has them."""

    items: list[dict[str, Any]]


class Workers(BaseModel):
    """Worker slots."""

    items: list[Slot]


@router.get("", responses={**answers(Experiments, "The experiments."), **problems(404)})
async def list_experiments(ns: Namespace, me: Me) -> Response:
    """List the experiments of a workspace."""
    return JSONResponse({"items": await me.experiments(ns)})


@router.post("", status_code=201, responses={**answers(Experiment, "It is there.", 201), **problems(404, 409)})
async def create_experiment(
    ns: Namespace,
    me: Me,
    manifest: Annotated[dict[str, Any], Body(description="`metadata` and `spec`.", examples=[_MANIFEST])],
) -> Response:
    """Create an experiment. Its runs begin as soon as there are workers."""
    return JSONResponse(await me.create_experiment(ns, manifest), 201)


@router.get("/{name}", responses={**answers(Experiment, "The experiment."), **problems(404)})
async def get_experiment(ns: Namespace, name: Name, me: Me) -> Response:
    """Return one experiment."""
    return JSONResponse(await me.experiment(ns, name))


@router.patch("/{name}", responses={**answers(Experiment, "As it is now."), **problems(404, 409)})
async def patch_experiment(
    ns: Namespace,
    name: Name,
    me: Me,
    patch: Annotated[dict[str, Any], Body(examples=[{"spec": {"workers": {"replicas": 0}}}])],
) -> Response:
    """Merge a patch (RFC 7386) into an experiment, for instance to have another number of workers."""
    return JSONResponse(await me.patch_experiment(ns, name, patch))


@router.delete("/{name}", status_code=204, responses=problems(404))
async def delete_experiment(ns: Namespace, name: Name, me: Me) -> Response:
    """Delete an experiment with its runs; the files on the volume stay for some days."""
    await me.delete_experiment(ns, name)
    return Response(status_code=204)


@router.get("/{name}/events", responses={**answers(Items, "The events, oldest first."), **problems(404)})
async def events(ns: Namespace, name: Name, me: Me) -> Response:
    """Return what the cluster reports of an experiment, its runs and workers. It forgets after an hour."""
    return JSONResponse({"items": await me.events(ns, name)})


@router.get("/{name}/workers", responses=problems(404))
async def workers(ns: Namespace, name: Name, me: Me) -> Workers:
    """Return the worker slots with their Jobs, pods and Leases, as far as the caller may read them."""
    return Workers(items=await me.workers(ns, name))


@router.get("/{name}/logs", response_class=PlainTextResponse, responses=problems(404))
async def logs(
    ns: Namespace,
    name: Name,
    me: Me,
    worker: Annotated[str, Query(description="A slot's name or number; all if left out.", max_length=253)] = "",
    tail: Annotated[int, Query(ge=1, le=10_000, description="How many lines of each worker.")] = 1000,
) -> str:
    """Return what the workers wrote last, by time. The logs of a worker go with its pod."""
    return await me.logs(ns, name, worker, tail)

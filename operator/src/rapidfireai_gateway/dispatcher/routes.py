"""`/dispatcher`: the original system's paths and shapes, for one workspace and its current experiment.

Runs are named by their numbers; evaluations call them pipelines. Operations become IC Ops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query

from rapidfireai.api import run_name
from rapidfireai.errors import ConfigError
from rapidfireai_gateway.backend import Backend
from rapidfireai_gateway.dispatcher import pipelines, rows
from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.operations import refusal_of
from rapidfireai_gateway.rest.asking import Me, Shared, problems

router = APIRouter(tags=["dispatcher"], responses=problems(400, 404, 409))
Request = Annotated[dict[str, Any], Body(examples=[{"run_id": 3}])]
_WAIT_SECONDS = 10.0
"""How long an answer waits for the operator, so that a refusal can be told."""
_NO_EXPERIMENT = "there is no experiment in namespace {namespace}; run one, or name another with ?namespace="


class Desk:
    """One workspace as the original system's clients see it.

    Args:
        me: What the caller can see and do.
        namespace: The workspace.
        wanted: The experiment, by either of its names; empty for the current one.
    """

    def __init__(self, me: Backend, namespace: str, wanted: str) -> None:
        self._me, self.namespace, self._wanted = me, namespace, wanted

    async def experiments(self) -> list[dict[str, Any]]:
        """Return all experiments of the workspace."""
        return await self._me.experiments(self.namespace)

    async def experiment(self) -> Mapping[str, Any]:
        """Return the experiment that requests are about.

        Raises:
            GatewayError: If there is none.
        """
        if self._wanted:
            return await self.named(self._wanted)
        found = rows.current(await self.experiments())
        if found is None:
            raise GatewayError(404, _NO_EXPERIMENT.format(namespace=self.namespace))
        return found

    async def named(self, name: str) -> Mapping[str, Any]:
        """Return the newest experiment with this name, by what the user called it or what the cluster does.

        Raises:
            GatewayError: If there is none.
        """
        fitting = [
            each for each in await self.experiments() if name in {rows.experiment_name(each), each["metadata"]["name"]}
        ]
        found = rows.current(fitting)
        if found is None:
            raise GatewayError(404, f"there is no experiment {name} in namespace {self.namespace}")
        return found

    async def chosen(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the experiment that a request names, else the current one."""
        name = request.get("experiment_name")
        return await self.named(str(name)) if name else await self.experiment()

    async def run(self, request: Mapping[str, Any], key: str = "run_id") -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the experiment and the run that a request names by its number.

        Raises:
            GatewayError: 400 if it names none, 404 if there is no such run.
        """
        number = _number(request, key)
        experiment = await self.experiment()
        return experiment, await self._me.run(self.namespace, run_name(experiment["metadata"]["name"], number))

    async def operate(self, op: str, request: Mapping[str, Any], key: str = "run_id", **more: Any) -> dict[str, Any]:
        """Do something to a run, and return the IC Op.

        Raises:
            GatewayError: 409 with the refusal's sentence.
        """
        experiment, run = await self.run(request, key)
        spec = {"op": op, "runs": [run["metadata"]["name"]], **more}
        made = await self._me.create_icop(self.namespace, experiment["metadata"]["name"], spec)
        made = await self._me.icop(self.namespace, made["metadata"]["name"], _WAIT_SECONDS)
        if refused := refusal_of(made):
            raise GatewayError(409, refused)
        return made


def desk_of(
    me: Me,
    services: Shared,
    namespace: Annotated[str, Query(description="The workspace; the first one if left out.", max_length=63)] = "",
    experiment: Annotated[
        str, Query(description="The experiment; the newest that is not finished if left out.", max_length=256)
    ] = "",
) -> Desk:
    """Return the workspace that a request is about."""
    return Desk(me, namespace or services.settings.namespaces[0], experiment)


Here = Annotated[Desk, Depends(desk_of)]


@router.get("/health-check", responses={})
async def health_check() -> str:
    """Say that the dispatcher is there."""
    return "Dispatcher is up and running"


@router.get("/get-all-runs")
async def get_all_runs(desk: Here, me: Me) -> list[dict[str, Any]]:
    """Return all runs of the current experiment."""
    experiment = await desk.experiment()
    runs = await me.runs(desk.namespace, experiment["metadata"]["name"])
    return [rows.run_row(run, experiment) for run in runs]


@router.post("/get-run")
async def get_run(desk: Here, request: Request) -> dict[str, Any]:
    """Return one run."""
    experiment, run = await desk.run(request)
    return rows.run_row(run, experiment)


@router.get("/get-all-experiment-names")
async def get_all_experiment_names(desk: Here) -> list[str]:
    """Return what the experiments are called."""
    return [rows.experiment_name(each) for each in await desk.experiments()]


@router.get("/get-running-experiment")
async def get_running_experiment(desk: Here) -> dict[str, Any]:
    """Return the experiment that runs now."""
    found = rows.current([each for each in await desk.experiments() if rows.is_running(each)])
    if found is None:
        raise GatewayError(404, "no experiment is running")
    return rows.experiment_row(found)


@router.get("/get-experiment-by-name/{name}")
async def get_experiment_by_name(desk: Here, name: str) -> dict[str, Any]:
    """Return the experiment with this name."""
    return rows.experiment_row(await desk.named(name))


@router.post("/is-experiment-running")
async def is_experiment_running(desk: Here, request: Request) -> dict[str, bool]:
    """Say whether an experiment runs."""
    name = request.get("experiment_name")
    if not isinstance(name, str) or not name:
        raise GatewayError(400, "experiment_name: is missing; name the experiment")
    return {"is_running": rows.is_running(await desk.named(name))}


@router.post("/stop-run")
async def stop_run(desk: Here, request: Request) -> dict[str, Any]:
    """Stop a run at its next chunk boundary."""
    await desk.operate("Stop", request)
    return {}


@router.post("/resume-run")
async def resume_run(desk: Here, request: Request) -> dict[str, Any]:
    """Let a stopped run go on."""
    await desk.operate("Resume", request)
    return {}


@router.post("/delete-run")
async def delete_run(desk: Here, request: Request) -> dict[str, Any]:
    """End a run for good and hide its results."""
    await desk.operate("Delete", request)
    return {}


@router.post("/clone-modify-run")
async def clone_modify_run(
    desk: Here,
    request: Annotated[dict[str, Any], Body(examples=[{"run_id": 3, "config": {}, "warm_start": True}])],
) -> dict[str, Any]:
    """Make a run with a changed config. `config` is a whole one, as `get-run` shows it; functions are inherited."""
    config, warm = request.get("config"), request.get("warm_start", False)
    if not isinstance(config, dict):
        raise GatewayError(
            400, "config: must be the whole config as get-run shows it, with the changes; {} changes nothing"
        )
    if not isinstance(warm, bool):
        raise GatewayError(400, f"warm_start: must be true or false, not {warm!r}")
    _, run = await desk.run(request)
    try:
        patch = rows.clone_patch(run["spec"]["config"], config)
    except ConfigError as error:
        raise GatewayError(422, str(error)) from error
    await desk.operate("CloneModify", request, clone={"patch": patch, "warmStart": warm})
    return {}


@router.post("/get-ic-logs")
async def get_ic_logs(desk: Here, me: Me, request: Annotated[dict[str, Any], Body()]) -> list[str]:
    """Return the log of interactive control: what was asked, by whom, and what became of it."""
    experiment = await desk.chosen(request)
    icops = await me.icops(desk.namespace, experiment["metadata"]["name"])
    if not icops:
        raise GatewayError(404, f"nothing was asked of the runs of {rows.experiment_name(experiment)} yet")
    return [rows.operation_line(each, rows.experiment_name(experiment)) for each in icops]


@router.post("/get-experiment-logs")
async def get_experiment_logs(desk: Here, me: Me, request: Annotated[dict[str, Any], Body()]) -> list[str]:
    """Return what the workers wrote last."""
    experiment = await desk.chosen(request)
    return (await me.logs(desk.namespace, experiment["metadata"]["name"])).splitlines()


@router.get("/all-operations")
async def all_operations(desk: Here, me: Me) -> list[dict[str, Any]]:
    """Return the operations that are not carried out yet."""
    experiment = await desk.experiment()
    operations = map(rows.operation_row, await me.icops(desk.namespace, experiment["metadata"]["name"]))
    return [each for each in operations if each["status"] in {"pending", "processing"}]


@router.get("/operation-status/{ic_id}")
async def operation_status(desk: Here, me: Me, ic_id: str) -> dict[str, Any]:
    """Return one operation."""
    return rows.operation_row(await me.icop(desk.namespace, ic_id))


@router.get("/list-all-pipeline-ids")
async def list_all_pipeline_ids(desk: Here, me: Me) -> list[dict[str, Any]]:
    """Return all runs as pipelines, the newest first."""
    experiment = await desk.experiment()
    runs = await me.runs(desk.namespace, experiment["metadata"]["name"])
    return [rows.pipeline_row(run, experiment) for run in reversed(runs)]


@router.get("/get-all-pipelines")
async def get_all_pipelines(desk: Here, me: Me) -> list[dict[str, Any]]:
    """Return all runs as pipelines with their configs, the newest first."""
    experiment = await desk.experiment()
    runs = await me.runs(desk.namespace, experiment["metadata"]["name"])
    return [rows.pipeline_row(run, experiment) | rows.run_row(run, experiment) for run in reversed(runs)]


@router.post("/get-pipeline")
async def get_pipeline(
    desk: Here, request: Annotated[dict[str, Any], Body(examples=[{"pipeline_id": 3}])]
) -> dict[str, Any]:
    """Return one run as a pipeline."""
    experiment, run = await desk.run(request, "pipeline_id")
    return rows.run_row(run, experiment) | rows.pipeline_row(run, experiment)


@router.get("/get-pipeline-config-json/{pipeline_id}")
async def get_pipeline_config_json(desk: Here, pipeline_id: str) -> dict[str, Any]:
    """Return the config of a run."""
    _, run = await desk.run({"pipeline_id": pipeline_id}, "pipeline_id")
    config = run["spec"]["config"]
    shown = pipelines.pipeline_config(config) if pipelines.is_evaluation(config) else config
    return {"pipeline_config_json": shown, "context_id": _context(run)}


@router.get("/get-all-contexts")
async def get_all_contexts(desk: Here, me: Me) -> list[dict[str, Any]]:
    """Return the RAG indexes of an evaluation; fine-tuning has none."""
    experiment = await desk.experiment()
    return pipelines.contexts(await me.runs(desk.namespace, experiment["metadata"]["name"]))


@router.post("/stop-pipeline")
async def stop_pipeline(desk: Here, request: Request) -> dict[str, Any]:
    """Stop a run, by the name that evaluations have for it."""
    return _queued(await desk.operate("Stop", request, "pipeline_id"))


@router.post("/resume-pipeline")
async def resume_pipeline(desk: Here, request: Request) -> dict[str, Any]:
    """Resume a run, by the name that evaluations have for it."""
    return _queued(await desk.operate("Resume", request, "pipeline_id"))


@router.post("/delete-pipeline")
async def delete_pipeline(desk: Here, request: Request) -> dict[str, Any]:
    """Delete a run, by the name that evaluations have for it."""
    return _queued(await desk.operate("Delete", request, "pipeline_id"))


@router.post("/clone-pipeline")
async def clone_pipeline(
    desk: Here,
    request: Annotated[dict[str, Any], Body(examples=[{"parent_pipeline_id": 3, "config_json": {"batch_size": 8}}])],
) -> dict[str, Any]:
    """Make a run of an evaluation with a changed config. `config_json` says what differs from its parent."""
    config = request.get("config_json")
    if not isinstance(config, dict):
        raise GatewayError(400, "config_json: must be a mapping of what differs from the parent; {} changes nothing")
    _, run = await desk.run(request, "parent_pipeline_id")
    try:
        patch = pipelines.pipeline_patch(run["spec"]["config"], config)
    except ConfigError as error:
        raise GatewayError(422, str(error)) from error
    clone = {"patch": patch, "warmStart": False}
    return _queued(await desk.operate("CloneModify", request, "parent_pipeline_id", clone=clone))


def _context(run: Mapping[str, Any]) -> str | None:
    return ((run.get("status") or {}).get("prepared") or {}).get("index")


def _queued(icop: Mapping[str, Any]) -> dict[str, Any]:
    return {"ic_id": icop["metadata"]["name"], "message": (icop.get("status") or {}).get("summary") or "pending"}


def _number(request: Mapping[str, Any], key: str) -> int:
    """Return the number of the run that a request is about.

    Raises:
        GatewayError: If it names none.
    """
    value = request.get(key)
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise GatewayError(400, f"{key}: must be the number of a run, not {value!r}")
    return int(text)

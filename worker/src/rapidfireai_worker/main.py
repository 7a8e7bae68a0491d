"""Start a worker, keep its Lease, and leave in an orderly way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Callable

import structlog
from kubernetes.config import ConfigException
from pydantic import ValidationError
from structlog.contextvars import bind_contextvars

from rapidfireai.api import Experiment
from rapidfireai.kube import connect
from rapidfireai_worker.bus import Bus, parse
from rapidfireai_worker.crew import Crew
from rapidfireai_worker.engine import Engine
from rapidfireai_worker.kubeapi import REQUEST_SECONDS, KubeApi, Refused
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.lease import RENEWALS, Lease, LeaseLost
from rapidfireai_worker.logs import configure_logging
from rapidfireai_worker.metrics import WorkerMetrics
from rapidfireai_worker.patience import insist
from rapidfireai_worker.settings import EnvironmentProblem, WorkerSettings, load
from rapidfireai_worker.streams import redact_prints
from rapidfireai_worker.watchdog import Watchdog
from rapidfireai_worker.wire import with_source
from rapidfireai_worker.worker import Worker

EngineFactory = Callable[[WorkerSettings], Engine]
_log = structlog.get_logger(__name__)


class WorkerProblem(Exception):  # noqa: N818 - a sentence for the log
    """The worker cannot do its work; the message says why."""


def run(factory: EngineFactory) -> None:
    """Run a worker until it is told to leave, then end the process.

    Exit codes: 0 after SIGTERM, 75 if the Lease was lost, which is nobody's fault, 1 if the worker cannot work, 2 if
    the environment is wrong, 3 after an error that leaves nothing to trust, 124 if a chunk hung.

    Args:
        factory: Makes the engine, in the thread that computes.
    """
    redact_prints()
    configure_logging()
    try:
        code = asyncio.run(_serve(load(WorkerSettings), factory))
    except EnvironmentProblem as problem:
        _log.critical(str(problem))
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread inside native code, an import of torch say, would hold up an ordinary exit


async def _serve(settings: WorkerSettings, factory: EngineFactory) -> int:
    bind_contextvars(experiment=settings.experiment, worker=settings.slot)
    told = _on_termination()
    metrics = WorkerMetrics(settings.experiment, settings.slot)
    metrics.serve(settings.pod_ip, settings.port)
    working = asyncio.create_task(_work(settings, Crew(lambda: factory(settings)), metrics, told))
    telling = asyncio.create_task(told.wait())
    await asyncio.wait({working, telling}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        await asyncio.wait({working}, timeout=settings.grace_seconds)
    if not working.done():
        _log.critical("not done within the grace period, leaving all the same", seconds=settings.grace_seconds)
        return 1
    return working.result()


def _on_termination() -> asyncio.Event:
    """Return the event that SIGTERM or SIGINT sets; the second signal ends the process at once."""
    told = asyncio.Event()

    def tell() -> None:
        if told.is_set():
            os._exit(1)
        _log.info("told to leave")
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, tell)
    return told


async def _work(settings: WorkerSettings, crew: Crew, metrics: WorkerMetrics, told: asyncio.Event) -> int:
    """Work until told to leave; return the exit code."""
    code = 0
    try:
        async with asyncio.TaskGroup() as tasks:
            hiring = tasks.create_task(crew.start())  # first of all: it takes longest
            await asyncio.sleep(0)
            client = await connect()
            try:
                api = KubeApi(client, settings.pod_namespace, min(REQUEST_SECONDS, settings.lease_seconds / RENEWALS))
                await _join(settings, api, crew, metrics, told)
            finally:
                await client.close()
            hiring.cancel()
    except* LeaseLost as group:
        _log.critical("cannot go on", error="; ".join(_sentences(group)))
        code = os.EX_TEMPFAIL
    except* (WorkerProblem, Refused, ConfigException) as group:
        _log.critical("cannot go on", error="; ".join(_sentences(group)))
        code = 1
    except* Exception as group:  # what nobody foresaw ends the process, and says so
        _log.critical("cannot go on", exc_info=group)
        code = 1
    return code


def _sentences(error: BaseException) -> list[str]:
    """Return what is said by all errors of a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [sentence for each in error.exceptions for sentence in _sentences(each)]
    return [str(error)]


async def _join(
    settings: WorkerSettings, api: KubeApi, crew: Crew, metrics: WorkerMetrics, told: asyncio.Event
) -> None:
    """Take the slot's Lease, work until told to leave, and give it back."""
    process = f"{settings.pod_name}/{uuid.uuid4().hex[:12]}"
    joining = asyncio.create_task(_prepare(settings, api, process))
    telling = asyncio.create_task(told.wait())
    await asyncio.wait({joining, telling}, return_when=asyncio.FIRST_COMPLETED)
    if not joining.done():
        joining.cancel()
        return
    experiment, lease = joining.result()
    watchdog = Watchdog(settings.hang_seconds)
    bus, volume = Bus(api, experiment, metrics), Volume(settings.volume)
    worker = Worker(experiment, process, bus, crew, volume, metrics, watchdog)
    async with asyncio.TaskGroup() as tasks:
        background = (
            tasks.create_task(lease.keep()),
            tasks.create_task(_watch(api, settings.pod_name, worker)),
            tasks.create_task(_leave_when(told, worker)),
        )
        _log.info("ready for assignments", process=process)
        await worker.work()
        for task in background:
            task.cancel()
    await lease.release()
    _log.info("gone")


async def _prepare(settings: WorkerSettings, api: KubeApi, process: str) -> tuple[Experiment, Lease]:
    """Read the experiment and take the Lease, as long as it takes.

    Raises:
        WorkerProblem: If the experiment does not exist, or is none that this version understands.
        LeaseLost: If the Lease is refused.
        Refused: If the account has not the rights.
    """
    body = await insist(lambda: api.get("experiments", settings.experiment))
    if body is None:
        raise WorkerProblem(f"RAPIDFIRE_EXPERIMENT={settings.experiment}: no such Experiment in the namespace")
    try:
        experiment = with_source(Experiment.from_body(body), settings.code)
    except ValidationError as error:
        raise WorkerProblem(
            f"Experiment {settings.experiment} is of another version than this worker: {error}"
        ) from error
    lease = Lease(api, settings.slot, process, body, settings.lease_seconds)
    await lease.acquire()
    return experiment, lease


async def _watch(api: KubeApi, pod: str, worker: Worker) -> None:
    async for runs in api.follow_runs(parse, f"status.assignment.pod={pod}"):
        worker.see(runs)


async def _leave_when(told: asyncio.Event, worker: Worker) -> None:
    await told.wait()
    worker.leave()

"""The running operator: its picture of the cluster, and all that works on it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from kubernetes import aio

from rapidfireai.kube import connect
from rapidfireai_operator.adapters.clock import SystemClock
from rapidfireai_operator.adapters.kubernetes import Api, ApiError, open_session
from rapidfireai_operator.adapters.leadership import Leadership, end_process
from rapidfireai_operator.adapters.metrics import Metrics
from rapidfireai_operator.adapters.mlflow import Mlflow
from rapidfireai_operator.core.picture import Kind, Picture
from rapidfireai_operator.loops.comparison import Comparison
from rapidfireai_operator.loops.definitions import Definitions
from rapidfireai_operator.loops.experiments import Experiments
from rapidfireai_operator.loops.health import Health, serve_probes
from rapidfireai_operator.loops.tracking import Tracking
from rapidfireai_operator.settings import Settings

LOGIN_PAUSE_SECONDS = 2.0
"""Between two logins, so that an API server that refuses the token is not asked all the time."""
_log = structlog.get_logger(__name__)


class Operator:
    """Everything that lives as long as the process.

    Args:
        settings: The operator's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.picture = Picture()
        self.metrics = Metrics()
        self._clock = SystemClock()
        self.health = Health(self._clock, patience=3 * settings.resync_seconds + 60)
        self._client: aio.client.ApiClient | None = None
        self._experiments: Experiments | None = None
        self._leadership: Leadership | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[web.AppRunner] = []
        self._logins = 0

    async def start(self) -> None:
        """Connect, wait for the resources, and start the loops.

        Raises:
            OSError: If a port is taken.
        """
        settings = self.settings
        self._client = await connect()
        leadership = self._leadership = Leadership(
            Api(self._client, self.metrics),
            settings.lease_namespace,
            settings.pod_name,
            settings.leader_seconds,
            self.metrics,
        )
        api = Api(self._client, self.metrics, leadership.check)
        self._servers = await serve_probes(
            self.health, self.metrics, settings.address, settings.port, settings.health_port
        )
        await self._wait_for_resources(api)
        self._experiments = Experiments(api, self.picture, settings.rules, self._clock, self.metrics, self.health)
        comparison = Comparison(
            api,
            self.picture,
            self._experiments,
            settings.namespaces,
            settings.resync_seconds,
            self._clock,
            self.health,
            leadership.leading,
        )
        self._tasks.append(asyncio.create_task(leadership.campaign(), name="leadership"))
        self._tasks[-1].add_done_callback(_end_with)
        self._tasks.append(asyncio.create_task(comparison.run(), name="comparison"))
        definitions = Definitions(api, self._experiments, settings.resync_seconds, self.metrics)
        self._tasks.append(asyncio.create_task(definitions.run(), name="definitions"))
        if settings.mlflow_url:
            mlflow = Mlflow(settings.mlflow_url)
            tracking = Tracking(
                api, self.picture, mlflow, self._clock, self.metrics, comparison.listed, leadership.check
            )
            self._tasks.append(asyncio.create_task(tracking.run(), name="tracking"))

    async def stop(self) -> None:
        """End the loops and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._experiments is not None:
            await self._experiments.close()
        if self._leadership is not None:
            await self._leadership.resign()
        for server in self._servers:
            await server.cleanup()
        if self._client is not None:
            await self._client.close()

    async def log_in(self) -> tuple[str, aiohttp.ClientSession]:
        """Return the API server's address and a session to it."""
        if self._logins:
            await asyncio.sleep(LOGIN_PAUSE_SECONDS)
        self._logins += 1
        client = self._client or await connect()
        return client.configuration.host, open_session(client)

    def take_up(self, kind: Kind, body: dict[str, Any], *, gone: bool) -> None:
        """Fold what a watch brought into the picture and wake the experiment that it concerns."""
        key = self.picture.forget(kind, body) if gone else self.picture.fold(kind, body, self._clock.monotonic())
        while self.picture.unreadable:
            of, where, name, problem = self.picture.unreadable.popleft()
            _log.warning("object cannot be read", kind=of, namespace=where.namespace, name=name, problem=problem)
        if key is not None and self._experiments is not None:
            self._experiments.wake(key)

    async def _wait_for_resources(self, api: Api) -> None:
        """Wait until the API server serves the three kinds: kopf looks for them once, at its start."""
        while not await self._has_resources(api):
            self.health.turned()
            await asyncio.sleep(1.0)

    async def _has_resources(self, api: Api) -> bool:
        """Return whether they are served; any workspace tells, as one that lacks a right tells nothing."""
        for namespace in self.settings.namespaces:
            try:
                for kind in ("experiments", "runs", "icops"):
                    await api.list(kind, namespace)
            except ApiError as error:
                _log.warning("the custom resources cannot be listed yet", namespace=namespace, error=str(error))
            else:
                return True
        return False


def _end_with(task: asyncio.Task[None]) -> None:
    """End the process with a task that must not fail: without it nobody would notice that the Lease ran out."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the election failed", exc_info=error)
        end_process(f"the election failed: {error}")

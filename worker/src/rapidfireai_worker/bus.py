"""Assignments in, progress out: the traffic of one worker with the API server."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Literal

import structlog
from pydantic import ValidationError

from rapidfireai.api import Experiment, Run
from rapidfireai_worker import wire
from rapidfireai_worker.attempt import Attempt
from rapidfireai_worker.kubeapi import Body, KubeApi, Refused, Unavailable
from rapidfireai_worker.metrics import WorkerMetrics
from rapidfireai_worker.patience import insist
from rapidfireai_worker.slot import Grant

FIELD_MANAGER = "rapidfire-worker"
_REPORT_SECONDS = 2.0
_REPORTS_A_SECOND = 50
"""How many non-final patches all workers of an experiment may send together in a second."""
_log = structlog.get_logger(__name__)


def report_interval(workers: int) -> float:
    """Return the seconds between two reports of one worker, so that a large fleet does not flood the API server."""
    return max(_REPORT_SECONDS, workers / _REPORTS_A_SECOND)


class Bus:
    """What a worker reads and writes.

    Args:
        api: The API server.
        experiment: The experiment that the worker works for; it is read once and kept.
        metrics: What Prometheus sees.
    """

    def __init__(self, api: KubeApi, experiment: Experiment, metrics: WorkerMetrics) -> None:
        self._api = api
        self._metrics = metrics
        self._known: dict[str, frozenset[str]] = {}
        self._interval = report_interval(experiment.spec.workers.replicas)

    async def read(self, name: str) -> Run | None:
        """Return a Run as it is now, or None if it is gone. Outlives outages.

        Raises:
            Refused: If the API server does not allow it.
        """
        body = await insist(lambda: self._api.get("runs", name), self._metrics.api_errors.inc)
        return parse(body) if body is not None else None

    def seen(self, run: Run) -> None:
        """Remember which metrics and estimates the resource shows: the next patch takes away what it does not set."""
        progress = run.status.progress
        shown = progress.metrics.keys() | progress.estimates.keys() if progress else frozenset()
        self._known[run.metadata.uid] = self._known.get(run.metadata.uid, frozenset()) | shown

    async def report(self, attempt: Attempt, begun: asyncio.Event) -> None:
        """Say that an attempt began, then now and then how far it is, until cancelled.

        What cannot be sent is left out. Only the first report tells the operator that the chunk of a run that is being
        stopped is under way, and to be finished.
        """
        await begun.wait()
        sent = None
        while True:
            latest = attempt.latest
            if latest != sent:
                step, metrics = latest
                known = self.known(attempt.grant)
                patch = wire.report(attempt.grant, step, metrics, attempt.seconds, known, attempt.estimates)
                try:
                    self._fold(await self._api.patch_run_status(attempt.grant.name, patch, FIELD_MANAGER))
                    sent = latest
                except (Refused, Unavailable) as problem:
                    self._metrics.api_errors.inc()
                    _log.warning("progress was not reported", error=str(problem))
            await asyncio.sleep(self._interval)

    def known(self, grant: Grant) -> frozenset[str]:
        """Return every metric and estimate that the resource may show."""
        return self._known.get(grant.uid, frozenset())

    async def commit(self, grant: Grant, patch: Body) -> Literal["committed", "refused"]:
        """Send a final patch until it is answered; as long as it takes, the Lease decides when to give up.

        A try whose answer was lost may have been the commit: then the fence refuses the next, and the Run tells.
        """
        try:
            send = partial(self._api.patch_run_status, grant.name, patch, FIELD_MANAGER)
            self._fold(await insist(send, self._metrics.api_errors.inc))
        except Refused as refusal:
            run = await self.read(grant.name)
            if run is None or run.metadata.uid != grant.uid or not wire.is_committed(run, grant):
                _log.warning("the commit was refused, the attempt is discarded", error=str(refusal))
                return "refused"
        return "committed"

    def _fold(self, body: Body) -> None:
        run = parse(body)
        if run is not None:
            self.seen(run)


def parse(body: Body) -> Run | None:
    """Return a Run as the API server sent it, or None, and a line in the log, if it is none that we understand."""
    try:
        return Run.from_body(body)
    except ValidationError as error:
        _log.error("a Run that this worker does not understand", run=body["metadata"]["name"], error=str(error))
        return None

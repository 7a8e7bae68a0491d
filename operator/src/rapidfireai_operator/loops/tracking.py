"""Keeps MLflow's experiments and runs in step, in a task and a thread of its own: it delays nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog

from rapidfireai_operator.adapters.clock import Clock
from rapidfireai_operator.adapters.kubernetes import Api, ApiError, NotFoundError
from rapidfireai_operator.adapters.metrics import Metrics
from rapidfireai_operator.adapters.mlflow import KnownRun, Mlflow, MlflowError, MlflowRefusedError
from rapidfireai_operator.core.conditions import find
from rapidfireai_operator.core.picture import Key, Kind, Picture
from rapidfireai_operator.core.snapshot import Subject
from rapidfireai_operator.core.tracking import TrackedRun, tracked_experiment, tracked_run

PERIOD_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 20.0
T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """What MLflow is known to have of an experiment."""

    id: str
    runs: dict[str, KnownRun] = field(default_factory=dict)


class Tracking:
    """The MLflow bookkeeper.

    Args:
        api: Where IDs are written to the status of resources.
        picture: What is known of the cluster.
        mlflow: The server.
        clock: The clock.
        metrics: Where errors are counted.
        listed: Set once the picture is complete: before that, what is not in it is not gone.
        guard: Called right before each request to MLflow; raises if this process may not write.
    """

    def __init__(
        self,
        api: Api,
        picture: Picture,
        mlflow: Mlflow,
        clock: Clock,
        metrics: Metrics,
        listed: asyncio.Event,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._api, self._picture, self._mlflow, self._clock, self._metrics = api, picture, mlflow, clock, metrics
        self._listed, self._guard = listed, guard
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._known: dict[str, _Known] = {}

    async def run(self) -> None:
        """Compare and correct for ever; MLflow being away only makes it late."""
        failures = 0
        try:
            await self._listed.wait()
            while True:
                try:
                    await self.look()
                    failures = 0
                    self._metrics.mlflow_in_step.set(self._clock.now())
                except (MlflowError, ApiError) as error:
                    failures += 1
                    self._metrics.mlflow_errors.inc()
                    _log.warning("MLflow is not in step, trying again", error=str(error))
                await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, PERIOD_SECONDS * 2 ** min(failures, 10)))
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> None:
        """Bring MLflow in step once.

        Raises:
            MlflowError: If MLflow refuses or does not answer.
            ApiError: If the API server does.
        """
        subjects = {
            subject.uid: (key, subject)
            for key in self._picture.known()
            if (subject := self._picture.subject(key)) is not None and _is_tracked(subject)
        }
        for uid, (key, subject) in subjects.items():
            await self._look_at(key, subject, uid)
        for uid in set(self._known) - set(subjects):
            await self._end(self._known[uid], set())
            del self._known[uid]

    async def _look_at(self, key: Key, subject: Subject, uid: str) -> None:
        known = self._known.get(uid)
        if known is None:
            wanted = tracked_experiment(subject)
            id_ = await self._call(lambda: self._mlflow.ensure_experiment(wanted))
            known = self._known[uid] = _Known(id_, await self._call(lambda: self._mlflow.runs(id_)))
        if subject.status.ml_flow_experiment_id != known.id:
            await self._write("experiments", key.namespace, key.name, {"mlflowExperimentID": known.id})
        runs = self._picture.runs(subject)
        for run in runs:
            if run.status.attempt == 0 and run.metadata.uid not in known.runs:
                continue  # thousands may wait for their turn; MLflow gets to know a run when it begins
            try:
                told = tracked_run(run)
                if told.deleted:
                    await self._hide(known, told)
                    continue
                recorded = await self._look_at_run(known, told)
            except MlflowRefusedError as error:
                _log.warning("MLflow refuses a run", experiment=key.name, run=run.metadata.name, error=str(error))
                continue
            if run.status.mlflow_run_id != recorded:
                await self._write("runs", key.namespace, run.metadata.name, {"mlflowRunID": recorded})
        await self._end(known, {run.metadata.uid for run in runs})

    async def _look_at_run(self, known: _Known, wanted: TrackedRun) -> str:
        """Bring one run in step; return its ID."""
        run = known.runs.get(wanted.uid)
        if run is None:
            id_ = await self._call(lambda: self._mlflow.create_run(known.id, wanted))
            run = known.runs[wanted.uid] = KnownRun(id_, "RUNNING", has_params=False)
        if not run.has_params:
            id_ = run.id
            await self._call(lambda: self._mlflow.log_params(id_, wanted))
            run = known.runs[wanted.uid] = replace(run, has_params=True)
        if run.state != wanted.state:
            id_ = run.id
            await self._call(lambda: self._mlflow.set_state(id_, wanted.state))
            run = known.runs[wanted.uid] = replace(run, state=wanted.state)
        return run.id

    async def _hide(self, known: _Known, wanted: TrackedRun) -> None:
        """Delete a run from MLflow, ended; one that is not known there was hidden already, or never began."""
        run = known.runs.get(wanted.uid)
        if run is None:
            return
        if run.state == "RUNNING":
            await self._call(lambda: self._mlflow.set_state(run.id, wanted.state))
        await self._call(lambda: self._mlflow.delete_run(run.id))
        del known.runs[wanted.uid]

    async def _end(self, known: _Known, present: set[str]) -> None:
        """End what MLflow takes for running and the cluster knows no more."""
        for uid, run in known.runs.items():
            if uid not in present and run.state == "RUNNING":
                id_ = run.id
                await self._call(lambda: self._mlflow.set_state(id_, "KILLED"))  # noqa: B023 - awaited at once
                known.runs[uid] = replace(run, state="KILLED")

    async def _write(self, kind: Kind, namespace: str, name: str, status: dict[str, str]) -> None:
        try:
            answer = await self._api.patch(kind, namespace, name, {"status": status}, status=True)
        except NotFoundError:
            return  # deleted meanwhile; the picture learns it by its watch
        self._picture.fold(kind, answer, self._clock.monotonic())

    async def _call(self, function: Callable[[], T]) -> T:
        def guarded() -> T:
            self._guard()
            return function()

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)


def _is_tracked(subject: Subject) -> bool:
    accepted = find(subject.status.conditions, "Accepted")
    return accepted is not None and accepted.status == "True" and not subject.leaving

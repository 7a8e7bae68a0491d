"""The logs of an experiment's workers, read from their pods."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from kubernetes.client import ApiException, V1Pod

from rapidfireai.api import Experiment, worker_name
from rapidfireai.connection import Connection
from rapidfireai.errors import ExperimentError
from rapidfireai.progress.picture import condition_is
from rapidfireai.show.lookup import few
from rapidfireai.show.worker_logs import LogEntry, WorkerLog, of_run

_WORKER_LABEL = "rapidfire.ai/worker"
_POLL_SECONDS = 1.0
_OVERLAP_SECONDS = 5
"""How much of a log is read again each time: clocks of nodes differ."""
_NO_LOG = frozenset({400, 404})
"""Answers for a container that has not started, or has gone."""


class PodLogs:
    """What the workers of an experiment write.

    Args:
        connection: The workspace.
        experiment: The experiment.
        run: The run whose lines are wanted; empty for all.
        worker: The worker slot whose lines are wanted, or its number; None for all.

    Raises:
        ExperimentError: If the experiment has no such worker.
    """

    def __init__(
        self, connection: Connection, experiment: Experiment, run: str = "", worker: str | None = None
    ) -> None:
        self._connection = connection
        self._experiment = experiment.metadata.name
        self._run = run
        self._worker = worker_name(self._experiment, int(worker)) if worker and worker.isdecimal() else worker
        self._logs: dict[str, WorkerLog] = {}
        self._asked: float | None = None

    def until_now(self) -> list[LogEntry]:
        """Return what is there, oldest first.

        Raises:
            ExperimentError: If there is no pod to ask.
        """
        entries = self.new()
        self._check_was_there()
        return entries

    def new(self) -> list[LogEntry]:
        """Return what was written since this was last called, at first what is there, oldest first."""
        before, self._asked = self._asked, time.monotonic()
        return self._new(self._pods(), None if before is None else math.ceil(self._asked - before) + _OVERLAP_SECONDS)

    def follow(self) -> Iterator[LogEntry]:
        """Yield what is there and what comes, until the run is finished, or the experiment if all of it is wanted."""
        while True:
            over = self._is_over()  # asked before, so that the last lines are read
            yield from self.new()
            if over:
                self._check_was_there()
                return
            time.sleep(_POLL_SECONDS)

    def _check_was_there(self) -> None:
        if not self._logs:
            raise ExperimentError(
                f"{self._experiment} has no worker now, and what workers wrote goes with them; how its runs stand: "
                f"rapidfireai describe {self._run or self._experiment}"
            )

    def _is_over(self) -> bool:
        if self._run:
            return condition_is(self._connection.run(self._run), "Finished", "True")
        return condition_is(self._connection.experiment(self._experiment), "Finished", "True")

    def _pods(self) -> list[V1Pod]:
        pods = self._connection.worker_pods(self._experiment)
        chosen = [pod for pod in pods if self._worker in (None, _worker_of(pod))]
        if pods and not chosen:
            raise ExperimentError(f"--worker: there is no {self._worker}; there are {few(map(_worker_of, pods))}")
        return chosen

    def _new(self, pods: Iterable[V1Pod], since: int | None = None) -> list[LogEntry]:
        entries = [entry for pod in pods for entry in of_run(self._read(pod, since), self._run)]
        return sorted(entries, key=lambda entry: entry.time)

    def _read(self, pod: V1Pod, since: int | None) -> Iterator[LogEntry]:
        name = str(pod.metadata.name)
        log = self._logs.get(name)
        lines: list[str] = []
        if log is None:
            log = self._logs[name] = WorkerLog(_worker_of(pod))
            since = None  # it is read for the first time
            if any(each.restart_count for each in (pod.status.container_statuses or [])):
                lines += self._lines(name, previous=True)
        lines += self._lines(name, **({"since_seconds": since} if since else {}))
        yield from log.read(lines)

    def _lines(self, pod: str, **options: Any) -> list[str]:
        try:
            # The client returns None for a log without a line.
            return str(self._connection.pod_log(pod, timestamps=True, **options) or "").splitlines()
        except ApiException as error:
            if error.status in _NO_LOG:
                return []
            raise


def _worker_of(pod: V1Pod) -> str:
    return str((pod.metadata.labels or {}).get(_WORKER_LABEL, pod.metadata.name))

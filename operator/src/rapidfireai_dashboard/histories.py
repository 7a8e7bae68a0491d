"""One metric out of the logs of some runs, fetched through the gateway; what was fetched once is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from rapidfireai_dashboard.curves import MOST_LOG_POINTS, Choice, LogPoint, log_metric
from rapidfireai_dashboard.runs import RunLine
from rapidfireai_gateway.backend import Backend
from rapidfireai_gateway.errors import GatewayError

_AT_ONCE = 8
"""How many runs are asked for at the same time."""


@dataclass(slots=True)
class _Log:
    metric: str
    cursor: str = ""
    points: list[LogPoint] = field(default_factory=list)


class Histories:
    """The chosen metric of the runs that are asked for; another metric is read from the logs anew.

    Attributes:
        names: All names of metrics that were seen.
        problem: Why the logs could not be read last time, or empty.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._logs: dict[str, _Log] = {}
        self.names: set[str] = set()
        self.problem = ""

    def points(self) -> dict[str, Sequence[LogPoint]]:
        """Return what is known, by run."""
        return {run: log.points for run, log in self._logs.items()}

    async def fetch(self, backend: Backend, lines: Sequence[RunLine], choice: Choice) -> None:
        """Read what is new in the logs of some runs, and forget the other runs."""
        wanted = {line.name: log_metric(line, choice) for line in lines}
        self._logs = {run: log for run, log in self._logs.items() if wanted.get(run) == log.metric}
        room = asyncio.Semaphore(_AT_ONCE)

        async def read(run: str, metric: str) -> None:
            async with room:
                await self._read(backend, run, self._logs.setdefault(run, _Log(metric)))

        answers = await asyncio.gather(
            *(read(run, metric) for run, metric in wanted.items() if metric), return_exceptions=True
        )
        failed = [each for each in answers if isinstance(each, BaseException)]
        for error in failed:
            if not isinstance(error, GatewayError):
                raise error
        self.problem = str(failed[0]) if failed else ""

    async def _read(self, backend: Backend, run: str, log: _Log) -> None:
        while True:
            text, cursor = await backend.metrics(self._namespace, run, log.cursor)
            for line in text.splitlines():
                entry = json.loads(line)
                self.names |= entry["values"].keys()
                value = entry["values"].get(log.metric)
                if value is not None:
                    log.points.append(LogPoint(entry["step"], entry["time"], value))
            if len(log.points) > MOST_LOG_POINTS:
                # Every other of the older ones goes: the shape stays, and so does all that is recent.
                half = len(log.points) // 2
                log.points = log.points[:half:2] + log.points[half:]
            if not text or cursor == log.cursor:
                return
            log.cursor = cursor

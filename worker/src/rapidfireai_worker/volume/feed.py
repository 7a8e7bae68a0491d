"""MLflow's feed: sends what runs log to MLflow, later if MLflow is slow, and never twice.

The place up to which a log was sent lies beside it. If the service dies between sending and noting that, it sends the
same lines again, with the same times: MLflow keeps one of identical metrics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog
from pydantic import BaseModel, ValidationError

from rapidfireai_worker.durable import replace_file
from rapidfireai_worker.kubeapi import Body, KubeApi
from rapidfireai_worker.layout import RunDirectory, Volume
from rapidfireai_worker.runlog import Cursor, read_after
from rapidfireai_worker.volume.homes import home_of
from rapidfireai_worker.volume.mlflow import Mlflow, MlflowRefused, MlflowUnavailable

PERIOD_SECONDS = 1.0
"""How often the logs are looked at."""
_READ_BYTES = 256 << 10
_PAUSES = (1.0, 60.0)
"""First and longest pause after a failure, in seconds."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FedRun:
    """A run that MLflow knows.

    Attributes:
        uid: The UID that its files lie under.
        name: Its name.
        experiment_uid: Its experiment's.
        mlflow_run: MLflow's ID of it.
        rows: The rows that it answers in all, once they are counted: of a training run its optimizer steps.
    """

    uid: str
    name: str
    experiment_uid: str
    mlflow_run: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Outbox:
    """What MLflow has not got yet.

    Attributes:
        bytes: Bytes of all logs that were not sent.
        age: For how long, in seconds, nothing could be sent of the run that has waited longest.
    """

    bytes: int = 0
    age: float = 0.0


class Position(BaseModel):
    """Up to where a log was sent, and to which run of MLflow."""

    mlflow_run: str
    cursor: Cursor = Cursor()


@dataclass(slots=True)
class Pause:
    """How long to leave something alone after it failed."""

    until: float = 0.0
    seconds: float = _PAUSES[0]

    def extend(self) -> None:
        """Wait from now on, longer each time."""
        self.until = time.monotonic() + self.seconds
        self.seconds = min(2 * self.seconds, _PAUSES[1])

    @property
    def over(self) -> bool:
        """Whether to try again."""
        return time.monotonic() >= self.until


def fed_run_of(body: Body) -> FedRun | None:
    """Return what the feed must know of a Run, or None if MLflow does not know it."""
    mlflow_run = body.get("status", {}).get("mlflowRunID")
    home = home_of(body)
    if not mlflow_run or not home.experiment:
        return None
    rows = (body["status"].get("prepared") or {}).get("totalSteps")
    return FedRun(home.run, body["metadata"]["name"], home.experiment, mlflow_run, rows)


class Feed:
    """Sends the logs of a workspace's runs to one MLflow server.

    Args:
        volume: The shared volume.
        url: The MLflow server.
    """

    def __init__(self, volume: Volume, url: str) -> None:
        self._volume = volume
        self._mlflow = Mlflow(url)
        self._runs: Mapping[str, FedRun] = {}
        self._positions: dict[str, Position] = {}
        self._pause = Pause()
        self._refused: dict[str, Pause] = {}
        self._moved: dict[str, float] = {}

    async def run(self, api: KubeApi) -> None:
        """Feed for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(api))
            while True:
                if self._pause.over:
                    await asyncio.to_thread(self.pass_once, list(self._runs.values()))
                await asyncio.sleep(PERIOD_SECONDS)

    async def _follow(self, api: KubeApi) -> None:
        async for runs in api.follow_runs(fed_run_of):
            self._runs = runs

    def outbox(self) -> Outbox:
        """Return what is not sent yet; it looks at the volume."""
        now, waiting, age = time.monotonic(), 0, 0.0
        for run in list(self._runs.values()):
            size = _size(self._volume.run(run.experiment_uid, run.uid))
            sent = self._positions.get(run.uid)
            left = size - (sent.cursor.position if sent is not None else 0)
            if left > 0:
                waiting += left
                age = max(age, now - self._moved.setdefault(run.uid, now))
        return Outbox(waiting, age)

    def pass_once(self, runs: Iterable[FedRun]) -> None:
        """Send what is new in each log. It blocks; a run that MLflow refuses holds up no other."""
        for run in runs:
            pause = self._refused.setdefault(run.uid, Pause())
            if not pause.over:
                continue
            try:
                while self._send_next(run):
                    pass
                self._refused[run.uid] = self._pause = Pause()
            except (MlflowUnavailable, OSError) as error:
                self._pause.extend()
                _log.warning("metrics are sent later", run=run.name, error=str(error))
                return
            except MlflowRefused as error:
                pause.extend()
                _log.warning("MLflow refuses the metrics of a run", run=run.name, error=str(error))
            except Exception:  # whatever is the matter with one run, the others are fed
                pause.extend()
                _log.exception("the metrics of a run cannot be sent", run=run.name)

    def _send_next(self, run: FedRun) -> bool:
        """Send the next lines of a log; return whether there were any."""
        directory = self._volume.run(run.experiment_uid, run.uid)
        position = self._positions[run.uid] = self._position(run, directory)
        if _size(directory) <= position.cursor.position:
            self._moved[run.uid] = time.monotonic()
            return False
        self._moved.setdefault(run.uid, time.monotonic())
        lines, cursor = read_after(directory.metrics, position.cursor, _READ_BYTES)
        if cursor == position.cursor:
            return False
        if run.rows is None and any(line.kind == "shard" for line in lines):
            return False  # of how many rows these are is told any moment: the operator copies it before the first shard
        self._mlflow.log(run.mlflow_run, lines, run.rows)
        self._positions[run.uid] = Position(mlflow_run=run.mlflow_run, cursor=cursor)
        self._moved[run.uid] = time.monotonic()
        replace_file(directory.mlflow_position, self._positions[run.uid].model_dump_json().encode())
        return True

    def _position(self, run: FedRun, directory: RunDirectory) -> Position:
        """Return up to where the log was sent; from the beginning if that is not known."""
        known = self._positions.get(run.uid)
        if known is None:
            try:
                known = Position.model_validate_json(directory.mlflow_position.read_bytes())
            except (FileNotFoundError, ValidationError):
                known = Position(mlflow_run=run.mlflow_run)
        return known if known.mlflow_run == run.mlflow_run else Position(mlflow_run=run.mlflow_run)


def _size(directory: RunDirectory) -> int:
    """Return how many bytes a run has logged."""
    try:
        return directory.metrics.stat().st_size
    except FileNotFoundError:
        return 0

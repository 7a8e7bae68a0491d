"""One attempt while it is under way: what steers it, and what it last said of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rapidfireai.api.run import Estimate
from rapidfireai_worker.engine import Answered, ChunkControl, Discarded
from rapidfireai_worker.metrics import WorkerMetrics
from rapidfireai_worker.runlog import RunLog
from rapidfireai_worker.slot import Grant
from rapidfireai_worker.watchdog import Pulse


class Attempt:
    """What computing thread and event loop share of one attempt.

    Args:
        grant: What is worked on.
        step: The step that the run stands at.
        log: The run's log on the volume.
        metrics: What Prometheus sees.

    Attributes:
        pinned: The paths of the run's checkpoints that nobody may remove, as the API server last showed them.
        estimates: What an evaluation last estimated.
    """

    def __init__(self, grant: Grant, step: int, log: Path, metrics: WorkerMetrics) -> None:
        self.grant = grant
        self.log = RunLog(log)
        self.pinned: frozenset[str] = frozenset()
        self.estimates: Mapping[str, Estimate] = {}
        self.control = ChunkControl(
            report=self._report,
            log=self.log.append,
            pinned=lambda: self.pinned,
            estimate=self._estimate,
            answered=self._answered,
            alive=self._alive,
        )
        self._prometheus = metrics
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._step = step
        self._stepped = self._began
        self._values: Mapping[str, float] = {}
        self._begun = False
        self._pulse = Pulse()
        self._heard = step
        metrics.begun(grant.name, step)

    @property
    def seconds(self) -> float:
        """How long the attempt has been under way."""
        return round(time.monotonic() - self._began, 3)

    @property
    def has_something_to_lose(self) -> bool:
        """Whether a process that leaves now would lose steps.

        Preparing and waiting for the engine are no loss. Neither is an index: what is whole lies on the volume, where
        the next attempt finds it, and of what is not nothing can be kept.
        """
        return self._begun and self.grant.task == "chunk"

    @property
    def begun(self) -> bool:
        """Whether the engine ever had it."""
        return self._begun

    def begin(self, pulse: Pulse) -> None:
        """Note that the engine has the attempt now.

        Args:
            pulse: Hears of every step.

        Raises:
            Discarded: If it is not to begin any more.
        """
        if self.control.park.is_set() or self.control.discard.is_set():
            raise Discarded
        self._pulse = pulse
        self._begun = True

    @property
    def latest(self) -> tuple[int, Mapping[str, float]]:
        """The step that was reached and the latest metrics."""
        with self._lock:
            return self._step, self._values

    def _estimate(self, estimates: Mapping[str, Estimate]) -> None:
        self.estimates = dict(estimates)

    def _alive(self) -> None:
        self._pulse.beat()

    def _answered(self, batch: Answered) -> None:
        self._pulse.beat()
        self._prometheus.answered(batch)

    def _report(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        with self._lock:
            if step != self._heard:
                self._heard = step  # it goes back where a chunk is tried again, which is a sign of life too
                self._pulse.beat()
            steps = step - self._step
            if steps > 0:
                self._prometheus.step_seconds.observe((now - self._stepped) / steps)
                self._step, self._stepped = step, now
            self._values = dict(metrics)
        self._prometheus.reported(self.grant.name, metrics)

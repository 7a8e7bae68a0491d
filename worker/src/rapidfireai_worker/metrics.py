"""What a worker shows Prometheus."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from rapidfireai_worker.engine import Answered, Holdings

_log = structlog.get_logger(__name__)
_PREFIX = "rapidfire_worker_"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class WorkerMetrics:
    """The metrics of one worker process; units are in the names."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry)

        def seconds(name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
            return Histogram(_PREFIX + name, text, labels, registry=registry, buckets=_SECONDS)

        self.step_seconds = seconds("step_seconds", "Time of one optimizer step, or of one answered row.")
        self.chunk_seconds = seconds("chunk_seconds", "Computing time of one assignment.", ["task"])
        self.checkpoint_seconds = seconds("checkpoint_seconds", "Time to make a checkpoint durable.")
        self.checkpoint_bytes = counter("checkpoint_bytes", "Bytes of all checkpoints made.")
        self.attempts = counter("attempts", "Attempts by end: committed, failed, discarded, refused.", ["outcome"])
        self.api_errors = counter("api_errors", "Requests that the API server did not answer.")
        self.loss = gauge("loss", "Latest training loss.", ["run"])
        self.learning_rate = gauge("learning_rate", "Latest learning rate.", ["run"])
        self.residents = gauge("residents", "Runs whose sessions are warm.")
        self.resident_bytes = gauge("resident_bytes", "Memory that warm sessions hold.")
        self.memory_used_bytes = gauge("memory_used_bytes", "Memory that the process holds, on the GPU if it has one.")
        self.memory_budget_bytes = gauge("memory_budget_bytes", "Memory that it may hold there.")
        self.evictions = counter("evictions", "Warm sessions that had to leave to make room.")
        self.rows_answered = counter("rows_answered", "Rows of evaluations that have an answer.")
        self.rows_failed = counter("rows_failed", "Rows of evaluations that failed: they are tried again later.")
        self.tokens = counter("tokens", "Tokens of evaluations, read (prompt) and written (completion).", ["kind"])
        self.batch_seconds = seconds("batch_seconds", "Time from asking for a batch's answers to the last of them.")
        self.assignments = gauge("assignments", "Assignments that this process holds.")
        self._evictions = 0
        self._shown: dict[Gauge, set[str]] = {self.loss: set(), self.learning_rate: set()}

    def serve(self, address: str, port: int) -> None:
        """Serve `/metrics`; a port that is taken costs the metrics, not the training."""
        try:
            start_http_server(port, addr=address, registry=self.registry)
        except OSError as error:
            _log.error("no /metrics: set RAPIDFIRE_PORT to a free port", address=address, port=port, error=str(error))

    def reported(self, run: str, metrics: Mapping[str, float]) -> None:
        """Show the latest metrics of a run."""
        for gauge, name in ((self.loss, "loss"), (self.learning_rate, "learning_rate")):
            value = metrics.get(name)
            if value is not None and math.isfinite(value):
                gauge.labels(run).set(value)
                self._shown[gauge].add(run)

    def answered(self, batch: Answered) -> None:
        """Count a batch of an evaluation."""
        self.rows_answered.inc(batch.rows - batch.failed)
        self.rows_failed.inc(batch.failed)
        self.tokens.labels("prompt").inc(batch.prompt_tokens)
        self.tokens.labels("completion").inc(batch.completion_tokens)
        self.batch_seconds.observe(batch.seconds)

    def show_holdings(self, held: Holdings) -> None:
        """Show what the engine holds in memory."""
        self.residents.set(len(held.residents))
        self.resident_bytes.set(sum(held.residents.values()))
        self.memory_used_bytes.set(held.used)
        self.memory_budget_bytes.set(held.budget)
        self.evictions.inc(held.evictions - self._evictions)
        self._evictions = held.evictions

    def forget(self, run: str) -> None:
        """Show a run no longer: it is not here any more."""
        for gauge, shown in self._shown.items():
            if run in shown:
                shown.remove(run)
                gauge.remove(run)

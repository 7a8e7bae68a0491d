"""What a worker shows Prometheus."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import Metric

from rapidfireai_worker.engine import Answered, Holdings
from rapidfireai_worker.gpus import GpuCollector
from rapidfireai_worker.measures import ALL, PREFIX, SECONDS

_log = structlog.get_logger(__name__)
CONSTANT = ("experiment", "worker")
"""Labels that every metric of a worker has, so that no scrape configuration needs to add them."""
_TRAINED_TOKENS = "num_tokens"
"""What TRL logs: the tokens that a run has read since it began."""


class LabelledRegistry(CollectorRegistry):
    """A registry that adds labels to all that it shows.

    Args:
        labels: The labels.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__()
        self._labels = dict(labels)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with the labels."""
        for metric in super().collect():
            metric.samples = [sample._replace(labels={**self._labels, **sample.labels}) for sample in metric.samples]
            yield metric


class WorkerMetrics:
    """The metrics of one worker process; units are in the names.

    Args:
        experiment: What it works for.
        worker: The name of its slot.
    """

    def __init__(self, experiment: str = "", worker: str = "") -> None:
        labels = dict(zip(CONSTANT, (experiment, worker), strict=True))
        self.registry = registry = LabelledRegistry({name: value for name, value in labels.items() if value})
        ProcessCollector(registry=registry)
        for each in (*ALL, GpuCollector(os.environ)):
            registry.register(each)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(PREFIX + name, text, labels, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=registry)

        def seconds(name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
            return Histogram(PREFIX + name, text, labels, registry=registry, buckets=SECONDS)

        self.step_seconds = seconds("step_seconds", "Time of one optimizer step, or of one answered row.")
        self.chunk_seconds = seconds("chunk_seconds", "Computing time of one assignment.", ["task"])
        self.checkpoint_seconds = seconds("checkpoint_seconds", "Time to make a checkpoint durable.")
        self.checkpoint_bytes = counter("checkpoint_bytes", "Bytes of all checkpoints made.")
        self.attempts = counter("attempts", "Attempts by end: committed, failed, discarded, refused.", ["outcome"])
        self.api_errors = counter("api_errors", "Requests that the API server did not answer.")
        self.loss = gauge("loss", "Latest training loss.", ["run"])
        self.eval_loss = gauge("eval_loss", "Loss on the evaluation set at the latest boundary.", ["run"])
        self.learning_rate = gauge("learning_rate", "Latest learning rate.", ["run"])
        self.residents = gauge("residents", "Runs whose sessions are warm.")
        self.resident_bytes = gauge("resident_bytes", "Memory that warm sessions hold.")
        self.memory_used_bytes = gauge("memory_used_bytes", "Memory that the process holds, on the GPU if it has one.")
        self.memory_budget_bytes = gauge("memory_budget_bytes", "Memory that it may hold there.")
        self.evictions = counter("evictions", "Warm sessions that had to leave to make room.")
        self.rows_answered = counter("rows_answered", "Rows of evaluations that have an answer.")
        self.rows_failed = counter("rows_failed", "Rows of evaluations that failed: they are tried again later.")
        self.tokens = counter(
            "tokens", "Tokens: trained, read by evaluations (prompt), written by them (completion).", ["kind"]
        )
        self.batch_seconds = seconds("batch_seconds", "Time from asking for a batch's answers to the last of them.")
        self.assignments = gauge("assignments", "Assignments that this process holds.")
        self._evictions = 0
        self._trained: dict[str, float] = {}
        self._latest = {"loss": self.loss, "boundary/eval_loss": self.eval_loss, "learning_rate": self.learning_rate}
        self._shown: dict[Gauge, set[str]] = {each: set() for each in self._latest.values()}

    def serve(self, address: str, port: int) -> None:
        """Serve `/metrics`; a port that is taken costs the metrics, not the training."""
        try:
            start_http_server(port, addr=address, registry=self.registry)
        except OSError as error:
            _log.error("no /metrics: set RAPIDFIRE_PORT to a free port", address=address, port=port, error=str(error))

    def begun(self, run: str, step: int) -> None:
        """Note the step at which a run goes on: what it trained before is not counted."""
        if step == 0:
            self._trained[run] = 0.0

    def reported(self, run: str, metrics: Mapping[str, float]) -> None:
        """Show the latest metrics of a run."""
        for name, gauge in self._latest.items():
            value = metrics.get(name)
            if value is not None and math.isfinite(value):
                gauge.labels(run).set(value)
                self._shown[gauge].add(run)
        read = metrics.get(_TRAINED_TOKENS)
        if read is not None and math.isfinite(read):
            # Less than before is a chunk that is tried again: its tokens are read again.
            self.tokens.labels("trained").inc(max(0.0, read - self._trained.get(run, read)))
            self._trained[run] = read

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
        self._trained.pop(run, None)
        for gauge, shown in self._shown.items():
            if run in shown:
                shown.remove(run)
                gauge.remove(run)

"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from rapidfireai.api.run import RunState
from rapidfireai_operator.core.accounts import Account, Progress
from rapidfireai_operator.core.summary import ExperimentState

_PREFIX = "rapidfire_"
_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
_LONG_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
STATES: tuple[str, ...] = get_args(RunState)
EXPERIMENT_STATES: tuple[str, ...] = get_args(ExperimentState)
_EXPERIMENT = ("namespace", "experiment")


class Metrics:
    """The operator's own metrics, in a registry of their own; units are in the names.

    Those with the labels `namespace` and `experiment` go when the experiment does.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry)

        def seconds(name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(_PREFIX + name, text, labels, registry=registry, buckets=buckets)

        self.leader = gauge("operator_leader", "Whether this operator leads (1) or stands by (0).")
        self._runs = gauge("runs", "Runs by state.", [*_EXPERIMENT, "state"])
        self._states = gauge("experiment_state", "1 for the state of an experiment, else 0.", [*_EXPERIMENT, "state"])
        self._chunks = gauge("chunks", "Chunks (shards) of all runs, as far as they are known.", _EXPERIMENT)
        self._chunks_done = gauge("chunks_done", "Chunks (shards) that are committed.", _EXPERIMENT)
        self._slots = gauge("worker_slots", "Worker slots that have a Job.", _EXPERIMENT)
        self._ready = gauge("workers_ready", "Workers that take assignments.", _EXPERIMENT)
        self._assignments = gauge("assignments", "Chunks given out now.", _EXPERIMENT)
        self._granted = counter("assignments_granted", "Assignments given out.", _EXPERIMENT)
        self._ended = counter(
            "assignments_ended",
            "Assignments by end: committed, failed (the run's error), lost (begun and never committed), withdrawn.",
            [*_EXPERIMENT, "end"],
        )
        self._decisions = counter(
            "decisions", "What passes decided to write, by kind; a conflict undoes some.", ["kind"]
        )
        self._icop_accepted = seconds(
            "icop_accepted_seconds", "From making an ICOp to its first record.", ["op"], _LONG_SECONDS
        )
        self._icop_complete = seconds(
            "icop_complete_seconds", "From making an ICOp to its completion.", ["op"], _LONG_SECONDS
        )
        self.reconcile = seconds("reconcile_seconds", "One look at an experiment, writes included.")
        self.lag = seconds(
            "planner_lag_seconds", "From the first change that was seen to the end of the look that took it up."
        )
        self._oldest_pass = gauge(
            "oldest_pass_seconds", "How long the longest look that is under way has taken so far."
        )
        self._compared = gauge(
            "comparison_age_seconds", "Time since the picture was last compared with the API server's lists."
        )
        self.api_requests = counter(
            "api_requests", "Requests to the API server; code 0 is no answer.", ["method", "resource", "code"]
        )
        self.api_seconds = seconds(
            "api_request_seconds", "Time of a request to the API server.", ["method", "resource"]
        )
        self.api_errors = counter(
            "api_errors",
            "Requests that the API server refused or did not answer.",
            ["method", "resource", "code"],
        )
        self.dropped_fields = gauge(
            "dropped_fields", "Fields that the operator knows and the definitions in the cluster do not."
        )
        self.mlflow_errors = counter("mlflow_errors", "Requests that MLflow refused or did not answer.")
        self.mlflow_in_step = gauge(
            "mlflow_in_step_timestamp_seconds", "When MLflow was last in step, in seconds since the epoch; 0 for never."
        )

    def show(self, namespace: str, experiment: str, states: Mapping[str, int], assignments: int) -> None:
        """Set the gauges of one experiment's runs."""
        for state in STATES:
            self._runs.labels(namespace, experiment, state).set(states.get(state, 0))
        self._assignments.labels(namespace, experiment).set(assignments)

    def show_progress(self, namespace: str, experiment: str, progress: Progress) -> None:
        """Set the gauges of one experiment as a whole."""
        for state in EXPERIMENT_STATES:
            self._states.labels(namespace, experiment, state).set(state == progress.state)
        self._chunks.labels(namespace, experiment).set(progress.chunks)
        self._chunks_done.labels(namespace, experiment).set(progress.done)
        self._slots.labels(namespace, experiment).set(progress.slots)
        self._ready.labels(namespace, experiment).set(progress.ready)

    def count(self, namespace: str, experiment: str, accounts: Iterable[Account]) -> None:
        """Count what was written for one experiment."""
        for account in accounts:
            if account.granted:
                self._granted.labels(namespace, experiment).inc()
            if account.ended is not None:
                self._ended.labels(namespace, experiment, account.ended).inc()
            if account.accepted is not None:
                self._icop_accepted.labels(account.op).observe(account.accepted)
            if account.complete is not None:
                self._icop_complete.labels(account.op).observe(account.complete)

    def decide(self, decisions: Mapping[str, int]) -> None:
        """Count what a pass decided, by kind."""
        for kind, count in decisions.items():
            self._decisions.labels(kind).inc(count)

    def show_health(self, oldest_pass: float, compared: float) -> None:
        """Set how long the longest look has taken so far, and how old the last comparison is, in seconds."""
        self._oldest_pass.set(oldest_pass)
        self._compared.set(compared)

    def drop(self, namespace: str, experiment: str) -> None:
        """Forget an experiment that is gone."""
        gone = {"namespace": namespace, "experiment": experiment}
        for metric in (
            self._runs,
            self._states,
            self._chunks,
            self._chunks_done,
            self._slots,
            self._ready,
            self._assignments,
            self._granted,
            self._ended,
        ):
            metric.remove_by_labels(gone)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

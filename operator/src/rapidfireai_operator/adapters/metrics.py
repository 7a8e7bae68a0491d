"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
STATES = ("Pending", "Running", "Stopped", "Succeeded", "Failed", "Deleted")


class Metrics:
    """The operator's own metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runs = Gauge(
            "rapidfire_runs", "Runs by state.", ["namespace", "experiment", "state"], registry=self.registry
        )
        self._assignments = Gauge(
            "rapidfire_assignments", "Chunks given out now.", ["namespace", "experiment"], registry=self.registry
        )
        self.reconcile = Histogram(
            "rapidfire_reconcile_seconds",
            "One look at an experiment, writes included.",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.lag = Histogram(
            "rapidfire_planner_lag_seconds",
            "From the first change that was seen to the end of the look that took it up.",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.api_errors = Counter(
            "rapidfire_api_errors",
            "Requests that the API server refused or did not answer.",
            ["method", "resource", "code"],
            registry=self.registry,
        )
        self.mlflow_errors = Counter(
            "rapidfire_mlflow_errors", "Requests that MLflow refused or did not answer.", registry=self.registry
        )

    def show(self, namespace: str, experiment: str, states: Mapping[str, int], assignments: int) -> None:
        """Set the gauges of one experiment."""
        for state in STATES:
            self._runs.labels(namespace, experiment, state).set(states.get(state, 0))
        self._assignments.labels(namespace, experiment).set(assignments)

    def drop(self, namespace: str, experiment: str) -> None:
        """Forget an experiment that is gone."""
        for state in STATES:
            self._runs.remove(namespace, experiment, state)
        self._assignments.remove(namespace, experiment)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

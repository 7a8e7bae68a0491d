"""The alerts: what somebody should look at, each with a section in docs/monitoring.md that says how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

RUNBOOKS = "docs/monitoring.md"
_RUN = "sum by (namespace, experiment)"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        name: Its name; its runbook's heading is the same.
        query: PromQL that is true while it should fire.
        wait: How long that has to hold.
        severity: `critical` is about everybody's work, `warning` about some of it.
        summary: One sentence about what is the matter, with labels.
        description: What follows from it, and where to look first.
    """

    name: str
    query: str
    wait: str
    severity: Literal["critical", "warning"]
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """Where to read on: headings' anchors are in lower case."""
        return f"{RUNBOOKS}#{self.name.lower()}"


ALERTS = (
    Alert(
        "RapidfireNoLeader",
        "(sum(rapidfire_operator_leader) or vector(0)) < 1",
        "2m",
        "critical",
        "No operator leads.",
        "Workers finish what they hold and get nothing new; IC Ops are not answered. Look at the operators' logs and "
        "at the Lease rapidfire-operator.",
    ),
    Alert(
        "RapidfireTwoLeaders",
        "sum(rapidfire_operator_leader) > 1",
        "1m",
        "critical",
        "More than one operator leads.",
        "Nothing is lost, since every write is conditional, but they undo each other's decisions. Two releases that "
        "serve the same workspaces look like this.",
    ),
    Alert(
        "RapidfirePlannerStuck",
        "max by (namespace, pod) (rapidfire_oldest_pass_seconds) > 120 or "
        "max by (namespace, pod) (rapidfire_comparison_age_seconds) > 240",
        "1m",
        "critical",
        "The operator {{ $labels.pod }} does not come round.",
        "A look at an experiment hangs, or the API server's lists are not compared any more. Its liveness probe "
        "restarts it; if it comes back, look at the API server.",
    ),
    Alert(
        "RapidfireNothingAssigned",
        f'({_RUN} (rapidfire_runs{{state="Pending"}}) > 0) and ({_RUN} (rapidfire_workers_ready) > 0) '
        f"and ({_RUN} (rapidfire_assignments) == 0)",
        "10m",
        "warning",
        "Runs of {{ $labels.namespace }}/{{ $labels.experiment }} wait while its workers have nothing to do.",
        "The planner gives out nothing though there is work and there are workers. Look at the runs' conditions.",
    ),
    Alert(
        "RapidfireLag",
        "histogram_quantile(0.95, sum by (le) (rate(rapidfire_planner_lag_seconds_bucket[10m]))) > 5",
        "10m",
        "warning",
        "The operator takes up changes late.",
        "More than one in twenty changes waits longer than five seconds, and workers wait as long between chunks. "
        "Compare the time of a request to the API server with the time of a look.",
    ),
    Alert(
        "RapidfireApiErrors",
        'sum(rate(rapidfire_api_errors_total{code=~"0|429|5.."}[10m])) / sum(rate(rapidfire_api_requests_total[10m])) '
        "> 0.05",
        "10m",
        "warning",
        "The API server fails the operator.",
        "More than 5 % of its requests are not answered or answered 429 or 5xx. Conflicts (409) do not count.",
    ),
    Alert(
        "RapidfireApiForbidden",
        'sum by (method, resource) (increase(rapidfire_api_errors_total{code="403"}[10m])) > 0',
        "10m",
        "warning",
        "The operator may not {{ $labels.method }} {{ $labels.resource }}.",
        "Its Role lacks a right, or an admission policy refuses the object: the log has the API server's words.",
    ),
    Alert(
        "RapidfireOlderDefinitions",
        "max(rapidfire_dropped_fields) > 0",
        "5m",
        "warning",
        "The API server drops {{ $value }} fields that the operator knows.",
        "The CustomResourceDefinitions are of an older version. What uses these fields does not work; all else does. "
        "The operator's log and a condition of every experiment name them.",
    ),
    Alert(
        "RapidfireWorkersMissing",
        f"{_RUN} (rapidfire_workers_ready) < {_RUN} (rapidfire_worker_slots)",
        "15m",
        "warning",
        "Workers of {{ $labels.namespace }}/{{ $labels.experiment }} do not become ready.",
        "The condition WorkersReady of the experiment says why: no node has room, an image cannot be pulled, the "
        "process ends at once.",
    ),
    Alert(
        "RapidfireChunksLost",
        f'{_RUN} (increase(rapidfire_assignments_ended_total{{end="lost"}}[30m])) > 3',
        "0m",
        "warning",
        "Workers of {{ $labels.namespace }}/{{ $labels.experiment }} die while they compute.",
        "Lost chunks are given out again and nothing is lost but time. Out of memory and reclaimed nodes are the usual "
        "causes: look at status.failures.lastCrash of the runs.",
    ),
    Alert(
        "RapidfireExperimentFailing",
        f'{_RUN} (rapidfire_runs{{state="Failed"}}) / {_RUN} (rapidfire_runs) > 0.5',
        "5m",
        "warning",
        "More than half of the runs of {{ $labels.namespace }}/{{ $labels.experiment }} have failed.",
        "That many are seldom the configs' fault alone: look at a run's error, it may be code or data that all share.",
    ),
    Alert(
        "RapidfireMlflowBehind",
        "max by (namespace) (rapidfire_volume_mlflow_outbox_age_seconds) > 900",
        "5m",
        "warning",
        "MLflow has got no metrics from {{ $labels.namespace }} for a quarter of an hour.",
        "Training goes on, and what runs log is kept on the volume until MLflow takes it. Look at MLflow's pod, and at "
        "the volume service's log.",
    ),
    Alert(
        "RapidfireVolumeFilling",
        "min by (namespace) (rapidfire_volume_free_bytes / rapidfire_volume_size_bytes) < 0.1",
        "10m",
        "warning",
        "The volume of {{ $labels.namespace }} is more than 90 % full.",
        "Delete experiments that are done with, shorten spec.retention, or enlarge the claim.",
    ),
    Alert(
        "RapidfireVolumeFull",
        "min by (namespace) (rapidfire_volume_free_bytes / rapidfire_volume_size_bytes) < 0.03",
        "2m",
        "critical",
        "The volume of {{ $labels.namespace }} is all but full.",
        "Chunks cannot be committed once it is, and runs wait. Nothing that is committed is harmed.",
    ),
    Alert(
        "RapidfireGatewayErrors",
        'sum(rate(rapidfire_gateway_requests_total{code=~"5.."}[10m])) / '
        "sum(rate(rapidfire_gateway_requests_total[10m])) > 0.05",
        "10m",
        "warning",
        "The gateway answers more than 5 % of its requests with 5xx.",
        "502 and 503 mean that the API server or a volume service does not answer, 500 a mistake of the gateway: its "
        "log has the reason.",
    ),
)


def rules() -> dict[str, Any]:
    """Return the content of Prometheus' rule file."""
    return {
        "groups": [
            {
                "name": "rapidfireai",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.query,
                        "for": alert.wait,
                        "labels": {"severity": alert.severity},
                        "annotations": {
                            "summary": alert.summary,
                            "description": alert.description,
                            "runbook_url": alert.runbook,
                        },
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }

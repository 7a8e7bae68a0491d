"""The dashboard fleet: all experiments, workers and services of the cluster."""

from __future__ import annotations

from monitoring.panels import Dashboard, Panel
from monitoring.queries import CHOSEN, EXPERIMENT, IN_NAMESPACE, NAMESPACE, increase, quantiles, rate
from monitoring.shared_panels import ENDS, GPU_LOAD, GPU_MEMORY, TOKENS

DASHBOARD = Dashboard(
    "fleet",
    "RapidFire AI / Fleet",
    "All experiments, workers and services of the cluster.",
    (NAMESPACE, EXPERIMENT),
    (
        (
            "Experiments",
            (
                Panel(
                    "Experiments by state",
                    "How many experiments are in each state now.",
                    {"{{state}}": f"sum by (state) (rapidfire_experiment_state{CHOSEN})"},
                    kind="bar",
                    width=6,
                ),
                Panel(
                    "Workers ready",
                    "Workers that take assignments, of the slots that have a Job.",
                    {
                        "ready": f"sum(rapidfire_workers_ready{CHOSEN})",
                        "slots": f"sum(rapidfire_worker_slots{CHOSEN})",
                    },
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Chunks committed",
                    "Of all experiments that are there.",
                    {
                        "done": f"sum(rapidfire_chunks_done{CHOSEN})",
                        "all": f"sum(rapidfire_chunks{CHOSEN})",
                    },
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Alerts that fire",
                    "Of this project's rules.",
                    {"{{alertname}}": 'count by (alertname) (ALERTS{alertname=~"Rapidfire.*", alertstate="firing"})'},
                    kind="number",
                    width=6,
                    limits=((1, "red"),),
                    sometimes="an alert fires",
                ),
                Panel(
                    "Runs by state",
                    "Pending runs wait for their turn or for a worker.",
                    {"{{state}}": f"sum by (state) (rapidfire_runs{CHOSEN})"},
                    stacked=True,
                ),
                Panel(
                    "Chunks per minute",
                    "Committed ones, by experiment.",
                    {"{{experiment}}": f"60 * {rate('rapidfire_assignments_ended_total', 'experiment')}"},
                    stacked=True,
                ),
                ENDS,
            ),
        ),
        (
            "Workers",
            (
                TOKENS,
                Panel(
                    "Memory against budget",
                    "What models and sessions of a worker hold, as part of what they may; on the GPU if it has one.",
                    {
                        "{{worker}}": f"rapidfire_worker_memory_used_bytes{CHOSEN} / "
                        f"(rapidfire_worker_memory_budget_bytes{CHOSEN} > 0)"
                    },
                    unit="percentunit",
                    most=1,
                    limits=((0.95, "red"),),
                ),
                Panel(
                    "Evictions",
                    "Warm sessions that had to leave for others. Many of them: fewer runs at a time, or more memory.",
                    {"{{experiment}}": increase("rapidfire_worker_evictions_total", "experiment")},
                ),
                GPU_LOAD,
                GPU_MEMORY,
            ),
        ),
        (
            "Volume service",
            (
                Panel(
                    "Volume free",
                    "Part of the volume that is free; alerts fire at 10 % and 3 %.",
                    {
                        "{{namespace}}": f"min by (namespace) (rapidfire_volume_free_bytes{IN_NAMESPACE} / "
                        f"rapidfire_volume_size_bytes{IN_NAMESPACE})"
                    },
                    unit="percentunit",
                    most=1,
                    limits=((0, "red"), (0.1, "green")),
                ),
                Panel(
                    "Uploads and clean-up",
                    "Bytes that users sent, and bytes that the clean-up removed, by reason.",
                    {
                        "uploaded {{kind}}": rate("rapidfire_volume_upload_bytes_total", "kind", IN_NAMESPACE),
                        "removed {{reason}}": rate("rapidfire_volume_removed_bytes_total", "reason", IN_NAMESPACE),
                    },
                    unit="Bps",
                    sometimes="somebody uploads, or something is removed",
                ),
                Panel(
                    "MLflow's outbox",
                    "Log lines that MLflow has not got yet; nothing is lost while it is away.",
                    {
                        "waiting": f"sum(rapidfire_volume_mlflow_outbox_bytes{IN_NAMESPACE})",
                    },
                    unit="bytes",
                ),
            ),
        ),
        (
            "Gateway",
            (
                Panel(
                    "Requests",
                    "By the template of their route.",
                    {"{{method}} {{route}}": rate("rapidfire_gateway_requests_total", "method, route", "")},
                    unit="reqps",
                    sometimes="somebody asks the gateway",
                ),
                Panel(
                    "Errors",
                    "Answers of 400 and more: 4xx are the callers', 5xx the cluster's.",
                    {
                        "{{code}} {{route}}": rate(
                            "rapidfire_gateway_requests_total", "code, route", '{code=~"4..|5.."}'
                        )
                    },
                    unit="reqps",
                    sometimes="a request is refused",
                ),
                Panel(
                    "Time to the answer",
                    "Until an answer begins; streams go on after it.",
                    quantiles("rapidfire_gateway_request_seconds", ""),
                    unit="s",
                    sometimes="somebody asks the gateway",
                ),
                Panel(
                    "Live feeds",
                    "Experiments that somebody watches, once for each caller.",
                    {
                        "feeds": "sum(rapidfire_gateway_feeds)",
                        "requests under way": "sum(rapidfire_gateway_requests_under_way)",
                    },
                ),
            ),
        ),
    ),
)

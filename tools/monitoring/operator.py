"""The dashboard operator: whether the operator keeps up, and what it asks of the API server."""

from __future__ import annotations

from monitoring.panels import Dashboard, Panel
from monitoring.queries import RATE, quantiles, rate

DASHBOARD = Dashboard(
    "operator",
    "RapidFire AI / Operator",
    "Whether the operator keeps up, and what it asks of the API server.",
    (),
    (
        (
            "Leadership and pace",
            (
                Panel(
                    "Leaders",
                    "Exactly one operator leads; the others stand by.",
                    {"leading": "sum(rapidfire_operator_leader)", "operators": "count(rapidfire_operator_leader)"},
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Longest look under way",
                    "A look that takes minutes hangs, and the operator is restarted.",
                    {"seconds": "max(rapidfire_oldest_pass_seconds)"},
                    unit="s",
                    kind="number",
                    width=6,
                    limits=((30, "orange"), (120, "red")),
                ),
                Panel(
                    "Last comparison",
                    "How long ago the operator compared its picture with the API server's lists.",
                    {"ago": "max(rapidfire_comparison_age_seconds)"},
                    unit="s",
                    kind="number",
                    width=6,
                    limits=((120, "orange"), (240, "red")),
                ),
                Panel(
                    "MLflow in step",
                    "How long ago MLflow had all experiments and runs.",
                    {"ago": "time() - max(rapidfire_mlflow_in_step_timestamp_seconds > 0)"},
                    unit="s",
                    kind="number",
                    width=6,
                    limits=((300, "orange"), (900, "red")),
                    sometimes="MLflow answered once",
                ),
                Panel(
                    "Lag",
                    "From the first change that was seen to the end of the look that took it up.",
                    quantiles("rapidfire_planner_lag_seconds", ""),
                    unit="s",
                    limits=((5, "red"),),
                ),
                Panel(
                    "Time of a look",
                    "At one experiment, writes included.",
                    quantiles("rapidfire_reconcile_seconds", ""),
                    unit="s",
                ),
                Panel(
                    "Looks",
                    "Per second.",
                    {"looks": f"sum(rate(rapidfire_reconcile_seconds_count{RATE}))"},
                    unit="ops",
                ),
            ),
        ),
        (
            "Decisions",
            (
                Panel(
                    "Decisions by kind",
                    "What looks decided to write; a conflict undoes some, and they are decided anew.",
                    {"{{kind}}": rate("rapidfire_decisions_total", "kind", "")},
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Assignments given out",
                    "By experiment.",
                    {"{{experiment}}": rate("rapidfire_assignments_granted_total", "experiment", "")},
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Assignments by end",
                    "Lost ones were begun and never committed.",
                    {"{{end}}": rate("rapidfire_assignments_ended_total", "end", "")},
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "IC Ops: accepted after",
                    "From making an ICOp to its first record. Creation times are whole seconds.",
                    quantiles("rapidfire_icop_accepted_seconds", "", "op", " {{op}}"),
                    unit="s",
                    sometimes="somebody steers a run",
                ),
                Panel(
                    "IC Ops: complete after",
                    "Until it is answered for every run.",
                    quantiles("rapidfire_icop_complete_seconds", "", "op", " {{op}}"),
                    unit="s",
                    sometimes="somebody steers a run",
                ),
            ),
        ),
        (
            "API server and MLflow",
            (
                Panel(
                    "Requests",
                    "By method and resource.",
                    {"{{method}} {{resource}}": rate("rapidfire_api_requests_total", "method, resource", "")},
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Refused or not answered",
                    "By code; 409 is a conflict, which is ordinary, 0 no answer.",
                    {"{{code}} {{resource}}": rate("rapidfire_api_errors_total", "code, resource", "")},
                    unit="reqps",
                    sometimes="a request fails",
                ),
                Panel(
                    "Time of a request",
                    "By resource.",
                    quantiles("rapidfire_api_request_seconds", "", "resource", " {{resource}}"),
                    unit="s",
                ),
                Panel(
                    "MLflow's errors",
                    "Requests that MLflow refused or did not answer; they are tried again.",
                    {"errors": f"sum(increase(rapidfire_mlflow_errors_total{RATE}))"},
                ),
                Panel(
                    "Memory",
                    "Of each operator and gateway, as the kernel counts it.",
                    {"{{pod}}": 'process_resident_memory_bytes{pod=~"rapidfire-(operator|gateway)-.*"}'},
                    unit="bytes",
                ),
                Panel(
                    "CPU",
                    "Cores that each operator and gateway uses.",
                    {"{{pod}}": rate("process_cpu_seconds_total", "pod", '{pod=~"rapidfire-(operator|gateway)-.*"}')},
                ),
            ),
        ),
    ),
)

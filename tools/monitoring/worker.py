"""The dashboard worker: what each worker does with its time and memory."""

from __future__ import annotations

from monitoring.panels import Dashboard, Panel, Variable
from monitoring.queries import API, EVALUATION, EXPERIMENT, NAMESPACE, RATE, chosen_and, increase, quantiles, rate
from monitoring.shared_panels import GPU_LOAD, GPU_MEMORY

WORKER = chosen_and('worker=~"$worker"')
DASHBOARD = Dashboard(
    "worker",
    "RapidFire AI / Worker",
    "What each worker does with its time and memory.",
    (
        NAMESPACE,
        EXPERIMENT,
        Variable("worker", "rapidfire_worker_assignments", "worker", '{experiment=~"$experiment"}'),
    ),
    (
        (
            "Work",
            (
                Panel(
                    "Assignments held",
                    "One is computed, a second one waits, so that a worker never waits for the operator.",
                    {"{{worker}}": f"rapidfire_worker_assignments{WORKER}"},
                ),
                Panel(
                    "Time of a step",
                    "One optimizer step, or one answered row.",
                    quantiles("rapidfire_worker_step_seconds", WORKER, "worker", " {{worker}}"),
                    unit="s",
                ),
                Panel(
                    "Tokens per second",
                    "By worker and kind.",
                    {"{{worker}} {{kind}}": rate("rapidfire_worker_tokens_total", "worker, kind", WORKER)},
                ),
                Panel(
                    "Attempts by end",
                    "Failed ones are the runs' own errors.",
                    {"{{worker}} {{outcome}}": f"sum by (worker, outcome) (rapidfire_worker_attempts_total{WORKER})"},
                ),
                Panel(
                    "CPU",
                    "Cores that the process uses.",
                    {"{{worker}}": rate("process_cpu_seconds_total", "worker", WORKER)},
                ),
                Panel(
                    "API server did not answer",
                    "Requests of the worker to the API server. It leaves by itself if its Lease cannot be renewed.",
                    {"{{worker}}": increase("rapidfire_worker_api_errors_total", "worker", WORKER)},
                ),
            ),
        ),
        (
            "Swapping",
            (
                Panel(
                    "Time to change runs",
                    "The mean, by kind. Warm ones cost a hand-over between threads; they save restore and build.",
                    {
                        "{{kind}}": f"{rate('rapidfire_worker_swap_seconds_sum', 'kind', WORKER)} / "
                        f"({rate('rapidfire_worker_swap_seconds_count', 'kind', WORKER)} > 0)"
                    },
                    unit="s",
                ),
                Panel(
                    "Changes of runs",
                    "How often, by kind.",
                    {"{{kind}}": increase("rapidfire_worker_swap_seconds_count", "kind", WORKER)},
                    stacked=True,
                ),
                Panel(
                    "Checkpoints",
                    "Time to make one durable, while the next chunk computes.",
                    quantiles("rapidfire_worker_checkpoint_seconds", WORKER),
                    unit="s",
                ),
                Panel(
                    "Bytes of checkpoints",
                    "Written by all workers.",
                    {"{{worker}}": rate("rapidfire_worker_checkpoint_bytes_total", "worker", WORKER)},
                    unit="Bps",
                ),
            ),
        ),
        (
            "Memory",
            (
                Panel(
                    "Warm sessions",
                    "Runs that go on without a reload.",
                    {"{{worker}}": f"rapidfire_worker_residents{WORKER}"},
                ),
                Panel(
                    "Memory",
                    "What the process holds where its models are, what warm sessions are of it, and what it may hold.",
                    {
                        "{{worker}} used": f"rapidfire_worker_memory_used_bytes{WORKER}",
                        "{{worker}} sessions": f"rapidfire_worker_resident_bytes{WORKER}",
                        "{{worker}} budget": f"rapidfire_worker_memory_budget_bytes{WORKER}",
                    },
                    unit="bytes",
                ),
                Panel(
                    "Main memory",
                    "Of the process, as the kernel counts it.",
                    {"{{worker}}": f"process_resident_memory_bytes{WORKER}"},
                    unit="bytes",
                ),
                GPU_LOAD,
                GPU_MEMORY,
            ),
        ),
        (
            "Evaluations",
            (
                Panel(
                    "Time of a batch",
                    "From asking to the last answer.",
                    quantiles("rapidfire_worker_batch_seconds", WORKER),
                    unit="s",
                    sometimes=EVALUATION,
                ),
                Panel(
                    "Rows",
                    "Answered and failed.",
                    {
                        "answered": f"sum(rate(rapidfire_worker_rows_answered_total{WORKER}{RATE}))",
                        "failed": f"sum(rate(rapidfire_worker_rows_failed_total{WORKER}{RATE}))",
                    },
                    unit="cps",
                ),
                Panel(
                    "Indexes of documents",
                    "Time to build one, and pieces that were indexed.",
                    quantiles("rapidfire_worker_index_seconds", WORKER),
                    unit="s",
                    sometimes="an index is built",
                ),
                Panel(
                    "Requests to APIs",
                    "By end; limited ones were answered 429 and are tried again.",
                    {"{{end}}": rate("rapidfire_worker_provider_requests_total", "end", WORKER)},
                    unit="reqps",
                    stacked=True,
                    sometimes=API,
                ),
                Panel(
                    "Time of an API's answer",
                    "Of requests that were answered.",
                    quantiles("rapidfire_worker_provider_seconds", WORKER),
                    unit="s",
                    sometimes=API,
                ),
                Panel(
                    "Second tries",
                    "Requests to APIs that were tried again.",
                    {"{{worker}}": increase("rapidfire_worker_provider_retries_total", "worker", WORKER)},
                ),
            ),
        ),
    ),
)

"""The dashboard experiment: how an experiment's runs compare, how far they are, and what they cost."""

from __future__ import annotations

from monitoring.panels import Dashboard, Panel
from monitoring.queries import CHOSEN, EXPERIMENT, NAMESPACE, RATE, TRAINING, increase, quantiles
from monitoring.shared_panels import ENDS, TOKENS

DASHBOARD = Dashboard(
    "experiment",
    "RapidFire AI / Experiment",
    "How an experiment's runs compare, how far they are, and what they cost.",
    (NAMESPACE, EXPERIMENT),
    (
        (
            "Progress",
            (
                Panel(
                    "Chunks done",
                    "Part of all chunks that is committed.",
                    {
                        "{{experiment}}": f"sum by (experiment) (rapidfire_chunks_done{CHOSEN}) / "
                        f"sum by (experiment) (rapidfire_chunks{CHOSEN} > 0)"
                    },
                    unit="percentunit",
                    most=1,
                    kind="bar",
                    width=6,
                ),
                Panel(
                    "State",
                    "The state of each experiment.",
                    {"{{experiment}} {{state}}": f"rapidfire_experiment_state{CHOSEN} == 1"},
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Runs by state",
                    "Where the runs are.",
                    {"{{state}}": f"sum by (state) (rapidfire_runs{CHOSEN})"},
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "Workers",
                    "Ready workers, slots with a Job, and chunks given out.",
                    {
                        "ready": f"sum(rapidfire_workers_ready{CHOSEN})",
                        "slots": f"sum(rapidfire_worker_slots{CHOSEN})",
                        "assignments": f"sum(rapidfire_assignments{CHOSEN})",
                    },
                    width=6,
                ),
            ),
        ),
        (
            "Curves",
            (
                Panel(
                    "Training loss",
                    "The latest that the trainer logged, by run.",
                    {"{{run}}": f"max by (run) (rapidfire_worker_loss{CHOSEN})"},
                    unit="none",
                    sometimes=TRAINING,
                ),
                Panel(
                    "Evaluation loss",
                    "On the same rows for every run, at each chunk's end.",
                    {"{{run}}": f"max by (run) (rapidfire_worker_eval_loss{CHOSEN})"},
                    unit="none",
                    sometimes="a run with an evaluation set ends a chunk",
                ),
                Panel(
                    "Learning rate",
                    "By run.",
                    {"{{run}}": f"max by (run) (rapidfire_worker_learning_rate{CHOSEN})"},
                    unit="none",
                    sometimes=TRAINING,
                ),
            ),
        ),
        (
            "Speed",
            (
                TOKENS,
                Panel(
                    "Time of a step",
                    "One optimizer step, or one answered row.",
                    quantiles("rapidfire_worker_step_seconds", CHOSEN),
                    unit="s",
                ),
                Panel(
                    "Time of an assignment",
                    "By task: prepare, index, chunk.",
                    quantiles("rapidfire_worker_chunk_seconds", CHOSEN, "task", " {{task}}"),
                    unit="s",
                ),
                Panel(
                    "Rows answered",
                    "Of evaluations; failed ones are tried again.",
                    {
                        "answered": f"sum(rate(rapidfire_worker_rows_answered_total{CHOSEN}{RATE}))",
                        "failed": f"sum(rate(rapidfire_worker_rows_failed_total{CHOSEN}{RATE}))",
                    },
                    unit="cps",
                ),
                Panel(
                    "Spent on APIs",
                    "By the prices of the configs, since the workers began.",
                    {"{{experiment}}": f"sum by (experiment) (rapidfire_worker_provider_spend_dollars_total{CHOSEN})"},
                    unit="currencyUSD",
                ),
            ),
        ),
        (
            "Trouble",
            (
                Panel(
                    "Attempts by end",
                    "As the workers saw them.",
                    {"{{outcome}}": increase("rapidfire_worker_attempts_total", "outcome")},
                    stacked=True,
                ),
                ENDS,
                Panel(
                    "Evictions",
                    "Warm sessions that had to leave for others.",
                    {"{{worker}}": increase("rapidfire_worker_evictions_total", "worker")},
                ),
            ),
        ),
    ),
)

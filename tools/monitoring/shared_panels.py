"""Panels that stand on several dashboards."""

from __future__ import annotations

from monitoring.panels import Panel
from monitoring.queries import CHOSEN, GPU, increase, rate

TOKENS = Panel(
    "Tokens per second",
    "Trained (where TRL logs num_tokens), read by evaluations (prompt) and written by them (completion).",
    {"{{kind}}": rate("rapidfire_worker_tokens_total", "kind")},
    stacked=True,
)
GPU_MEMORY = Panel(
    "GPU memory",
    "By whichever process, as the driver says.",
    {
        "{{worker}} {{gpu}} used": f"rapidfire_worker_gpu_memory_used_bytes{CHOSEN}",
        "{{worker}} {{gpu}} total": f"rapidfire_worker_gpu_memory_total_bytes{CHOSEN}",
    },
    unit="bytes",
    sometimes=GPU,
)
GPU_LOAD = Panel(
    "GPU utilisation",
    "Part of the time in which a kernel ran. Low beside many warm runs: look at swap times and step times.",
    {"{{worker}} {{gpu}}": f"rapidfire_worker_gpu_utilisation_ratio{CHOSEN}"},
    unit="percentunit",
    most=1,
    sometimes=GPU,
)
ENDS = Panel(
    "Assignments by end",
    "Lost ones were begun and never committed: their workers died. Each is given out again.",
    {"{{end}}": increase("rapidfire_assignments_ended_total", "end")},
    stacked=True,
)

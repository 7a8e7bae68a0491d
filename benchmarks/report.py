"""What the figures were measured on, and how people and programs read them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.figures import percentile

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "kopf", "kubernetes")
_MIB = 1 << 20


def facts() -> dict[str, Any]:
    """Return date, machine and versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
            "system": platform.platform(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def write(whole: Mapping[str, Any], out: Path) -> None:
    """Write `fit.json` and `fit.md`, and print the latter."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "fit.json").write_text(json.dumps(whole, indent=1) + "\n")
    text = render(whole)
    (out / "fit.md").write_text(text)
    print(text)


def render(whole: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    settings, machine = whole["settings"], whole["machine"]
    parts = [
        "# Side by side against one after another",
        f"{settings['configs']} LoRA configs of {whole['model']}, {settings['steps']} steps and {settings['chunks']} "
        f"evaluations each, medians of {settings['repetitions']} repetitions. README.md says what each line means.",
        _swapping(whole),
        _memory(whole),
        _latency(whole),
        "## Measured on",
        f"{whole['date']}, in {whole['seconds']} s: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory']}, {machine['system']}, load before it {machine['load_before']}.",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in whole["versions"].items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _swapping(whole: Mapping[str, Any]) -> str:
    plain, ours = whole["medians"]["plain"], whole["medians"]["ours"]
    same = "the same" if whole["same_losses"] else "DIFFERENT"
    rows = [
        (label, f"{plain[name]:.1f}", f"{ours[name]:.1f}", f"{ours[name] / plain[name]:.3f}", goal)
        for label, name, goal in (
            ("all, starts and loads included, wall s", "wall", "<= 1.00"),
            ("the same, CPU s", "cpu", ""),
            ("training alone, wall s", "training_wall", "<= 1.02"),
            ("the same, CPU s", "training_cpu", ""),
            ("until all configs compare, wall s", "compared", ""),
        )
    ]
    table = _table(("", "one after another", "side by side", "ratio", "goal"), rows)
    return f"## Time\n\n{table}\n\nBoth ways gave {same} eval losses to the last bit."


def _memory(whole: Mapping[str, Any]) -> str:
    peaks = {int(count): peak for count, peak in whole["memory"].items()}
    one, many = min(peaks), max(peaks)
    rows = [
        (f"{count} configs on a worker", f"{peak / _MIB:.0f}", f"{peak / peaks[one]:.2f}")
        for count, peak in peaks.items()
    ]
    plain = whole["medians"]["plain"]["peak"]
    rows.append((f"{many} plain programs at once", f"{many * plain / _MIB:.0f}", f"{many * plain / peaks[one]:.2f}"))
    return "## Peak memory\n\n" + _table(("", "MiB", "ratio"), rows)


def _latency(whole: Mapping[str, Any]) -> str:
    rows = []
    for model, seen in whole["latency"].items():
        for label, values in (("a warm worker", seen["warm"]), ("a new pod for the chunk", seen["fresh"])):
            times = [f"{1000 * percentile(values, share):.0f}" for share in (0.5, 0.99)]
            rows.append((model, label, *times, str(len(values))))
    table = _table(("model", "on", "p50 ms", "p99 ms", "chunks"), rows)
    return f"## From the decision to the end of the first step\n\n{table}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()

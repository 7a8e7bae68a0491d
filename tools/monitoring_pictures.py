"""Draw the dashboards with what a real Prometheus answered, and list the queries with their answers.

`RAPIDFIRE_MONITORING_ANSWERS=answers.json pytest tests/e2e/test_monitoring.py`, then
`python tools/monitoring_pictures.py answers.json`. It draws the dashboards' own JSON: places, titles, units, queries.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

ROOT = Path(__file__).resolve().parent.parent
DASHBOARDS = ROOT / "charts" / "rapidfireai" / "dashboards"
IMAGES = ROOT / "docs" / "images"
TABLE = ROOT / "docs" / "monitoring-queries.md"
_COLUMN, _ROW = 0.62, 0.36
_MOST_LINES = 8
_DARK, _PANEL, _TEXT = "#111217", "#181b1f", "#ccccdc"
_SUFFIXES = {"s": " s", "bytes": "B", "Bps": "B/s", "reqps": "/s", "ops": "/s", "cps": "/s", "currencyUSD": " $"}
Answer = Mapping[str, Any]


def shown(value: float, unit: str) -> str:
    """Return a number as people read it."""
    if unit == "percentunit":
        return f"{100 * value:.4g} %"
    suffix = _SUFFIXES.get(unit, "")
    if unit in {"bytes", "Bps"}:
        power = min(3, int(math.log(max(1.0, abs(value)), 1024)))
        return f"{value / 1024**power:.3g} {('', 'Ki', 'Mi', 'Gi')[power]}{suffix}"
    return f"{value:.3g}{suffix}"


def named(legend: str, series: Answer) -> str:
    """Return the legend of a series."""
    return re.sub(r"{{(\w+)}}", lambda found: str(series["metric"].get(found[1], "")), legend)


def lines_of(answer: Answer) -> list[tuple[str, list[float], list[float]]]:
    """Return (name, times, values) of every series of a panel that has a number."""
    lines = []
    for target in answer["targets"]:
        for series in target["series"]:
            points = [(float(at), float(value)) for at, value in series["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if points:
                lines.append((named(target["legend"], series), [at for at, _ in points], [v for _, v in points]))
    return lines


def draw(name: str, answers: Mapping[str, Answer], begun: float) -> None:
    """Draw one dashboard."""
    board = json.loads((DASHBOARDS / f"{name}.json").read_text())
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
    figure = plt.figure(figsize=(24 * _COLUMN, height * _ROW), facecolor=_DARK)
    figure.text(0.01, 1 - 1 / height, board["title"], color=_TEXT, fontsize=15, weight="bold", va="center")
    for panel in board["panels"]:
        place = panel["gridPos"]
        left, top = place["x"] / 24, 1 - (place["y"] + 2) / height
        if panel["type"] == "row":
            figure.text(left + 0.01, top - 0.5 / height, panel["title"], color=_TEXT, fontsize=11, va="center")
            continue
        across, down = place["w"] / 24, place["h"] / height
        box = (left + 0.004, top - down + 0.12 / height, across - 0.008, down - 0.24 / height)
        figure.add_artist(plt.Rectangle(box[:2], box[2], box[3], facecolor=_PANEL, edgecolor="#2c3035", zorder=-1))
        figure.text(box[0] + 0.006, top - 0.6 / height, panel["title"], color=_TEXT, fontsize=9, weight="bold")
        inner = (box[0] + 0.042, box[1] + 1.9 / height, box[2] - 0.052, box[3] - 3.0 / height)
        axes = figure.add_axes(inner, facecolor=_PANEL)
        _fill(axes, panel, lines_of(answers[panel["title"]]), begun)
    figure.savefig(IMAGES / f"grafana-{name}.png", dpi=75, facecolor=_DARK)
    plt.close(figure)


def _fill(axes: Axes, panel: Answer, lines: Sequence[tuple[str, list[float], list[float]]], begun: float) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if not lines:
        axes.axis("off")
        axes.text(0.5, 0.5, "No data", color="#7b8087", ha="center", va="center", transform=axes.transAxes)
    elif panel["type"] == "timeseries":
        _draw_lines(axes, panel, lines, begun, unit)
    else:
        axes.axis("off")
        latest = max(times[-1] for _, times, _ in lines)  # what ended before is not what is
        now = [line for line in lines if line[1][-1] == latest]
        for index, (label, _, values) in enumerate(now[:6]):
            x, y = (index % 2) / 2, 0.8 - 0.36 * (index // 2)
            axes.text(
                x, y, shown(values[-1], unit), color="#73bf69", fontsize=17, va="center", transform=axes.transAxes
            )
            axes.text(x, y - 0.17, label, color=_TEXT, fontsize=7, va="center", transform=axes.transAxes)


def _draw_lines(
    axes: Axes, panel: Answer, lines: Sequence[tuple[str, list[float], list[float]]], begun: float, unit: str
) -> None:
    fullest = sorted(lines, key=lambda line: -max(line[2]))[:_MOST_LINES]
    for label, times, values in fullest:
        marker = "o" if len(times) == 1 else None
        axes.plot([at - begun for at in times], values, label=label, linewidth=1.1, marker=marker, markersize=3)
    if panel["fieldConfig"]["defaults"].get("min") == 0:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.tick_params(colors="#9a9da5", labelsize=6.5, length=2)
    axes.grid(color="#2c3035", linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.1, -0.1), ncols=4, fontsize=6, frameon=False, labelcolor=_TEXT,
        handlelength=1.2, columnspacing=1.0,
    )  # fmt: skip


def table(answers: Sequence[Answer]) -> str:
    """Return the page that lists every query with what it answered."""
    lines = [
        "# What the dashboards' queries answered",
        "",
        "Written by `tools/monitoring_pictures.py` from a run of `tests/e2e/test_monitoring.py`: two runs that train",
        "and are steered, and one evaluation through an API, on a local cluster without a GPU.",
        "[Monitoring](monitoring.md) shows the same as pictures. Series counts those that had a number; last is one of",
        "them at its end.",
    ]
    for name in dict.fromkeys(answer["dashboard"] for answer in answers):
        lines += ["", f"## {name.capitalize()}", "", "| panel | query | series | last |", "| --- | --- | --- | --- |"]
        for answer in (answer for answer in answers if answer["dashboard"] == name):
            for target in answer["targets"]:
                found = lines_of({"targets": [target]})
                last = f"{found[-1][0]}: {found[-1][2][-1]:.4g}" if found else "no data"
                query = target["query"].replace("|", "\\|")
                lines.append(f"| {answer['panel']} | `{query}` | {len(found)} | {last} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Draw all dashboards and write the list."""
    mpl.use("Agg")
    answers = json.loads(Path(sys.argv[1]).read_text())
    begun = min(line[1][0] for answer in answers for line in lines_of(answer))
    for path in sorted(DASHBOARDS.glob("*.json")):
        own = {answer["panel"]: answer for answer in answers if answer["dashboard"] == path.stem}
        draw(path.stem, own, begun)
    TABLE.write_text(table(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())

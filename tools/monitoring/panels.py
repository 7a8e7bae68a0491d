"""A compact description of dashboards, and Grafana's JSON of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39
"""Of Grafana 10 and later; older ones read it too."""
_COLUMNS = 24
_KINDS = {"lines": "timeseries", "number": "stat", "bar": "bargauge"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        text: What to make of it, for who points at its corner.
        queries: PromQL by legend.
        unit: Grafana's name of the unit.
        kind: Lines over time, one number, or a bar each series.
        width: Columns of 24.
        height: Rows.
        limits: Thresholds, each with the colour from there on.
        stacked: Whether lines add up.
        most: The end of the scale; None if the data says.
        sometimes: Why there may be no data: what has to happen first; empty if there always is.
    """

    title: str
    text: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: Literal["lines", "number", "bar"] = "lines"
    width: int = 8
    height: int = 7
    limits: tuple[tuple[float, str], ...] = ()
    stacked: bool = False
    most: float | None = None
    sometimes: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label of a metric."""

    name: str
    metric: str
    label: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard: rows of panels, each with a title."""

    name: str
    title: str
    text: str
    variables: tuple[Variable, ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in their order."""
        return tuple(panel for _, panels in self.rows for panel in panels)


def as_grafana(dashboard: Dashboard) -> dict[str, Any]:
    """Return the JSON that Grafana imports."""
    return {
        "uid": f"rapidfire-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": ["rapidfireai"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), *(_variable(each) for each in dashboard.variables)]},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["rapidfireai"], "title": "RapidFire AI", "asDropdown": True}],
        "panels": _placed(dashboard.rows),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.metric}{variable.where}, {variable.label})"
    return {
        "name": variable.name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed(rows: Sequence[tuple[str, tuple[Panel, ...]]]) -> list[dict[str, Any]]:
    """Return all panels with their places: from left to right, row by row."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows:
        place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        placed.append({"id": len(placed) + 1, "type": "row", "title": title, "gridPos": place, "panels": []})
        y, x, lowest = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > _COLUMNS:
                y, x, lowest = y + lowest, 0, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append({"id": len(placed) + 1, **_panel(panel), "gridPos": place})
            x, lowest = x + panel.width, max(lowest, panel.height)
        y += lowest
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, *({"color": color, "value": at} for at, color in panel.limits)]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.unit == "none":
        del defaults["min"]
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "lines":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        style = {"mode": "line" if panel.limits else "off"}
        fill = 30 if panel.stacked else 0
        defaults["custom"] = {
            "stacking": stacking,
            "fillOpacity": fill,
            "thresholdsStyle": style,
            "showPoints": "never",
        }
    else:
        defaults["color"] = {"mode": "thresholds"}
    return {
        "type": _KINDS[panel.kind],
        "title": panel.title,
        "description": panel.text + (f" Empty until {panel.sometimes}." if panel.sometimes else ""),
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind != "lines",
                "range": panel.kind == "lines",
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "lines":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"reduceOptions": reduced, "orientation": "horizontal" if kind == "bar" else "auto"}

"""Curves and lanes -> options of ECharts. Pure. A key that begins with `:` names a function of `dashboard.js`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rapidfireai_dashboard.curves import AXES, Choice, Curve, colour
from rapidfireai_dashboard.lanes import Bar, words, workers_of

Options = dict[str, Any]
_MANY = 40
"""From so many curves on each is drawn thinner, no point of it is marked, and only pinned ones have their interval."""
_FLOOR, _BAND = ":floor", ":band"
"""What the ids of an interval's two series end with: the unseen lower end, and the area that stands on it."""
_INK = {False: "#3d3d3d", True: "#c8c8c8"}
_GRID = {False: "#dddddd", True: "#3a3a3a"}


def curve_axes(choice: Choice, metric: str, dark: bool) -> Options:
    """Return what stands around the curves.

    Args:
        choice: What is shown.
        metric: What the vertical axis is called.
        dark: Whether the page is dark.
    """
    ink, grid = _INK[dark], _GRID[dark]
    axis = {
        "axisLabel": {"color": ink},
        "nameTextStyle": {"color": ink},
        "axisLine": {"lineStyle": {"color": ink}},
        "splitLine": {"lineStyle": {"color": grid}},
    }
    return {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": 32, "bottom": 64, "containLabel": True},
        "xAxis": {
            **axis,
            "type": "time" if choice.axis == "time" else "value",
            "name": AXES[choice.axis],
            "nameLocation": "middle",
            "nameGap": 26,
            "scale": choice.axis == "time",
        },
        "yAxis": {
            **axis,
            "type": "log" if choice.log else "value",
            "name": metric,
            "nameTextStyle": {"color": ink, "align": "left"},
            "scale": True,
        },
        "dataZoom": [
            {"type": "inside"},
            {"type": "slider", "height": 16, "bottom": 8, "showDataShadow": False, "textStyle": {"color": ink}},
        ],
        "tooltip": {"trigger": "axis", "confine": True, "order": "valueAsc", ":formatter": "hover"},
        "aria": {"enabled": True, "label": {"enabled": False}},
    }


def series_of(curves: Sequence[Curve]) -> dict[str, Options]:
    """Return the series of all curves by run."""
    many, pinned = len(curves) > _MANY, any(curve.pinned for curve in curves)
    series = {curve.run: _series(curve, many, faint=pinned and not curve.pinned) for curve in curves}
    for curve in curves:
        if curve.band and (curve.pinned or not (many or pinned)):
            series |= _interval(curve)
    return series


def _interval(curve: Curve) -> dict[str, Options]:
    """Return the two series that draw a curve's confidence interval as an area."""
    common: Options = {
        "name": curve.label,
        "type": "line",
        "stack": f"{curve.run}{_BAND}",
        "stackStrategy": "all",
        "symbol": "none",
        "silent": True,
        "color": curve.colour,
        "lineStyle": {"opacity": 0},
        "z": 1,
    }
    floor: Options = {**common, "id": f"{curve.run}{_FLOOR}", "data": [[x, lower] for x, lower, _ in curve.band]}
    height = [[x, upper - lower] for x, lower, upper in curve.band]
    area: Options = {**common, "id": f"{curve.run}{_BAND}", "data": height, "areaStyle": {"opacity": 0.16}}
    return {each["id"]: each for each in (floor, area)}


def _series(curve: Curve, many: bool, faint: bool) -> Options:
    width = 3.5 if curve.pinned else 1 if many else 2
    return {
        "id": curve.run,
        "name": curve.label,
        "type": "line",
        "data": [[x, y] for x, y in curve.points],
        "color": curve.colour,
        "lineStyle": {"width": width, "type": curve.dash, "opacity": 0.25 if faint else 1},
        # One point is no line: without a mark it would not be seen.
        "showSymbol": not many or len(curve.points) == 1,
        "symbolSize": 6 if curve.pinned else 4,
        "triggerLineEvent": True,
        "emphasis": {"focus": "series"},
        "z": 5 if curve.pinned else 2,
    }


def changed_series(shown: Mapping[str, Options], wanted: Mapping[str, Options]) -> list[Options]:
    """Return the series that differ from those shown; one that is to go is sent without points."""
    changed = [series for run, series in wanted.items() if shown.get(run) != series]
    return changed + [{"id": run, "data": []} for run in shown if run not in wanted and shown[run].get("data")]


def lanes_of(bars: Sequence[Bar], since: float, now: float, dark: bool) -> Options:
    """Return the chart of who worked on what.

    Args:
        bars: The pieces of work.
        since: From when on, in seconds since the epoch.
        now: The time, where the bars end that go on.
        dark: Whether the page is dark.
    """
    ink, grid = _INK[dark], _GRID[dark]
    workers = workers_of(bars)
    place = {worker: row for row, worker in enumerate(workers)}
    data = [
        {
            "value": [place[bar.worker], 1000 * bar.begin, 1000 * (now if bar.end is None else bar.end)],
            "name": words(bar, now),
            "itemStyle": {"color": colour(bar.index), "opacity": 0.45 if bar.task == "prepare" else 0.9},
        }
        for bar in bars
    ]
    return {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": 8, "bottom": 48, "containLabel": True},
        "xAxis": {
            "type": "time",
            "min": 1000 * min([since, *(bar.begin for bar in bars)]),
            "max": 1000 * now,
            "axisLabel": {"color": ink},
            "splitLine": {"lineStyle": {"color": grid}},
        },
        "yAxis": {"type": "category", "data": workers, "inverse": True, "axisLabel": {"color": ink}},
        "dataZoom": [{"type": "inside", "filterMode": "weakFilter"}, {"type": "slider", "height": 16, "bottom": 4}],
        "tooltip": {"confine": True, ":formatter": "barHover"},
        "series": [{"type": "custom", ":renderItem": "bar", "encode": {"x": [1, 2], "y": 0}, "data": data}],
    }


def summary_of(curves: Sequence[Curve], metric: str) -> str:
    """Return in a sentence what a chart shows, for those who cannot see it."""
    if not curves:
        return f"No run has a value of {metric} yet."
    best = min(curves, key=lambda curve: curve.points[-1][1])
    worst = max(curves, key=lambda curve: curve.points[-1][1])
    return (
        f"{metric} of {len(curves)} runs. Lowest last value: {best.label}, {best.points[-1][1]:.5g}. "
        f"Highest: {worst.label}, {worst.points[-1][1]:.5g}."
    )

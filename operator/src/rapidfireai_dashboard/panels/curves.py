"""The curves of all runs, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nicegui import ui
from nicegui.events import EChartPointClickEventArguments

from rapidfireai_dashboard.charts import changed_series, curve_axes, series_of, summary_of
from rapidfireai_dashboard.curves import (
    AXES,
    MOST_LOGS,
    OBJECTIVE,
    Curve,
    curves_of,
    logs_wanted,
    metrics_of,
)
from rapidfireai_dashboard.histories import Histories
from rapidfireai_dashboard.panels.view import View, browser, described
from rapidfireai_dashboard.runs import differing, heads, text
from rapidfireai_gateway.errors import GatewayError

_LOG_SECONDS = 4.0
_MOST_KNOBS_IN_LABEL = 3


class CurvesPanel:
    """The chart with its controls.

    Args:
        view: The page's view.
        pins_changed: Called when a click on a curve pinned a run, or took the pin away.
    """

    def __init__(self, view: View, pins_changed: Callable[[], None]) -> None:
        self._view, self._pins_changed = view, pins_changed
        self._histories = Histories(view.namespace)
        self._sent: dict[str, dict[str, Any]] = {}
        self._curves: list[Curve] = []
        self._axes: dict[str, Any] = {}
        self._asking = False
        with ui.element("section").classes("rf-card").props('aria-label="Curves" data-testid="curves"'):
            self._controls()
            with ui.element("div").props("role=img") as self._picture:
                # Its own properties stay as they are: to change one would make the browser draw it anew without curves.
                self._chart = ui.echart({"animation": False}, on_point_click=self._clicked)
                self._chart.classes("rf-chart").props('data-testid="chart"')
            self._note = ui.label().classes("rf-note").props('role=status data-testid="curves-note"')
            with ui.expansion("The curves as a table").props('dense data-testid="curves-table"') as self._as_table:
                columns = [
                    {"name": key, "label": label, "field": key, "align": align, "sortable": True}
                    for key, label, align in (
                        ("run", "Run", "left"),
                        ("points", "Points", "right"),
                        ("first", "First", "right"),
                        ("last", "Last", "right"),
                        ("least", "Least", "right"),
                        ("most", "Greatest", "right"),
                        ("x", "Last at", "right"),
                    )
                ]
                self._table = ui.table(rows=[], columns=columns, row_key="run", pagination=25)
                self._table.props("flat dense").classes("rf-table")
        self._as_table.on_value_change(self._fill_table)
        view.theme.on_change(self.update)
        ui.timer(_LOG_SECONDS, self._ask)

    def _controls(self) -> None:
        view = self._view
        with ui.element("div").classes("rf-bar"):
            with ui.element("h2"):
                ui.label("Curves")
            self._metric = ui.select([OBJECTIVE], value=OBJECTIVE, label="Metric", on_change=self._choose_metric)
            self._metric.props('dense outlined options-dense data-testid="metric"').style("min-width: 190px")
            axis = ui.select(dict(AXES), value=view.choice.axis, label="Horizontal axis")
            axis.props('dense outlined options-dense data-testid="axis"').style("min-width: 150px")
            axis.on_value_change(lambda event: self._choose(axis=event.value))
            ui.label("Smoothing")
            smoothing = ui.slider(min=0, max=0.98, step=0.02, value=0).style("width: 120px")
            smoothing.props('aria-label="Smoothing" data-testid="smoothing" label')
            smoothing.on_value_change(lambda event: self._choose(smoothing=float(event.value or 0)))
            log = ui.checkbox("Log axis").props('data-testid="log-axis"')
            log.on_value_change(lambda event: self._choose(log=bool(event.value)))

    def _choose(self, **changes: Any) -> None:
        self._view.choose(replace(self._view.choice, **changes))

    async def _choose_metric(self) -> None:
        self._choose(metric=self._metric.value or OBJECTIVE)
        await self._ask()

    async def _ask(self) -> None:
        """Read logs, where the resources alone do not know the curves."""
        view = self._view
        if self._asking or not view.choice.needs_logs:
            return
        self._asking = True
        try:
            wanted = logs_wanted(view.model.runs.values(), view.choice, view.model.best_first())
            await self._histories.fetch(view.backend(), wanted, view.choice)
        except GatewayError as error:
            self._histories.problem = error.detail
        finally:
            self._asking = False
        self.update()

    def update(self) -> None:
        """Send what differs from what is shown."""
        view, choice = self._view, self._view.choice
        lines = sorted(view.model.runs.values(), key=lambda line: line.index)
        axes = curve_axes(choice, self._metric_name(), view.theme.dark)
        if axes != self._axes:
            self._axes = axes
            browser("chart", self._chart, axes)
        self._curves = curves_of(lines, self._histories.points(), choice, self._labels())
        wanted = series_of(self._curves)
        changed = changed_series(self._sent, wanted)
        if changed:
            browser("chart", self._chart, {"series": changed})
        self._sent = wanted
        described(self._picture, summary_of(self._curves, self._metric_name()))
        options = metrics_of(lines, self._histories.names)
        if options != self._metric.options:
            self._metric.set_options(options)
        self._note.text = self._missing(len(lines))
        self._fill_table()

    def _labels(self) -> dict[str, str]:
        """Return what the hover says of each run: its number and its knobs."""
        lines = self._view.model.runs.values()
        paths = differing(lines)[:_MOST_KNOBS_IN_LABEL]
        names = heads(paths)
        return {
            line.name: " ".join(
                [f"r{line.index}", *(f"{names[path]}={text(line.knobs[path])}" for path in paths if path in line.knobs)]
            )
            for line in lines
        }

    def _metric_name(self) -> str:
        experiment = self._view.model.experiment
        if self._view.choice.metric != OBJECTIVE or experiment is None:
            return self._view.choice.metric
        return experiment.spec.objective.metric

    def _missing(self, runs: int) -> str:
        """Return what the curves do not show, in sentences."""
        said = []
        drawn, hidden = len(self._curves), len(self._view.choice.hidden)
        if self._view.choice.needs_logs:
            if self._histories.problem:
                said.append(f"Logs cannot be read: {self._histories.problem}. What was read before is still shown.")
            if runs - hidden > MOST_LOGS:
                said.append(f"Logs are read of {MOST_LOGS} runs at a time: pinned ones, then the best.")
        if hidden:
            said.append(f"{hidden} {'run is' if hidden == 1 else 'runs are'} hidden.")
        if runs and drawn < min(runs - hidden, MOST_LOGS if self._view.choice.needs_logs else runs):
            said.append(f"{drawn} of {runs} runs have a value of {self._metric_name()} to draw.")
        return " ".join(said)

    def _fill_table(self) -> None:
        if not self._as_table.value:
            return
        rows = []
        for curve in self._curves:
            values = [y for _, y in curve.points]
            rows.append(
                {
                    "run": curve.label,
                    "points": len(values),
                    "first": f"{values[0]:.5g}",
                    "last": f"{values[-1]:.5g}",
                    "least": f"{min(values):.5g}",
                    "most": f"{max(values):.5g}",
                    "x": f"{curve.points[-1][0]:g}",
                }
            )
        if rows != self._table.rows:
            self._table.rows = rows

    def _clicked(self, event: EChartPointClickEventArguments) -> None:
        """Pin the run whose curve was clicked, or take the pin away."""
        for curve in self._curves:
            if curve.label == event.series_name:
                self._choose(pinned=self._view.choice.pinned ^ {curve.run})
                self._pins_changed()

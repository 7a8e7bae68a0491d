"""The table of runs and what can be done with those that are ticked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
from nicegui import ui
from nicegui.events import GenericEventArguments

from rapidfireai_dashboard.curves import colour
from rapidfireai_dashboard.experiments import mlflow_link
from rapidfireai_dashboard.panels.clone import CloneDialog
from rapidfireai_dashboard.panels.compare import compare
from rapidfireai_dashboard.panels.ops import ask
from rapidfireai_dashboard.panels.view import View, browser
from rapidfireai_dashboard.runs import KNOB, Row, differing, heads, row_of, transaction

_WIDE = 150
_PATIENCE_SECONDS = 2.0
"""How long MLflow may take to answer."""
_COLUMNS: tuple[dict[str, Any], ...] = (
    {"field": "label", "headerName": "Run", "pinned": "left", "cellRenderer": "runCell", "comparator": "byIndex"},
    {"field": "state", "headerName": "State", "width": 130},
    {"field": "chunks", "headerName": "Chunks", "comparator": "byDone", "width": 95},
    {"field": "step", "headerName": "Step", "type": "numericColumn", "width": 85},
    {"field": "loss", "headerName": "Loss", "type": "numericColumn", "cellRenderer": "number", "width": 100},
    {"field": "objective", "headerName": "Objective", "type": "numericColumn", "cellRenderer": "number", "width": 110},
    {"field": "interval", "headerName": "Interval", "width": 140},
)
_LAST_COLUMNS: tuple[dict[str, Any], ...] = (
    {"field": "worker", "headerName": "Worker", "width": _WIDE},
    {"field": "parent", "headerName": "Parent", "width": 110},
    {"field": "problem", "headerName": "Problem", "width": 260},
)


class RunsPanel:
    """The grid with its toolbar."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._grid: ui.aggrid
        self._shown: dict[str, Row] = {}
        self._knobs: tuple[str, ...] | None = None
        self._clone = CloneDialog(view)
        with ui.element("section").classes("rf-card").props('aria-label="Runs" data-testid="runs"'):
            with ui.element("div").classes("rf-bar"):
                with ui.element("h2"):
                    ui.label("Runs")
                search = ui.input("Filter runs").props('dense outlined clearable type=search data-testid="filter"')
                search.on_value_change(lambda event: browser("quickFilter", self._grid, event.value or ""))
                self._count = ui.label("none ticked").classes("rf-note").props('role=status data-testid="ticked"')
            self._buttons()
            view.messages = ui.element("div").classes("rf-messages")
            view.messages.props('role=log aria-live=polite aria-label="Messages" data-testid="messages"')
            self._grid = self._made_grid()
            self._links = ui.element("div").classes("rf-bar")

    def _buttons(self) -> None:
        view = self._view
        with ui.element("div").classes("rf-bar").props('role=toolbar aria-label="Actions on ticked runs"'):
            self._any = [
                self._button("Stop", lambda: ask(view, "Stop")),
                self._button("Resume", lambda: ask(view, "Resume")),
                self._button("Delete", lambda: ask(view, "Delete")),
                self._button("Pin", self._pin),
                self._button("Hide", self._hide),
            ]
            self._one = [self._button("Clone", self._clone.open)]
            self._two = [self._button("Compare", lambda: compare(view))]
            show = ui.button("Show all curves", on_click=self._show_all)
            show.props('flat dense data-testid="show-all"')
        self._enable()

    def _button(self, label: str, act: Any) -> ui.button:
        return ui.button(label, on_click=act).props(f'outline dense data-testid="{label.lower()}"')

    def _made_grid(self) -> ui.aggrid:
        options = {
            "columnDefs": [],
            "rowData": [],
            ":getRowId": "rf.rowId",
            "rowSelection": {"mode": "multiRow", "selectAll": "filtered", "enableClickSelection": False},
            "selectionColumnDef": {"pinned": "left"},
            "defaultColDef": {"sortable": True, "filter": True, "resizable": True, "floatingFilter": False},
            "rowClassRules": {"rf-best-row": "data.best"},
            "suppressFieldDotNotation": True,
            "ensureDomOrder": True,
            "enableCellTextSelection": True,
            "animateRows": False,
            "overlayNoRowsTemplate": "No run yet",
        }
        grid = ui.aggrid(options, auto_size_columns=False).classes("rf-grid")
        grid.props('role=region aria-label="Table of runs" data-testid="grid"')
        names = f"emit(getElement({grid.id}).api.getSelectedNodes().map((node) => node.id))"
        grid.on("selectionChanged", self._selected, js_handler=f"() => {names}")
        return grid

    def update(self) -> None:
        """Send what changed in the table."""
        view = self._view
        lines = sorted(view.model.runs.values(), key=lambda line: line.index)
        knobs = differing(lines)
        if knobs != self._knobs:
            self._knobs = knobs
            browser("columns", self._grid, self._columns(knobs))
        best = view.model.best
        rows = {line.name: row_of(line, knobs, best, colour(line.index)) for line in lines}
        change = transaction(self._shown, rows)
        if change:
            remove = [{"name": name} for name in change.remove]
            browser("rows", self._grid, {"add": change.add, "update": change.update, "remove": remove})
            self._shown = rows
        self._enable()

    def _columns(self, knobs: tuple[str, ...]) -> list[dict[str, Any]]:
        names = heads(knobs)
        made = [{"field": f"{KNOB}{path}", "headerName": names[path], "headerTooltip": path} for path in knobs]
        first, *rest = _COLUMNS
        return [{**first, "width": _WIDE}, *rest, *({**each, "width": _WIDE} for each in made), *_LAST_COLUMNS]

    async def _selected(self, event: GenericEventArguments) -> None:
        self._view.selected = tuple(event.args or ())
        self._enable()
        await self._show_links()

    def _enable(self) -> None:
        ticked = len(self._view.lines())
        self._count.text = f"{ticked or 'none'} ticked"
        for buttons, enabled in ((self._any, ticked > 0), (self._one, ticked == 1), (self._two, ticked == 2)):
            for button in buttons:
                button.set_enabled(enabled)

    async def _show_links(self) -> None:
        """Show where MLflow has the ticked runs, and whether it is there."""
        view = self._view
        base = view.visitor.services.settings.mlflow_url
        self._links.clear()
        with self._links:
            for line in view.lines()[:8]:
                address = mlflow_link(base, view.model.experiment, line.mlflow_run)
                if address:
                    ui.link(f"r{line.index} in MLflow", address, new_tab=True).props('data-testid="mlflow"')
            missing = ui.label().classes("rf-note").props('role=status data-testid="mlflow-down"')
        if base and view.lines() and not await _answers(base):
            missing.text = (
                "MLflow does not answer at present; curves and operations do not need it, and it is fed what it misses."
            )

    def _pin(self) -> None:
        choice, ticked = self._view.choice, frozenset(self._view.selected)
        pinned = choice.pinned - ticked if ticked <= choice.pinned else choice.pinned | ticked
        self._view.choose(replace(choice, pinned=pinned, hidden=choice.hidden - ticked))

    def _hide(self) -> None:
        choice, ticked = self._view.choice, frozenset(self._view.selected)
        hidden = choice.hidden - ticked if ticked <= choice.hidden else choice.hidden | ticked
        self._view.choose(replace(choice, hidden=hidden))

    def _show_all(self) -> None:
        self._view.choose(replace(self._view.choice, hidden=frozenset(), pinned=frozenset()))


async def _answers(url: str) -> bool:
    """Say whether somebody answers at an address."""
    try:
        async with httpx.AsyncClient(timeout=_PATIENCE_SECONDS, trust_env=False) as client:
            await client.get(url)
    except httpx.HTTPError:
        return False
    return True

"""Who asked for what, and what became of it."""

from __future__ import annotations

from nicegui import ui

from rapidfireai_dashboard.icops import icop_row
from rapidfireai_dashboard.panels.view import View

_COLUMNS = (
    ("time", "When"),
    ("op", "Operation"),
    ("runs", "Runs"),
    ("by", "Asked for by"),
    ("state", "State"),
    ("result", "Result"),
    ("why", "Why"),
)


class HistoryPanel:
    """The experiment's IC Ops, newest first."""

    def __init__(self, view: View) -> None:
        self._view = view
        columns = [
            {"name": key, "label": label, "field": key, "align": "left", "sortable": key == "time"}
            for key, label in _COLUMNS
        ]
        self._table = ui.table(rows=[], columns=columns, row_key="name", pagination=25)
        self._table.classes("rf-table").props('flat dense wrap-cells data-testid="icops" aria-label="IC Ops"')
        self._table.props["no-data-label"] = "Nobody has asked for anything yet."

    def update(self) -> None:
        """Show what there is now."""
        rows = sorted((icop_row(each) for each in self._view.model.icops.values()), key=lambda row: row["sort"])[::-1]
        if rows != self._table.rows:
            self._table.rows = rows

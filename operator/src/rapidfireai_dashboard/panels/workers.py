"""Which worker ran which chunk."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from nicegui import ui

from rapidfireai_dashboard.charts import lanes_of
from rapidfireai_dashboard.lanes import words, workers_of
from rapidfireai_dashboard.panels.view import View, browser, described

_MOST_DRAWN = 1500
_MOST_ROWS = 500
_ROW_PIXELS = 30
_TALLEST = 640


class WorkersPanel:
    """The lanes, and the same as a table."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._height = 0
        self._note = ui.label().classes("rf-note").props('role=status data-testid="lanes-note"')
        with ui.element("div").props("role=img").classes("rf-lanes") as self._picture:
            self._chart = ui.echart({"animation": False}).props('data-testid="lanes"').style("height: 100%")
        with ui.expansion("The lanes as a table").props('dense data-testid="lanes-table"') as self._as_table:
            columns = [
                {"name": key, "label": label, "field": key, "align": "left", "sortable": True}
                for key, label in (("worker", "Worker"), ("work", "Work"), ("begin", "Began"), ("attempt", "Attempt"))
            ]
            self._table = ui.table(rows=[], columns=columns, row_key="key", pagination=25)
            self._table.props("flat dense").classes("rf-table")
        self._as_table.on_value_change(self.update)

    def update(self) -> None:
        """Draw the lanes as they are now."""
        lanes, now = self._view.model.lanes, time.time()
        if lanes is None:
            self._note.text = "Nothing is known of the workers yet."
            return
        bars = lanes.bars()[-_MOST_DRAWN:]
        height = min(_TALLEST, 70 + _ROW_PIXELS * max(1, len(workers_of(bars))))
        if height != self._height:
            self._height = height
            self._picture.style(f"height: {height}px")
        browser("chart", self._chart, lanes_of(bars, lanes.since, now, self._view.theme.dark))
        since = f"{datetime.fromtimestamp(lanes.since, UTC):%Y-%m-%d %H:%M:%S} UTC"
        self._note.text = (
            f"What was seen since somebody opened this experiment here ({since}), and what was under way then. A run's "
            "resource names only who works on it now, so that earlier chunks have no lane. Times are those of the "
            "operator's assignments; a bar ends when its end was seen."
        )
        busy = sum(bar.end is None for bar in bars)
        described(self._picture, f"{len(bars)} pieces of work on {len(workers_of(bars))} workers, {busy} under way.")
        if self._as_table.value:
            self._table.rows = [
                {
                    "key": f"{bar.run}/{bar.attempt}",
                    "worker": bar.worker,
                    "work": words(bar, now),
                    "begin": f"{datetime.fromtimestamp(bar.begin, UTC):%H:%M:%S}",
                    "attempt": bar.attempt,
                }
                for bar in reversed(bars[-_MOST_ROWS:])
            ]

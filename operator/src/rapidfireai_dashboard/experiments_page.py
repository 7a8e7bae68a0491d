"""The list of experiments."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from rapidfireai.api import Experiment
from rapidfireai_dashboard.experiments import experiment_row
from rapidfireai_dashboard.visit import Banner, Desk, Theme, Visitor, framed
from rapidfireai_gateway.errors import GatewayError

_REFRESH_SECONDS = 3.0
_COLUMNS = (
    ("name", "Experiment", "left"),
    ("namespace", "Workspace", "left"),
    ("state", "State", "left"),
    ("runs", "Runs", "right"),
    ("active", "Active", "right"),
    ("chunks", "Chunks", "right"),
    ("workers", "Workers", "right"),
    ("best", "Best", "left"),
    ("eta", "ETA", "right"),
    ("age", "Age", "right"),
)
_LINK = """<q-td :props="props"><a class="rf-link" :href="props.row.link">{{ props.row.name }}</a></q-td>"""


def show(desk: Desk, request: Request) -> object:
    """Build the page, or send the browser to the login."""
    visitor = desk.visitor(request)
    if visitor is None:
        return RedirectResponse("/login")
    theme = Theme()
    with framed(theme, "Experiments") as banner:
        page = _ExperimentsPage(visitor, banner)
    ui.timer(_REFRESH_SECONDS, page.refresh)
    ui.timer(0, theme.begin, once=True)
    return None


class _ExperimentsPage:
    def __init__(self, visitor: Visitor, banner: Banner) -> None:
        self._visitor, self._banner = visitor, banner
        self._namespaces: list[str] | None = None
        search = ui.input("Search").props('dense outlined clearable type=search data-testid="search"')
        columns = [
            {"name": key, "label": label, "field": key, "align": align, "sortable": True}
            for key, label, align in _COLUMNS
        ]
        # The default order is the rows' own: newest first.
        self._table = ui.table(rows=[], columns=columns, row_key="key", pagination=50)
        self._table.classes("rf-table").props('flat bordered data-testid="experiments" aria-label="Experiments"')
        self._table.add_slot("body-cell-name", _LINK)
        self._table.bind_filter_from(search, "value", lambda text: text or "")
        self._empty = ui.label("Asking the cluster ...").classes("rf-note").props('role=status data-testid="empty"')

    async def refresh(self) -> None:
        """Ask for the experiments of all workspaces."""
        try:
            backend = self._visitor.backend()
            if self._namespaces is None:
                self._namespaces = await backend.namespaces()
            found = await asyncio.gather(*(backend.experiments(each) for each in self._namespaces))
        except GatewayError as error:
            self._banner.say(error.detail, login=error.status == 401)
            return
        self._banner.say("")
        now = datetime.now(UTC)
        rows = [experiment_row(Experiment.from_body(body), now) for bodies in found for body in bodies]
        rows.sort(key=lambda row: row["created"], reverse=True)
        if rows != self._table.rows:
            self._table.rows = rows
        self._empty.visible = not rows
        self._empty.text = self._none()

    def _none(self) -> str:
        if not self._namespaces:
            served = ", ".join(self._visitor.services.settings.namespaces)
            return f"You may not list experiments in any workspace served here ({served}); ask an administrator."
        where: Any = ", ".join(self._namespaces)
        return f"There is no experiment in {where} yet. `rapidfireai render`, `kubectl apply` or a notebook makes one."

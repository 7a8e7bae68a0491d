"""The page of one experiment."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import Request
from fastapi.responses import RedirectResponse
from nicegui import background_tasks, ui

from rapidfireai_dashboard.commands import shown
from rapidfireai_dashboard.experiments import facts, notes
from rapidfireai_dashboard.model import ExperimentModel
from rapidfireai_dashboard.panels.cluster import EventsPanel, LogsPanel
from rapidfireai_dashboard.panels.curves import CurvesPanel
from rapidfireai_dashboard.panels.history import HistoryPanel
from rapidfireai_dashboard.panels.lineage import LineagePanel
from rapidfireai_dashboard.panels.runs import RunsPanel
from rapidfireai_dashboard.panels.view import View
from rapidfireai_dashboard.panels.workers import WorkersPanel
from rapidfireai_dashboard.visit import Desk, Theme, framed
from rapidfireai_gateway.errors import GatewayError

_DRAW_SECONDS = 0.5
"""How often what changed is sent to the browser."""
_AGAIN_SECONDS = 2.0
_FATAL = frozenset({401, 403})
_FACTS = ("state", "runs", "chunks", "workers", "best", "eta", "age")


def show(desk: Desk, request: Request, namespace: str, name: str) -> object:
    """Build the page, or send the browser to the login."""
    visitor = desk.visitor(request)
    if visitor is None:
        return RedirectResponse("/login")
    theme = Theme()
    with framed(theme, name, back=True) as banner:
        ui.page_title(f"{name} - RapidFire AI")
        model = ExperimentModel(desk.lanes)
        page = _ExperimentPage(View(visitor, namespace, name, model, theme, banner))
    following = background_tasks.create(page.follow(), name=f"follow {namespace}/{name}")
    ui.context.client.on_delete(following.cancel)
    ui.timer(_DRAW_SECONDS, page.draw)
    ui.timer(0, theme.begin, once=True)
    return None


class _ExperimentPage:
    def __init__(self, view: View) -> None:
        self._view = view
        self._drawn = -1
        self._head()
        self._curves = CurvesPanel(view, self._redraw)
        self._runs = RunsPanel(view)
        self._tabs()

    def _head(self) -> None:
        self._facts: dict[str, ui.label] = {}
        with ui.element("dl").classes("rf-facts").props('data-testid="facts"'):
            for key in _FACTS:
                with ui.element("div"):
                    with ui.element("dt"):
                        ui.label("ETA" if key == "eta" else key.capitalize())
                    with ui.element("dd"):
                        self._facts[key] = ui.label("").props(f'data-testid="fact-{key}"')
        self._notes = ui.label().classes("rf-bad").props('role=status data-testid="notes"')

    def _tabs(self) -> None:
        view = self._view
        with ui.element("section").classes("rf-card").props('aria-label="Details"'):
            with ui.tabs().props('dense align=left no-caps inline-label data-testid="tabs"') as tabs:
                for word in ("Workers", "Lineage", "IC Ops", "Events", "Logs"):
                    ui.tab(word).props(f'data-testid="tab-{word.lower().replace(" ", "-")}"')
            with ui.tab_panels(tabs, value="Workers", keep_alive=True, animated=False):
                with ui.tab_panel("Workers"):
                    self._workers = WorkersPanel(view)
                with ui.tab_panel("Lineage"):
                    self._lineage = LineagePanel(view)
                with ui.tab_panel("IC Ops"):
                    self._history = HistoryPanel(view)
                with ui.tab_panel("Events"):
                    events = EventsPanel(view)
                with ui.tab_panel("Logs"):
                    logs = LogsPanel(view)
            ui.label(shown("rfexp", view.namespace, view.name)).classes("rf-note")
        self._tab = tabs

        def look() -> None:
            events.timer.active = tabs.value == "Events"
            logs.timer.active = tabs.value == "Logs"
            self._redraw()

        tabs.on_value_change(look)

    def _redraw(self) -> None:
        self._view.redraw = True

    async def follow(self) -> None:
        """Take up changes until the page is closed; go on by itself after whatever went wrong."""
        view, model = self._view, self._view.model
        while not model.ended:
            try:
                async for change in view.backend().changes(view.namespace, view.name):
                    model.take(change)
            except GatewayError as error:
                model.refused(error.detail, error.status, final=error.status in _FATAL)
            await asyncio.sleep(_AGAIN_SECONDS)

    def draw(self) -> None:
        """Send what changed since the last time."""
        view, model = self._view, self._view.model
        if model.version == self._drawn and not view.redraw:
            return
        self._drawn, view.redraw = model.version, False
        self._draw_head()
        self._runs.update()
        self._curves.update()
        match self._tab.value:
            case "Workers":
                self._workers.update()
            case "Lineage":
                self._lineage.update()
            case "IC Ops":
                self._history.update()

    def _draw_head(self) -> None:
        view, model = self._view, self._view.model
        told = f"Not live at present: {model.trouble}" if model.trouble else ""
        view.banner.say(told, login=model.logged_out)
        if model.experiment is None:
            if model.version and not model.trouble:
                view.banner.say("This experiment was deleted.")
            return
        known = facts(model.experiment, datetime.now(UTC))
        for key, label in self._facts.items():
            label.text = known[key] or "-"
        self._notes.text = "\n".join(notes(model.experiment))

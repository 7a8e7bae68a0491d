"""What the cluster reports and what workers write; asked for only while it is looked at."""

from __future__ import annotations

from nicegui import ui

from rapidfireai_dashboard.panels.view import View
from rapidfireai_gateway.errors import GatewayError

_SECONDS = 5.0
_TAIL = 400


class EventsPanel:
    """The Events of an experiment, its runs and workers."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._note = ui.label().classes("rf-note").props("role=status")
        columns = [
            {"name": key, "label": label, "field": key, "align": "left", "sortable": True}
            for key, label in (
                ("time", "When"),
                ("type", "Type"),
                ("reason", "Reason"),
                ("object", "Object"),
                ("message", "Message"),
            )
        ]
        self._table = ui.table(rows=[], columns=columns, row_key="key", pagination=25)
        self._table.classes("rf-table").props('flat dense wrap-cells data-testid="events" aria-label="Events"')
        self._table.props["no-data-label"] = "The cluster reports nothing; it forgets events after an hour."
        self.timer = ui.timer(_SECONDS, self._ask, active=False)

    async def _ask(self) -> None:
        try:
            found = await self._view.backend().events(self._view.namespace, self._view.name)
        except GatewayError as error:
            self._note.text = error.detail
            return
        self._note.text = ""
        self._table.rows = [
            {
                "key": event["metadata"]["uid"],
                "time": str(event.get("eventTime") or event.get("lastTimestamp") or "")[:19].replace("T", " "),
                "type": event.get("type", ""),
                "reason": event.get("reason", ""),
                "object": f"{event['involvedObject'].get('kind')} {event['involvedObject'].get('name')}",
                "message": event.get("message") or event.get("note") or "",
            }
            for event in reversed(found)
        ]


class LogsPanel:
    """The last lines of the workers."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._worker = ui.input("Worker, by number; empty for all").props('dense outlined data-testid="log-worker"')
        self._worker.on("keydown.enter", self._ask)
        self._note = ui.label().classes("rf-note").props("role=status")
        with ui.element("pre").classes("rf-code rf-log").props('tabindex=0 aria-label="Logs" data-testid="logs"'):
            self._text = ui.label()
        self.timer = ui.timer(_SECONDS, self._ask, active=False)

    async def _ask(self) -> None:
        try:
            text = await self._view.backend().logs(
                self._view.namespace, self._view.name, str(self._worker.value or "").strip(), _TAIL
            )
        except GatewayError as error:
            self._note.text = error.detail
            return
        self._note.text = "" if text else "No worker is there; a pod's log goes with the pod."
        if text != self._text.text:
            self._text.text = text

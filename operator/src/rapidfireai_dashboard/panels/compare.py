"""In what two runs differ."""

from __future__ import annotations

from nicegui import ui

from rapidfireai.clone import changes, spelled
from rapidfireai_dashboard.panels.view import View


def compare(view: View) -> None:
    """Show how the configs of the two ticked runs differ."""
    lines = view.lines()
    if len(lines) != 2:
        return
    one, other = lines
    title = f"r{one.index} and r{other.index}"
    found = changes(one.config, other.config)
    with ui.dialog() as dialog, ui.card().classes("rf-dialog").props(f'data-testid="diff" aria-label="{title}"'):
        with ui.element("h2"):
            ui.label(title)
        if not found:
            ui.label("Their configs are equal.").classes("rf-note")
        else:
            columns = [
                {"name": "path", "label": "Knob", "field": "path", "align": "left"},
                {"name": "one", "label": f"r{one.index}", "field": "one", "align": "left"},
                {"name": "other", "label": f"r{other.index}", "field": "other", "align": "left"},
            ]
            rows = [
                {
                    "path": each.path,
                    "one": "not set" if each.kind == "added" else spelled(each.before),
                    "other": "not set" if each.kind == "removed" else spelled(each.after),
                }
                for each in found
            ]
            ui.table(rows=rows, columns=columns, row_key="path").props("flat bordered dense").classes("rf-table")
        ui.button("Close", on_click=dialog.close).props("flat")
    dialog.on("hide", dialog.delete)
    dialog.open()

"""What the parts of an experiment's page share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nicegui import ui
from nicegui.element import Element

from rapidfireai.api import ICOpSpec
from rapidfireai_dashboard.commands import Spelling, spelled
from rapidfireai_dashboard.curves import Choice
from rapidfireai_dashboard.model import ExperimentModel
from rapidfireai_dashboard.runs import RunLine
from rapidfireai_dashboard.visit import Banner, Theme, Visitor
from rapidfireai_gateway.backend import Backend

_MOST_MESSAGES = 6


@dataclass(slots=True)
class View:
    """One experiment on one page.

    Attributes:
        choice: What the curves show.
        selected: The names of the runs that are ticked in the table.
        redraw: Whether something other than the model changed what is to be drawn.
    """

    visitor: Visitor
    namespace: str
    name: str
    model: ExperimentModel
    theme: Theme
    banner: Banner
    choice: Choice = field(default_factory=Choice)
    selected: tuple[str, ...] = ()
    redraw: bool = True
    messages: Element | None = field(default=None)

    def backend(self) -> Backend:
        """Return what the user can see and do."""
        return self.visitor.backend()

    def lines(self) -> list[RunLine]:
        """Return the runs that are ticked, in the order of their numbers."""
        found = (self.model.runs.get(name) for name in self.selected)
        return sorted((line for line in found if line), key=lambda line: line.index)

    def choose(self, choice: Choice) -> None:
        """Show something else from now on."""
        if choice != self.choice:
            self.choice, self.redraw = choice, True

    def spelling(self, spec: ICOpSpec, indexes: list[int]) -> Spelling:
        """Return an operation as commands."""
        experiment = self.model.experiment
        display = (experiment.spec.display_name if experiment else None) or self.name
        return spelled(self.namespace, self.name, display, spec, indexes)

    def say(self, text: str, *, bad: bool = False) -> None:
        """Add a message that stays, and that screen readers read."""
        if self.messages is None:
            return
        with self.messages:
            ui.label(f"{datetime.now(UTC):%H:%M:%S} {text}").classes("rf-bad" if bad else "rf-good")
        while len(self.messages.default_slot.children) > _MOST_MESSAGES:
            self.messages.remove(0)


def browser(function: str, element: Element, *values: Any) -> None:
    """Call a function of `dashboard.js` on an element."""
    words = ", ".join(json.dumps(value) for value in values)
    element.client.run_javascript(f"rf.{function}({element.id}, {words})")


def described(element: Element, text: str) -> None:
    """Say in words what an element shows."""
    if element.props.get("aria-label") != text:
        element.props["aria-label"] = text
        element.update()


def copyable(what: str, text: str, test_id: str) -> None:
    """Show text that a button copies."""
    with ui.element("div").classes("rf-bar"):
        ui.label(what)
        button = ui.button(f"Copy {what}").props("flat dense")
    code = ui.element("pre").classes("rf-code").props(f'data-testid="{test_id}" tabindex=0 aria-label="{what}"')
    with code:
        ui.html(_escaped(text), sanitize=False, tag="span")

    async def copy() -> None:
        copied = await ui.run_javascript(f"return rf.copy({code.id})", timeout=5.0)
        ui.notify("Copied" if copied else "Selected; press Ctrl+C")

    button.on_click(copy)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

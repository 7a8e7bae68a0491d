"""The form of a clone, with the parent's values; every change is checked before anything is made."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement

from rapidfireai.api import ICOpSpec
from rapidfireai.api.icop import Clone
from rapidfireai.clone import spelled, written
from rapidfireai_dashboard.form import Field, addable, fields_of, patch_of
from rapidfireai_dashboard.panels.ops import carry_out
from rapidfireai_dashboard.panels.view import View, copyable
from rapidfireai_dashboard.runs import RunLine
from rapidfireai_gateway.config_schema import schema_of
from rapidfireai_gateway.errors import GatewayError

_PAUSE_SECONDS = 0.35
"""How long nothing is typed before it is checked."""


class CloneDialog:
    """Opens the form for the ticked run."""

    def __init__(self, view: View) -> None:
        self._view = view

    def open(self) -> None:
        """Show the form."""
        lines = self._view.lines()
        if len(lines) == 1:
            _Form(self._view, lines[0])


class _Form:
    def __init__(self, view: View, parent: RunLine) -> None:
        self._view, self._parent = view, parent
        config = written(parent.config)
        schema = schema_of(parent.config)
        self._fields = {field.path: field for field in fields_of(schema, config)}
        self._more = addable(schema, config)
        self._typed: dict[str, Any] = {}
        self._inputs: dict[str, ValueElement[Any]] = {}
        self._patch: dict[str, Any] = {}
        title = f"Clone r{parent.index}"
        with ui.dialog() as self._dialog, ui.card().classes("rf-dialog") as card:
            card.props(f'data-testid="clone-form" aria-label="{title}"')
            with ui.element("h2"):
                ui.label(title)
            for section, fields in groupby(self._fields.values(), key=lambda field: field.section):
                ui.label(section).classes("rf-note")
                with ui.element("div").classes("rf-fields"):
                    for field in fields:
                        self._input(field)
            self._adding()
            self._ending()
        self._pause = ui.timer(_PAUSE_SECONDS, self._check, active=False)
        self._dialog.on("hide", self._close)
        self._dialog.open()
        self._touched()

    def _input(self, field: Field) -> None:
        label = field.name if field.given else field.path
        made: ValueElement[Any]
        if field.kind == "choice":
            made = ui.select(list(field.choices), value=field.value, label=label, clearable=not field.given)
        elif field.kind == "boolean":
            made = ui.select({True: "true", False: "false"}, value=field.value, label=label)
        else:
            made = ui.input(label, value=field.shown())
        made.props(f'dense outlined data-testid="knob-{field.path}" hint=" "')
        made.tooltip(field.about) if field.about else None
        made.on_value_change(lambda event, path=field.path: self._type(path, event.value))
        self._inputs[field.path] = made

    def _adding(self) -> None:
        """Let the user say a knob that the parent's config does not say."""
        self._added = ui.element("div").classes("rf-fields")
        more = ui.select(sorted(self._more), label="Set another knob", with_input=True, value=None)
        more.props('dense outlined options-dense data-testid="add-knob"')

        def add() -> None:
            field = self._more.get(str(more.value))
            if field is not None and field.path not in self._inputs:
                self._fields[field.path] = field
                with self._added:
                    self._input(field)
                more.set_options(sorted(self._more.keys() - self._inputs.keys()), value=None)

        more.on_value_change(add)

    def _ending(self) -> None:
        self._warm = ui.checkbox("Warm start: begin with the weights of the parent's last commit")
        self._warm.props('data-testid="warm"')
        self._warm.on_value_change(self._touched)
        self._said = ui.element("div").props('role=status aria-live=polite data-testid="clone-preview"')
        with ui.expansion("As kubectl or Python").props('dense data-testid="commands"') as self._commands:
            self._spelled = ui.element("div")
        self._commands.on_value_change(self._spell)
        with ui.element("div").classes("rf-bar"):
            self._go = ui.button("Clone", on_click=self._make).props('data-testid="clone-yes"')
            ui.button("Cancel", on_click=self._dialog.close).props('flat data-testid="clone-no"')

    def _type(self, path: str, raw: Any) -> None:
        self._typed[path] = raw
        self._touched()

    def _touched(self) -> None:
        """Check soon, once nothing more is typed."""
        self._go.set_enabled(False)
        self._pause.deactivate()
        self._pause.activate()

    async def _check(self) -> None:
        """Ask what the clone would be."""
        self._pause.deactivate()
        try:
            self._patch = patch_of(self._fields, self._typed)
            preview = await self._view.backend().clone_preview(
                self._view.namespace, self._parent.name, self._patch, bool(self._warm.value)
            )
        except (ValueError, GatewayError) as error:
            self._mark(set(self._typed))
            self._tell([(str(error), "rf-bad")])
            return
        self._mark(set(self._patch))
        lines = [(f"{each.path}: {spelled(each.before)} → {spelled(each.after)}", "") for each in preview.changes]
        if not lines:
            lines = [("Nothing is changed: the clone repeats its parent.", "rf-note")]
        if preview.obstacle:
            lines.append((f"No warm start: {preview.obstacle}", "rf-bad"))
        self._tell(lines)
        self._go.set_enabled(not preview.obstacle)
        self._spell()

    def _mark(self, changed: set[str]) -> None:
        """Mark the fields that differ from the parent's."""
        for path, made in self._inputs.items():
            hint = " "
            if path in changed:
                before = spelled(self._fields[path].value) if self._fields[path].given else "not set"
                hint = f"changed; the parent has {before}"
            if made.props.get("hint") != hint:
                made.props["hint"] = hint
                made.classes(add="rf-changed") if path in changed else made.classes(remove="rf-changed")
                made.update()

    def _tell(self, lines: list[tuple[str, str]]) -> None:
        self._said.clear()
        with self._said:
            for text, classes in lines:
                ui.label(text).classes(classes)

    def _spec(self) -> ICOpSpec:
        clone = Clone(patch=self._patch, warm_start=bool(self._warm.value))
        return ICOpSpec(experiment_ref=self._view.name, op="CloneModify", runs=[self._parent.name], clone=clone)

    def _spell(self) -> None:
        self._spelled.clear()
        if self._commands.value:
            spelling = self._view.spelling(self._spec(), [self._parent.index])
            with self._spelled:
                copyable("kubectl", spelling.kubectl, "as-kubectl")
                copyable("Python", spelling.python, "as-python")

    async def _make(self) -> None:
        self._dialog.close()
        await carry_out(self._view, self._spec())

    def _close(self) -> None:
        self._pause.cancel()
        self._dialog.delete()

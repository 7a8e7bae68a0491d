"""Stop, Resume and Delete: the question before, the operation, and what became of it."""

from __future__ import annotations

from typing import Literal

from nicegui import ui

from rapidfireai.api import ICOp, ICOpSpec
from rapidfireai_dashboard.icops import named, outcome
from rapidfireai_dashboard.panels.view import View, copyable
from rapidfireai_dashboard.runs import RunLine
from rapidfireai_gateway.errors import GatewayError

Plain = Literal["Stop", "Resume", "Delete"]
_WAIT_SECONDS = 30.0
_WHAT = {
    "Stop": "A stopped run keeps its last commit and can be resumed.",
    "Resume": "The runs go on from their last commits.",
    "Delete": "The runs end for good and their results are hidden; their checkpoints stay, so that they can be cloned.",
}
_WHEN = {"Boundary": "at the next chunk boundary", "Immediate": "after the current optimizer step"}
_BATCH = 1000
"""How many runs one operation names at most."""


def ask(view: View, op: Plain) -> None:
    """Ask before the operation is carried out on the ticked runs."""
    lines = view.lines()
    if not lines:
        return
    names = [line.name for line in lines]
    title = f"{op} {_listed(lines)}?"
    with ui.dialog() as dialog, ui.card().classes("rf-dialog").props(f'data-testid="confirm" aria-label="{title}"'):
        with ui.element("h2"):
            ui.label(title)
        ui.label(_WHAT[op]).classes("rf-note")
        when = None
        if op != "Resume":
            when = ui.radio(_WHEN, value="Boundary").props('data-testid="when" aria-label="When"')
        with ui.expansion("As kubectl or Python").props('dense data-testid="commands"') as commands:
            box = ui.element("div")

        def spec() -> ICOpSpec:
            chosen = when.value if when is not None else "Boundary"
            return ICOpSpec(experiment_ref=view.name, op=op, runs=names[:_BATCH], when=chosen)

        def spell() -> None:
            box.clear()
            if commands.value:
                spelling = view.spelling(spec(), [line.index for line in lines])
                with box:
                    copyable("kubectl", spelling.kubectl, "as-kubectl")
                    copyable("Python", spelling.python, "as-python")

        commands.on_value_change(spell)
        if when is not None:
            when.on_value_change(spell)

        async def go() -> None:
            dialog.close()
            for start in range(0, len(names), _BATCH):
                await carry_out(view, spec().model_copy(update={"runs": names[start : start + _BATCH]}))

        with ui.element("div").classes("rf-bar"):
            ui.button(op, on_click=go, color="negative" if op == "Delete" else "primary").props(
                'data-testid="confirm-yes"'
            )
            ui.button("Cancel", on_click=dialog.close).props('flat data-testid="confirm-no"')
    dialog.on("hide", dialog.delete)
    dialog.open()


async def carry_out(view: View, spec: ICOpSpec) -> ICOp | None:
    """Create an ICOp, wait for what becomes of it, and say so; None if it was refused as a whole."""
    what = f"{spec.op} of {named(spec.runs or [])}"
    wire = {key: value for key, value in spec.to_wire().items() if key != "experimentRef"}
    try:
        backend = view.backend()
        made = await backend.create_icop(view.namespace, view.name, wire)
        view.say(f"{what} is asked for as {made['metadata']['name']}.")
        icop = ICOp.from_body(await backend.icop(view.namespace, made["metadata"]["name"], wait=_WAIT_SECONDS))
    except GatewayError as error:
        view.say(f"{what} was refused: {error.detail}", bad=True)
        return None
    for text, bad in outcome(icop):
        view.say(text, bad=bad)
    return icop


def _listed(lines: list[RunLine]) -> str:
    return f"{'run' if len(lines) == 1 else f'{len(lines)} runs:'} {named([line.name for line in lines])}"

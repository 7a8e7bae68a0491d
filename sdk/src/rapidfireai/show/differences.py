"""The configs of two runs side by side. Pure."""

from __future__ import annotations

from typing import Any

from rapidfireai.api import Run
from rapidfireai.clone import Change, changes, spelled
from rapidfireai.show.tables import Table


def differences_table(one: Run, other: Run) -> Table:
    """Return the knobs in which two runs differ, with a column for each run."""
    found = changes(one.spec.config, other.spec.config)
    names = one.metadata.name, other.metadata.name
    rows = tuple((each.path, *_sides(each)) for each in found)
    return Table(("KNOB", *(name.upper() for name in names)), rows, tuple(map(_record, found)))


def _sides(change: Change) -> tuple[str, str]:
    before = "" if change.kind == "added" else spelled(change.before)
    return before, "" if change.kind == "removed" else spelled(change.after)


def _record(change: Change) -> dict[str, Any]:
    return {"path": change.path, "before": change.before, "after": change.after, "kind": change.kind}

"""The tree of clones."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from rapidfireai_dashboard.lineage import Branch, forest
from rapidfireai_dashboard.panels.view import View


class LineagePanel:
    """Runs that were cloned, and their clones below them."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._nodes: list[dict[str, Any]] = []
        self._none = ui.label("No run was cloned yet. Tick a run and press Clone.").classes("rf-note")
        self._tree = ui.tree([]).props('no-connectors=false data-testid="lineage" aria-label="Lineage"')

    def update(self) -> None:
        """Show the tree as it is now."""
        nodes = [_node(branch) for branch in forest(self._view.model.runs.values())]
        self._none.visible = not nodes
        if nodes == self._nodes:
            return
        self._nodes = nodes
        self._tree.props["nodes"] = nodes
        self._tree.update()
        self._tree.expand()


def _node(branch: Branch) -> dict[str, Any]:
    return {"id": branch.run, "label": branch.words(), "children": [_node(each) for each in branch.clones]}

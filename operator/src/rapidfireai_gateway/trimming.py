"""What of an object need not travel. What is left is still a valid object of its kind. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Body = dict[str, Any]
_NOT_SHOWN = frozenset({"pinned", "residence"})
_METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")


def without_bookkeeping(body: Mapping[str, Any]) -> Body:
    """Return an object without what only the API server needs, and without what a Run says twice."""
    trimmed = {**body, "metadata": {key: value for key, value in body["metadata"].items() if key != "managedFields"}}
    status = body.get("status") or {}
    if "prepared" in (status.get("progress") or {}) and status.get("prepared"):
        trimmed["status"] = {**status, "progress": _without(status["progress"], "prepared")}
    return trimmed


def table_row(run: Mapping[str, Any]) -> Body:
    """Return what a table shows of a Run: what it is called, its config, where it stands, its latest numbers."""
    run = without_bookkeeping(run)
    status = {key: value for key, value in (run.get("status") or {}).items() if key not in _NOT_SHOWN}
    if status.get("objective"):
        status["objective"] = status["objective"][-1:]
    metadata = {key: run["metadata"][key] for key in _METADATA if key in run["metadata"]}
    return {"metadata": metadata, "spec": run["spec"], "status": status}


def _without(mapping: Mapping[str, Any], key: str) -> Body:
    return {name: value for name, value in mapping.items() if name != key}

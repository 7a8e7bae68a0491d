"""What of a resource is worth keeping on the volume, so that it can be made again if its cluster is lost. Pure."""

from __future__ import annotations

import json
from typing import Any

from rapidfireai_worker.kubeapi import Body

FORMAT = 1
"""The form of `experiment.json` and `resource.json`; it grows when an earlier version would read them wrongly."""
_OF_STATUS = (
    "adopted",
    "attempt",
    "failures",
    "headStart",
    "objective",
    "objectiveMetric",
    "pinned",
    "prepared",
    "state",
    "stoppedBy",
)
_OF_METADATA = ("name", "namespace", "uid", "creationTimestamp")


def experiment_text(body: Body) -> str:
    """Return what `experiment.json` says of an Experiment.

    Its spec has no secrets, only references to them; of its status an index that is used up is worth keeping.
    """
    status = body.get("status", {})
    return _text(body, {"nextIndex": status["nextIndex"]} if "nextIndex" in status else {})


def run_text(body: Body) -> str:
    """Return what `resource.json` says of a Run: its spec, and what does not follow from its files.

    What changes while a chunk is computed is left out: it is written again with each assignment and each commit.
    """
    status = body.get("status", {})
    kept = {key: status[key] for key in _OF_STATUS if key in status}
    progress = status.get("progress", {})
    said = {key: progress[key] for key in ("checkpoint", "error") if key in progress}
    if said:
        step = progress.get("checkpoint", {}).get("step", 0)
        kept["progress"] = {"attempt": progress["attempt"], "chunk": progress["chunk"], "step": step, **said}
    return _text(body, kept)


def _text(body: Body, status: dict[str, Any]) -> str:
    metadata = {key: body["metadata"][key] for key in _OF_METADATA if key in body["metadata"]}
    record = {"format": FORMAT, "metadata": metadata, "spec": body.get("spec", {}), "status": status}
    return json.dumps(record, indent=1, sort_keys=True)

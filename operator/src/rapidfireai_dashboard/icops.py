"""An ICOp -> a row of the history, and what became of it in sentences. Pure."""

from __future__ import annotations

from typing import Any

from rapidfireai.api import ICOp
from rapidfireai.clone import spelled

LISTED = 12
"""How many runs a sentence names."""


def icop_row(icop: ICOp) -> dict[str, Any]:
    """Return the row of the history."""
    created = icop.metadata.creation_timestamp
    spec = icop.spec
    if spec.runs is not None:
        runs = named(spec.runs)
    else:
        runs = "all that fit" if spec.selector and spec.selector.model_dump(exclude_defaults=True) else "all"
    return {
        "name": icop.metadata.name,
        "sort": (created.timestamp() if created else 0.0, icop.metadata.name),
        "time": f"{created:%Y-%m-%d %H:%M:%S}" if created else "",
        "op": _operation(icop),
        "runs": runs,
        "by": spec.requested_by or "not recorded",
        "state": "complete" if is_complete(icop) else "pending",
        "result": " ".join(text for text, _ in outcome(icop)) if is_complete(icop) else "",
        "why": spec.reason,
    }


def _operation(icop: ICOp) -> str:
    spec = icop.spec
    if spec.clone is None:
        return spec.op + (", immediately" if spec.when == "Immediate" and spec.op != "Resume" else "")
    return f"{spec.op}, {'warm' if spec.clone.warm_start else 'cold'}: {spelled(spec.clone.patch) or 'no change'}"


def is_complete(icop: ICOp) -> bool:
    """Say whether an operation was carried out or refused."""
    return any(each.type == "Complete" and each.status == "True" for each in icop.status.conditions)


def outcome(icop: ICOp) -> list[tuple[str, bool]]:
    """Return what became of an operation, in sentences, each with whether it is bad news."""
    op = icop.spec.op
    if not is_complete(icop):
        return [(f"{op} waits for the operator, which has not answered yet.", True)]
    done = [each.created or each.run for each in icop.status.results if each.outcome == "Applied"]
    refused = [each for each in icop.status.results if each.outcome == "Refused"]
    said = [(f"{op} is accepted: {named(done)}.", False)] if done else []
    said += [(f"{op} of {short(each.run)} was refused: {each.message}", True) for each in refused[:LISTED]]
    if not said:
        judged = next((each for each in icop.status.conditions if each.type == "Complete"), None)
        said = [(f"{op}: {judged.message if judged and judged.message else 'no run was concerned.'}", True)]
    return said


def named(names: list[str]) -> str:
    """Return runs in a few words."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(short, names[:LISTED])) + more


def short(name: str) -> str:
    """Return the `r3` of a run's name."""
    head, separator, index = name.rpartition("-r")
    return f"r{index}" if separator and head and index.isdigit() else name

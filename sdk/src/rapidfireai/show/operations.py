"""IC Ops as rows and as sentences: who asked for what, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rapidfireai.api import ICOp
from rapidfireai.progress.picture import person, status_condition
from rapidfireai.show.tables import Table, age, aligned

_FEW = 4


def icops_table(icops: Sequence[ICOp], now: datetime) -> Table:
    """Return the operations of a workspace or an experiment, oldest first."""
    records = tuple(_record(each, now) for each in icops)
    keys = ("name", "experiment", "op", "runs", "when", "by", "result", "age")
    rows = tuple(tuple(str(record[key]) for key in keys) for record in _as_text(records))
    return Table(tuple(key.upper() for key in keys), rows, records)


def audit(icops: Sequence[ICOp], now: datetime) -> Iterator[str]:
    """Yield the operations as lines for people, with the reasons of refusals and the names of clones below them."""
    rows = [
        [f"{age(each.metadata.creation_timestamp, now)} ago", each.spec.op, target(each), _by(each), outcome(each)]
        for each in icops
    ]
    for icop, line in zip(icops, aligned(rows) if rows else [], strict=True):
        yield line
        if icop.spec.reason:
            yield f"  because {icop.spec.reason}"
        for result in icop.status.results:
            refused = result.outcome == "Refused"
            if result.created:
                yield f"  {result.run} -> {result.created}"
            if result.message:
                yield f"  {result.run}{' was refused' if refused else ''}: {result.message}"


def target(icop: ICOp) -> str:
    """Return which runs an operation is about, in a few words."""
    names = icop.spec.runs
    if names is None:
        selector = icop.spec.selector
        states = "/".join(selector.states) if selector and selector.states else ""
        labels = ",".join(f"{key}={value}" for key, value in selector.match_labels.items()) if selector else ""
        return " ".join(filter(None, ("all", states, labels))) if states or labels else "all runs"
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


def is_about(icop: ICOp, run: str) -> bool:
    """Return whether an operation is about a run, as it was asked for, carried out, or made."""
    asked = icop.spec.runs or []
    return run in asked or any(run in {result.run, result.created} for result in icop.status.results)


def outcome(icop: ICOp) -> str:
    """Return what became of an operation, in a few words."""
    complete = status_condition(icop, "Complete")
    return icop.status.summary or ("queued" if complete is None or complete.status != "True" else "nothing to do")


def _by(icop: ICOp) -> str:
    who = person(icop.spec.requested_by)
    return f"by {who}" if who else ""


def _record(icop: ICOp, now: datetime) -> dict[str, Any]:
    return {
        "name": icop.metadata.name,
        "experiment": icop.spec.experiment_ref,
        "op": icop.spec.op,
        "runs": list(icop.spec.runs or [result.run for result in icop.status.results]),
        "target": target(icop),
        "when": icop.spec.when,
        "by": icop.spec.requested_by or "",
        "reason": icop.spec.reason,
        "result": outcome(icop),
        "results": [each.model_dump(mode="json", exclude_none=True) for each in icop.status.results],
        "age": age(icop.metadata.creation_timestamp, now),
    }


def _as_text(records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        yield {**record, "runs": record["target"], "by": person(record["by"])}

"""What a pass adds to the accounts."""

from __future__ import annotations

from typing import Any

import pytest

from rapidfireai.api import ICOp, Run
from rapidfireai_operator.adapters.metrics import Metrics
from rapidfireai_operator.core.accounts import Account, decisions, of_icop, of_run
from rapidfireai_operator.core.outcome import Outcome, StatusPatch

CREATED = "2026-01-01T00:00:00Z"
NOW = 1767225600.0 + 7
ASSIGNMENT = {
    "worker": "e-w-0",
    "pod": "e-w-0-abcde",
    "podUID": "u",
    "process": "e-w-0-abcde/1",
    "attempt": 2,
    "task": "chunk",
    "chunk": 0,
    "grantedAt": 1.0,
}


def run(**status: Any) -> Run:
    metadata = {"name": "e-r1", "namespace": "n", "uid": "r", "resourceVersion": "1"}
    spec = {"experimentRef": "e", "index": 1, "config": {}}
    return Run.from_body({"metadata": metadata, "spec": spec, "status": status})


def progress(**more: Any) -> dict[str, Any]:
    return {"attempt": 2, "chunk": 0, "step": 4, **more}


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ({}, None),
        ({"assignment": ASSIGNMENT}, "withdrawn"),
        ({"assignment": ASSIGNMENT, "progress": progress()}, "lost"),
        ({"assignment": ASSIGNMENT, "progress": progress(final=True)}, "committed"),
        (
            {
                "assignment": ASSIGNMENT,
                "progress": progress(final=True, error={"reason": "TrainingError", "message": "m", "blame": "Run"}),
            },
            "failed",
        ),
    ],
)
def test_an_assignment_that_is_taken_away_has_one_end(status: dict[str, Any], end: str | None) -> None:
    assert of_run(run(**status), StatusPatch("e-r1", "1", {"assignment": None})) == Account(ended=end)


def test_a_new_attempt_is_a_new_assignment() -> None:
    patch = StatusPatch("e-r1", "1", {"attempt": 3, "assignment": {**ASSIGNMENT, "attempt": 3}})
    before = run(assignment=ASSIGNMENT, progress=progress(final=True))
    assert of_run(before, patch) == Account(granted=True, ended="committed")


def test_an_icop_waits_from_its_making_to_its_first_record_and_its_completion() -> None:
    metadata = {"name": "i", "namespace": "n", "uid": "i", "resourceVersion": "1", "creationTimestamp": CREATED}
    body = {"metadata": metadata, "spec": {"experimentRef": "e", "op": "Stop", "runs": ["e-r1"]}}
    conditions = [
        {"type": "Complete", "status": "False", "reason": "Cloning", "message": "", "lastTransitionTime": CREATED}
    ]
    first, last = (
        StatusPatch("i", "1", {"conditions": [{**conditions[0], "status": status}]}) for status in ("False", "True")
    )
    assert of_icop(ICOp.from_body(body), first, NOW) == Account(op="Stop", accepted=7.0)
    seen = ICOp.from_body({**body, "status": {"conditions": conditions}})
    assert of_icop(seen, last, NOW) == Account(op="Stop", complete=7.0)
    assert of_icop(ICOp.from_body(body), last, NOW) == Account(op="Stop", accepted=7.0, complete=7.0)


def test_decisions_are_counted_by_kind() -> None:
    patches = ({"attempt": 1, "assignment": {}}, {"assignment": None}, {"state": "Running"}, {"state": "Failed"})
    outcome = Outcome(runs=tuple(StatusPatch("r", "1", each) for each in patches), remove_jobs=("e-w-0",))
    assert decisions(outcome) == {"assign": 1, "take_back": 1, "describe_run": 2, "remove_job": 1}


def test_an_experiment_that_is_gone_leaves_no_series() -> None:
    metrics = Metrics()
    empty = metrics.render()
    metrics.show("n", "e", {"Running": 1}, 1)
    metrics.count("n", "e", [Account(granted=True, ended="lost")])
    assert b'rapidfire_assignments_ended_total{end="lost",experiment="e",namespace="n"} 1.0' in metrics.render()
    metrics.drop("n", "e")
    assert b'experiment="e"' not in metrics.render()
    assert len(metrics.render().splitlines()) == len(empty.splitlines())

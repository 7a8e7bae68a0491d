"""The life of one run, step by step."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.builders import merged

from rapidfireai.api import Run
from rapidfireai.api.experiment import MAX_SHARDS
from rapidfireai.api.run import Assignment, Prepared, Progress, RunError, RunStatus
from rapidfireai_operator.core.conditions import find, merge_patch
from rapidfireai_operator.core.fates import Fate
from rapidfireai_operator.core.lifecycle import (
    LONGEST_WAIT,
    Holding,
    Limits,
    Step,
    candidate,
    chunks_done,
    describe,
    settle,
    wait,
)
from rapidfireai_operator.core.objective import SHORTEST_THINNED, objective_name

NOW = 1_700_000_000.0
LIMITS = Limits(backoff_limit=1, crash_limit=1, metric="eval_loss")
BOUNDARIES = [4, 8, 12]


def assignment(attempt: int = 3, chunk: int = 1, task: str = "chunk") -> dict[str, Any]:
    return {
        "worker": "exp-w-0",
        "pod": "exp-w-0-abc",
        "podUID": "u",
        "process": "exp-w-0-abc/p",
        "attempt": attempt,
        "task": task,
        "chunk": chunk,
        "grantedAt": NOW,
    }


def progress(step: int = 8, *, final: bool = True, attempt: int = 3, **more: Any) -> dict[str, Any]:
    checkpoint = {"path": "p", "digest": "0" * 64, "step": step if final else 4}
    metrics = {"chunk/loss": 2.0, "boundary/eval_loss": 1.5}
    return {
        "attempt": attempt,
        "chunk": 1,
        "step": step,
        "final": final,
        "metrics": metrics,
        "checkpoint": checkpoint,
        **more,
    }


def run(desired: str = "Running", **status: Any) -> Run:
    base = {"state": "Running", "attempt": 3, "prepared": {"totalSteps": 12, "boundaries": BOUNDARIES}}
    return Run.model_validate(
        {
            "metadata": {"name": "exp-r1", "namespace": "n", "uid": "run-1", "generation": 2},
            "spec": {"experimentRef": "exp", "index": 1, "config": {}, "desiredState": desired},
            "status": {**base, **status},
        }
    )


def end(of: Run, holding: Holding | None = None) -> Step:
    """Settle and describe, as a pass does."""
    step = settle(of, holding or Holding(), LIMITS, NOW)
    described = describe(of, step.status, NOW)
    return Step(described.status, (*step.events, *described.events))


def progressing(step: Step) -> str:
    found = find(step.status.conditions, "Progressing")
    assert found is not None
    return found.reason


def test_a_commit_at_the_boundary_counts_a_chunk_and_a_point() -> None:
    step = end(run(assignment=assignment(), progress=progress()))
    assert step.status.assignment is None
    assert step.status.display.chunks == "2/3"
    assert [(p.chunk, p.step, p.value) for p in step.status.objective] == [(1, 8, 1.5)]
    assert step.status.objective_metric == "boundary/eval_loss"
    assert step.status.residence is not None


def test_a_commit_short_of_the_boundary_is_kept_and_counts_no_chunk() -> None:
    step = end(run(assignment=assignment(), progress=progress(6)))
    assert step.status.assignment is None
    assert (step.status.display.chunks, step.status.objective) == ("1/3", [])
    found = candidate(run(), step.status, NOW)
    assert found is not None
    assert (found.done, found.remaining) == (1, 6)


def test_the_last_commit_ends_the_run() -> None:
    step = end(run(assignment=assignment(chunk=2), progress=progress(12, chunk=2)))
    assert step.status.state == "Succeeded"
    assert [event.reason for event in step.events] == ["Succeeded"]
    assert candidate(run(), step.status, NOW) is None
    for type_ in ("Finished", "Succeeded"):
        condition = find(step.status.conditions, type_)
        assert condition is not None
        assert condition.status == "True"


def test_what_preparing_found_is_kept() -> None:
    report = progress(0, chunk=-1, checkpoint=None, prepared={"totalSteps": 12, "boundaries": BOUNDARIES, "bytes": 7})
    step = end(run(assignment=assignment(task="prepare", chunk=-1), progress=report, prepared=None))
    assert step.status.prepared == Prepared(total_steps=12, boundaries=BOUNDARIES, bytes=7)


def test_a_report_that_is_not_final_changes_nothing() -> None:
    before = run(assignment=assignment(), progress=progress(6, final=False))
    assert settle(before, Holding(), LIMITS, NOW).status == before.status


def test_a_report_of_an_earlier_attempt_is_not_taken_for_a_commit() -> None:
    before = run(assignment=assignment(attempt=4), progress=progress(attempt=3))
    assert settle(before, Holding(), LIMITS, NOW).status.assignment is not None


def test_the_runs_own_error_is_tried_again_until_the_limit() -> None:
    error = {"reason": "FormattingFailed", "message": "KeyError: 'text'"}
    first = end(run(assignment=assignment(), progress=progress(4, error=error)))
    assert first.status.state == "Running"
    assert progressing(first) == "FormattingFailed"
    assert first.status.failures.retry_at is not None
    second = end(run(assignment=assignment(), progress=progress(4, error=error), failures={"errors": 1}))
    assert second.status.state == "Failed"
    finished = find(second.status.conditions, "Finished")
    assert finished is not None
    assert (finished.reason, finished.message) == ("FormattingFailed", "KeyError: 'text'")
    assert {event.warning for event in second.events} == {True}


def test_an_error_that_another_try_would_repeat_fails_the_run_at_once() -> None:
    error = {"reason": "OutOfMemory", "message": "it needs 9 GiB of 8", "retry": False}
    step = settle(run(assignment=assignment(), progress=progress(4, error=error)), Holding(), Limits(9, 9, "loss"), NOW)
    assert step.status.state == "Failed"
    error["blame"] = "Infrastructure"
    step = settle(run(assignment=assignment(), progress=progress(4, error=error)), Holding(), LIMITS, NOW)
    assert step.status.state == "Running"


def test_what_is_nobodys_fault_is_tried_again_for_ever_with_growing_waits() -> None:
    error = {"reason": "StorageFull", "message": "free some space", "blame": "Infrastructure"}
    waits = []
    for interruptions in range(8):
        failures = {"interruptions": interruptions}
        step = end(run(assignment=assignment(), progress=progress(4, error=error), failures=failures))
        assert step.status.state == "Running"
        assert (step.status.failures.errors, step.status.failures.crashes) == (0, 0)
        assert step.status.failures.retry_at is not None
        waits.append(step.status.failures.retry_at - NOW)
        waiting = candidate(run(), step.status, NOW)
        assert waiting is not None
        assert not waiting.ready
        assert progressing(step) == "StorageFull"
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT
    success = end(run(assignment=assignment(), progress=progress(), failures={"interruptions": 3, "retryAt": NOW + 9}))
    assert success.status.failures.interruptions == 0
    assert success.status.failures.retry_at is None


def test_only_the_active_run_pays_for_a_crash_and_is_tried_alone() -> None:
    before = run(assignment=assignment(), progress=progress(6, final=False))
    crash = Fate(True, "the process in pod p ended with exit code 137 (OOMKilled)")
    paid = end(before, Holding(crash, active=True))
    assert (paid.status.failures.crashes, paid.status.failures.alone, paid.status.assignment) == (1, True, None)
    assert "OOMKilled" in paid.events[0].message
    waiting = find(paid.status.conditions, "Progressing")
    assert waiting is not None
    assert (waiting.status, waiting.reason) == ("True", "WaitingForWorker")
    assert "a worker for itself, because the process in pod p ended with exit code 137 (OOMKilled)" in waiting.message
    for holding in (Holding(crash, active=False), Holding(Fate(False, "drained"), active=True)):
        free = end(before, holding)
        assert (free.status.failures.crashes, free.status.failures.alone, free.status.assignment) == (0, False, None)
    again = end(run(assignment=assignment(), failures={"crashes": 1, "alone": True}), Holding(crash))
    assert again.status.state == "Failed"
    finished = find(again.status.conditions, "Finished")
    assert finished is not None
    assert finished.reason == "WorkerCrashed"
    assert "took its worker down 2 times, the last time when the process in pod p ended with exit" in finished.message


def test_a_commit_before_the_crash_still_counts() -> None:
    step = end(run(assignment=assignment(), progress=progress()), Holding(Fate(True, "it crashed")))
    assert step.status.display.chunks == "2/3"
    assert step.status.failures.crashes == 0


def test_stop_lets_the_chunk_in_flight_finish_and_takes_a_queued_one_back() -> None:
    in_flight = end(run("Stopped", assignment=assignment(), progress=progress(6, final=False)))
    assert in_flight.status.assignment is not None
    assert (in_flight.status.state, progressing(in_flight)) == ("Running", "Stopping")
    queued = end(run("Stopped", assignment=assignment(attempt=4), progress=progress()))
    assert queued.status.assignment is None
    assert queued.status.state == "Stopped"
    assert queued.status.residence is None
    done = end(run("Stopped", assignment=assignment(), progress=progress()))
    assert (done.status.state, done.status.display.chunks) == ("Stopped", "2/3")


def test_a_stopped_run_gets_nothing_and_a_resumed_one_does() -> None:
    assert candidate(run("Stopped"), run("Stopped").status, NOW) is None
    resumed = end(run("Running", state="Stopped"))
    assert resumed.status.state == "Running"
    assert [event.reason for event in resumed.events] == ["Resumed"]


def test_a_worker_that_leaves_gives_back_what_it_has_not_begun() -> None:
    leaving = Holding(leaving=True)
    assert settle(run(assignment=assignment()), leaving, LIMITS, NOW).status.assignment is None
    begun = run(assignment=assignment(), progress=progress(6, final=False))
    assert settle(begun, leaving, LIMITS, NOW).status.assignment is not None


@pytest.mark.parametrize("state", ["Succeeded", "Failed"])
def test_an_ended_run_stays_ended(state: str) -> None:
    for desired in ("Running", "Stopped"):
        before = run(desired, state=state)
        assert end(before).status.state == state
        assert candidate(before, before.status, NOW) is None


def test_the_objective_falls_back_to_the_training_loss() -> None:
    assert objective_name("eval_loss", {"chunk/loss": 1.0}) == "chunk/loss"
    assert objective_name("eval_loss", {"chunk/loss": 1.0, "boundary/eval_loss": 1.0}) == "boundary/eval_loss"
    assert objective_name("accuracy", {"chunk/loss": 1.0}) is None


def estimated(value: float, lower: float | None, upper: float | None) -> dict[str, Any]:
    ends = {"lower": lower, "upper": upper} if lower is not None else {}
    return {"value": value, "level": 0.95, "method": "wilson", **ends}


def test_the_curve_of_an_evaluation_has_its_intervals_and_the_column_shows_the_latest() -> None:
    estimates = {"Accuracy": estimated(0.7123456789, 0.6512345678, 0.7734567891), "F1": estimated(0.5, None, None)}
    report = progress(metrics={"Accuracy": 0.7123456789, "Samples Processed": 8.0}, estimates=estimates)
    of = run(assignment=assignment(), progress=report)
    status = settle(of, Holding(), replace(LIMITS, metric="Accuracy"), NOW).status
    (point,) = status.objective
    assert (point.value, point.lower, point.upper) == (0.7123456789, 0.651235, 0.773457)
    assert describe(of, status, NOW).status.display.objective == "0.7123 [0.6512, 0.7735]"
    (bare,) = settle(of, Holding(), replace(LIMITS, metric="F1"), NOW).status.objective
    assert (bare.value, bare.lower) == (0.5, None), "estimated, and not among the metrics"
    assert settle(of, Holding(), replace(LIMITS, metric=None), NOW).status.objective == [], "nothing ranks the runs"


def test_the_longest_evaluation_keeps_its_status_small() -> None:
    shards, rows = MAX_SHARDS, 100_000
    boundaries = [math.ceil(rows * (shard + 1) / shards) for shard in range(shards)]
    prepared = {"totalSteps": rows, "boundaries": boundaries, "index": "a" * 64, "indexBuilt": True}
    names = [f"{'metric' * 5}_{each}" for each in range(16)]
    estimates = {name: estimated(math.pi / 7, math.pi / 11, math.pi / 5) for name in names}
    status = RunStatus.model_validate({"state": "Running", "attempt": 1, "prepared": prepared})
    for chunk, step in enumerate(boundaries):
        checkpoint = {"path": "p" * 200, "digest": "0" * 64, "step": step}
        report = progress(step, attempt=1, chunk=chunk, estimates=estimates, checkpoint=checkpoint)
        report["metrics"] = dict.fromkeys(names, math.pi / 7)
        given = Assignment.model_validate(assignment(attempt=1, chunk=chunk))
        last = status.model_copy(update={"assignment": given, "progress": Progress.model_validate(report)})
        of = Run.model_construct(metadata=run().metadata, spec=run().spec, status=last)
        status = settle(of, Holding(), replace(LIMITS, metric=names[0]), NOW).status
    described = describe(of, status, NOW).status
    assert described.state == "Succeeded"
    assert len(described.objective) > SHORTEST_THINNED
    assert len(json.dumps(described.to_wire(), separators=(",", ":"))) < 50_000


@pytest.mark.parametrize(
    ("config", "task", "reason"),
    [
        ({}, "prepare", "Preparing"),
        ({"vllm_config": {}}, "index", "Indexing"),
        ({"api_config": {}}, "chunk", "Evaluating"),
        ({}, "chunk", "Training"),
    ],
)
def test_the_condition_says_what_a_run_is_about(config: dict[str, Any], task: str, reason: str) -> None:
    of = run(assignment=assignment(task=task))
    of.spec.config = config
    found = find(describe(of, of.status, NOW).status.conditions, "Progressing")
    assert found is not None
    assert found.reason == reason


def test_waits_grow_and_are_bounded() -> None:
    waits = [wait(number) for number in range(1, 50)]
    assert waits == sorted(waits)
    assert max(waits) == LONGEST_WAIT


errors = st.builds(
    RunError,
    reason=st.just("Reason"),
    message=st.just("why"),
    blame=st.sampled_from(["Run", "Infrastructure"]),
    retry=st.booleans(),
)


@given(st.lists(errors, max_size=8), st.integers(0, 4))
def test_a_run_fails_exactly_when_its_own_errors_are_more_than_allowed_or_hopeless(
    seen: list[RunError], limit: int
) -> None:
    """Infrastructure never fails it, whatever lies between; every failure waits before the next try."""
    limits = Limits(backoff_limit=limit, crash_limit=0, metric="eval_loss")
    status, own = run().status, 0
    for error in seen:
        if status.state == "Failed":
            break
        report = Progress.model_validate(progress(4)).model_copy(update={"error": error})
        given_out = {"assignment": Assignment.model_validate(assignment()), "progress": report}
        before = run().model_copy(update={"status": status.model_copy(update=given_out)})
        status = settle(before, Holding(), limits, NOW).status
        own += error.blame == "Run"
        hopeless = error.blame == "Run" and not error.retry
        assert (status.state == "Failed") == (own > limit or hopeless)
        assert (status.failures.errors, status.failures.crashes) == (own, 0)
        assert status.failures.retry_at is not None
        assert NOW < status.failures.retry_at <= NOW + LONGEST_WAIT


reports = st.builds(
    Progress,
    attempt=st.integers(1, 4),
    chunk=st.integers(-1, 4),
    step=st.integers(0, 20),
    final=st.booleans(),
    metrics=st.dictionaries(st.sampled_from(["chunk/loss", "boundary/eval_loss"]), st.floats(-9, 9), max_size=2),
    checkpoint=st.none(),
)


@given(reports, st.booleans(), st.sampled_from(["Running", "Stopped"]), st.integers(-1, 2))
def test_settling_twice_is_settling_once(report: Progress, crashed: bool, desired: str, chunk: int) -> None:
    given_out = Assignment.model_validate(assignment(chunk=chunk, task="prepare" if chunk < 0 else "chunk"))
    before = run(desired)
    status = before.status.model_copy(update={"assignment": given_out, "progress": report})
    before = before.model_copy(update={"status": status})
    first = end(before, Holding(Fate(crashed, "it ended")))
    assert first.status.assignment is None
    assert chunks_done(first.status) >= chunks_done(status)
    again = end(before.model_copy(update={"status": first.status}))
    assert again.status == first.status
    assert again.events == ()


json_objects = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | st.lists(st.integers(), max_size=2), max_size=3),
)


@given(json_objects, json_objects)
def test_a_merge_patch_makes_the_one_out_of_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged(before, merge_patch(before, after)) == after
    assert (merge_patch(before, after) == {}) == (before == after)


def test_a_status_survives_the_wire() -> None:
    step = end(run(assignment=assignment(), progress=progress()))
    assert RunStatus.model_validate(step.status.to_wire()) == step.status


@pytest.mark.parametrize("state", ["Pending", "Running", "Stopped", "Succeeded", "Failed", "Deleted"])
def test_a_run_that_nobody_holds_is_deleted_at_once_whatever_it_was(state: str) -> None:
    step = end(run("Deleted", state=state))
    assert step.status.state == "Deleted"
    finished, succeeded = find(step.status.conditions, "Finished"), find(step.status.conditions, "Succeeded")
    assert finished is not None
    assert succeeded is not None
    assert (finished.status, succeeded.status, finished.reason) == ("True", "False", "Deleted")
    assert candidate(run("Deleted", state=state), step.status, NOW) is None
    assert [event.reason for event in step.events] == ([] if state == "Deleted" else ["Deleted"])


def test_a_run_under_way_is_deleted_when_its_worker_has_committed() -> None:
    held = {"assignment": assignment(), "progress": progress(6, final=False)}
    assert end(run("Deleted", **held)).status.state == "Running"
    assert progressing(end(run("Deleted", **held))) == "Deleting"
    done = end(run("Deleted", **held | {"progress": progress(6)}))
    assert (done.status.state, done.status.assignment) == ("Deleted", None)
    assert end(run("Deleted", assignment=assignment())).status.state == "Deleted", "nobody has begun it"


def test_events_name_who_asked() -> None:
    asked = run("Stopped")
    asked.spec.requested_by = "alice"
    (event,) = end(asked).events
    assert event.message == "Stopped by alice. Set spec.desiredState to Running to go on."

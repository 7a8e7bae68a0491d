"""The life of one Run: what its status becomes when its worker commits, dies, or the user changes their mind."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfireai.api import Run, RunStatus
from rapidfireai.api.run import (
    ENDED,
    PREPARE_CHUNK,
    Assignment,
    Failures,
    Residence,
    RunDisplay,
    RunError,
    RunState,
)
from rapidfireai.expand import is_evaluation
from rapidfireai_operator.core.adoption import beginning
from rapidfireai_operator.core.conditions import Event, Verdict, judged, shortened
from rapidfireai_operator.core.fates import Fate
from rapidfireai_operator.core.indexes import WAITING_FOR_INDEX, unbuilt_index
from rapidfireai_operator.core.objective import curve, shown
from rapidfireai_operator.core.schedule import Assign, Candidate
from rapidfireai_operator.core.suspension import RUN_WAITS, SUSPENDED

FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0
"""Seconds before the next try after a failure; each failure in a row doubles them."""
_RESUME = "Set spec.desiredState to Running to go on."
LONGEST_CRASH = 512
"""Characters of what is told of a crash."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the experiment allows its runs, and what it compares them by.

    Attributes:
        backoff_limit: How often a run is tried again after an error of its own.
        crash_limit: How often after it took its worker down.
        metric: The objective; None if runs are not ranked.
    """

    backoff_limit: int
    crash_limit: int
    metric: str | None


@dataclass(frozen=True, slots=True)
class Holding:
    """How the assignment of a run stands.

    Attributes:
        fate: What became of the process that holds it; None while it lives.
        active: Whether the process computes it: then it pays for a crash.
        leaving: Whether the worker was told to leave.
    """

    fate: Fate | None = None
    active: bool = True
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A run's next status, and what is worth telling about it."""

    status: RunStatus
    events: tuple[Event, ...] = ()


def settle(run: Run, holding: Holding, limits: Limits, now: float) -> Step:
    """Close the run's assignment if it is over: committed, lost, or taken back.

    Args:
        run: The run as the API server has it.
        holding: How its assignment stands; looked at only if there is one.
        limits: What the experiment allows.
        now: Seconds since the epoch.
    """
    status, assignment = beginning(run), run.status.assignment
    if assignment is None:
        return Step(status)
    if committed(status):
        return _fold(run, assignment, limits, now)
    if holding.fate is not None:
        return _lose(run, holding.fate, holding.active, limits)
    if not begun(status) and (run.spec.desired_state != "Running" or holding.leaving):
        return Step(status.model_copy(update={"assignment": None}))
    return Step(status)


def committed(status: RunStatus) -> bool:
    """Return whether the assignment is done: its attempt sent its final report."""
    return begun(status) and status.progress is not None and status.progress.final


def begun(status: RunStatus) -> bool:
    """Return whether the worker reported on the assignment."""
    progress, assignment = status.progress, status.assignment
    return progress is not None and assignment is not None and progress.attempt == assignment.attempt


def computing(runs: Sequence[Run]) -> Run:
    """Return which of the runs that a process holds, and has not committed, it computes.

    It begins the older assignment first, and a second one as soon as the first is computed and only being written. Runs
    that were given out in one go are as old as each other: what the worker said that it began tells them apart.

    Args:
        runs: At least one run; all are assigned to the same process.
    """
    by_age = sorted(runs, key=_age)
    return next((run for run in reversed(by_age) if begun(run.status)), by_age[0])


def committed_step(status: RunStatus) -> int:
    """Return the optimizer step of the last durable state."""
    return status.committed.step if status.committed is not None else 0


def chunks_done(status: RunStatus) -> int:
    """Return how many chunks are committed whole."""
    if status.prepared is None:
        return 0
    step = committed_step(status)
    return bisect_right(status.prepared.boundaries, step)


def candidate(run: Run, status: RunStatus, now: float) -> Candidate | None:
    """Return what the planner has to know of a run, or None if it gets nothing now or ever.

    Args:
        run: The run.
        status: Its status after `settle`.
        now: Seconds since the epoch.
    """
    stopping = run.spec.desired_state != "Running"
    assignment, prepared, failures = status.assignment, status.prepared, status.failures
    if status.state in ENDED or run.metadata.deletion_timestamp is not None or (stopping and assignment is None):
        return None
    waits = failures.retry_at is not None and failures.retry_at > now
    return Candidate(
        name=run.metadata.name,
        index=run.spec.index,
        done=chunks_done(status),
        head_start=status.head_start,
        remaining=None if prepared is None else prepared.total_steps - committed_step(status),
        index_digest=unbuilt_index(status),
        attempt=status.attempt,
        ready=not stopping and not waits,
        held_by=assignment.worker if assignment is not None else None,
        granted_at=assignment.granted_at if assignment is not None else 0.0,
        begun=begun(status),
        builds=assignment is not None and assignment.task == "index",
        residence=status.residence.process if status.residence is not None else None,
        alone=failures.alone,
        priority=run.spec.priority,
    )


def assign(status: RunStatus, decision: Assign, pod: str, pod_uid: str, now: float) -> RunStatus:
    """Return the status with the planner's decision in it."""
    assignment = Assignment(
        worker=decision.worker,
        pod=pod,
        pod_uid=pod_uid,
        process=decision.process,
        attempt=decision.attempt,
        task=decision.task,
        chunk=decision.chunk,
        granted_at=now,
    )
    return status.model_copy(update={"assignment": assignment, "attempt": decision.attempt})


def describe(run: Run, status: RunStatus, now: float, waits: str = "") -> Step:
    """Return the status with its summary: state, columns, conditions; and an event if the state changed.

    Args:
        run: The run as the API server has it.
        status: What its status becomes.
        now: Seconds since the epoch.
        waits: Why it waits for its index, or that the experiment is suspended, if so.
    """
    state = _state(run, status)
    evicted = state in ENDED or state == "Stopped"
    total = len(status.prepared.boundaries) if status.prepared is not None else None
    latest = status.objective[-1] if status.objective else None
    described = status.model_copy(
        update={
            "state": state,
            "residence": None if evicted else status.residence,
            "display": RunDisplay(
                chunks="" if total is None else f"{chunks_done(status)}/{total}",
                objective="" if latest is None else shown(latest.value, latest.lower, latest.upper),
            ),
            "conditions": judged(
                status.conditions,
                _verdicts(run, status, state, now, waits),
                generation=run.metadata.generation,
                now=now,
            ),
        }
    )
    return Step(described, _announce(run, status, state))


def wait(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row."""
    return float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(failures - 1, 10)))


def _age(run: Run) -> tuple[float, str]:
    assignment = run.status.assignment
    return (assignment.granted_at if assignment is not None else 0.0, run.metadata.uid)


def _fold(run: Run, assignment: Assignment, limits: Limits, now: float) -> Step:
    """Take up the final report of the assignment's attempt."""
    progress = run.status.progress
    if progress is None:  # `committed` saw it
        raise AssertionError("a commit without progress")
    status = run.status.model_copy(update={"assignment": None})
    if progress.error is not None:
        return _fail(run, status, progress.error, limits, now)
    update: dict[str, object] = {
        "residence": Residence(worker=assignment.worker, process=assignment.process),
        "failures": status.failures.model_copy(update={"interruptions": 0, "retry_at": None, "alone": False}),
    }
    if assignment.chunk == PREPARE_CHUNK:
        if progress.prepared is None or not progress.prepared.boundaries:
            error = RunError(reason="NothingPrepared", message="the worker reported no boundaries", blame="Run")
            return _fail(run, status, error, limits, now)
        if assignment.task == "index" and not progress.prepared.index_built:
            error = RunError(reason="IndexNotBuilt", message="the worker built no index and says no why", blame="Run")
            return _fail(run, status, error, limits, now)
        update["prepared"] = progress.prepared
        if committed_step(status) >= progress.prepared.total_steps:
            update["state"] = "Succeeded"  # it was adopted, and nobody knew of how many steps it has
    else:
        update |= curve(status, progress, limits.metric)
        if status.prepared is not None and committed_step(status) >= status.prepared.total_steps:
            update["state"] = "Succeeded"
    return Step(status.model_copy(update=update))


def _fail(run: Run, status: RunStatus, error: RunError, limits: Limits, now: float) -> Step:
    """Take up an attempt that ended with an error: of the run's own, or of what it runs on."""
    failures = status.failures
    if error.blame == "Run":
        failures = failures.model_copy(
            update={"errors": failures.errors + 1, "retry_at": now + wait(failures.errors + 1)}
        )
    else:
        interruptions = failures.interruptions + 1
        failures = failures.model_copy(update={"interruptions": interruptions, "retry_at": now + wait(interruptions)})
    update: dict[str, object] = {"failures": failures, "residence": None}
    if failures.errors > limits.backoff_limit or (error.blame == "Run" and not error.retry):
        update["state"] = "Failed"
    message = f"{error.message} (attempt {run.status.attempt})"
    return Step(status.model_copy(update=update), (_event(run, error.reason, message, warning=True),))


def _lose(run: Run, fate: Fate, active: bool, limits: Limits) -> Step:
    """Take the assignment away from a process that is no more."""
    failures: Failures = run.status.failures
    update: dict[str, object] = {"assignment": None, "residence": None}
    if not (fate.crashed and active):
        return Step(run.status.model_copy(update=update))
    crash = {"crashes": failures.crashes + 1, "last_crash": fate.message[:LONGEST_CRASH], "alone": True}
    failures = failures.model_copy(update=crash)
    update["failures"] = failures
    if failures.crashes > limits.crash_limit:
        update["state"] = "Failed"
    message = f"It was active when {fate.message}; crash {failures.crashes}, crashLimit {limits.crash_limit}."
    return Step(run.status.model_copy(update=update), (_event(run, "WorkerCrashed", message, warning=True),))


def _state(run: Run, status: RunStatus) -> RunState:
    if run.spec.desired_state == "Deleted" and status.assignment is None:
        return "Deleted"
    if status.state in ENDED and status.state is not None:
        return status.state
    if run.spec.desired_state == "Stopped" and status.assignment is None:
        return "Stopped"
    return "Running" if status.attempt > 0 else "Pending"


def _verdicts(run: Run, status: RunStatus, state: RunState, now: float, waits: str) -> list[Verdict]:
    if state == "Succeeded":
        message = f"All {len(status.prepared.boundaries) if status.prepared else 0} chunks are committed."
        return [
            Verdict("Progressing", "False", "Succeeded", message),
            Verdict("Finished", "True", "Succeeded", message),
            Verdict("Succeeded", "True", "Succeeded", message),
        ]
    if state == "Deleted":
        stays = "Its checkpoints stay; clone it, warm to go on from its last commit."
        if is_evaluation(run.spec.config):
            stays = "Its answers stay; clone it to have it again."
        message = f"It was deleted{_by(run)}. {stays}"
        return [
            Verdict("Progressing", "False", "Deleted", message),
            Verdict("Finished", "True", "Deleted", message),
            Verdict("Succeeded", "False", "Deleted", message),
        ]
    if state == "Failed":
        reason, message = _why_failed(run, status)
        return [
            Verdict("Progressing", "False", reason, message),
            Verdict("Finished", "True", reason, message),
            Verdict("Succeeded", "False", reason, message),
        ]
    return [
        _progressing(run, status, state, now, waits),
        Verdict("Finished", "False", "NotFinished"),
        Verdict("Succeeded", "Unknown", "NotFinished"),
    ]


def _why_failed(run: Run, status: RunStatus) -> tuple[str, str]:
    before = run.spec.adopted
    if before is not None and before.state == "Failed" and before.error is not None:
        return before.error.reason, shortened(before.error.message)
    error = status.progress.error if status.progress is not None else None
    if error is not None and status.progress is not None and status.progress.attempt == status.attempt:
        return error.reason, shortened(error.message)
    failures = status.failures
    times = "once" if failures.crashes == 1 else f"{failures.crashes} times"
    return "WorkerCrashed", f"It took its worker down {times}, the last time when {failures.last_crash}."


def _progressing(run: Run, status: RunStatus, state: RunState, now: float, waits: str) -> Verdict:
    if state == "Stopped":
        return Verdict("Progressing", "False", "Stopped", f"Stopped{_by(run)}. {_RESUME}")
    if run.spec.desired_state != "Running":
        where = "after the current step" if run.spec.when == "Immediate" else "at the next chunk boundary"
        if run.spec.desired_state == "Deleted":
            return Verdict("Progressing", "True", "Deleting", f"It is deleted {where}{_by(run)}.")
        return Verdict("Progressing", "True", "Stopping", f"It stops {where}{_by(run)}.")
    return _going_on(run, status, now, waits)


def _going_on(run: Run, status: RunStatus, now: float, waits: str) -> Verdict:
    """Return what a run does, or waits for, that nobody asked to stop."""
    again = f"It gets a worker for itself, because {status.failures.last_crash}." if status.failures.alone else ""
    if status.assignment is not None:
        reason = {"prepare": "Preparing", "index": "Indexing", "chunk": _computes(run)}[status.assignment.task]
        return Verdict("Progressing", "True", reason, again)
    if waits == RUN_WAITS:
        return Verdict("Progressing", "False", SUSPENDED, waits)
    if status.failures.retry_at is not None and status.failures.retry_at > now:
        error = status.progress.error if status.progress is not None else None
        reason = error.reason if error is not None else "Interrupted"
        message = f"{error.message if error is not None else 'It was interrupted.'} It is tried again soon."
        return Verdict("Progressing", "False", reason, message)
    if waits:
        return Verdict("Progressing", "True", WAITING_FOR_INDEX, waits)
    return Verdict("Progressing", "True", "WaitingForWorker", again)


def _computes(run: Run) -> str:
    return "Evaluating" if is_evaluation(run.spec.config) else "Training"


def _announce(run: Run, status: RunStatus, state: RunState) -> tuple[Event, ...]:
    """Return the event of a change of state."""
    before = run.status.state
    if state == before or (before is None and state == "Pending"):
        return ()
    match state:
        case "Failed":
            reason, message = "Failed", "{}: {}".format(*_why_failed(run, status))
        case "Succeeded":
            reason, message = "Succeeded", "All chunks are committed."
        case "Stopped":
            reason, message = "Stopped", f"Stopped{_by(run)}. {_RESUME}"
        case "Deleted":
            reason, message = "Deleted", f"Deleted{_by(run)}. Its checkpoints stay."
        case _ if before == "Stopped":
            reason, message = "Resumed", f"Resumed{_by(run)}. It goes on from its last commit."
        case _:
            reason, message = "Started", "Its first attempt was given to a worker."
    return (_event(run, reason, message, warning=state == "Failed"),)


def _by(run: Run) -> str:
    """Return who asked for it, as the end of a sentence; nothing where the API server does not write it down."""
    return f" by {run.spec.requested_by}" if run.spec.requested_by else ""


def _event(run: Run, reason: str, message: str, *, warning: bool = False) -> Event:
    return Event("Run", run.metadata.name, run.metadata.uid, reason, shortened(message), warning)

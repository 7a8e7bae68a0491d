"""What this worker does next: pure decisions over what the API server shows and what the process is busy with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rapidfireai.api import Run
from rapidfireai.api.run import ENDED, Task


@dataclass(frozen=True, slots=True)
class Grant:
    """An assignment to this process; (uid, attempt) names it for ever."""

    uid: str
    name: str
    attempt: int
    task: Task
    chunk: int
    granted_at: float


@dataclass(frozen=True, slots=True)
class Slot:
    """What the process is busy with.

    Attributes:
        process: Its Lease's holder, `<pod>/<process id>`: the only assignee that it answers to.
        computing: What the engine works on now.
        concluding: What was computed and is being made durable and committed.
        finished: By run UID, the last attempt that this process is through with, whatever became of it.
        residents: The runs whose sessions are warm.
        leaving: True once it was told to go: nothing new is begun.
    """

    process: str
    computing: Grant | None = None
    concluding: frozenset[Grant] = frozenset()
    finished: Mapping[str, int] = field(default_factory=dict)
    residents: frozenset[str] = frozenset()
    leaving: bool = False

    @property
    def busy(self) -> frozenset[Grant]:
        """Everything that was begun and is not finished."""
        return self.concluding | ({self.computing} if self.computing else frozenset())


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a look at the runs.

    Attributes:
        start: What the engine works on next; None while it is busy or nothing is there.
        withdrawn: What was begun and is no longer assigned: nothing of it may be kept.
        parked: What ends after its current optimizer step, because the run is to stop at once.
        idle: Residents that nothing is assigned for; each is read once, to see whether it still has a reason to stay.
    """

    start: Grant | None = None
    withdrawn: frozenset[Grant] = frozenset()
    parked: frozenset[Grant] = frozenset()
    idle: frozenset[str] = frozenset()


def grant_of(run: Run, process: str) -> Grant | None:
    """Return what `run` assigns to `process`, or None."""
    assignment = run.status.assignment
    if assignment is None or assignment.process != process or run.metadata.deletion_timestamp is not None:
        return None
    return Grant(
        uid=run.metadata.uid,
        name=run.metadata.name,
        attempt=assignment.attempt,
        task=assignment.task,
        chunk=assignment.chunk,
        granted_at=assignment.granted_at,
    )


def decide(runs: Mapping[str, Run], slot: Slot) -> Decision:
    """Decide what to begin and what to give up.

    A worker begins the oldest assignment first, one at a time; a run whose last attempt is still being committed
    waits for that. A run that is to stop is not begun, but what was begun of it is finished: it stops at the boundary,
    or after its current optimizer step if that is what was asked for.

    Args:
        runs: The runs that are assigned to this pod, by UID.
        slot: What the process is busy with.
    """
    granted = {uid: grant for uid, run in runs.items() if (grant := grant_of(run, slot.process)) is not None}
    return Decision(
        start=None if slot.computing or slot.leaving else _oldest(runs, granted, slot),
        withdrawn=frozenset(grant for grant in slot.busy if granted.get(grant.uid) != grant),
        parked=frozenset(
            grant for grant in slot.busy if granted.get(grant.uid) == grant and _stops_at_once(runs[grant.uid])
        ),
        idle=slot.residents - granted.keys() - {grant.uid for grant in slot.busy},
    )


def _stops_at_once(run: Run) -> bool:
    return run.spec.desired_state != "Running" and run.spec.when == "Immediate"


def _oldest(runs: Mapping[str, Run], granted: Mapping[str, Grant], slot: Slot) -> Grant | None:
    engaged = {grant.uid for grant in slot.busy}
    open_ones = [
        grant
        for uid, grant in granted.items()
        if uid not in engaged and grant.attempt > slot.finished.get(uid, 0) and _may_begin(runs[uid], grant)
    ]
    return min(open_ones, key=lambda grant: (grant.granted_at, grant.uid), default=None)


def _may_begin(run: Run, grant: Grant) -> bool:
    progress = run.status.progress
    over = progress is not None and progress.final and progress.attempt >= grant.attempt
    return run.spec.desired_state == "Running" and not over


def must_leave(run: Run | None) -> bool:
    """Return whether a resident run has no reason to hold memory: it is gone, stopped, deleted, or has ended.

    Args:
        run: The run as it was just read, or None if it does not exist any more.
    """
    if run is None or run.metadata.deletion_timestamp is not None:
        return True
    return run.spec.desired_state != "Running" or run.status.state in ENDED | {"Stopped"}


def drop(slot: Slot, grant: Grant) -> Slot:
    """Return the slot without `grant`, which was given up before the engine had it: it may be begun another time."""
    return replace(slot, concluding=slot.concluding - {grant})


def finish(slot: Slot, grant: Grant) -> Slot:
    """Return the slot after this process is through with `grant`."""
    finished = {**slot.finished, grant.uid: max(grant.attempt, slot.finished.get(grant.uid, 0))}
    return replace(slot, concluding=slot.concluding - {grant}, finished=finished)

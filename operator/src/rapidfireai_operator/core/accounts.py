"""What a pass adds to the accounts: assignments by their end, IC Ops by their waits, decisions by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rapidfireai.api import ExperimentStatus, ICOp, Run, RunStatus
from rapidfireai_operator.core.conditions import find
from rapidfireai_operator.core.lifecycle import begun, committed
from rapidfireai_operator.core.outcome import Outcome, StatusPatch

End = Literal["committed", "failed", "lost", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Account:
    """What one write adds.

    Attributes:
        granted: Whether it gave an assignment out.
        ended: How the assignment ended that it took away; None if it took none away.
        op: What kind of operation it records.
        accepted: Seconds from making an ICOp to this, its first record; None if it is not the first.
        complete: The same to this, its completion.
    """

    granted: bool = False
    ended: End | None = None
    op: str = ""
    accepted: float | None = None
    complete: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an experiment is.

    Attributes:
        state: Its state in one word.
        chunks: Chunks of all runs, as far as they are known.
        done: Chunks that are committed.
        slots: Worker slots that have a Job.
        ready: Workers that take assignments.
    """

    state: str
    chunks: int
    done: int
    slots: int
    ready: int

    @classmethod
    def of(cls, status: ExperimentStatus) -> Progress:
        """Return how far an experiment is by its status."""
        return cls(
            state=status.state or "Pending",
            chunks=status.chunks.total,
            done=status.chunks.done,
            slots=status.workers.replicas,
            ready=status.workers.ready,
        )


def of_run(run: Run, patch: StatusPatch) -> Account:
    """Return what writing a run's status adds.

    Args:
        run: The run before.
        patch: What was written; a new attempt in it is a new assignment.
    """
    ended = _end(run.status) if "assignment" in patch.status else None
    return Account(granted="attempt" in patch.status, ended=ended)


def of_icop(icop: ICOp, patch: StatusPatch, now: float) -> Account:
    """Return what writing the record of an ICOp adds.

    Args:
        icop: The ICOp before.
        patch: What was written.
        now: Seconds since the epoch.
    """
    created, before = icop.metadata.creation_timestamp, find(icop.status.conditions, "Complete")
    if created is None:
        return Account()
    # Creation times are whole seconds of the API server's clock.
    waited = max(0.0, now - created.timestamp())
    conditions = patch.status.get("conditions", ())
    complete = any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)
    return Account(op=icop.spec.op, accepted=waited if before is None else None, complete=waited if complete else None)


def decisions(outcome: Outcome) -> Mapping[str, int]:
    """Return how many writes of each kind a pass decided on."""
    counts = Counter(_kind(patch) for patch in outcome.runs)
    counts += Counter(
        {
            "pin": len(outcome.pins),
            "steer_run": len(outcome.asks),
            "make_run": len(outcome.create),
            "make_job": len(outcome.make_jobs),
            "remove_job": len(outcome.remove_jobs),
            "record_icop": len(outcome.icops),
            "adopt_icop": len(outcome.adopt),
            "make_icop": len(outcome.make_icops),
            "remove_icop": len(outcome.remove_icops),
            "describe_experiment": outcome.experiment is not None,
        }
    )
    return counts


def _kind(patch: StatusPatch) -> str:
    if "attempt" in patch.status:
        return "assign"
    return "take_back" if "assignment" in patch.status else "describe_run"


def _end(status: RunStatus) -> End | None:
    """Return how the assignment of a run ended, which is taken away or replaced now; None if it had none."""
    if status.assignment is None:
        return None
    if not begun(status):
        return "withdrawn"  # whoever held it may be gone, and nothing is lost with it
    if not committed(status):
        return "lost"
    return "failed" if status.progress is not None and status.progress.error is not None else "committed"

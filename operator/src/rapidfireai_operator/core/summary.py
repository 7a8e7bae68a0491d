"""The experiment's status: what its runs and workers add up to."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfireai.api import ExperimentSpec, ExperimentStatus, Run, RunStatus
from rapidfireai.api.experiment import BestRun, ChunkCounts, RunCounts, WorkerCounts
from rapidfireai.api.run import ENDED, RunState
from rapidfireai_operator.core.conditions import Verdict
from rapidfireai_operator.core.lifecycle import chunks_done, committed_step
from rapidfireai_operator.core.objective import shown
from rapidfireai_operator.core.suspension import SUSPENDED

ExperimentState = Literal["Pending", "Running", "Suspended", "Stopped", "Succeeded", "Failed"]


@dataclass(frozen=True, slots=True)
class Tally:
    """What one run adds to its experiment.

    Attributes:
        wanted: Whether it shall run.
        held: Whether a worker holds it.
        chunks: Its chunks, once they are known.
        done: Chunks that are committed.
        turn: Its place in the order of turns, also after its end.
        steps: Its optimizer steps, once they are known.
        step: The step of its last commit.
        pace: Seconds a step, of the last chunk that was committed whole.
        metric: The metric of its objective.
        value: The objective's latest value.
        shown: The same as people read it, with its interval.
    """

    name: str
    index: int
    state: RunState | None
    wanted: bool
    held: bool
    chunks: int | None
    done: int
    turn: int
    steps: int | None
    step: int
    pace: float | None
    metric: str | None
    value: float | None
    shown: str

    @property
    def active(self) -> bool:
        """Whether it goes on by itself, or its last chunk is under way."""
        return self.state not in ENDED and (self.wanted or self.held)


def tally(run: Run, status: RunStatus) -> Tally:
    """Return what a run adds to its experiment.

    Args:
        run: The run.
        status: The status that it has now.
    """
    prepared, latest = status.prepared, status.objective[-1] if status.objective else None
    done = chunks_done(status)
    hidden = status.state == "Deleted"  # it is a record, and counts no more
    return Tally(
        name=run.metadata.name,
        index=run.spec.index,
        state=status.state,
        wanted=run.spec.desired_state == "Running",
        held=status.assignment is not None,
        chunks=len(prepared.boundaries) if prepared is not None and not hidden else None,
        done=0 if hidden else done,
        turn=done + status.head_start,
        steps=prepared.total_steps if prepared is not None and not hidden else None,
        step=committed_step(status),
        pace=_seconds_per_step(status),
        metric=status.objective_metric if latest is not None and not hidden else None,
        value=latest.value if latest is not None and not hidden else None,
        shown=shown(latest.value, latest.lower, latest.upper) if latest is not None else "",
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts, and the judgements that follow from them."""

    status: ExperimentStatus
    verdicts: tuple[Verdict, ...]


def summarize(
    before: ExperimentStatus, spec: ExperimentSpec, runs: Sequence[Tally], *, workers: WorkerCounts, planned: int
) -> Summary:
    """Return the experiment's counts, state and judgements.

    Args:
        before: The status so far.
        spec: The spec.
        runs: Its runs.
        workers: Its workers.
        planned: How many runs are still to be made.
    """
    counts = count(runs, planned)
    done, total = sum(run.done for run in runs), _total_chunks(runs, planned)
    state = _state(counts, suspend=spec.suspend)
    status = before.model_copy(
        update={
            "state": state,
            "runs": counts,
            "chunks": ChunkCounts(done=done, total=total, summary=f"{done}/{total}" if total else ""),
            "workers": workers,
            "best": best(runs, spec.objective.direction),
            "eta": None if spec.suspend else eta(runs, workers.ready),
        }
    )
    return Summary(status, _verdicts(state, counts))


def count(runs: Sequence[Tally], planned: int = 0) -> RunCounts:
    """Count runs by state; `planned` ones that are not made yet count as pending."""
    states = Counter(run.state or "Pending" for run in runs)
    pending = states["Pending"] + planned
    running = states["Running"]
    return RunCounts(
        total=len(runs) - states["Deleted"] + planned,
        active=pending + running,
        pending=pending,
        running=running,
        stopped=states["Stopped"],
        succeeded=states["Succeeded"],
        failed=states["Failed"],
        deleted=states["Deleted"],
    )


def best(runs: Sequence[Tally], direction: str) -> BestRun | None:
    """Return the run that leads by its latest objective; only runs with the commonest metric are compared."""
    scored = [(run, run.metric, run.value) for run in runs if run.metric and run.value is not None]
    if not scored:
        return None
    metric = statistics.mode(name for _, name, _ in scored)
    sign = 1 if direction == "minimize" else -1
    rivals = [(sign * value, run.index, run) for run, name, value in scored if name == metric]
    signed, _, leader = min(rivals, key=lambda each: each[:2])
    return BestRun(run=leader.name, metric=metric, value=sign * signed, summary=f"{leader.name} ({leader.shown})")


def eta(runs: Sequence[Tally], workers: int) -> str | None:
    """Return about how long until all runs are done, or None while nobody can say."""
    paces = [run.pace for run in runs if run.pace is not None]
    active = [run for run in runs if run.state not in ENDED and run.wanted]
    if not paces or not active or not workers:
        return None
    usual = statistics.median(paces)
    typical = statistics.median(run.steps for run in runs if run.steps is not None)
    seconds = sum((run.pace or usual) * ((run.steps or typical) - run.step) for run in active)
    return duration(seconds / min(workers, len(active)))


def duration(seconds: float) -> str:
    """Return a duration as coarsely as it is known: `<1m`, `4m`, `1h20m`, `3d`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "<1m"
    if minutes < 60:
        return f"{minutes}m"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{rest // 10 * 10}m" if rest >= 10 else f"{hours}h"
    return f"{hours // 24}d"


def _seconds_per_step(status: RunStatus) -> float | None:
    """Return the pace of the last chunk that was committed whole."""
    progress, prepared = status.progress, status.prepared
    if progress is None or prepared is None or not progress.final or not progress.seconds or progress.chunk < 0:
        return None
    if progress.chunk >= len(prepared.boundaries) or progress.step != prepared.boundaries[progress.chunk]:
        return None
    start = prepared.boundaries[progress.chunk - 1] if progress.chunk else 0
    return progress.seconds / max(1, progress.step - start)


def _total_chunks(runs: Sequence[Tally], planned: int) -> int:
    """Return the chunks of all runs, or 0 until one is prepared; the others are taken to be as long."""
    known = [run.chunks for run in runs if run.chunks is not None]
    open_runs = planned + sum(run.chunks is None and run.state not in ENDED for run in runs)
    return sum(known) + (round(statistics.median(known)) * open_runs if known else 0)


def _state(counts: RunCounts, *, suspend: bool) -> ExperimentState:
    if counts.active and suspend:
        return "Suspended"
    if counts.active:
        return "Pending" if counts.pending == counts.total else "Running"
    if counts.stopped or not counts.total:
        return "Stopped"
    return "Failed" if counts.failed else "Succeeded"


def _verdicts(state: ExperimentState, counts: RunCounts) -> tuple[Verdict, ...]:
    ended = f"{counts.succeeded} succeeded, {counts.failed} failed, {counts.stopped} stopped."
    match state:
        case "Stopped" if not counts.total:
            return _finished("NoRuns", "All runs were deleted.", succeeded=False)
        case "Stopped":
            message = f"{ended} Stopped runs go on when their spec.desiredState is set to Running."
            return _finished("RunsStopped", message, succeeded=False)
        case "Failed":
            return _finished("RunsFailed", f"{ended} `kubectl describe rfrun` says why.", succeeded=False)
        case "Succeeded":
            return _finished("AllSucceeded", ended, succeeded=True)
    going = Verdict("Progressing", "True", "RunsActive", f"{counts.active} of {counts.total} runs can go on.")
    if state == "Suspended":
        message = f"{counts.active} of {counts.total} runs go on when spec.suspend is set to false."
        going = Verdict("Progressing", "False", SUSPENDED, message)
    return (
        going,
        Verdict("Finished", "False", "NotFinished"),
        Verdict("Succeeded", "Unknown", "NotFinished"),
    )


def _finished(reason: str, message: str, *, succeeded: bool) -> tuple[Verdict, ...]:
    return (
        Verdict("Progressing", "False", reason, message),
        Verdict("Finished", "True", reason, message),
        Verdict("Succeeded", "True" if succeeded else "False", reason, message),
    )

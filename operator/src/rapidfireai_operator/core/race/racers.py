"""Runs as policies see them, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rapidfireai.api import Run, RunStatus
from rapidfireai.api.policies import LATEST, PolicyName
from rapidfireai.api.run import ENDED
from rapidfireai_operator.core.lifecycle import chunks_done
from rapidfireai_operator.core.objective import SHORTEST_THINNED, shown


@dataclass(frozen=True, slots=True)
class Mark:
    """A policy's stop of a run, judged after so many chunks."""

    policy: PolicyName
    chunks: int


@dataclass(frozen=True, slots=True)
class Racer:
    """A run, as policies see it.

    Attributes:
        curve: Its objective, by the number of chunks after which it was measured.
        intervals: The objective's confidence intervals, lower and upper end, where it has such.
        metric: What the curve shows.
        done: Committed chunks.
        total: Its chunks, once they are known.
        head_start: Chunks that it was behind when it joined.
        ended: Whether it succeeded or failed.
        failed: Whether it failed.
        deleted: Whether it was deleted.
        wanted: Whether nobody stopped it, or asks for that.
        marks: Stops that policies asked for.
    """

    name: str
    index: int
    curve: Mapping[int, float] = field(default_factory=dict)
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    metric: str | None = None
    done: int = 0
    total: int | None = None
    head_start: int = 0
    ended: bool = False
    failed: bool = False
    deleted: bool = False
    wanted: bool = True
    marks: tuple[Mark, ...] = ()

    @property
    def active(self) -> bool:
        """Whether it goes on by itself."""
        return self.wanted and not self.ended and not self.deleted

    @property
    def alive(self) -> bool:
        """Whether it goes on or reached its end: then there is something to show for the experiment."""
        return self.active or (self.ended and not self.failed and not self.deleted)

    def stopped_by(self, policy: PolicyName, chunks: int | None = None) -> bool:
        """Return whether a policy stopped it, there or anywhere; it may have been resumed since."""
        return any(mark.policy == policy and chunks in {None, mark.chunks} for mark in self.marks)

    def counts_at(self, chunks: int) -> bool:
        """Return whether it is compared at a boundary: not if it was stopped before it, or by a person.

        A run that ended counts: whether it failed shortly before the comparison or after it must not matter.
        """
        if self.deleted or self.done < chunks:
            return False
        if self.active:
            return True
        stopped = max((mark.chunks for mark in self.marks), default=LATEST if self.ended else 0)
        return stopped >= chunks

    def metric_by(self, chunks: int) -> str | None:
        """Return what the curve shows up to a boundary; None if nothing yet, whatever came after it."""
        return self.metric if any(at <= chunks for at in self.curve) else None

    def value(self, chunks: int) -> float | None:
        """Return the objective after so many chunks, or None if it could not be measured."""
        if chunks in self.curve or len(self.curve) == self.done:
            return self.curve.get(chunks)
        # Long curves lose every other point; the one before is near.
        return self.curve.get(chunks - 1) if len(self.curve) >= SHORTEST_THINNED else None


@dataclass(frozen=True, slots=True)
class Asked:
    """A policy's ICOp that is there; `open` until it was carried out."""

    run: str
    mark: Mark
    reason: str
    open: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """A run that a policy stops, and why."""

    run: str
    mark: Mark
    reason: str


def racer(run: Run, status: RunStatus) -> Racer:
    """Return a run as policies see it.

    Args:
        run: The run.
        status: The status that it has now.
    """
    prepared = status.prepared
    return Racer(
        name=run.metadata.name,
        index=run.spec.index,
        curve={point.chunk + 1: point.value for point in status.objective},
        intervals={
            point.chunk + 1: (point.lower, point.upper)
            for point in status.objective
            if point.lower is not None and point.upper is not None
        },
        metric=status.objective_metric,
        done=chunks_done(status),
        total=len(prepared.boundaries) if prepared is not None else None,
        head_start=status.head_start,
        ended=status.state in ENDED,
        failed=status.state == "Failed",
        deleted=run.spec.desired_state == "Deleted" or run.metadata.deletion_timestamp is not None,
        wanted=run.spec.desired_state == "Running",
        marks=tuple(Mark(each.policy, each.chunks) for each in status.stopped_by),
    )


def figure(each: Racer, chunks: int) -> str:
    """Return the objective of a run at a boundary as people read it, with its interval if it has one."""
    value, metric = each.value(chunks), each.metric or "the objective"
    if value is None:
        return f"{metric} was not measured"
    lower, upper = each.intervals.get(chunks, (None, None))
    return f"{metric} {shown(value, lower, upper)}"


def counted(chunks: int) -> str:
    """Return a number of chunks in words."""
    return "1 chunk" if chunks == 1 else f"{chunks} chunks"

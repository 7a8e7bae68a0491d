"""Policies that compare runs, successive halving and the median rule: who is to stop, and what is recorded of it.

A boundary is judged once every active run has reached it, on the values that the runs had there; so the order in which
commits arrive changes nothing. A decision is an ICOp a run, whose name follows from what it is about. It is on record,
at the run and at the experiment, as soon as the ICOp is seen: from then on the run is the user's again. Whoever resumes
it, or deletes the ICOp, has overruled the policy there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rapidfireai.api import Run, RunStatus
from rapidfireai.api.policies import LATEST, Policy, PolicyName, PolicyRecord, StopWhenWorse, SuccessiveHalving
from rapidfireai.api.run import ENDED
from rapidfireai_operator.core.lifecycle import chunks_done, number

WORST = float("inf")
"""The score of a run whose objective could not be measured."""

MOST_RECORDS = 48
"""Records that the experiment's status keeps; rungs are far fewer, unless somebody edits the policy all the time."""


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
        return self.curve.get(chunks - 1) if len(self.curve) >= LATEST // 32 else None


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


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policies decided.

    Attributes:
        stops: ICOps that are still to be made.
        records: The experiment's records, old and new.
        told: The new records, to be told as events.
    """

    stops: tuple[Stop, ...] = ()
    records: tuple[PolicyRecord, ...] = ()
    told: tuple[PolicyRecord, ...] = ()


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


def decide(
    policies: Sequence[Policy],
    direction: str,
    racers: Iterable[Racer],
    asked: Iterable[Asked],
    records: Iterable[PolicyRecord],
) -> Decision:
    """Judge the runs at every boundary that all active ones have reached.

    Deterministic: equal curves and records give equal decisions, whatever the order of the arguments. At least one run
    goes on or has succeeded, and the best of those that are compared goes on.

    Args:
        policies: The experiment's policies; the first that stops a run has stopped it.
        direction: `minimize` or `maximize`.
        racers: All runs, each of which has been made.
        asked: The policies' ICOps that are there.
        records: What was decided so far.
    """
    race = _Race(1 if direction == "minimize" else -1, _with_asked(racers, asked), list(records))
    for policy in policies:
        if policy.successive_halving is not None:
            race.halve(policy.successive_halving)
        if policy.stop_when_worse is not None:
            race.drop(policy.stop_when_worse)
    return Decision(tuple(race.stops), tuple(race.records[-MOST_RECORDS:]), tuple(race.told))


def _with_asked(racers: Iterable[Racer], asked: Iterable[Asked]) -> dict[str, Racer]:
    """Return the runs by name, in the order of their indices, as they are once the ICOps were carried out."""
    field = {each.name: each for each in sorted(racers, key=lambda each: each.index)}
    for each in asked:
        if (known := field.get(each.run)) is not None:
            marks = known.marks if each.mark in known.marks else (*known.marks, each.mark)
            field[each.run] = replace(known, marks=marks, wanted=known.wanted and not each.open)
    return field


@dataclass(slots=True)
class _Race:
    """The comparison while it is made; scores are values turned so that less is better."""

    sign: int
    racers: dict[str, Racer]
    records: list[PolicyRecord]
    stops: list[Stop] = field(default_factory=list)
    told: list[PolicyRecord] = field(default_factory=list)

    def halve(self, rule: SuccessiveHalving) -> None:
        """Judge the rungs that are open, then whoever reached a rung after it was judged."""
        for chunks in _rungs(rule, self._judged("successiveHalving")):
            ranked = self._compared(chunks)
            if not ranked:
                break
            measured = any(each.value(chunks) is not None for each in ranked)
            places = max(1, len(ranked) // rule.eta) if measured else len(ranked)
            losers = self._spare(ranked[places:])
            names = {each.name for each in losers}
            kept = [each for each in ranked if each.name not in names]
            threshold = kept[-1].value(chunks)
            going = "the best one goes on" if len(kept) == 1 else f"the best {len(kept)} go on"
            reasons = {
                each.name: f"{_figure(each, chunks)} after {_chunks(chunks)} is place {place} of {len(ranked)}; "
                f"{going}{'' if threshold is None else f', with {number(threshold)} or better'}"
                for place, each in enumerate(ranked, 1)
                if each.name in names
            }
            if self._stop("successiveHalving", chunks, losers, reasons):
                return  # the next rung is judged when these are known to stop
            self._record("successiveHalving", chunks, ranked, threshold, "kept the best, one of every " + str(rule.eta))
        self._measure_late()

    def _measure_late(self) -> None:
        """Stop runs that reached a rung after it was judged, if they are worse than all that went on there."""
        for record in [each for each in self.records if each.policy == "successiveHalving"]:
            threshold, chunks = record.threshold, record.chunks
            if threshold is None or chunks is None:
                continue
            late = [
                each
                for each in self.racers.values()
                if each.active
                and each.done >= chunks
                and (chunks in each.curve or each.done == chunks)
                and each.metric == record.metric
                and not each.stopped_by("successiveHalving", chunks)
                and self._score(each.curve.get(chunks)) > self._score(threshold)
            ]
            late.sort(key=lambda each: (self._score(each.curve.get(chunks)), each.index))
            reasons = {
                each.name: f"{_figure(each, chunks)} after {_chunks(chunks)} is worse than {number(threshold)}, the "
                "worst with which runs went on from there"
                for each in late
            }
            self._stop("successiveHalving", chunks, self._spare(late), reasons)

    def drop(self, rule: StopWhenWorse) -> None:
        """Judge the boundaries that are open, then whoever comes behind."""
        first = max(rule.min_chunks, self._judged("stopWhenWorse") + 1)
        for chunks in range(first, LATEST + 1):
            ranked = self._compared(chunks)
            if not ranked:
                break
            median = self._median(ranked, chunks)
            compared = len(ranked) >= rule.min_runs and median is not None
            losers = self._worse(ranked, chunks, median) if compared else []
            if self._stop("stopWhenWorse", chunks, losers, _worse_reasons(losers, chunks, median, self)):
                return
            shown = None if median is None else self.sign * median
            self._record("stopWhenWorse", chunks, ranked, shown, "stopped what was worse than the median")
        self._drop_late(rule)

    def _drop_late(self, rule: StopWhenWorse) -> None:
        """Judge runs that come behind the others at the boundary that they are at."""
        judged, late = self._judged("stopWhenWorse"), self._late()
        for each in late:
            chunks = each.done
            if not rule.min_chunks <= chunks <= judged:
                continue
            others = [other for other in self._field(chunks) if other.metric == each.metric and other.name != each.name]
            median = self._median(others, chunks)
            if len(others) + 1 >= rule.min_runs and median is not None:
                losers = self._worse([each], chunks, median)
                self._stop("stopWhenWorse", chunks, losers, _worse_reasons(losers, chunks, median, self))

    def _late(self) -> list[Racer]:
        judged, floor = self._judged("stopWhenWorse"), self._floor()
        return [
            each for each in self.racers.values() if each.active and (each.head_start > floor or each.done < judged)
        ]

    def _worse(self, ranked: Sequence[Racer], chunks: int, median: float | None) -> list[Racer]:
        limit = WORST if median is None else median
        # A run that the rule has stopped once, and that goes on, was resumed: the rule leaves it alone.
        return self._spare(
            [each for each in ranked if self.best(each, chunks) > limit and not each.stopped_by("stopWhenWorse")]
        )

    def best(self, each: Racer, chunks: int) -> float:
        """Return the best score up to a boundary; the worst one if it was not measured there."""
        if each.value(chunks) is None:
            return WORST
        return min(self._score(value) for at, value in each.curve.items() if at <= chunks)

    def _median(self, racers: Sequence[Racer], chunks: int) -> float | None:
        """Return the median of the runs' mean scores up to a boundary, or None if none was measured."""
        means = [
            statistics.fmean(self._score(value) for at, value in each.curve.items() if at <= chunks)
            for each in racers
            if each.value(chunks) is not None
        ]
        return statistics.median(means) if means else None

    def _floor(self) -> int:
        """Return the smallest head start of an active run: those with more of it came later than these."""
        return min((each.head_start for each in self.racers.values() if each.active), default=0)

    def _field(self, chunks: int) -> list[Racer]:
        """Return the runs that are compared at a boundary, without those that came late."""
        floor = self._floor()
        return [each for each in self.racers.values() if each.head_start <= floor and each.counts_at(chunks)]

    def _compared(self, chunks: int) -> list[Racer]:
        """Return the runs that are compared at a boundary, the best first.

        None while an active one is on its way, nor where nobody goes on and nobody was stopped.
        """
        floor = self._floor()
        for each in self.racers.values():
            if each.active and each.head_start <= floor and each.done < chunks <= (each.total or LATEST):
                return []
        runs = self._field(chunks)
        if not any(each.active or any(mark.chunks == chunks for mark in each.marks) for each in runs):
            return []
        metrics = [found for each in runs if (found := each.metric_by(chunks)) is not None]
        metric = statistics.mode(metrics) if metrics else None
        comparable = [each for each in runs if each.metric_by(chunks) in {metric, None}]
        return sorted(comparable, key=lambda each: (self._score(each.value(chunks)), each.index))

    def _spare(self, losers: Sequence[Racer]) -> list[Racer]:
        """Return who may stop of those that do worst: never the last run that goes on or has got somewhere."""
        names = {each.name for each in losers}
        if any(each.alive and each.name not in names for each in self.racers.values()):
            return list(losers)
        spared = next((each for each in losers if each.active), None)
        return [each for each in losers if each is not spared]

    def _stop(self, policy: PolicyName, chunks: int, losers: Sequence[Racer], reasons: Mapping[str, str]) -> bool:
        """Ask for the stop of those that are active; return whether there are any."""
        mark, found = Mark(policy, chunks), False
        for each in losers:
            if each.active and mark not in each.marks:
                self.stops.append(Stop(each.name, mark, reasons[each.name]))
                self.racers[each.name] = replace(each, wanted=False, marks=(*each.marks, mark))
                found = True
        return found

    def _judged(self, policy: PolicyName) -> int:
        """Return the last boundary that a policy has judged."""
        return max((each.chunks or 0 for each in self.records if each.policy == policy), default=0)

    def _record(
        self, policy: PolicyName, chunks: int, ranked: Sequence[Racer], threshold: float | None, what: str
    ) -> None:
        stopped = sum(each.stopped_by(policy, chunks) for each in ranked)
        record = PolicyRecord(
            policy=policy,
            chunks=chunks,
            runs=len(ranked),
            stopped=stopped,
            metric=next((found for each in ranked if (found := each.metric_by(chunks)) is not None), None),
            threshold=threshold,
            message=f"{policy} {what}: {stopped} of {len(ranked)} runs stop after {_chunks(chunks)}",
        )
        if policy == "stopWhenWorse":  # its last boundary says all; rungs are few
            self.records = [each for each in self.records if each.policy != policy]
        self.records.append(record)
        if stopped:
            self.told.append(record)

    def _score(self, value: float | None) -> float:
        return WORST if value is None else self.sign * value


def _rungs(rule: SuccessiveHalving, judged: int) -> Iterator[int]:
    """Yield the rungs that are not judged yet."""
    rung = rule.min_chunks
    while rung <= LATEST:
        if rung > judged:
            yield rung
        rung *= rule.eta


def _worse_reasons(losers: Iterable[Racer], chunks: int, median: float | None, race: _Race) -> dict[str, str]:
    shown = "" if median is None else number(race.sign * median)
    return {
        each.name: f"its best so far, {number(race.sign * race.best(each, chunks))}, is worse after {_chunks(chunks)} "
        f"than {shown}, the median of the runs' averages"
        if race.best(each, chunks) < WORST
        else f"{_figure(each, chunks)} after {_chunks(chunks)}, where the median of the runs' averages is {shown}"
        for each in losers
    }


def _figure(each: Racer, chunks: int) -> str:
    value, metric = each.value(chunks), each.metric or "the objective"
    return f"{metric} was not measured" if value is None else f"{metric} {number(value)}"


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count} chunks"

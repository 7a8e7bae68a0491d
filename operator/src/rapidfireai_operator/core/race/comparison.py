"""What the rules that compare runs have in common: who is compared, who is spared, what is recorded."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rapidfireai.api.policies import LATEST, PolicyName, PolicyRecord
from rapidfireai_operator.core.race.racers import Mark, Racer, Stop, counted

WORST = float("inf")
"""The score of a run whose objective could not be measured."""
LAST_SAYS_ALL: frozenset[PolicyName] = frozenset({"stopWhenWorse", "stopWhenBeaten"})
"""Rules that judge every boundary: only the last record of each is kept. Rungs are few."""


@dataclass(slots=True)
class Race:
    """The comparison while it is made; scores are values turned so that less is better.

    Attributes:
        sign: 1 if less is better, -1 if more is.
        racers: All runs by name, in the order of their indices.
        records: What was decided so far.
        stops: Stops that are still to be asked for.
        told: The new records.
    """

    sign: int
    racers: dict[str, Racer]
    records: list[PolicyRecord]
    stops: list[Stop] = field(default_factory=list)
    told: list[PolicyRecord] = field(default_factory=list)

    def floor(self) -> int:
        """Return the smallest head start of an active run: those with more of it came later than these."""
        return min((each.head_start for each in self.racers.values() if each.active), default=0)

    def field(self, chunks: int) -> list[Racer]:
        """Return the runs that are compared at a boundary, without those that came late."""
        floor = self.floor()
        return [each for each in self.racers.values() if each.head_start <= floor and each.counts_at(chunks)]

    def late(self, policy: PolicyName) -> list[Racer]:
        """Return the active runs that come behind the boundaries that a policy has judged."""
        judged, floor = self.judged(policy), self.floor()
        return [
            each for each in self.racers.values() if each.active and (each.head_start > floor or each.done < judged)
        ]

    def compared(self, chunks: int) -> list[Racer]:
        """Return the runs that are compared at a boundary, the best first.

        None while an active one is on its way, nor where nobody goes on and nobody was stopped.
        """
        floor = self.floor()
        for each in self.racers.values():
            if each.active and each.head_start <= floor and each.done < chunks <= (each.total or LATEST):
                return []
        runs = self.field(chunks)
        if not any(each.active or any(mark.chunks == chunks for mark in each.marks) for each in runs):
            return []
        metrics = [found for each in runs if (found := each.metric_by(chunks)) is not None]
        metric = statistics.mode(metrics) if metrics else None
        comparable = [each for each in runs if each.metric_by(chunks) in {metric, None}]
        return sorted(comparable, key=lambda each: (self.score(each.value(chunks)), each.index))

    def spare(self, losers: Sequence[Racer]) -> list[Racer]:
        """Return who may stop of those that do worst: never the last run that goes on or has got somewhere."""
        names = {each.name for each in losers}
        if any(each.alive and each.name not in names for each in self.racers.values()):
            return list(losers)
        spared = next((each for each in losers if each.active), None)
        return [each for each in losers if each is not spared]

    def stop(self, policy: PolicyName, chunks: int, losers: Sequence[Racer], reasons: Mapping[str, str]) -> bool:
        """Ask for the stop of those that are active; return whether there are any."""
        mark, found = Mark(policy, chunks), False
        for each in losers:
            if each.active and mark not in each.marks:
                self.stops.append(Stop(each.name, mark, reasons[each.name]))
                self.racers[each.name] = replace(each, wanted=False, marks=(*each.marks, mark))
                found = True
        return found

    def judged(self, policy: PolicyName) -> int:
        """Return the last boundary that a policy has judged."""
        return max((each.chunks or 0 for each in self.records if each.policy == policy), default=0)

    def record(
        self, policy: PolicyName, chunks: int, ranked: Sequence[Racer], threshold: float | None, what: str
    ) -> None:
        """Put on record that a boundary was judged, as soon as all stops of it are asked for."""
        stopped = sum(each.stopped_by(policy, chunks) for each in ranked)
        record = PolicyRecord(
            policy=policy,
            chunks=chunks,
            runs=len(ranked),
            stopped=stopped,
            metric=next((found for each in ranked if (found := each.metric_by(chunks)) is not None), None),
            threshold=threshold,
            message=f"{policy} {what}: {stopped} of {len(ranked)} runs stop after {counted(chunks)}",
        )
        if policy in LAST_SAYS_ALL:
            self.records = [each for each in self.records if each.policy != policy]
        self.records.append(record)
        if stopped:
            self.told.append(record)

    def score(self, value: float | None) -> float:
        """Return a value turned so that less is better; the worst one if it was not measured."""
        return WORST if value is None else self.sign * value

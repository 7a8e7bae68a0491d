"""Policies that compare runs, one module a rule: who is to stop, and what is recorded of it.

A boundary is judged once every active run has reached it, on the values that the runs had there; so the order in which
commits arrive changes nothing. A decision is an ICOp a run, whose name follows from what it is about. It is on record,
at the run and at the experiment, as soon as the ICOp is seen: from then on the run is the user's again. Whoever resumes
it, or deletes the ICOp, has overruled the policy there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rapidfireai.api.policies import Policy, PolicyRecord
from rapidfireai_operator.core.race.beaten import drop_beaten
from rapidfireai_operator.core.race.comparison import Race
from rapidfireai_operator.core.race.halving import halve
from rapidfireai_operator.core.race.racers import Asked, Mark, Racer, Stop, racer
from rapidfireai_operator.core.race.worse import drop_worse

__all__ = ["Asked", "Decision", "Mark", "Racer", "Stop", "decide", "racer"]
MOST_RECORDS = 48
"""Records that the experiment's status keeps; rungs are far fewer, unless somebody edits the policy all the time."""


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
    race = Race(1 if direction == "minimize" else -1, _with_asked(racers, asked), list(records))
    for policy in policies:
        if policy.successive_halving is not None:
            halve(race, policy.successive_halving)
        if policy.stop_when_worse is not None:
            drop_worse(race, policy.stop_when_worse)
        if policy.stop_when_beaten is not None:
            drop_beaten(race, policy.stop_when_beaten)
    return Decision(tuple(race.stops), tuple(race.records[-MOST_RECORDS:]), tuple(race.told))


def _with_asked(racers: Iterable[Racer], asked: Iterable[Asked]) -> dict[str, Racer]:
    """Return the runs by name, in the order of their indices, as they are once the ICOps were carried out."""
    field = {each.name: each for each in sorted(racers, key=lambda each: each.index)}
    for each in asked:
        if (known := field.get(each.run)) is not None:
            marks = known.marks if each.mark in known.marks else (*known.marks, each.mark)
            field[each.run] = replace(known, marks=marks, wanted=known.wanted and not each.open)
    return field

"""The rule for evaluations: a run stops whose interval lies wholly on the worse side of another run's."""

from __future__ import annotations

from collections.abc import Iterable

from rapidfireai.api.policies import LATEST, StopWhenBeaten
from rapidfireai_operator.core.objective import shown
from rapidfireai_operator.core.race.comparison import Race
from rapidfireai_operator.core.race.racers import Racer, counted, figure


def drop_beaten(race: Race, rule: StopWhenBeaten) -> None:
    """Judge the boundaries that are open, then whoever comes behind."""
    first = max(rule.min_chunks, race.judged("stopWhenBeaten") + 1)
    for chunks in range(first, LATEST + 1):
        ranked = race.compared(chunks)
        if not ranked:
            break
        champion = _champion(race, ranked, chunks)
        losers = race.spare([each for each in ranked if _is_beaten(race, each, champion, chunks)])
        if race.stop("stopWhenBeaten", chunks, losers, _reasons(race, losers, champion, chunks)):
            return
        threshold = None if champion is None else race.sign * _ends(race, champion, chunks)[1]
        race.record("stopWhenBeaten", chunks, ranked, threshold, "stopped what another run certainly beats")
    _drop_late(race, rule)


def _drop_late(race: Race, rule: StopWhenBeaten) -> None:
    """Judge runs that come behind the others at the boundary that they are at."""
    judged = race.judged("stopWhenBeaten")
    for each in race.late("stopWhenBeaten"):
        chunks = each.done
        if not rule.min_chunks <= chunks <= judged:
            continue
        others = [other for other in race.field(chunks) if other.metric == each.metric and other.name != each.name]
        champion = _champion(race, others, chunks)
        if _is_beaten(race, each, champion, chunks):
            losers = race.spare([each])
            race.stop("stopWhenBeaten", chunks, losers, _reasons(race, losers, champion, chunks))


def _champion(race: Race, racers: Iterable[Racer], chunks: int) -> Racer | None:
    """Return the run that is good even if it is as bad as its interval allows: whom it does not beat, nobody beats."""
    measured = [each for each in racers if chunks in each.intervals]
    return min(measured, key=lambda each: (_ends(race, each, chunks)[1], each.index), default=None)


def _is_beaten(race: Race, each: Racer, champion: Racer | None, chunks: int) -> bool:
    # A run that the rule has stopped once, and that goes on, was resumed: the rule leaves it alone. Its interval would
    # lie where it lay, boundary after boundary.
    if champion is None or chunks not in each.intervals or each.stopped_by("stopWhenBeaten"):
        return False
    return _ends(race, each, chunks)[0] > _ends(race, champion, chunks)[1]


def _ends(race: Race, each: Racer, chunks: int) -> tuple[float, float]:
    """Return the best and the worst score in a run's interval."""
    lower, upper = each.intervals[chunks]
    return (lower, upper) if race.sign > 0 else (-upper, -lower)


def _reasons(race: Race, losers: Iterable[Racer], champion: Racer | None, chunks: int) -> dict[str, str]:
    if champion is None:
        return {}
    side = "above" if race.sign > 0 else "below"
    best = shown(champion.curve[chunks], *champion.intervals[chunks])
    return {
        each.name: f"{figure(each, chunks)} after {counted(chunks)} lies wholly {side} {best} of {champion.name}"
        for each in losers
    }

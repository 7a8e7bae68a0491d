"""The median rule: a run stops whose best objective is worse than the median of the runs' averages."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rapidfireai.api.policies import LATEST, StopWhenWorse
from rapidfireai_operator.core.objective import number
from rapidfireai_operator.core.race.comparison import WORST, Race
from rapidfireai_operator.core.race.racers import Racer, counted, figure


def drop_worse(race: Race, rule: StopWhenWorse) -> None:
    """Judge the boundaries that are open, then whoever comes behind."""
    first = max(rule.min_chunks, race.judged("stopWhenWorse") + 1)
    for chunks in range(first, LATEST + 1):
        ranked = race.compared(chunks)
        if not ranked:
            break
        median = _median(race, ranked, chunks)
        compared = len(ranked) >= rule.min_runs and median is not None
        losers = _worse(race, ranked, chunks, median) if compared else []
        if race.stop("stopWhenWorse", chunks, losers, _worse_reasons(losers, chunks, median, race)):
            return
        shown = None if median is None else race.sign * median
        race.record("stopWhenWorse", chunks, ranked, shown, "stopped what was worse than the median")
    _drop_late(race, rule)


def _drop_late(race: Race, rule: StopWhenWorse) -> None:
    """Judge runs that come behind the others at the boundary that they are at."""
    judged, late = race.judged("stopWhenWorse"), race.late("stopWhenWorse")
    for each in late:
        chunks = each.done
        if not rule.min_chunks <= chunks <= judged:
            continue
        others = [other for other in race.field(chunks) if other.metric == each.metric and other.name != each.name]
        median = _median(race, others, chunks)
        if len(others) + 1 >= rule.min_runs and median is not None:
            losers = _worse(race, [each], chunks, median)
            race.stop("stopWhenWorse", chunks, losers, _worse_reasons(losers, chunks, median, race))


def _worse(race: Race, ranked: Sequence[Racer], chunks: int, median: float | None) -> list[Racer]:
    limit = WORST if median is None else median
    # A run that the rule has stopped once, and that goes on, was resumed: the rule leaves it alone.
    return race.spare(
        [each for each in ranked if _best(race, each, chunks) > limit and not each.stopped_by("stopWhenWorse")]
    )


def _best(race: Race, each: Racer, chunks: int) -> float:
    """Return the best score up to a boundary; the worst one if it was not measured there."""
    if each.value(chunks) is None:
        return WORST
    return min(race.score(value) for at, value in each.curve.items() if at <= chunks)


def _median(race: Race, racers: Sequence[Racer], chunks: int) -> float | None:
    """Return the median of the runs' mean scores up to a boundary, or None if none was measured."""
    means = [
        statistics.fmean(race.score(value) for at, value in each.curve.items() if at <= chunks)
        for each in racers
        if each.value(chunks) is not None
    ]
    return statistics.median(means) if means else None


def _worse_reasons(losers: Iterable[Racer], chunks: int, median: float | None, race: Race) -> dict[str, str]:
    limit = "" if median is None else number(race.sign * median)
    return {each.name: _worse_reason(race, each, chunks, limit) for each in losers}


def _worse_reason(race: Race, each: Racer, chunks: int, limit: str) -> str:
    best = _best(race, each, chunks)
    if best == WORST:
        return f"{figure(each, chunks)} after {counted(chunks)}, where the median of the runs' averages is {limit}"
    return (
        f"its best so far, {number(race.sign * best)}, is worse after {counted(chunks)} "
        f"than {limit}, the median of the runs' averages"
    )

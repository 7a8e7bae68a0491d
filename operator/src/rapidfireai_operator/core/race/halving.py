"""Successive halving: at each rung only the best of every eta runs goes on."""

from __future__ import annotations

from collections.abc import Iterator

from rapidfireai.api.policies import LATEST, SuccessiveHalving
from rapidfireai_operator.core.objective import number
from rapidfireai_operator.core.race.comparison import Race
from rapidfireai_operator.core.race.racers import counted, figure


def halve(race: Race, rule: SuccessiveHalving) -> None:
    """Judge the rungs that are open, then whoever reached a rung after it was judged."""
    for chunks in _rungs(rule, race.judged("successiveHalving")):
        ranked = race.compared(chunks)
        if not ranked:
            break
        measured = any(each.value(chunks) is not None for each in ranked)
        places = max(1, len(ranked) // rule.eta) if measured else len(ranked)
        losers = race.spare(ranked[places:])
        names = {each.name for each in losers}
        kept = [each for each in ranked if each.name not in names]
        threshold = kept[-1].value(chunks)
        going = "the best one goes on" if len(kept) == 1 else f"the best {len(kept)} go on"
        reasons = {
            each.name: f"{figure(each, chunks)} after {counted(chunks)} is place {place} of {len(ranked)}; "
            f"{going}{'' if threshold is None else f', with {number(threshold)} or better'}"
            for place, each in enumerate(ranked, 1)
            if each.name in names
        }
        if race.stop("successiveHalving", chunks, losers, reasons):
            return  # the next rung is judged when these are known to stop
        race.record("successiveHalving", chunks, ranked, threshold, "kept the best, one of every " + str(rule.eta))
    _measure_late(race)


def _measure_late(race: Race) -> None:
    """Stop runs that reached a rung after it was judged, if they are worse than all that went on there."""
    for record in [each for each in race.records if each.policy == "successiveHalving"]:
        threshold, chunks = record.threshold, record.chunks
        if threshold is None or chunks is None:
            continue
        late = [
            each
            for each in race.racers.values()
            if each.active
            and each.done >= chunks
            and (chunks in each.curve or each.done == chunks)
            and each.metric == record.metric
            and not each.stopped_by("successiveHalving", chunks)
            and race.score(each.curve.get(chunks)) > race.score(threshold)
        ]
        late.sort(key=lambda each: (race.score(each.curve.get(chunks)), each.index))
        reasons = {
            each.name: f"{figure(each, chunks)} after {counted(chunks)} is worse than {number(threshold)}, the "
            "worst with which runs went on from there"
            for each in late
        }
        race.stop("successiveHalving", chunks, race.spare(late), reasons)


def _rungs(rule: SuccessiveHalving, judged: int) -> Iterator[int]:
    """Yield the rungs that are not judged yet."""
    rung = rule.min_chunks
    while rung <= LATEST:
        if rung > judged:
            yield rung
        rung *= rule.eta

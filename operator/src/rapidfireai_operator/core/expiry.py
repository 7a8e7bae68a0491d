"""When a finished experiment is deleted, as its `spec.ttlSecondsAfterFinished` says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rapidfireai.api import Condition
from rapidfireai_operator.core.conditions import Verdict, find, instant

_FINISHED = "Finished"


def expiry(conditions: Iterable[Condition], verdicts: Sequence[Verdict], ttl: int | None, now: float) -> float | None:
    """Return when an experiment is deleted, in seconds since the epoch; None if it stays.

    Args:
        conditions: Its conditions so far.
        verdicts: The judgements of this pass.
        ttl: Its `ttlSecondsAfterFinished`.
        now: Seconds since the epoch.
    """
    finished = any(each.type == _FINISHED and each.status == "True" for each in verdicts)
    if ttl is None or not finished:
        return None
    before = find(conditions, _FINISHED)
    since = before.last_transition_time if before is not None and before.status == "True" else instant(now)
    return since.timestamp() + ttl


def announced(verdicts: Iterable[Verdict], moment: float | None) -> tuple[Verdict, ...]:
    """Return the judgements, with when the experiment is deleted in what is said of its end."""
    if moment is None:
        return tuple(verdicts)
    when = instant(moment).strftime("%Y-%m-%dT%H:%M:%SZ")
    notice = f"It is deleted at {when} (spec.ttlSecondsAfterFinished), unless a run goes on before."
    return tuple(
        replace(each, message=f"{each.message} {notice}") if each.type == _FINISHED else each for each in verdicts
    )

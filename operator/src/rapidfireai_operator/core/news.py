"""Which judgements are worth an event. Pure."""

from __future__ import annotations

from rapidfireai.api import Condition
from rapidfireai_operator.core.conditions import Verdict
from rapidfireai_operator.core.definitions import CURRENT
from rapidfireai_operator.core.suspension import SUSPENDED

_USUAL = frozenset({"Starting", "Leaving", "NotFinished", "NotNeeded", "Queued", SUSPENDED, "Suspending", "Resumed"})
"""Reasons of judgements that are False and no cause for worry."""


def is_news(before: Condition | None, verdict: Verdict) -> bool:
    """Return whether a judgement is worth an event: acceptance, runs, workers, suspension, definitions, the end."""
    told = (
        {"Accepted", "WorkersReady", SUSPENDED, CURRENT}
        if verdict.status == "False"
        else {"Accepted", "WorkersReady", "Expanded", "Finished", SUSPENDED}
    )
    if verdict.type not in told:
        return False
    if before is None or before.status == verdict.status:
        changed = before is None or before.reason != verdict.reason
        return changed and (verdict.status == "True" or is_bad(verdict))
    return True


def is_bad(verdict: Verdict) -> bool:
    """Return whether a judgement is cause for worry."""
    return verdict.status == "False" and verdict.reason not in _USUAL

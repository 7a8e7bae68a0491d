"""What it means for an experiment and its runs that `spec.suspend` is set. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rapidfireai.api import Condition
from rapidfireai_operator.core.conditions import Verdict, find
from rapidfireai_operator.core.snapshot import Slot, Subject

SUSPENDED = "Suspended"
"""The condition of an experiment, its state, and the reason of whatever does not go on because of it."""
RUN_WAITS = "The experiment is suspended. It goes on from its last commit when spec.suspend is set to false."
"""What a suspended experiment's runs say of themselves."""


def suspension(conditions: Iterable[Condition], *, suspend: bool, leaving: int) -> list[Verdict]:
    """Judge whether an experiment is suspended; one that never was says nothing about it.

    Args:
        conditions: The experiment's conditions so far.
        suspend: Its `spec.suspend`.
        leaving: How many of its workers are still there.
    """
    if not suspend:
        known = find(conditions, SUSPENDED) is not None
        return [Verdict(SUSPENDED, "False", "Resumed", "spec.suspend is false: runs can go on.")] if known else []
    if leaving:
        message = f"{leaving} worker{'s' * (leaving > 1)} commit at the next step and leave."
        return [Verdict(SUSPENDED, "False", "Suspending", message)]
    message = "All is committed and no worker is left. Set spec.suspend to false to go on."
    return [Verdict(SUSPENDED, "True", SUSPENDED, message)]


def still_there(subject: Subject, slots: Mapping[str, Slot]) -> int:
    """Return how many workers of an experiment have not left: a Job goes after its pods."""
    return sum(slot.job is not None and slot.job.owner_uid == subject.uid for slot in slots.values())

"""Which worker slots there should be, and which of them is made anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rapidfireai.api import worker_name
from rapidfireai.api.workers import MAX_WORKERS
from rapidfireai_operator.core.snapshot import JobView

STUCK_SECONDS = 180.0
"""A Job that takes longer to go has lost its node: another slot takes its place."""


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """What happens to the slots.

    Attributes:
        names: The slots that there should be.
        make: Slots whose Job is to be made now.
        remove: Slots whose Job is to be deleted now; a busy worker commits at its next step.
        retire: Slots that get nothing new, because their Job goes or is made anew once they are idle.
    """

    names: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    retire: frozenset[str] = frozenset()


def plan_slots(
    experiment: str,
    wanted: int,
    jobs: Mapping[str, JobView],
    busy: Collection[str],
    templates: Mapping[str, str],
    now: float,
    ready: Collection[str] = (),
) -> SlotPlan:
    """Choose which Jobs to make and to delete: idle workers leave first, slot numbers are used again.

    Jobs that were made from another manifest (a new image, say) are made anew one at a time: the next one goes once all
    the others are ready, so that an image that does not start costs one worker. Those that do no work go at once.

    Args:
        experiment: The experiment's name.
        wanted: How many workers it should have.
        jobs: The Jobs that are there, by slot.
        busy: Slots that hold an assignment.
        templates: The digest of the manifest that each slot's Job would be made from now.
        now: Seconds since the epoch.
        ready: Slots whose worker takes work.
    """
    going = {name for name, job in jobs.items() if job.leaving}
    ended = {name for name, job in jobs.items() if job.ended and not job.leaving}
    standing = sorted(
        set(jobs) - going - ended, key=lambda name: (name not in busy, jobs[name].suspended, number(name))
    )
    keep = standing[:wanted]
    surplus = set(standing[wanted:])
    outdated = {name for name in keep if name in templates and jobs[name].template != templates[name]}
    returning = sorted(ended | {name for name in going if not _is_stuck(jobs[name], now)}, key=number)
    returning = returning[: max(0, wanted - len(keep))]
    settled = not returning and len(keep) == wanted
    replaced = _replaced(outdated, [name for name in keep if name not in outdated], busy, ready, settled=settled)
    free = (name for slot in range(MAX_WORKERS) if (name := worker_name(experiment, slot)) not in jobs)
    make = [next(free) for _ in range(wanted - len(keep) - len(returning))]
    return SlotPlan(
        names=tuple(sorted([*keep, *returning, *make], key=number)),
        make=tuple(make),
        remove=tuple(sorted(surplus | ended | {name for name in replaced if name not in busy}, key=number)),
        retire=frozenset(surplus | replaced),
    )


def _replaced(
    outdated: Collection[str], current: Collection[str], busy: Collection[str], ready: Collection[str], *, settled: bool
) -> set[str]:
    """Return which outdated slots are made anew now: all that do no work, or one of the others.

    Args:
        outdated: Slots whose Job was made from another manifest.
        current: The other slots that stay.
        busy: Slots that hold an assignment.
        ready: Slots whose worker takes work.
        settled: Whether no slot is away or on its way.
    """
    useless = {name for name in outdated if name not in ready and name not in busy}
    if useless or not outdated:
        return useless
    if not settled or any(name not in ready for name in current):
        return set()
    return {min(outdated, key=lambda name: (name in busy, number(name)))}


def number(slot: str) -> int:
    """Return the number of a slot by its name; names that are none come last."""
    digits = slot.rpartition("-w-")[2]
    return int(digits) if digits.isdecimal() else MAX_WORKERS


def _is_stuck(job: JobView, now: float) -> bool:
    return job.leaving_since is not None and now - job.leaving_since > STUCK_SECONDS

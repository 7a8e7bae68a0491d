"""What an experiment uses, and the moment when a limit of it is reached.

The status holds sums up to a moment, and what is used since then; so nothing has to be written while nothing changes,
and an operator that was away has missed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rapidfireai.api.policies import Policy, PolicyName, Usage, seconds
from rapidfireai_operator.core.conditions import instant
from rapidfireai_operator.core.snapshot import Slot
from rapidfireai_operator.core.summary import Tally

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of the experiment.

    Attributes:
        text: The limit, as it stands in the spec.
        reached_at: When it is reached if things stay as they are, in seconds since the epoch; None if it is not.
        reason: What is said when it was reached.
    """

    policy: PolicyName
    text: str
    reached_at: float | None
    reason: str


def use(before: Usage, tallies: Iterable[Tally], slots: Mapping[str, Slot], now: float) -> Usage:
    """Return what was used, brought up to now if a run or a worker has begun or ended.

    Args:
        before: What is on record.
        tallies: The runs.
        slots: The worker slots by name; each pod that runs is paid for.
        now: Seconds since the epoch.
    """
    active = any(each.state == "Running" for each in tallies)
    workers = sum(pod.phase == "Running" for slot in slots.values() for pod in slot.pods.values())
    if active == before.active and workers == before.workers:
        return before
    moment = instant(now)
    passed = max(0.0, moment.timestamp() - before.since.timestamp()) if before.since is not None else 0.0
    return Usage(
        active_seconds=before.active_seconds + passed * before.active,
        active=active,
        worker_seconds=before.worker_seconds + passed * before.workers,
        workers=workers,
        since=moment,
    )


def limits(policies: Iterable[Policy], usage: Usage) -> list[Limit]:
    """Return the limits that the policies set, and when each is reached."""
    found = []
    for policy in policies:
        if policy.max_duration is not None:
            text = policy.max_duration.limit
            reached = _moment(seconds(text), usage.active_seconds, float(usage.active), usage)
            reason = f"the experiment has run for {text}; raise maxDuration, or resume runs by hand"
            found.append(Limit("maxDuration", text, reached, reason))
        if policy.max_cost is not None:
            cost = policy.max_cost
            affordable = cost.limit / cost.price_per_worker_hour * SECONDS_PER_HOUR
            reached = _moment(affordable, usage.worker_seconds, float(usage.workers), usage)
            text, price = f"{cost.limit:g}", f"{cost.price_per_worker_hour:g}"
            reason = (
                f"the workers have cost {text}: {affordable / SECONDS_PER_HOUR:.4g} hours of a worker at {price} each; "
                "raise maxCost, or resume runs by hand"
            )
            found.append(Limit("maxCost", text, reached, reason))
    return found


def _moment(limit: float, spent: float, rate: float, usage: Usage) -> float | None:
    """Return when `limit` is reached from `spent`, at `rate` a second."""
    since = usage.since.timestamp() if usage.since is not None else 0.0
    if spent >= limit:
        return since
    return since + (limit - spent) / rate if rate else None

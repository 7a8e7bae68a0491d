"""Conditions and events: how the operator says what it decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rapidfireai.api import Condition
from rapidfireai.api.base import Status

Judgement = Literal["True", "False", "Unknown"]
LONGEST_MESSAGE = 1024
"""Longer messages are cut: they are kept in every copy of the object."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement, before it is known whether it is news."""

    type: str
    status: Judgement
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed, for `kubectl describe`."""

    kind: Literal["Experiment", "Run", "ICOp"]
    name: str
    uid: str
    reason: str
    message: str
    warning: bool = False


def judged(before: Sequence[Condition], verdicts: Iterable[Verdict], *, generation: int, now: float) -> list[Condition]:
    """Return the conditions after `verdicts`; the time of a transition moves only with the status.

    Args:
        before: The conditions so far; types that nobody judged are kept.
        verdicts: The new judgements.
        generation: The generation of the spec that was judged.
        now: Seconds since the epoch.
    """
    conditions = {condition.type: condition for condition in before}
    for verdict in verdicts:
        last = conditions.get(verdict.type)
        moved = last is None or last.status != verdict.status
        conditions[verdict.type] = Condition(
            type=verdict.type,
            status=verdict.status,
            reason=verdict.reason,
            message=shortened(verdict.message),
            last_transition_time=instant(now) if moved or last is None else last.last_transition_time,
            observed_generation=generation,
        )
    return list(conditions.values())


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """Return the condition of one type, if it was ever judged."""
    return next((condition for condition in conditions if condition.type == type_), None)


def shortened(message: str, limit: int = LONGEST_MESSAGE) -> str:
    """Return the message, cut at `limit` characters; tracebacks keep their end, which says most."""
    return message if len(message) <= limit else "... " + message[4 - limit :]


def instant(seconds: float) -> datetime:
    """Return a time in the precision that the API keeps."""
    return datetime.fromtimestamp(int(seconds), UTC)


def stored(status: Status) -> dict[str, Any]:
    """Return what the API server has of a status that was read from it, without defaults that were never written."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)


def owned(status: dict[str, Any]) -> dict[str, Any]:
    """Return what the operator owns of a run's status."""
    return {key: value for key, value in status.items() if key != "progress"}


def merge_patch(before: Any, after: Any) -> Any:
    """Return the JSON merge patch that makes `after` out of `before`; an empty mapping if nothing differs."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif before[key] != value:
            patch[key] = merge_patch(before[key], value)
    return patch

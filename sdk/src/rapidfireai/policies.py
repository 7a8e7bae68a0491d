"""Policies for `run_fit` and `run_evals` (`policies=[...]`): what stops runs without anybody watching.

`SuccessiveHalving(eta=3, min_chunks=1)`, `StopWhenWorse(min_chunks=2)`, `StopWhenBeaten(min_chunks=1)` (evaluations:
a run whose confidence interval lies wholly on the worse side of another's), `MaxDuration(limit="8h")` and
`MaxCost(limit=20, price_per_worker_hour=2.5)` are what `spec.policies` of a manifest holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from rapidfireai.api.policies import MaxCost, MaxDuration, Policy, StopWhenBeaten, StopWhenWorse, SuccessiveHalving

__all__ = ["MaxCost", "MaxDuration", "StopWhenBeaten", "StopWhenWorse", "SuccessiveHalving", "policies_of"]

_FIELDS: dict[type[object], str] = {
    SuccessiveHalving: "successive_halving",
    StopWhenWorse: "stop_when_worse",
    StopWhenBeaten: "stop_when_beaten",
    MaxDuration: "max_duration",
    MaxCost: "max_cost",
}


def policies_of(given: Iterable[Any] | None) -> list[Policy]:
    """Return policies as the resource holds them.

    Args:
        given: Policies of this module, or mappings as a manifest has them, such as
            `{"successiveHalving": {"eta": 3}}`.

    Raises:
        TypeError: If one is neither; the message says what to write.
        ValueError: If a value is wrong, or a policy is there twice.
    """
    if isinstance(given, Mapping | str) or not isinstance(given, Iterable | None):
        raise TypeError(f"policies must be a list of policies, not {given!r}; write [SuccessiveHalving(eta=3)]")
    found = [_policy(place, each) for place, each in enumerate(given or ())]
    names = [name for each in found for name in each.model_fields_set]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"policies: {twice} is there twice; write each policy once")
    return found


def _policy(place: int, given: Any) -> Policy:
    field = _FIELDS.get(type(given))
    if field is None and not isinstance(given, Mapping):
        known = ", ".join(each.__name__ for each in _FIELDS)
        raise TypeError(f"policies[{place}]: {given!r} is no policy; write one of {known}, or a mapping")
    try:
        return Policy.model_validate({field: given} if field is not None else dict(given))
    except ValidationError as error:
        mistake = error.errors()[0]
        path = "".join(f".{part}" for part in mistake["loc"])
        raise ValueError(f"policies[{place}]{path}: {mistake['msg'].removeprefix('Value error, ')}") from error

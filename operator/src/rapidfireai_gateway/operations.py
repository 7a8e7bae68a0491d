"""What became of an IC Op. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_NAMED = 5


def is_complete(icop: Mapping[str, Any]) -> bool:
    """Say whether an IC Op has been carried out or refused."""
    conditions = (icop.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)


def refusal_of(icop: Mapping[str, Any]) -> str:
    """Return why every run refused an IC Op; empty if one did not, or it is not complete."""
    conditions = (icop.get("status") or {}).get("conditions") or ()
    if not any(each["type"] == "Complete" and each.get("reason") == "Refused" for each in conditions):
        return ""
    results = icop["status"].get("results") or ()
    return "; ".join(dict.fromkeys(f"{each['run']}: {each.get('message', '')}" for each in results[:_MOST_NAMED]))

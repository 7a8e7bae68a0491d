"""What an experiment is called, for people and for Kubernetes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

DEFAULT_NAME = "rf-exp"
"""The name of an experiment that was given none."""
LONGEST_SLUG = 48
"""Names of workers and runs add to it, and a pod's host name has 63 characters."""
_TRIES = 1000


def slug(display_name: str) -> str:
    """Return the object name for what a user called the experiment: lower case, digits and hyphens.

    It begins with a letter and ends in a letter or digit; names in other scripts fall back to the default name.
    """
    plain = unicodedata.normalize("NFKD", display_name).encode("ascii", "ignore").decode().lower()
    hyphenated = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    named = hyphenated if re.match(r"[a-z]", hyphenated) else f"x-{hyphenated}" if hyphenated else DEFAULT_NAME
    if len(named) <= LONGEST_SLUG:
        return named
    # The end often tells names apart: sweep-...-v1, sweep-...-v2.
    return f"{named[: LONGEST_SLUG - 13].rstrip('-')}-{named[-12:].lstrip('-')}"


def free_name(display_name: str, is_used: Callable[[str], bool]) -> str:
    """Return the display name, or with the suffix `_1`, `_2`, ... the first one whose slug is not used.

    Args:
        display_name: What the user called the experiment.
        is_used: Whether an object name is taken.

    Raises:
        ValueError: If a thousand names are taken.
    """
    wanted = display_name.strip() or DEFAULT_NAME
    if not is_used(slug(wanted)):
        return wanted
    stem, number = wanted, 0
    if match := re.fullmatch(r"(.+)_(\d+)", wanted):
        stem, number = match[1], int(match[2])
    for suffix in range(number + 1, number + 1 + _TRIES):
        candidate = f"{stem}_{suffix}"
        if not is_used(slug(candidate)):
            return candidate
    raise ValueError(f"experiment_name: {display_name!r} and {_TRIES} names after it are used; choose another name")

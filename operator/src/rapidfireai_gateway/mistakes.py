"""What is wrong with an input, in one sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_LONGEST_VALUE = 80


def sentence_of(errors: Iterable[Mapping[str, Any]], root: str = "") -> str:
    """Return what pydantic found as one sentence that names each field and its value.

    Args:
        errors: Its `errors()`.
        root: What the paths begin with.
    """
    return "; ".join(_one(error, root) for error in errors)


def _one(error: Mapping[str, Any], root: str) -> str:
    words = [root, *map(str, error["loc"])]
    path = ".".join(word for word in words if word)
    if error["type"] in {"missing", "extra_forbidden", "json_invalid"}:
        return f"{path}: {error['msg']}"
    value = repr(error.get("input"))
    shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
    return f"{path}={shown}: {error['msg']}"

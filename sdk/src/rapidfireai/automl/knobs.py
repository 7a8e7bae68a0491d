"""Knobs: the places in a config where several values are to be tried."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rapidfireai.ranges import Range

__all__ = ["List", "Range"]


class List:
    """Values to try, one after another.

    Args:
        values: The values; their types are whatever the argument takes, further knobs included.

    Raises:
        ValueError: If `values` is not a list, or has no value.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        if not isinstance(values, list | tuple):
            raise ValueError(f"List takes a Python list of the values to try, not {values!r}")  # noqa: TRY004 - as documented
        if not values:
            raise ValueError("List has no value, so it would make no run; list at least one")
        self.values = list(values)

    def __repr__(self) -> str:
        return f"List({self.values!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, List) and other.values == self.values

    __hash__ = None  # type: ignore[assignment]  # it holds a list

    def sample(self) -> Any:
        """Return one of the values, each as likely as the others; a knob among them is drawn from in turn.

        It draws with Python's own `random`, for looking at what a search may come to; searches draw for themselves.
        """
        drawn = random.choice(self.values)  # noqa: S311 - nothing secret is drawn
        return drawn.sample() if isinstance(drawn, List | Range) else drawn

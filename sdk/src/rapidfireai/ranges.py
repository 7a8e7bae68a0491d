"""Ranges of numbers and how a value is drawn from one: equal on every platform and Python version."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from decimal import Context
from fractions import Fraction
from typing import Any, Literal

Dtype = Literal["int", "float"]
_FIELDS = ("start", "end", "dtype", "log", "step")
_EXACT = Context(prec=40)
"""Decimal rounds logarithms and powers correctly, where a C library's last bit depends on the platform."""


class Range:
    """A range of numbers to draw from; a grid, which has to list its values, refuses it.

    Args:
        start: The least value, included.
        end: The greatest value, included.
        dtype: `int` or `float`; if None, `int` when both bounds are whole numbers.
        log: Whether the logarithm is drawn evenly.
        step: The distance between values.

    Raises:
        ValueError: If the bounds, the dtype or the combination of arguments make no range.
    """

    def __init__(
        self, start: float, end: float, dtype: Dtype | None = None, log: bool = False, step: float | None = None
    ) -> None:
        for name, bound in (("start", start), ("end", end), ("step", step)):
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float)):
                raise ValueError(f"Range: {name} must be a number, not {bound!r}")
            if isinstance(bound, float) and not math.isfinite(bound):
                raise ValueError(f"Range: {name} must be a finite number, not {bound!r}")
        if start is None or end is None:
            raise ValueError("Range: start and end must be numbers")
        whole = isinstance(start, int) and isinstance(end, int)
        if dtype not in {None, "int", "float"}:
            raise ValueError(f"Range: dtype must be 'int' or 'float', not {dtype!r}")
        if not isinstance(log, bool):
            raise ValueError(f"Range: log must be true or false, not {log!r}")  # noqa: TRY004 - as documented
        if dtype == "int" and not (_whole(start) and _whole(end)):
            raise ValueError(f"Range: dtype 'int' needs whole numbers as bounds, not {start!r} and {end!r}")
        if start > end:
            raise ValueError(f"Range: start {start!r} is greater than end {end!r}; swap them")
        if log and step is not None:
            raise ValueError("Range: log and step exclude each other; leave one out")
        if log and start <= 0:
            raise ValueError(f"Range: log needs bounds above 0, and start is {start!r}")
        if step is not None and step <= 0:
            raise ValueError(f"Range: step must be above 0, not {step!r}")
        self.start = start
        self.end = end
        self.dtype: Dtype = dtype or ("int" if whole and (step is None or _whole(step)) else "float")
        self.log = log
        self.step = step
        if self.dtype == "int" and step is not None and not _whole(step):
            raise ValueError(f"Range: dtype 'int' needs a whole number as step, not {step!r}")

    def __repr__(self) -> str:
        more = (", log=True" if self.log else "") + (f", step={self.step!r}" if self.step is not None else "")
        return f"Range({self.start!r}, {self.end!r}, dtype={self.dtype!r}{more})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Range) and other.to_wire() == self.to_wire()

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def to_wire(self) -> dict[str, Any]:
        """Return what stands behind `$range` in the resource."""
        wire: dict[str, Any] = {"start": self.start, "end": self.end, "dtype": self.dtype}
        if self.log:
            wire["log"] = True
        if self.step is not None:
            wire["step"] = self.step
        return wire

    @classmethod
    def from_wire(cls, wire: object, dtype: Dtype | None = None) -> Range:
        """Return the range that stands behind `$range`.

        Args:
            wire: The mapping; anything at all.
            dtype: What its `dtype` is if it says none: JSON does not tell the bounds 0.0 and 0 apart.

        Raises:
            ValueError: If it is no range.
        """
        if not isinstance(wire, Mapping):
            raise ValueError(f"Range: must be a mapping with start and end, not {wire!r}")  # noqa: TRY004
        unknown = [key for key in wire if key not in _FIELDS]
        if unknown:
            raise ValueError(f"Range: has no field {unknown[0]}; it has {', '.join(_FIELDS)}")
        missing = [key for key in ("start", "end") if wire.get(key) is None]
        if missing:
            raise ValueError(f"Range: {missing[0]} is required; add it")
        said = wire.get("dtype") or dtype
        if said is None and all(_whole(wire[key]) for key in ("start", "end") if isinstance(wire[key], int | float)):
            raise ValueError("Range: dtype is required where both bounds are whole: write dtype: int or dtype: float")
        return cls(wire["start"], wire["end"], said, wire.get("log") or False, wire.get("step"))

    def sample(self) -> float:
        """Return a value of the range, drawn with Python's own `random`; searches draw for themselves."""
        return self.at(random.random())  # noqa: S311 - nothing secret is drawn

    @property
    def whole(self) -> bool:
        """Whether every value of it is a whole number."""
        return self.dtype == "int" or (self.step is not None and _whole(self.start) and _whole(self.step))

    def at(self, unit: float) -> float:
        """Return the value at a number of [0, 1): even numbers there give what the range promises.

        Args:
            unit: The number drawn.
        """
        if self.step is not None:
            # Exact arithmetic on the decimals as they are written: 0.1 + 2 * 0.1 is 0.3, and an end on the grid is met.
            start, step = Fraction(str(self.start)), Fraction(str(self.step))
            count = (Fraction(str(self.end)) - start) // step + 1
            return self._typed(start + below(count, unit) * step)
        if self.log:
            low, high = (_EXACT.ln(_EXACT.create_decimal(str(bound))) for bound in (self.start, self.end))
            power = _EXACT.add(low, _EXACT.multiply(_EXACT.create_decimal(str(unit)), _EXACT.subtract(high, low)))
            return self._within(self._typed(Fraction(_EXACT.exp(power))))
        if self.dtype == "int":
            return int(self.start) + below(int(self.end) - int(self.start) + 1, unit)
        return self._within(float(self.start) * (1 - unit) + float(self.end) * unit)

    def _typed(self, value: Fraction) -> float:
        return round(value) if self.dtype == "int" else float(value)

    def _within(self, value: float) -> float:
        if self.dtype == "int":
            return min(max(value, int(self.start)), int(self.end))
        return min(max(value, float(self.start)), float(self.end))


def below(count: int, unit: float) -> int:
    """Return a whole number of [0, count) for a number of [0, 1), evenly."""
    return min(int(Fraction(unit) * count), count - 1)


def _whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()

"""How the user wants intervals: `online_strategy_kwargs`, read and checked, and the errors that name the fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Method = Literal["normal", "wilson", "hoeffding"]
METHODS: tuple[Method, ...] = get_args(Method)
_FIELDS = ("strategy_name", "confidence_level", "use_fpc")


class EstimateError(ValueError):
    """A metric, or how its interval is asked for, is none that can be worked with; the sentence has the fix."""


class UnknownStrategy(EstimateError):  # noqa: N818 - it says what is the matter
    """`online_strategy_kwargs` asks for what there is not."""


class NotANumber(EstimateError):  # noqa: N818 - it says what is the matter
    """A metric's value is no finite number."""


class BadRange(EstimateError):  # noqa: N818 - it says what is the matter
    """A `value_range` is not two numbers, the smaller one first."""


class OutsideRange(EstimateError):  # noqa: N818 - it says what is the matter
    """A metric's value lies outside its `value_range`."""


class NoRange(EstimateError):  # noqa: N818 - it says what is the matter
    """A method needs a `value_range`, and the metric has none."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """How intervals are computed.

    Attributes:
        method: The documentation's `strategy_name`.
        level: The confidence level, between 0 and 1.
        use_fpc: Whether the data set is all there is (finite population correction): the interval is of the metric
            over all of its rows, and has no width once all are seen. If not, the data set is itself a sample.
    """

    method: Method = "normal"
    level: float = 0.95
    use_fpc: bool = True

    @classmethod
    def parse(cls, kwargs: Mapping[str, Any] | None) -> Strategy:
        """Return what `online_strategy_kwargs` asks for; what it leaves out is as documented: normal, 0.95, True.

        Raises:
            UnknownStrategy: If a name or a value is none that is known.
        """
        given = dict(kwargs or {})
        for name in given:
            if name not in _FIELDS:
                raise UnknownStrategy(
                    f"online_strategy_kwargs.{name}: unknown; it takes {', '.join(_FIELDS)}{_like(name, _FIELDS)}"
                )
        method, level, use_fpc = (
            given.get(name, default) for name, default in zip(_FIELDS, ("normal", 0.95, True), strict=True)
        )
        if method not in METHODS:
            raise UnknownStrategy(
                f"online_strategy_kwargs.strategy_name={method!r}: unknown; choose {', '.join(METHODS[:-1])} or "
                f"{METHODS[-1]}{_like(str(method), METHODS)}"
            )
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise UnknownStrategy(
                f"online_strategy_kwargs.confidence_level={level!r}: give a number between 0 and 1, such as 0.95"
            )
        if not isinstance(use_fpc, bool):
            raise UnknownStrategy(f"online_strategy_kwargs.use_fpc={use_fpc!r}: give true or false")
        return cls(method, float(level), use_fpc)


def _like(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""

"""The knobs of a checked value: how many combinations there are, which ones, and one of them drawn. Pure."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rapidfireai.config_fields import LIST, REF, Drawn
from rapidfireai.ranges import below


def count(value: Any) -> int:
    """Return how many combinations the knobs of a checked value have."""
    if isinstance(value, dict):
        if LIST in value:
            return sum(count(member) for member in value[LIST])
        return math.prod(count(each) for key, each in value.items() if key != REF)
    return 1


def values(value: Any) -> Iterator[Any]:
    """Yield every combination of a checked value's knobs, the alphabetically last key fastest."""
    if not isinstance(value, dict) or REF in value:
        yield value
    elif LIST in value:
        for member in value[LIST]:
            yield from values(member)
    else:
        keys = sorted(value)
        for combination in itertools.product(*(list(values(value[key])) for key in keys)):
            yield dict(zip(keys, combination, strict=True))


def ranges(value: Any) -> Iterator[Drawn]:
    """Yield the ranges of a checked value."""
    if isinstance(value, Drawn):
        yield value
    elif isinstance(value, dict) and REF not in value:
        for each in value[LIST] if LIST in value else (value[key] for key in sorted(value)):
            yield from ranges(each)


def units(seed: int, index: int) -> Iterator[float]:
    """Yield numbers of [0, 1): Python promises that the same seed gives the same ones in every version.

    Args:
        seed: The search's seed.
        index: The index of its group.
    """
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    generator = random.Random(int.from_bytes(digest))  # noqa: S311 - nothing secret is drawn
    while True:
        yield generator.random()


def one_of(alternatives: Sequence[Any], numbers: Iterator[float]) -> Any:
    """Draw one of the alternatives."""
    return alternatives[below(len(alternatives), next(numbers))]


def drawn(value: Any, numbers: Iterator[float]) -> Any:
    """Draw a value for each knob of a checked value, in the order in which a grid loops over them."""
    if isinstance(value, Drawn):
        return value.at(next(numbers))
    if not isinstance(value, dict) or REF in value:
        return value
    if LIST in value:
        return drawn(one_of(value[LIST], numbers), numbers)
    return {key: drawn(value[key], numbers) for key in sorted(value)}


def canonical(leaf: Mapping[str, Any]) -> str:
    """Return text that is equal for equal configs, also after the API server has made 1 of 1.0."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [whole(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(whole(dict(leaf)), sort_keys=True)

"""Grids and random searches over checked configs, whatever these configure. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rapidfireai.errors import ConfigError
from rapidfireai.expansion.knobs import canonical, count, drawn, one_of, ranges, units, values

ATTEMPTS_PER_RUN = 10
"""How often a random search draws for each run before it gives up finding different ones."""


class Template(Protocol):
    """One checked config whose values may be knobs."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """The parts that may hold knobs, outermost loop first."""
        ...

    def leaf(self, combination: Sequence[Any]) -> dict[str, Any] | None:
        """Return the config of the run that one value of each part makes, or None if such a run makes no sense.

        Raises:
            ConfigError: If these values do not go together.
        """
        ...

    @property
    def why_none(self) -> str:
        """Why combinations make no run, as a sentence with the fix."""
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination becomes a run.

    Combinations that differ only in what has no effect there, such as arguments of the other search, are one run.
    """

    path: str
    templates: tuple[Template, ...]

    def count(self) -> int:
        """Return how many combinations there are: so many runs at most."""
        return sum(math.prod(map(count, template.parts)) for template in self.templates)

    def leaves(self) -> Iterator[dict[str, Any]]:
        """Yield the runs' configs in order.

        Raises:
            ConfigError: If there is none, or they are all the same.
        """
        leaves = [leaf for template in self.templates for leaf in _distinct(template)]
        if not leaves:
            raise ConfigError(self.path, self.templates[0].why_none)
        if len(leaves) > 1 and all(canonical(leaf) == canonical(leaves[0]) for leaf in leaves[1:]):
            raise ConfigError(self.path, f"its knobs make {len(leaves)} runs that are all the same; list other values")
        yield from leaves


@dataclass(frozen=True, slots=True)
class Draws:
    """Some combinations become runs: decision 011 has the procedure."""

    path: str
    templates: tuple[Template, ...]
    runs: int
    seed: int
    index: int

    def count(self) -> int:
        """Return how many runs are drawn."""
        return self.runs

    def leaves(self) -> Iterator[dict[str, Any]]:
        """Yield the runs' configs in the order in which they are drawn.

        Raises:
            ConfigError: If the knobs do not have that many different combinations.
        """
        self._check_enough()
        numbers = units(self.seed, self.index)
        found: dict[str, dict[str, Any]] = {}
        attempts = ATTEMPTS_PER_RUN * self.runs
        for _ in range(attempts):
            template: Template = one_of(self.templates, numbers)
            leaf = template.leaf([drawn(part, numbers) for part in template.parts])
            if leaf is not None:
                found.setdefault(canonical(leaf), leaf)
            if len(found) == self.runs:
                yield from found.values()
                return
        if not found:
            raise ConfigError(self.path, self.templates[0].why_none)
        raise ConfigError(
            f"{self.path}.numRuns",
            f"{attempts} draws gave {len(found)} different runs, not {self.runs}; ask for at most {len(found)} runs, "
            "or give the knobs more values",
        )

    def _check_enough(self) -> None:
        parts = [template.parts for template in self.templates]
        if any(True for each in parts for part in each for _ in ranges(part)):
            return
        there = sum(math.prod(map(count, each)) for each in parts)
        if there < self.runs:
            raise ConfigError(
                f"{self.path}.numRuns",
                f"the knobs have {there} combinations, and {self.runs} different runs are asked for; ask for at most "
                f"{there}, or give the knobs more values",
            )


def _distinct(template: Template) -> Iterator[dict[str, Any]]:
    """Yield the leaves of a grid; what the user lists twice stays twice, what only differs without effect does not."""
    seen: dict[str, str] = {}
    for combination in itertools.product(*(list(values(part)) for part in template.parts)):
        leaf = template.leaf(combination)
        if leaf is None:
            continue
        text, written = canonical(leaf), canonical({"": combination})
        if seen.setdefault(text, written) == written:
            yield leaf

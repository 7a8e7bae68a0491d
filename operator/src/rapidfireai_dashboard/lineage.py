"""Who was cloned from whom. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rapidfireai.clone import Change, changes
from rapidfireai_dashboard.runs import RunLine


@dataclass(slots=True)
class Branch:
    """A run and its clones.

    Attributes:
        gone: Whether only its clones know of it: its object is deleted.
        changed: In what a clone differs from its parent.
    """

    run: str
    line: RunLine | None
    changed: tuple[Change, ...] = ()
    clones: list[Branch] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Whether nothing but its name is left."""
        return self.line is None

    def words(self) -> str:
        """Return the run in one line."""
        if self.line is None:
            return f"{self.run}, its object is gone"
        parts = [f"r{self.line.index}", self.line.state]
        if self.line.objective is not None:
            parts.append(f"{self.line.objective:.4g}")
        if self.line.parent:
            parts.append("warm" if self.line.warm else "cold")
        parts += map(str, self.changed)
        return ", ".join(parts)


def forest(lines: Iterable[RunLine]) -> list[Branch]:
    """Return the runs that have clones, with those below them; runs without relatives are left out."""
    branches = {line.name: Branch(line.name, line) for line in lines}
    roots: dict[str, Branch] = {}
    for branch in sorted(branches.values(), key=lambda each: each.line.index if each.line else 0):
        line = branch.line
        if line is None or not line.parent:
            continue
        parent = branches.get(line.parent) or roots.setdefault(line.parent, Branch(line.parent, None))
        parent.clones.append(branch)
        if parent.line is not None:
            branch.changed = tuple(changes(parent.line.config, line.config))
            if not parent.line.parent:
                roots.setdefault(parent.run, parent)
    return list(roots.values())

"""Which run was cloned from which, drawn as a tree. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rapidfireai.api import Run
from rapidfireai.clone import changes


def lineage(runs: Sequence[Run]) -> list[str]:
    """Return the families of clones as lines, each clone below its parent with what it changes; none without clones.

    Args:
        runs: All runs of an experiment, by number.
    """
    known = {run.metadata.name: run for run in runs}
    children: dict[str, list[Run]] = {}
    for run in runs:
        if run.spec.parent_ref is not None:
            children.setdefault(run.spec.parent_ref.name, []).append(run)
    roots = [name for name in children if name not in known or known[name].spec.parent_ref is None]
    return [line for root in roots for line in _family(root, known, children)]


def _family(root: str, known: Mapping[str, Run], children: Mapping[str, list[Run]]) -> Iterator[str]:
    run = known.get(root)
    yield f"{root}  {run.status.state or 'Pending'}" if run else f"{root}  gone"
    yield from _below(root, "", known, children)


def _below(name: str, indent: str, known: Mapping[str, Run], children: Mapping[str, list[Run]]) -> Iterator[str]:
    below = children.get(name, [])
    for position, run in enumerate(below, start=1):
        last = position == len(below)
        yield f"{indent}{'└─ ' if last else '├─ '}{_words(run, known.get(name))}"
        yield from _below(run.metadata.name, indent + ("   " if last else "│  "), known, children)


def _words(run: Run, parent: Run | None) -> str:
    differs = "; ".join(map(str, changes(parent.spec.config, run.spec.config))) if parent else ""
    reference = run.spec.parent_ref
    step = f" at step {reference.checkpoint.step}" if reference and reference.checkpoint else ""
    start = f"warm{step}" if reference and reference.warm_start else "cold"
    return "  ".join(filter(None, (run.metadata.name, run.status.state or "Pending", start, differs)))

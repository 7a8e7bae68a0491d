"""Who builds an index: each is built once, by one of the runs that search it, while the others wait for it. Pure.

Whoever builds may fail, be stopped or die: then it no longer holds the task or is not ready, and the next one gets it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from rapidfireai.api import RunStatus
from rapidfireai_operator.core.conditions import find
from rapidfireai_operator.core.schedule import Candidate
from rapidfireai_operator.core.suspension import SUSPENDED

WAITING_FOR_INDEX = "WaitingForIndex"
"""The reason of a run's condition `Progressing` while another one builds its index."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The runs as the planner may give them out.

    Attributes:
        candidates: The runs; those that wait for an index are not ready.
        builders: The run that builds what another one waits for, by the name of the one that waits.
    """

    candidates: tuple[Candidate, ...]
    builders: Mapping[str, str]


def take_turns(candidates: Iterable[Candidate]) -> Turns:
    """Let one run of each index build it and the others wait.

    Args:
        candidates: The runs; `index` is set where the index of a run is not built yet.
    """
    runs = tuple(candidates)
    chosen = _builders(runs)
    waiting = {
        run.name: chosen[run.index_digest].name
        for run in runs
        if run.index_digest is not None and run.ready and not run.builds and chosen[run.index_digest].name != run.name
    }
    turned = tuple(replace(run, ready=False) if run.name in waiting else run for run in runs)
    return Turns(turned, waiting)


def _builders(runs: Iterable[Candidate]) -> dict[str, Candidate]:
    """Return who builds each index: who holds the task, else the first that is ready and took no worker down."""
    chosen: dict[str, Candidate] = {}
    for run in sorted(runs, key=lambda run: (not run.builds, run.alone, run.index)):
        if run.index_digest is not None and (run.builds or (run.ready and run.held_by is None)):
            chosen.setdefault(run.index_digest, run)
    return chosen


def unbuilt_index(status: RunStatus) -> str | None:
    """Return the digest of the index that the run searches, if it is not known to be built; else None."""
    prepared = status.prepared
    return prepared.index if prepared is not None and not prepared.index_built else None


def with_built(status: RunStatus, built: Collection[str | None]) -> RunStatus | None:
    """Return a run's status once it knows that another one has built its index; None if that is no news.

    Args:
        status: The status that it has now.
        built: The digests of what is built.
    """
    digest = unbuilt_index(status)
    if status.prepared is None or digest not in built or digest is None:
        return None
    return status.model_copy(update={"prepared": status.prepared.model_copy(update={"index_built": True})})


def waiting_for(builder: str) -> str:
    """Return why a run waits for its index, as a sentence."""
    return f"It goes on when {builder} has built the index that both search."


def told_to_wait(status: RunStatus) -> str:
    """Return why a run waits, for its index or for its experiment, as its status says; empty if it says neither."""
    told = find(status.conditions, "Progressing")
    return told.message if told is not None and told.reason in {WAITING_FOR_INDEX, SUSPENDED} else ""

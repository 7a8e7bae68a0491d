"""What a run means for its experiment, worked out once for every version of the run.

Of ten thousand runs only a few change between two looks; the others keep their standing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rapidfireai.api import Run, RunStatus
from rapidfireai_operator.core.conditions import merge_patch, owned, stored
from rapidfireai_operator.core.indexes import told_to_wait
from rapidfireai_operator.core.lifecycle import candidate, describe
from rapidfireai_operator.core.race import Racer, racer
from rapidfireai_operator.core.schedule import Candidate
from rapidfireai_operator.core.summary import Tally, tally


@dataclass(frozen=True, slots=True)
class Standing:
    """One version of a run.

    Attributes:
        at_rest: Whether nothing of it changes unless it is given work: no worker holds it, it does not wait for a
            moment, and its status says all that there is to say.
        candidate: What the planner has to know of it; right only at rest.
        tally: What it adds to its experiment; right only at rest.
        racer: What policies see of it; right only at rest.
        waits: Why it waits for its index or its experiment, as its status says it.
        index: The index that it searches, if any.
        index_built: Whether it is known to be built.
    """

    at_rest: bool
    candidate: Candidate | None
    tally: Tally
    racer: Racer
    waits: str
    index: str | None
    index_built: bool


def standing(run: Run) -> Standing:
    """Return the standing of a run."""
    status = run.status
    moves = status.assignment is not None or status.failures.retry_at is not None
    # No time passes for a run at rest: any moment gives the same description. Whom it waits for, others decide.
    told = told_to_wait(status)
    described = describe(run, status, 0.0, told).status
    at_rest = not moves and not merge_patch(owned(stored(status)), owned(described.to_wire()))
    index, built = _index(status)
    return Standing(at_rest, candidate(run, status, 0.0), tally(run, status), racer(run, status), told, index, built)


def _index(status: RunStatus) -> tuple[str | None, bool]:
    prepared = status.prepared
    return (prepared.index, prepared.index_built) if prepared is not None else (None, False)

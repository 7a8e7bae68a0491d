"""What a run means for its experiment, worked out once for every version of the run.

Of ten thousand runs only a few change between two looks; the others keep their standing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rapidfireai.api import Run
from rapidfireai_operator.core.conditions import merge_patch, stored
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
    """

    at_rest: bool
    candidate: Candidate | None
    tally: Tally
    racer: Racer


def standing(run: Run) -> Standing:
    """Return the standing of a run."""
    status = run.status
    moves = status.assignment is not None or status.failures.retry_at is not None
    # No time passes for a run at rest: any moment gives the same description.
    described = describe(run, status, 0.0).status
    at_rest = not moves and not merge_patch(stored(status), described.to_wire())
    return Standing(at_rest, candidate(run, status, 0.0), tally(run, status), racer(run, status))

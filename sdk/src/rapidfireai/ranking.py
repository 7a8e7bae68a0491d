"""How the boundaries of one run compare. Pure."""

from __future__ import annotations

from rapidfireai.api import Experiment, Run


def best_first(run: Run, experiment: Experiment) -> tuple[int, ...]:
    """Return the steps of a run's boundaries, those with the best objective first; of equal ones the earlier."""
    sign = 1 if experiment.spec.objective.direction == "minimize" else -1
    return tuple(point.step for point in sorted(run.status.objective, key=lambda p: (sign * p.value, p.step)))

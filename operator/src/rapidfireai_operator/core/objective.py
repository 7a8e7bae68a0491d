"""The objective: its curve, commit by commit, and how people read it."""

from __future__ import annotations

from collections.abc import Mapping

from rapidfireai.api import RunStatus
from rapidfireai.api.run import PREPARE_CHUNK, Estimate, ObjectivePoint, Progress

LONGEST_CURVE = 256
"""Points of the objective's curve that the status keeps."""
LONGEST_BOUNDED_CURVE = 160
"""So many points it keeps if each has the ends of an interval."""
SHORTEST_THINNED = LONGEST_BOUNDED_CURVE // 2
"""A curve that lost points has at least so many."""
_FIGURES = 6
"""Significant digits of an interval's ends: they are known less well than that."""


def number(value: float) -> str:
    """Return a metric as people read it in a column."""
    return f"{value:.4g}"


def shown(value: float, lower: float | None, upper: float | None) -> str:
    """Return a metric with its interval, if it has one, as people read it: `0.71 [0.65, 0.77]`."""
    if lower is None or upper is None:
        return number(value)
    return f"{number(value)} [{number(lower)}, {number(upper)}]"


def curve(status: RunStatus, progress: Progress, wanted: str | None) -> dict[str, object]:
    """Return the objective's curve with the commit's point, if the chunk reached its boundary."""
    chunk, prepared = progress.chunk, status.prepared
    last = status.objective[-1].chunk if status.objective else PREPARE_CHUNK
    if wanted is None or prepared is None or chunk >= len(prepared.boundaries) or chunk <= last:
        return {}
    if progress.step < prepared.boundaries[chunk]:
        return {}
    estimates = progress.estimates
    metrics = {**{name: each.value for name, each in estimates.items()}, **progress.metrics}
    name = status.objective_metric or objective_name(wanted, metrics)
    if name is None or name not in metrics:
        return {}
    point = ObjectivePoint(chunk=chunk, step=progress.step, value=metrics[name])
    if name in estimates:
        point = point.model_copy(update=_bounds(estimates[name]))
    points = [*status.objective, point]
    if len(points) > (LONGEST_CURVE if point.lower is None else LONGEST_BOUNDED_CURVE):
        points = points[:-1:2] + points[-1:]
    return {"objective": points, "objective_metric": name}


def _bounds(estimate: Estimate) -> dict[str, float]:
    """Return the ends of an interval, as exactly as they are worth; none if it has only one."""
    lower, upper = estimate.lower, estimate.upper
    if lower is None or upper is None:
        return {}
    return {"lower": float(f"{lower:.{_FIGURES}g}"), "upper": float(f"{upper:.{_FIGURES}g}")}


def objective_name(wanted: str, metrics: Mapping[str, float]) -> str | None:
    """Return the name under which the worker reports the objective, or None if it does not.

    Without an eval set the mean training loss of the chunk takes the place of `eval_loss`.
    """
    names = [f"boundary/{wanted}", f"chunk/{wanted}", wanted]
    if wanted == "eval_loss":
        names.append("chunk/loss")
    return next((name for name in names if name in metrics), None)

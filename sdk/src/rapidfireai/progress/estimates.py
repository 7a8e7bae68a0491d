"""Metrics of evaluations as people read them: an estimate, and the interval that it lies in. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rapidfireai.api import Run
from rapidfireai.api.run import Estimate

PERCENT = frozenset({"Accuracy", "F1 Score", "MRR", "NDCG@5", "Precision", "Recall"})
"""Metrics that people know as percentages, as long as they are shares."""


def estimates_of(run: Run) -> Mapping[str, Estimate]:
    """Return what is known of a run's metrics after its committed shards, by name; nothing of a run that trains."""
    return run.status.progress.estimates if run.status.progress else {}


def in_words(name: str, estimate: Estimate) -> str:
    """Return an estimate with its interval, as `52.0% [43.1%, 60.9%]`, or alone if there is no interval."""
    value, lower, upper = (
        None if each is None else float(each) for each in (estimate.value, estimate.lower, estimate.upper)
    )
    known = [each for each in (value, lower, upper) if each is not None]
    share = name in PERCENT and all(0 <= each <= 1 for each in known)
    shown = [f"{each:.1%}" if share else f"{each:.4g}" for each in known]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if lower is not None and upper is not None else shown[0]

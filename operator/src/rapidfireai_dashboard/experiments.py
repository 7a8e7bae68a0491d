"""An Experiment -> its row in the list, and the facts at the top of its page. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from rapidfireai.api import Experiment
from rapidfireai.progress.picture import condition_is, status_condition
from rapidfireai.show.tables import age


def experiment_row(experiment: Experiment, now: datetime) -> dict[str, Any]:
    """Return the row of the list."""
    meta = experiment.metadata
    created = meta.creation_timestamp
    return {
        "key": f"{meta.namespace}/{meta.name}",
        "link": f"/experiments/{quote(meta.namespace)}/{quote(meta.name)}",
        "name": experiment.spec.display_name or meta.name,
        "namespace": meta.namespace,
        "created": created.timestamp() if created else 0.0,
        "runs": experiment.status.runs.total,
        "active": experiment.status.runs.active,
        **{key: value for key, value in facts(experiment, now).items() if key != "runs"},
    }


def facts(experiment: Experiment, now: datetime) -> dict[str, str]:
    """Return what is worth knowing of an experiment, for people."""
    status = experiment.status
    counts = status.runs
    runs = ", ".join(
        f"{number} {word}"
        for number, word in (
            (counts.running, "running"),
            (counts.pending, "pending"),
            (counts.stopped, "stopped"),
            (counts.succeeded, "succeeded"),
            (counts.failed, "failed"),
        )
        if number
    )
    return {
        "state": status.state or "Pending",
        "runs": f"{counts.total}{f' ({runs})' if runs else ''}",
        "chunks": status.chunks.summary,
        "workers": status.workers.summary or f"0/{experiment.spec.workers.replicas}",
        "best": status.best.summary if status.best else "",
        "eta": status.eta or "",
        "age": age(experiment.metadata.creation_timestamp, now),
    }


def notes(experiment: Experiment) -> tuple[str, ...]:
    """Return what keeps an experiment from going on, in sentences."""
    if condition_is(experiment, "Finished", "True"):
        return ()
    judged = [status_condition(experiment, kind) for kind in ("Accepted", "Expanded", "WorkersReady")]
    return tuple(each.message for each in judged if each and each.status == "False")


def mlflow_link(base: str, experiment: Experiment | None, run: str) -> str:
    """Return where MLflow shows a run; empty if there is no MLflow, or it does not know the run yet.

    Args:
        base: MLflow's address.
        experiment: The experiment.
        run: The run's id in MLflow.
    """
    there = experiment.status.ml_flow_experiment_id if experiment else None
    return f"{base.rstrip('/')}/#/experiments/{there}/runs/{run}" if base and there and run else ""

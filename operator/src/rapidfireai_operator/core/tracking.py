"""What MLflow is told of an experiment: names, tags, parameters and ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rapidfireai.api import Run
from rapidfireai.config_fields import name_of
from rapidfireai.credentials import is_secret
from rapidfireai.expand import is_evaluation
from rapidfireai_operator.core.acceptance import EVALUATES
from rapidfireai_operator.core.snapshot import Subject

MlflowState = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]
UID_TAG = "rapidfire.uid"
"""On experiments and runs in MLflow: the UID of the resource, by which they are found again."""
LONGEST_VALUE, LONGEST_KEY = 6000, 250
"""What MLflow takes of a parameter."""


@dataclass(frozen=True, slots=True)
class TrackedExperiment:
    """An experiment as MLflow shall have it; `other_name` is for when the first name is taken."""

    uid: str
    name: str
    other_name: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as MLflow shall have it; of a deleted run, nothing."""

    uid: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    state: MlflowState
    deleted: bool = False


def tracked_experiment(subject: Subject) -> TrackedExperiment:
    """Return the experiment as MLflow shall have it."""
    display = (subject.body.get("spec") or {}).get("displayName")
    name = display if isinstance(display, str) and display.strip() else subject.name
    tags = {UID_TAG: subject.uid, "rapidfire.namespace": subject.namespace, "rapidfire.experiment": subject.name}
    return TrackedExperiment(subject.uid, name, f"{name} {subject.uid[:8]}", tags)


def tracked_run(run: Run) -> TrackedRun:
    """Return a run as MLflow shall have it."""
    metadata = run.metadata
    tags = {
        UID_TAG: metadata.uid,
        "rapidfire.namespace": metadata.namespace,
        "rapidfire.experiment": run.spec.experiment_ref,
        "rapidfire.run": metadata.name,
        "rapidfire.run_id": str(run.spec.index),
    }
    params = {**parameters(run.spec.config), **lineage(run)}
    deleted = run.status.state == "Deleted"
    return TrackedRun(metadata.uid, metadata.name, {**tags, **lineage(run)}, params, state_of(run), deleted)


def lineage(run: Run) -> dict[str, str]:
    """Return what is told of a clone's origin: the parent's run_id, and whether it began with its weights."""
    parent = run.spec.parent_ref
    if parent is None:
        return {}
    if is_evaluation(run.spec.config):
        return {"parent-run": str(parent.index)}
    return {"parent-run": str(parent.index), "warm-start": "true" if parent.warm_start else "false"}


def state_of(run: Run) -> MlflowState:
    """Return the state that MLflow shall show."""
    match run.status.state:
        case "Succeeded":
            return "FINISHED"
        case "Failed":
            return "FAILED"
        case "Stopped" | "Deleted":
            return "KILLED"
        case _:
            return "RUNNING"


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the leaves of a config as MLflow's parameters: `training_args.learning_rate` and so on."""
    found = {}
    for path, value in _leaves_of_evaluation(config) if is_evaluation(config) else _leaves(config, ""):
        key = re.sub(r"[^\w.\- /:]", "_", path, flags=re.ASCII)[:LONGEST_KEY]
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        found[key] = text[:LONGEST_VALUE]
    return found


def _leaves_of_evaluation(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what tells pipelines apart, the model as `model`; nothing of how errors are met, and no secret."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= value if key in EVALUATES and isinstance(value, Mapping) else {key: value}
    for path, value in _leaves(flat, ""):
        first, last = path.partition(".")[0], path.rpartition(".")[2]
        if first != "online_strategy_kwargs" and last != "max_retries" and not is_secret(last, value):
            yield "model" if path == "model_config.model" else path, value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    name = name_of(value)
    if name is not None:
        yield path, name
    elif isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value

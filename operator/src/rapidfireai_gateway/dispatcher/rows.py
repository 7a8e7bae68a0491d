"""Our resources in the words of the original system. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rapidfireai.clone import patch_between
from rapidfireai.config_fields import CLASS, ENV, FUNCTION, KWARGS, REF
from rapidfireai_gateway.dispatcher.pipelines import is_evaluation, pipeline_patch
from rapidfireai_gateway.operations import is_complete, refusal_of

Body = Mapping[str, Any]
Row = dict[str, Any]
STATUSES: Mapping[str, str] = {
    "Pending": "New",
    "Running": "Ongoing",
    "Stopped": "Stopped",
    "Deleted": "Deleted",
    "Succeeded": "Completed",
    "Failed": "Failed",
}
_EXPERIMENT_STATUSES: Mapping[str, str] = {
    "Pending": "Running",
    "Running": "Running",
    "Suspended": "Running",
    "Stopped": "Running",
    "Succeeded": "Completed",
    "Failed": "Failed",
    "Refused": "Failed",
}
_OPERATIONS: Mapping[str, str] = {"Stop": "stop", "Resume": "resume", "Delete": "delete", "CloneModify": "clone"}
_INHERITED = ("additional_kwargs", "reward_funcs")
"""What clients never send: a clone has it from its parent."""
_INHERITED_KNOBS: Mapping[str, tuple[str, ...]] = {
    "peft_params": ("task_type",),
    "model_kwargs": ("torch_dtype", "dtype"),
}
"""What older clients lose on the way: a clone without it would be another model."""


def run_row(run: Body, experiment: Body) -> Row:
    """Return a Run as `get-all-runs` shows it."""
    status = run.get("status") or {}
    progress, prepared = status.get("progress") or {}, status.get("prepared") or {}
    chunks = _chunks_done(status)
    state = STATUSES[status.get("state") or "Pending"]
    answered = {
        "total_shards": len(prepared.get("boundaries") or ()) or _chunks(experiment),
        "total_samples_processed": _committed(status),
    }
    return {
        "run_id": run["spec"]["index"],
        "status": state,
        "metric_run_id": status.get("mlflowRunID"),
        "config": run["spec"]["config"],
        "flattened_config": dict(_flat(run["spec"]["config"])),
        "full_config": run["spec"]["config"],
        "completed_steps": max(int(progress.get("step") or 0), _committed(status)),
        "total_steps": int(prepared.get("totalSteps") or 0),
        "num_epochs_completed": chunks // _chunks(experiment),
        "num_chunks_visited": chunks,
        "error": _error(status),
        "source": _source(run),
        "ended_by": _ended_by(run, state),
        **(answered if is_evaluation(run["spec"]["config"]) else {}),
    }


def experiment_row(experiment: Body) -> Row:
    """Return an Experiment as `get-running-experiment` shows it."""
    status = experiment.get("status") or {}
    state = status.get("state") or "Pending"
    return {
        "experiment_id": experiment["metadata"]["uid"],
        "experiment_name": experiment_name(experiment),
        "status": _EXPERIMENT_STATUSES.get(state, "Running"),
        "error": _condition(status, "Accepted", "False") if state == "Refused" else None,
        "metric_experiment_id": status.get("mlflowExperimentID"),
        "config_options": {"configs": experiment["spec"]["configs"], "num_chunks": _chunks(experiment)},
        "experiment_mode": experiment["spec"].get("mode", "fit"),
    }


def experiment_name(experiment: Body) -> str:
    """Return what the user called an experiment."""
    return str(experiment["spec"].get("displayName") or experiment["metadata"]["name"])


def is_running(experiment: Body) -> bool:
    """Say whether an experiment can still go on without a clone."""
    conditions = (experiment.get("status") or {}).get("conditions") or ()
    return not any(each["type"] == "Finished" and each["status"] == "True" for each in conditions)


def current(experiments: Sequence[Body]) -> Body | None:
    """Return the newest experiment that is not finished, else the newest; None if there is none."""
    by_age = sorted(experiments, key=lambda body: (body["metadata"]["creationTimestamp"], body["metadata"]["name"]))
    unfinished = [body for body in by_age if is_running(body)]
    return next(reversed(unfinished or by_age), None)


def pipeline_row(run: Body, experiment: Body) -> Row:
    """Return a Run as `list-all-pipeline-ids` shows it."""
    chunks = len(((run.get("status") or {}).get("prepared") or {}).get("boundaries") or ())
    return {
        "pipeline_id": run["spec"]["index"],
        "status": STATUSES[(run.get("status") or {}).get("state") or "Pending"].lower(),
        "shards_completed": _chunks_done(run.get("status") or {}),
        "total_samples_processed": _committed(run.get("status") or {}),
        "total_shards": chunks or _chunks(experiment),
    }


def operation_row(icop: Body) -> Row:
    """Return an IC Op as `all-operations` and `operation-status` show it."""
    spec, runs = icop["spec"], icop["spec"].get("runs") or ()
    numbers = [_number(name) for name in runs]
    first = numbers[0] if numbers else None
    request = {"parent_pipeline_id": first, "config_json": (spec.get("clone") or {}).get("patch")}
    complete = next(
        (each for each in (icop.get("status") or {}).get("conditions") or () if each["type"] == "Complete"), None
    )
    done, refused = is_complete(icop), refusal_of(icop)
    return {
        "ic_id": icop["metadata"]["name"],
        "pipeline_id": first,
        "operation": _OPERATIONS[spec["op"]],
        "status": "failed" if refused else "completed" if done else "processing" if complete else "pending",
        "request_data": json.dumps(request if spec["op"] == "CloneModify" else {}),
        "error": refused or None,
        "created_at": icop["metadata"]["creationTimestamp"],
        "processed_at": complete["lastTransitionTime"] if complete and done else None,
    }


def operation_line(icop: Body, experiment: str) -> str:
    """Return an IC Op as a line of the interactive-control log."""
    row, spec, status = operation_row(icop), icop["spec"], icop.get("status") or {}
    what = ", ".join(spec.get("runs") or ("the runs that the selector names",))
    outcome = row["error"] or status.get("summary") or row["status"]
    level = "WARNING" if row["error"] else "INFO"
    by = spec.get("requestedBy") or "somebody"
    return (
        f"{row['created_at']} | {experiment} | interactive-control | {level} | {icop['metadata']['name']} | "
        f"{spec['op']} of {what} by {by}: {outcome}"
    )


def clone_patch(parent: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch that makes a clone with this complete config of a parent; an empty one changes nothing.

    Args:
        parent: The parent's config.
        config: The clone's, as a client sends it.

    Raises:
        ConfigError: If it is no config.
    """
    if not config:
        return {}
    if is_evaluation(parent) and not is_evaluation(config):
        return pipeline_patch(parent, config)
    whole = {**config, **{key: parent[key] for key in _INHERITED if key in parent and not config.get(key)}}
    for section, knobs in _INHERITED_KNOBS.items():
        kept = {knob: parent[section][knob] for knob in knobs if knob in (parent.get(section) or {})}
        if kept and isinstance(whole.get(section), Mapping):
            whole[section] = {**kept, **whole[section]}
    return patch_between(parent, whole)


def _chunks(experiment: Body) -> int:
    """Return how many chunks an epoch has, or how many shards the data set."""
    key = "shards" if experiment["spec"].get("mode") == "evals" else "chunks"
    return int(experiment["spec"].get(key) or 4)


def _committed(status: Body) -> int:
    last = (status.get("progress") or {}).get("checkpoint") or status.get("adopted") or {}
    return int(last.get("step") or 0)


def _chunks_done(status: Body) -> int:
    step = _committed(status)
    boundaries = (status.get("prepared") or {}).get("boundaries") or ()
    return sum(boundary <= step for boundary in boundaries)


def _flat(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a config's values by dotted path; a function is shown by its label."""
    if isinstance(config, Mapping):
        if REF in config:
            yield path, (config[REF] or {}).get("label")
        elif CLASS in config:
            yield path, config[CLASS]
            yield from _flat(config.get(KWARGS) or {}, path)
        elif FUNCTION in config:
            yield path, config[FUNCTION]
        elif ENV in config:
            return  # where a key is read from
        else:
            for key, value in config.items():
                yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, config


def _error(status: Body) -> str | None:
    return _condition(status, "Succeeded", "False") if status.get("state") == "Failed" else None


def _condition(status: Body, type_: str, value: str) -> str | None:
    found = [each for each in status.get("conditions") or () if each["type"] == type_ and each["status"] == value]
    return str(found[0].get("message") or found[0]["reason"]) if found else None


def _source(run: Body) -> str:
    if not run["spec"].get("parentRef"):
        return "Initial"
    return _who(run["spec"].get("requestedBy"))


def _ended_by(run: Body, state: str) -> str | None:
    if state in {"Stopped", "Deleted"}:
        return _who(run["spec"].get("requestedBy"))
    return {"Completed": "Epoch Completed", "Failed": "Error"}.get(state)


def _who(requested_by: str | None) -> str:
    if requested_by == "policy:successiveHalving":
        return "Successive Halving Algorithm"
    return requested_by if requested_by and requested_by.startswith("policy:") else "Interactive Control"


def _number(run: str) -> int | None:
    digits = run.rpartition("-r")[2]
    return int(digits) if digits.isdecimal() else None

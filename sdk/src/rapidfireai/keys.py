"""API keys of an experiment: in a Secret that belongs to it, and in the workers' environment. Nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rapidfireai.api.base import API_VERSION
from rapidfireai.api.experiment import ExperimentSpec
from rapidfireai.api.workers import EnvVar, WorkerContainer


def secret_name(experiment: str) -> str:
    """Return the name of the Secret that holds the keys of an experiment."""
    return f"{experiment}-keys"


def secret_body(experiment: str, uid: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the Secret for the API server; it goes when its experiment goes.

    Args:
        experiment: The name of the experiment's resource.
        uid: Its UID.
        keys: The keys by their variables.
    """
    owner = {"apiVersion": API_VERSION, "kind": "Experiment", "name": experiment, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(experiment), "ownerReferences": [owner]},
        "stringData": dict(keys),
    }


def with_keys(spec: ExperimentSpec, experiment: str, keys: Iterable[str]) -> ExperimentSpec:
    """Return a spec whose workers find the keys in their environment.

    Args:
        spec: What the experiment asks for.
        experiment: The name of its resource.
        keys: The variables.
    """
    variables = [
        EnvVar(name=name, value_from={"secretKeyRef": {"name": secret_name(experiment), "key": name}})
        for name in sorted(keys)
    ]
    if not variables:
        return spec
    made = spec.model_copy(deep=True)
    pod = made.workers.template.spec
    if not pod.containers:
        pod.containers = [WorkerContainer()]
    pod.containers[0].env = [*pod.containers[0].env, *variables]
    return ExperimentSpec.model_validate(made.model_dump())


def command(experiment: str, namespace: str, keys: Iterable[str]) -> str:
    """Return the command that makes the Secret of a manifest, with a place for each key."""
    literals = " ".join(f"--from-literal={name}=KEY" for name in sorted(keys))
    return f"kubectl --namespace {namespace} create secret generic {secret_name(experiment)} {literals}"

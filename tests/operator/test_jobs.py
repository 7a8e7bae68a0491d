"""What a worker's pod is told by its environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.operator.builders import evaluation, experiment

from rapidfireai.api import ExperimentSpec
from rapidfireai.api.experiment import ExperimentStatus
from rapidfireai_operator.core.jobs import WorkerDefaults, manifest
from rapidfireai_operator.core.snapshot import Subject

DEFAULTS = WorkerDefaults("image", {}, "data", "/data", 30)


def environment(
    *variables: dict[str, Any], make: Callable[..., dict[str, Any]] = experiment
) -> dict[str, dict[str, Any]]:
    template = {"spec": {"containers": [{"name": "worker", "env": list(variables)}]}}
    body = make(workers={"replicas": 1, "template": template})
    subject = Subject("n", "exp", "uid", 1, "1", False, body, ExperimentStatus())
    job = manifest(subject, ExperimentSpec.model_validate(body["spec"]), "exp-w-0", DEFAULTS, {})
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable for variable in container["env"]}


def test_a_worker_knows_which_of_its_values_came_from_secrets() -> None:
    secret = {"valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    told = environment({"name": "MIRROR", **secret}, {"name": "PLAIN", "value": "x"}, {"name": "HF_TOKEN", **secret})
    assert told["RAPIDFIRE_SECRET_VARIABLES"]["value"] == "MIRROR,HF_TOKEN"
    assert environment()["RAPIDFIRE_SECRET_VARIABLES"]["value"] == ""


def test_a_worker_knows_its_memory_limit_and_an_experiment_may_set_its_budget() -> None:
    told = environment({"name": "RAPIDFIRE_MEMORY_BUDGET", "value": "20Gi"})
    assert told["RAPIDFIRE_MEMORY_LIMIT"]["valueFrom"]["resourceFieldRef"]["resource"] == "limits.memory"
    assert told["RAPIDFIRE_MEMORY_BUDGET"]["value"] == "20Gi"


def test_a_worker_knows_what_its_runs_do_and_where_the_volume_service_is() -> None:
    assert environment()["RAPIDFIRE_MODE"]["value"] == "fit"
    told = environment(make=evaluation)
    assert told["RAPIDFIRE_MODE"]["value"] == "evals"
    reference = {"name": "rapidfire-workspace", "key": "volume-url", "optional": True}
    assert told["RAPIDFIRE_VOLUME_URL"] == {
        "name": "RAPIDFIRE_VOLUME_URL",
        "valueFrom": {"configMapKeyRef": reference},
    }
    assert environment({"name": "RAPIDFIRE_VOLUME_URL", "value": "http://v"})["RAPIDFIRE_VOLUME_URL"]["value"]

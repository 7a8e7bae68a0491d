"""What a worker's pod is told by its environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.operator.builders import evaluation, experiment

from rapidfireai.api import ExperimentSpec
from rapidfireai.api.experiment import ExperimentStatus
from rapidfireai_operator.core.jobs import WorkerDefaults, manifest
from rapidfireai_operator.core.snapshot import Subject

DEFAULTS = WorkerDefaults("image", {}, "data", "/data", 30)


def pod_job(defaults: WorkerDefaults = DEFAULTS, **workers: Any) -> dict[str, Any]:
    body = experiment(workers={"replicas": 1, **workers})
    subject = Subject("n", "exp", "uid", 1, "1", False, body, ExperimentStatus())
    return manifest(subject, ExperimentSpec.model_validate(body["spec"]), "exp-w-0", defaults, {})


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


def test_a_worker_writes_to_its_claims_tmp_and_shared_memory_alone() -> None:
    spec = pod_job()["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes[mounts["/tmp"]]["emptyDir"] == {}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
    assert set(mounts) == {"/tmp", "/dev/shm", "/data"}


USUAL = {
    "nodeSelector": {"pool": "gpu", "zone": "a"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "low",
    "env": [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "HF_HOME", "value": "/models"},
    ],
    "volumes": [{"name": "authority", "configMap": {"name": "authority"}}],
    "volumeMounts": [{"name": "authority", "mountPath": "/etc/authority"}],
}


def test_a_worker_has_what_the_chart_says_of_all() -> None:
    spec = pod_job(replace(DEFAULTS, pod=USUAL))["spec"]["template"]["spec"]
    for place in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert spec[place] == USUAL[place]
    (container,) = spec["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert len(variables) == len(container["env"]), "no variable twice"
    assert variables["HF_HOME"]["value"] == "/models"
    assert variables["RAPIDFIRE_SECRET_VARIABLES"]["value"] == "HF_TOKEN"
    assert USUAL["volumes"][0] in spec["volumes"]
    assert USUAL["volumeMounts"][0] in container["volumeMounts"]
    assert pod_job(replace(DEFAULTS, pod={})) == pod_job(), "an upgrade alone changes no worker"


def test_an_experiment_has_the_last_word_about_its_workers() -> None:
    template = {
        "nodeSelector": {"zone": "b"},
        "tolerations": [{"key": "mine", "operator": "Exists"}],
        "affinity": {"podAffinity": {}},
        "priorityClassName": "high",
        "containers": [{"name": "worker", "env": [{"name": "HF_TOKEN", "value": "x"}]}],
    }
    spec = pod_job(replace(DEFAULTS, pod=USUAL), template={"spec": template})["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"pool": "gpu", "zone": "b"}
    assert [each["key"] for each in spec["tolerations"]] == ["gpu", "mine"]
    assert spec["affinity"] == {"podAffinity": {}}
    assert spec["priorityClassName"] == "high"
    variables = [each for each in spec["containers"][0]["env"] if each["name"] in {"HF_TOKEN", "HTTPS_PROXY"}]
    assert [each["value"] for each in variables] == ["http://proxy:3128", "x"]


def test_a_job_waits_in_the_queue_that_the_experiment_names_or_the_charts() -> None:
    queue = "kueue.x-k8s.io/queue-name"
    assert queue not in pod_job()["metadata"]["labels"]
    assert "suspend" not in pod_job(queueName="team")["spec"], "that is Kueue's to say"
    chart = replace(DEFAULTS, queue_name="all")
    assert pod_job(chart)["metadata"]["labels"][queue] == "all"
    assert pod_job(chart, queueName="team")["metadata"]["labels"][queue] == "team"

"""Every pod that the chart and the operator make is admitted where the restricted Pod Security Standard is enforced."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.fence.conftest import admin, apply
from tests.operator.conftest import make_operator
from tests.operator.harness import OperatorProcess
from tests.support.waiting import wait_for

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.install import CHART

__all__ = ["admin", "make_operator"]
pytestmark = pytest.mark.integration
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
VERSION = {"pod-security.kubernetes.io/enforce-version": "latest"}
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


@pytest.fixture
def namespace(admin: httpx.Client) -> Iterator[str]:
    """A namespace that admits nothing else."""
    name = f"restricted-{uuid.uuid4().hex[:8]}"
    body = {"metadata": {"name": name, "labels": {**RESTRICTED, **VERSION}}}
    assert admin.post("/api/v1/namespaces", json=body).is_success
    yield name
    admin.delete(f"/api/v1/namespaces/{name}")


def pods(admin: httpx.Client, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.get(f"/api/v1/namespaces/{namespace}/pods").json()["items"]
    return found


def refusals(admin: httpx.Client, namespace: str) -> list[str]:
    events = admin.get(f"/api/v1/namespaces/{namespace}/events").json()["items"]
    return [each["message"] for each in events if each["reason"] == "FailedCreate"]


def test_a_pod_that_is_not_restricted_is_refused_there(admin: httpx.Client, namespace: str) -> None:
    """Else the tests below would prove nothing."""
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    answer = admin.post(f"/api/v1/namespaces/{namespace}/pods", json=body)
    assert 'violates PodSecurity "restricted:latest"' in answer.json()["message"]


def test_every_pod_of_the_chart_is_admitted(
    control_plane: ControlPlane, kubelocal: Path, admin: httpx.Client, namespace: str
) -> None:
    command = [str(kubelocal), "helm", "template", "rapidfireai", str(CHART.resolve()), "--namespace", namespace]
    values = json.dumps({"workspaces": [namespace]})
    text = subprocess.run([*command, "--values", "-"], input=values, capture_output=True, text=True, check=True).stdout
    objects = [each for each in yaml.safe_load_all(text) if each and each["metadata"].get("namespace") == namespace]
    workloads = [each for each in objects if each["kind"] in WORKLOADS]
    assert {each["metadata"]["name"] for each in workloads} >= {
        "rapidfire-operator", "rapidfire-gateway", "rapidfire-mlflow", "rapidfire-volume"
    }  # fmt: skip
    apply(control_plane, [each for each in objects if each["kind"] in {*WORKLOADS, "ServiceAccount"}])
    wanted = sum(int(each["spec"].get("replicas", 1)) for each in workloads if each["kind"] != "CronJob")

    def all_there() -> bool:
        assert not refusals(admin, namespace)
        return len(pods(admin, namespace)) >= wanted

    wait_for("pod of each", all_there, 90.0)


def test_a_workers_pod_is_admitted_whatever_its_template_may_say(
    control_plane: ControlPlane,
    crds: None,
    admin: httpx.Client,
    namespace: str,
    make_operator: Callable[..., OperatorProcess],
) -> None:
    make_operator()
    env = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    container = {"name": "worker", "image": "mine", "env": env, "resources": {"limits": {"nvidia.com/gpu": 1}}}
    pod = {"containers": [container], "tolerations": [{"operator": "Exists"}], "nodeSelector": {"gpu": "yes"}}
    spec = {
        "configs": [{"trainer": "SFT", "config": {"model_name": "m", "training_args": {"max_steps": 1}}}],
        "data": {"train": {"uri": "pvc://elsewhere/train.jsonl"}},
        "workers": {"replicas": 1, "template": {"spec": pod}},
    }
    path = f"/apis/rapidfire.ai/v1alpha1/namespaces/{namespace}/experiments"
    body = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "metadata": {"name": "e"}, "spec": spec}
    answer = admin.post(path, json=body)
    assert answer.is_success, answer.text
    conditions = f"{path}/e"

    def there() -> bool:
        assert not refusals(admin, namespace), admin.get(conditions).text
        return bool(pods(admin, namespace))

    wait_for("the worker's pod", there, 90.0)
    (made,) = pods(admin, namespace)
    assert made["spec"]["containers"][0]["image"] == "mine"

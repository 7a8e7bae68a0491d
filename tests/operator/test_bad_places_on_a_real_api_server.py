"""Workspaces, claims and pods that are not as they should be: each is said, with the fix, and nobody else waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.operator.builders import condition, experiment
from tests.operator.harness import OperatorProcess, until

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai_operator.adapters.kubernetes import Api
from rapidfireai_operator.core.definitions import missing_fields

pytestmark = pytest.mark.integration
MakeOperator = Callable[..., OperatorProcess]
Body = dict[str, Any]
CRDS = Path(__file__).resolve().parents[2] / "crds"


def claim(name: str, mode: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}},
    }


async def judged(api: Api, namespace: str, name: str, type_: str, reason: str) -> Body:
    async def look() -> Body | None:
        found = condition(await api.get("experiments", namespace, name), type_)
        return found if found.get("reason") == reason else None

    return dict(await until(f"{name} {type_} {reason}", look, api, namespace, 90))


async def event(api: Api, namespace: str, reason: str) -> Body:
    async def look() -> Body | None:
        return next((each for each in (await api.list("events", namespace)).items if each["reason"] == reason), None)

    return dict(await until(f"an event {reason}", look, api, namespace))


async def test_a_claim_that_cannot_be_shared_is_found_before_there_is_a_worker(
    api: Api, namespace: str, make_operator: MakeOperator
) -> None:
    for name, mode in (("alone", "ReadWriteOncePod"), ("node", "ReadWriteOnce")):
        await api.create("persistentvolumeclaims", namespace, claim(name, mode))
    make_operator()
    await api.create("experiments", namespace, experiment("pod", storage={"claimName": "alone"}))
    accepted = await judged(api, namespace, "pod", "Accepted", "ClaimNotShared")
    assert accepted["status"] == "False"
    assert "alone is ReadWriteOncePod" in accepted["message"]
    assert (await event(api, namespace, "ClaimNotShared"))["type"] == "Warning"
    assert (await api.list("jobs", namespace)).items == []
    await api.create("experiments", namespace, experiment("one", storage={"claimName": "node"}))
    told = await event(api, namespace, "ClaimOnOneNode")
    assert "node is ReadWriteOnce" in told["message"]
    assert (await judged(api, namespace, "one", "Accepted", "Valid"))["status"] == "True"


WAITING: dict[str, tuple[Body, str]] = {
    "ImagePull": ({"reason": "ErrImagePull", "message": "unauthorized"}, "imagePullSecrets"),
    "CreateContainerConfigError": (
        {"reason": "CreateContainerConfigError", "message": "couldn't find key token in Secret x/hf"},
        "Add the key token to the Secret hf",
    ),
}


async def test_what_kubelet_and_scheduler_say_of_a_pod_comes_with_the_fix(
    api: Api, namespace: str, make_operator: MakeOperator
) -> None:
    make_operator()
    resources = {"limits": {"nvidia.com/gpu": "2"}}
    workers = {"replicas": 1, "template": {"spec": {"containers": [{"name": "worker", "resources": resources}]}}}
    await api.create("experiments", namespace, experiment(workers=workers))

    async def made() -> Body | None:
        return next(iter((await api.list("pods", namespace)).items), None)

    async def told() -> str:
        body = await api.get("experiments", namespace, "exp")
        message = str(condition(body, "WorkersReady")["message"])
        return message if "0/3 nodes" in message else ""

    pod = (await until("a pod", made, api, namespace))["metadata"]["name"]
    await judged(api, namespace, "exp", "WorkersReady", "Unschedulable")  # the scheduler has spoken: there is no node
    said = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    await api.patch("pods", namespace, pod, {"status": {"conditions": [unscheduled]}}, status=True)
    message = await until("what a scheduler with nodes says", told, api, namespace)
    assert "0/3 nodes have a free nvidia.com/gpu. Each worker asks for 2 nvidia.com/gpu." in message
    for reason, (waiting, fix) in WAITING.items():
        container = {"name": "worker", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
        status = {"conditions": [], "containerStatuses": [{**container, "state": {"waiting": waiting}}]}
        await api.patch("pods", namespace, pod, {"status": status}, status=True)
        assert fix in (await judged(api, namespace, "exp", "WorkersReady", reason))["message"]
        assert (await event(api, namespace, reason))["type"] == "Warning"


async def test_pods_that_a_quota_refuses_are_told_of(
    api: Api, namespace: str, make_operator: MakeOperator, control_plane: ControlPlane
) -> None:
    made = control_plane.kubectl("create", "quota", "none", "--hard=pods=0", "--namespace", namespace)
    assert made.returncode == 0, made.stderr
    make_operator()
    await api.create("experiments", namespace, experiment(replicas=1))
    message = (await judged(api, namespace, "exp", "WorkersReady", "PodsRefused"))["message"]
    assert "kubectl describe job exp-w-0" in message
    assert (await event(api, namespace, "PodsRefused"))["type"] == "Warning"


async def test_a_workspace_that_lacks_a_right_is_left_alone_and_the_others_go_on(
    api: Api, namespace: str, make_operator: MakeOperator, control_plane: ControlPlane
) -> None:
    other = f"{namespace}-closed"
    made = control_plane.kubectl("create", "namespace", other)
    assert made.returncode == 0, made.stderr
    operator = make_operator(RAPIDFIRE_NAMESPACES=f"{other},{namespace}", RAPIDFIRE_RESYNC_SECONDS="1")
    await api.create("experiments", namespace, experiment())
    assert (await judged(api, namespace, "exp", "Accepted", "Valid"))["status"] == "True"
    log = operator.log.read_text()
    assert "a workspace lacks a right and is left alone" in log
    assert "cannot list resource" in log
    assert operator.process is not None
    assert operator.process.poll() is None
    control_plane.kubectl("delete", "namespace", other, "--wait=false")


async def test_definitions_that_are_older_than_the_operator_are_told_of_until_they_are_renewed(
    api: Api, namespace: str, make_operator: MakeOperator, control_plane: ControlPlane, tmp_path: Path
) -> None:
    field, definition = "Experiment.spec.ttlSecondsAfterFinished", CRDS / "experiments.rapidfire.ai.yaml"
    older = yaml.safe_load(definition.read_text())
    spec = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["ttlSecondsAfterFinished"]

    manifest = tmp_path / "older.yaml"
    manifest.write_text(yaml.safe_dump(older))

    def replace(path: Path) -> None:
        assert control_plane.kubectl("replace", "--filename", str(path)).returncode == 0

    async def dropped(fields: tuple[str, ...]) -> bool:
        return missing_fields(await api.description()) == fields

    try:
        replace(manifest)
        await until("the older schema", lambda: dropped((field,)), api, namespace)
        make_operator(RAPIDFIRE_RESYNC_SECONDS="1")
        await api.create("experiments", namespace, experiment(replicas=1))
        told = await event(api, namespace, "OlderDefinitions")
        assert (told["type"], field in told["message"]) == ("Warning", True)
        assert (await judged(api, namespace, "exp", "Expanded", "AllRunsMade"))["status"] == "True"
        assert (await judged(api, namespace, "exp", "DefinitionsCurrent", "OlderDefinitions"))["status"] == "False"
        replace(definition)
        assert (await judged(api, namespace, "exp", "DefinitionsCurrent", "Renewed"))["status"] == "True"
    finally:
        replace(definition)
        await until("the schema of this version", lambda: dropped(()), api, namespace)

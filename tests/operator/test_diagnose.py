"""One sentence for a person about workers that are not there."""

from __future__ import annotations

from typing import Any

import pytest

from rapidfireai_operator.core.acceptance import on_one_node, unshared
from rapidfireai_operator.core.diagnose import NO_POD_SECONDS, workers_ready
from rapidfireai_operator.core.snapshot import JobView, PodView, Slot

NAMES = ("exp-w-0", "exp-w-1")


def said(pod: PodView | None, **more: Any) -> tuple[str, str]:
    job = JobView("exp-w-1", "uid", "owner", **more)
    slots = {"exp-w-1": Slot("exp-w-1", job, {pod.uid: pod} if pod is not None else {})}
    verdict = workers_ready(2, ["exp-w-0"], slots, NAMES, {})
    assert verdict.status == "False"
    return verdict.reason, verdict.message


@pytest.mark.parametrize(
    ("pod", "reason", "sentence"),
    [
        (None, "Starting", "the pod is being made."),
        (
            PodView(
                "p",
                "u",
                unscheduled="0/3 nodes are available: 1 Insufficient cpu, 3 Insufficient nvidia.com/gpu. no new",
            ),
            "Unschedulable",
            "0/3 nodes have a free cpu and nvidia.com/gpu.",
        ),
        (
            PodView(
                "p",
                "u",
                unscheduled="0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: no",
                asks={"nvidia.com/gpu": "2", "cpu": "1"},
            ),
            "Unschedulable",
            "0/3 nodes have a free nvidia.com/gpu. Each worker asks for 2 nvidia.com/gpu. Add nodes, lower "
            "spec.workers.replicas, or ask for less in spec.workers.template.",
        ),
        (
            PodView(
                "p",
                "u",
                unscheduled="0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not eligible.",
            ),
            "ClaimPending",
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not eligible. "
            "`kubectl describe pvc` says what the claim waits for.",
        ),
        (
            PodView("p", "u", unscheduled='persistentvolumeclaim "data" not found'),
            "ClaimMissing",
            "there is no PersistentVolumeClaim data in this namespace. Make it, or correct spec.storage.claimName or "
            "the pvc:// address that names it.",
        ),
        (
            PodView(
                "p", "u", waiting_reason="ImagePullBackOff", waiting_message='Back-off pulling image "x"', image="x"
            ),
            "ImagePull",
            "the image cannot be pulled: x: `kubectl describe pod p` has the registry's answer. Correct the image, or "
            "name the registry's Secret in imagePullSecrets of spec.workers.template.spec.",
        ),
        (
            PodView("p", "u", waiting_reason="CreateContainerConfigError", waiting_message='secret "hf" not found'),
            "CreateContainerConfigError",
            'secret "hf" not found. Make the Secret hf in this namespace, or correct '
            "spec.workers.template.spec.containers[0].env.",
        ),
        (
            PodView("p", "u", waiting_reason="ErrImagePull", waiting_message="unauthorized", image="x:1"),
            "ImagePull",
            "the image cannot be pulled: x:1: unauthorized. Correct the image, or name the registry's Secret in "
            "imagePullSecrets of spec.workers.template.spec.",
        ),
        (
            PodView(
                "p",
                "u",
                waiting_reason="CreateContainerConfigError",
                waiting_message="couldn't find key token in Secret team-a/hf",
            ),
            "CreateContainerConfigError",
            "couldn't find key token in Secret team-a/hf. Add the key token to the Secret hf, or correct "
            "spec.workers.template.spec.containers[0].env.",
        ),
        (
            PodView(
                "p", "u", waiting_reason="ContainerCreating", waiting_message="FailedMount: /x is not mounted here"
            ),
            "ContainerCreating",
            "FailedMount: /x is not mounted here",
        ),
        (PodView("p", "u", waiting_reason="ContainerCreating"), "Starting", "pod p is starting."),
        (PodView("p", "u", phase="Running"), "Starting", "pod p runs and has not reported yet."),
        (PodView("p", "u", leaving=True), "Leaving", "pod p is still leaving."),
    ],
)
def test_the_cause_is_named(pod: PodView | None, reason: str, sentence: str) -> None:
    assert said(pod) == (reason, f"Waiting for 1 of 2 workers: {sentence}")


def test_an_image_that_cannot_be_pulled_is_told_of_in_the_same_words_between_two_tries() -> None:
    image = "192.0.2.99:5000/nobody:1"
    why = f'rpc error: code = NotFound desc = failed to pull and unpack image "{image}": {image}: not found'
    trying = PodView("p", "u", waiting_reason="ErrImagePull", waiting_message=why, image=image)
    between = f'Back-off pulling image "{image}": ErrImagePull: {why}'
    resting = PodView("p", "u", waiting_reason="ImagePullBackOff", waiting_message=between, image=image)
    assert said(trying) == said(resting)
    reason, message = said(resting)
    assert reason == "ImagePull"
    assert f"the image cannot be pulled: {image}: failed to pull and unpack" in message
    assert "rpc error" not in message


def test_a_failed_job_and_a_refused_one_say_so() -> None:
    assert said(None, ended="Failed", message="BackoffLimitExceeded")[0] == "WorkerFailed"
    verdict = workers_ready(2, ["exp-w-0"], {}, NAMES, {"exp-w-1": "exceeded quota: gpus"})
    assert verdict.reason == "JobRefused"
    assert "exceeded quota: gpus" in verdict.message


def test_all_workers_are_ready() -> None:
    assert workers_ready(2, NAMES, {}, NAMES, {}).status == "True"


def test_what_a_pod_asks_for_is_read_from_its_spec() -> None:
    container = {"image": "x:1", "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "4Gi"}}}
    pod = PodView.read({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [container]}})
    assert pod.image == "x:1"
    assert pod.asks == {"nvidia.com/gpu": "1", "memory": "4Gi"}


def test_a_claim_of_one_pod_is_refused_and_one_of_one_node_is_told_of() -> None:
    modes = {"data": ["ReadWriteOncePod"], "models": ["ReadOnlyMany"], "node": ["ReadWriteOnce"]}
    refused = unshared(modes, 2)
    assert refused is not None
    assert refused.reason == "ClaimNotShared"
    assert "PersistentVolumeClaim data is ReadWriteOncePod" in refused.message
    assert "ReadWriteMany" in refused.message
    assert unshared({"node": ["ReadWriteOnce"]}, 2) is None
    assert on_one_node(modes) == ["node"]


def test_a_job_whose_pods_are_refused_says_where_to_look() -> None:
    slots = {"exp-w-1": Slot("exp-w-1", JobView("exp-w-1", "uid", "owner", created_at=1000.0))}
    early = workers_ready(2, ["exp-w-0"], slots, NAMES, {}, 1000.0 + NO_POD_SECONDS)
    late = workers_ready(2, ["exp-w-0"], slots, NAMES, {}, 1001.0 + NO_POD_SECONDS)
    assert early.reason == "Starting"
    assert late.reason == "PodsRefused"
    assert "kubectl describe job exp-w-1" in late.message

"""What is said of parts that are not ready."""

from __future__ import annotations

from typing import Any

import pytest

from rapidfireai.cluster.readiness import Part, judge

LABELS = {"app.kubernetes.io/name": "rapidfireai", "app.kubernetes.io/component": "operator"}


def deployment(generation: int = 1, **status: int) -> dict[str, Any]:
    seen = {"observedGeneration": 1, "updatedReplicas": 1, **status}
    meta = {"name": "rapidfire-operator", "namespace": "s", "generation": generation, "labels": LABELS}
    return {"kind": "Deployment", "metadata": meta, "status": seen}


def pod(**status: Any) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/healthz", "port": "health"}}
    container = {"name": "operator", "ports": [{"name": "health", "containerPort": 8081}], "startupProbe": probe}
    meta = {"name": "p", "namespace": "s", "labels": LABELS}
    return {"kind": "Pod", "metadata": meta, "spec": {"containers": [container]}, "status": status}


def only(*objects: dict[str, Any]) -> Part:
    (part,) = judge(objects)
    return part


def test_an_available_deployment_is_ready_and_says_where_it_answers() -> None:
    part = only(deployment(availableReplicas=1), pod(phase="Running", podIP="127.1.2.3"))
    assert (part.ready, part.reason, part.health) == (True, "", "http://127.1.2.3:8081/healthz")
    assert part.summary == "rapidfire-operator: ready"


def test_a_change_that_was_not_rolled_out_yet_is_not_ready() -> None:
    assert not only(deployment(generation=2, availableReplicas=1)).ready
    assert not only(deployment(availableReplicas=1, unavailableReplicas=1)).ready


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"phase": "Pending"}, "pod is pending"),
        ({"phase": "Running"}, "running, not ready yet"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]},
            "not scheduled: 0/1 nodes",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "FailedMount", "message": "no such path"}}}]},
            "FailedMount: no such path",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                        "lastState": {"terminated": {"exitCode": 3}},
                    }
                ]
            },
            "keeps ending, exit code 3",
        ),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 137}}}]}, "ended with exit code 137"),
    ],
)
def test_the_pod_says_what_a_deployment_waits_for(status: dict[str, Any], reason: str) -> None:
    part = only(deployment(), pod(**status))
    assert part.reason == reason
    assert part.crashing == ("keeps ending" in reason)


def test_a_deployment_without_a_pod_waits_for_one() -> None:
    going = pod(phase="Running")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert only(deployment(), going).reason == "waiting for its pod"

"""One sentence for a person about workers that are not there."""

from __future__ import annotations

from typing import Any

import pytest

from rapidfireai_operator.core.diagnose import workers_ready
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
            PodView("p", "u", unscheduled='persistentvolumeclaim "data" not found'),
            "Unschedulable",
            'persistentvolumeclaim "data" not found',
        ),
        (
            PodView("p", "u", waiting_reason="ImagePullBackOff", waiting_message='Back-off pulling image "x:1"'),
            "ImagePull",
            'the image cannot be pulled: Back-off pulling image "x:1"',
        ),
        (
            PodView("p", "u", waiting_reason="CreateContainerConfigError", waiting_message='secret "hf" not found'),
            "CreateContainerConfigError",
            'secret "hf" not found',
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


def test_a_failed_job_and_a_refused_one_say_so() -> None:
    assert said(None, ended="Failed", message="BackoffLimitExceeded")[0] == "WorkerFailed"
    verdict = workers_ready(2, ["exp-w-0"], {}, NAMES, {"exp-w-1": "exceeded quota: gpus"})
    assert verdict.reason == "JobRefused"
    assert "exceeded quota: gpus" in verdict.message


def test_all_workers_are_ready() -> None:
    assert workers_ready(2, NAMES, {}, NAMES, {}).status == "True"

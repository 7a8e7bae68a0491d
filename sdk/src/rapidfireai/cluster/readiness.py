"""Whether the parts that the chart installs are ready, and if not, why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Kubectl = Callable[..., subprocess.CompletedProcess[str]]
SELECTOR = "app.kubernetes.io/name=rapidfireai"
_COMPONENT = "app.kubernetes.io/component"
_CRASHING = "keeps ending"


@dataclass(frozen=True, slots=True)
class Part:
    """One Deployment of the chart.

    Attributes:
        component: `operator`, `volume` or `mlflow`.
        reason: What it waits for, in a few words; empty if it is ready.
        health: The URL that its startup probe asks, if it has a pod with an address.
    """

    component: str
    namespace: str
    name: str
    ready: bool
    reason: str
    health: str | None = None

    @property
    def crashing(self) -> bool:
        """Whether its container ends again and again."""
        return self.reason.startswith(_CRASHING)

    @property
    def selector(self) -> str:
        """The label selector of its pods."""
        return f"{SELECTOR},{_COMPONENT}={self.component}"

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.name}: {'ready' if self.ready else self.reason}"


def parts(kubectl: Kubectl) -> tuple[Part, ...]:
    """Return the installed parts, none if the API server does not answer."""
    which = ("deployments,pods", "--all-namespaces", "--selector", SELECTOR)
    answer = kubectl("get", *which, "--output", "json", "--request-timeout=10s")
    if answer.returncode != 0:
        return ()
    return judge(json.loads(answer.stdout)["items"])


def judge(items: Iterable[Mapping[str, Any]]) -> tuple[Part, ...]:
    """Judge Deployments by themselves and their pods. Pure."""
    objects = list(items)
    pods = [each for each in objects if each["kind"] == "Pod"]
    return tuple(_part(each, pods) for each in objects if each["kind"] == "Deployment")


def _part(deployment: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Part:
    meta, status = deployment["metadata"], deployment.get("status", {})
    current = status.get("observedGeneration", 0) >= meta.get("generation", 0)
    ready = current and status.get("updatedReplicas", 0) > 0 and status.get("availableReplicas", 0) > 0
    ready = ready and not status.get("unavailableReplicas")
    component = meta["labels"][_COMPONENT]
    mine = [
        each
        for each in pods
        if each["metadata"]["namespace"] == meta["namespace"]
        and each["metadata"].get("labels", {}).get(_COMPONENT) == component
        and "deletionTimestamp" not in each["metadata"]
    ]
    reason = "" if ready else next(map(why_not_ready, mine), "waiting for its pod")
    health = next(filter(None, map(_health, mine)), None)
    return Part(component, meta["namespace"], meta["name"], ready, reason, health)


def _health(pod: Mapping[str, Any]) -> str | None:
    """Return the URL of a pod's startup probe; the chart names its port."""
    container = pod["spec"]["containers"][0]
    ports = {each.get("name"): each["containerPort"] for each in container.get("ports", [])}
    probe = container.get("startupProbe", {}).get("httpGet")
    address = pod.get("status", {}).get("podIP")
    return f"http://{address}:{ports[probe['port']]}{probe['path']}" if probe and address else None


def why_not_ready(pod: Mapping[str, Any]) -> str:
    """Return what a pod that is not ready waits for, in a few words."""
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = container.get("state", {})
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason") == "CrashLoopBackOff":
            return f"{_CRASHING}, exit code {container.get('lastState', {}).get('terminated', {}).get('exitCode')}"
        if waiting:
            return ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))
        if ended and ended.get("exitCode"):
            return f"ended with exit code {ended['exitCode']}"
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"not scheduled: {condition.get('message', condition.get('reason', ''))}"
    running = status.get("phase") == "Running"
    return "running, not ready yet" if running else f"pod is {status.get('phase', 'Pending').lower()}"

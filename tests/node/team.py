"""What people do with the chart on a node: administrators install it, users run experiments in a namespace."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.node.realnode import ROOT, NodeError, RealNode

MANIFESTS = Path(__file__).resolve().parent / "manifests"
SYSTEM, TEAM = "rapidfire-system", "team-a"
_PLACE = f"charts/rapidfireai --namespace {SYSTEM}"
_VALUES = f"--values {MANIFESTS.relative_to(ROOT)}/values.yaml"


class Terminal:
    """Runs lines as a person types them, and keeps what was on the screen.

    Args:
        node: Where `kubectl` and `helm` find the cluster.
    """

    def __init__(self, node: RealNode) -> None:
        self._node = node
        self.screen: list[str] = []

    def type(self, line: str) -> str:
        """Run one line in the repository's root and return what it printed.

        Raises:
            NodeError: If it fails.
        """
        answer = self._node.run(*shlex.split(line)).stdout
        self.screen.append(f"$ {line}\n{answer}")
        return answer


def install(terminal: Terminal) -> str:
    """Install the chart into two namespaces that take restricted pods alone; return what Helm says."""
    for namespace in (SYSTEM, TEAM):
        terminal.type(f"kubectl create namespace {namespace}")
        terminal.type(f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=restricted")
    said = install_release(terminal)
    terminal.type(f"kubectl get pods --namespace {SYSTEM}")
    terminal.type(f"kubectl get pods,persistentvolumeclaims --namespace {TEAM}")
    return said


def install_release(terminal: Terminal) -> str:
    """Install the chart where the namespaces are; return what Helm says."""
    return terminal.type(f"helm install rapidfireai {_PLACE} {_VALUES} --wait --timeout 10m")


def upgrade(terminal: Terminal, setting: str) -> str:
    """Upgrade the release with one more value, `path=value`; return what Helm says."""
    return terminal.type(f"helm upgrade rapidfireai {_PLACE} {_VALUES} --set {setting} --wait --timeout 10m")


def uninstall(terminal: Terminal) -> str:
    """Remove the release; return what Helm says."""
    return terminal.type(f"helm uninstall rapidfireai --namespace {SYSTEM} --wait --timeout 5m")


def manifest(name: str) -> dict[str, Any]:
    """Return one of the manifests beside this file."""
    return dict(yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text()))


class Team:
    """What a user sees and does in the team's namespace."""

    def __init__(self, node: RealNode) -> None:
        self.node = node

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl in the namespace and return what it prints."""
        return self.node.kubectl("--namespace", TEAM, *words, stdin=stdin)

    def apply(self, body: dict[str, Any]) -> None:
        """Apply a resource."""
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(body))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return a resource."""
        return dict(json.loads(self.kubectl("get", kind, name, "--output", "json")))

    def of(self, kind: str, experiment: str) -> list[dict[str, Any]]:
        """Return the resources of a kind that belong to an experiment."""
        selector = f"rapidfire.ai/experiment={experiment}"
        return list(json.loads(self.kubectl("get", kind, "--selector", selector, "--output", "json"))["items"])

    def condition(self, experiment: str, kind: str) -> dict[str, Any]:
        """Return a condition of an experiment, empty if it has none."""
        conditions = self.get("rfexp", experiment).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def run(self, name: str) -> dict[str, Any]:
        """Return a run's status."""
        return dict(self.get("rfrun", name).get("status", {}))

    def step(self, name: str) -> int:
        """Return the committed step of a run."""
        return int(self.run(name).get("progress", {}).get("checkpoint", {}).get("step", 0))

    def workers(self, experiment: str) -> dict[str, dict[str, Any]]:
        """Return the worker pods that are ready and not leaving, by name."""
        return {
            pod["metadata"]["name"]: pod
            for pod in self.of("pods", experiment)
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        }

    def patch(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Change the spec of a resource."""
        self.kubectl("patch", kind, name, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def wait(self, what: str, look: Callable[[], Any], seconds: float = 300.0) -> Any:
        """Return the first true value of `look`; on the deadline say what the cluster looked like."""
        deadline = time.monotonic() + seconds
        while not (seen := look()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:.0f} s\n{self.picture()}")
            time.sleep(0.2)
        return seen

    def picture(self) -> str:
        """Return what there is, for a message."""
        try:
            things = self.node.kubectl("get", "rfexp,rfrun,jobs,pods", "--all-namespaces", "--output", "wide")
            events = self.node.kubectl("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")
        except NodeError as error:
            return str(error)
        return f"{things}\n{chr(10).join(events.splitlines()[-40:])}\n{self._logs()}"

    def _logs(self) -> str:
        texts = []
        for namespace in (SYSTEM, TEAM):
            for pod in self.node.kubectl("--namespace", namespace, "get", "pods", "--output", "name").split():
                words = ("--namespace", namespace, "logs", pod, "--tail=15")
                answer = self.node.run("kubectl", *words, check=False)
                texts.append(f"== {pod}\n{answer.stdout}{answer.stderr}")
        return "\n".join(texts)

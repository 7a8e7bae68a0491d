"""A running process node on the session's control plane, and ways to wait for what it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from tests.conftest import Kubectl

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.node.ledger import stop_leftovers

T = TypeVar("T")


class NodeProcess:
    """The node as `rapidfireai start` runs it, without the command around it."""

    def __init__(self, home: Path, plane: ControlPlane, env: Mapping[str, str]) -> None:
        self.home = home
        self.name = f"node-{uuid.uuid4().hex[:6]}"
        self.log = home.with_suffix(".log")
        self._plane = plane
        self._env = {**os.environ, **env}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--home", self.home, "--kubeconfig", self._plane.kubeconfig, "--name", self.name]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rapidfireai.cluster.node", *map(str, words)],
                env=self._env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._ready, bool, 30, lambda: self.log.read_text()[-2000:])

    def _ready(self) -> bool:
        """A new node is tainted until the node controller has seen it."""
        assert self.process is not None and self.process.poll() is None, self.log.read_text()[-2000:]
        answer = self._plane.kubectl("get", "node", self.name, "--output=json")
        node = json.loads(answer.stdout) if answer.returncode == 0 else {}
        ready = [each["status"] for each in node.get("status", {}).get("conditions", ()) if each["type"] == "Ready"]
        return ready == ["True"] and not node["spec"].get("taints")

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def remove(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        stop_leftovers(self.home)
        self._plane.kubectl("delete", "node", self.name)


def eventually(
    look: Callable[[], T], accept: Callable[[T], bool], seconds: float = 30, more: Callable[[], str] = str
) -> T:
    """Look until what is seen is accepted, and return it."""
    deadline = time.monotonic() + seconds
    while not accept(seen := look()):
        assert time.monotonic() < deadline, f"after {seconds} s still: {seen}\n{more()}"
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="session")
def node(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    running = NodeProcess(tmp_path_factory.mktemp("nodes") / "n", control_plane, {"CUDA_VISIBLE_DEVICES": ""})
    running.start()
    yield running
    running.remove()


@pytest.fixture
def own_node(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start a node that the test may stop and kill."""
    nodes: list[NodeProcess] = []

    def start(**env: str) -> NodeProcess:
        nodes.append(NodeProcess(tmp_path / f"n{len(nodes)}", control_plane, {"CUDA_VISIBLE_DEVICES": "", **env}))
        nodes[-1].start()
        return nodes[-1]

    yield start
    for each in nodes:
        each.remove()


class Pods:
    """Pods of the test's namespace on one node."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def create(self, name: str, script: str, *, on: NodeProcess, **spec: Any) -> None:
        """Create a pod with one container `c`; `container` in `spec` adds to it."""
        container = {"name": "c", "image": "none", "command": ["sh", "-c", script], **spec.pop("container", {})}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": name}, "annotations": {"note": 'a "quoted" note'}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": on.name},
                    "terminationGracePeriodSeconds": 5,
                    **spec,
                    "containers": [container],
                },
            }
        )

    def apply(self, *objects: dict[str, Any]) -> None:
        answer = self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
        assert "rror" not in answer, answer

    def get(self, name: str) -> dict[str, Any]:
        answer = self.kubectl("get", "pod", name, "--output=json")
        return dict(json.loads(answer)) if answer.startswith("{") else {}

    def phase(self, name: str) -> str:
        return str(self.get(name).get("status", {}).get("phase", "absent"))

    def state(self, name: str) -> dict[str, Any]:
        """The state of the pod's first container, with its restart count and how it ended before."""
        statuses = self.get(name).get("status", {}).get("containerStatuses") or [{}]
        first = statuses[0]
        state = first.get("state") or {"waiting": {}}
        kind = next(iter(state))
        last = (first.get("lastState") or {}).get("terminated") or {}
        return {
            "kind": kind,
            "restarts": first.get("restartCount", 0),
            "ready": first.get("ready"),
            **state[kind],
            "last": last,
        }

    def wait(self, name: str, phase: str, seconds: float = 30) -> dict[str, Any]:
        eventually(
            lambda: self.phase(name), lambda seen: seen == phase, seconds, lambda: str(self.get(name).get("status"))
        )
        return self.get(name)

    def events(self, name: str) -> list[tuple[str, str]]:
        answer = self.kubectl("get", "events", f"--field-selector=involvedObject.name={name}", "--output=json")
        return [(each["reason"], each["message"]) for each in json.loads(answer)["items"]]

    def log(self, name: str, *words: str) -> str:
        return self.kubectl("logs", name, *words)


@pytest.fixture
def pods(kubectl: Kubectl) -> Pods:
    return Pods(kubectl)

"""The node itself: it is a real one, and nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.node import cgroups, realnode
from tests.node.binaries import Binaries
from tests.node.layout import BOX
from tests.node.realnode import ROOT, NodeError, RealNode
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.node, pytest.mark.xdist_group("node"), pytest.mark.timeout(900)]


def pod(name: str, script: str, **security: object) -> str:
    """A pod that the restricted Pod Security Standard lets in, unless `security` changes it."""
    container = {
        "name": "box",
        "image": BOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Mi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            **security,
        },
    }
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def test_a_restricted_pod_runs_and_finds_the_cluster(node: RealNode, strict: str) -> None:
    script = (
        "id -u; touch /x; echo gpu $NVIDIA_VISIBLE_DEVICES; nslookup kubernetes.default.svc.cluster.local;"
        "nc -w 5 $KUBERNETES_SERVICE_HOST 443 </dev/null && echo reached; exec tail -f /dev/null"
    )
    node.kubectl("-n", strict, "apply", "-f", "-", stdin=pod("inside", script))
    node.kubectl("-n", strict, "wait", "--for=condition=Ready", "pod/inside", "--timeout=120s")
    logs = wait_for("all of the log", lambda: _if_has(node.kubectl("-n", strict, "logs", "inside"), "reached"), 60)
    assert "10001" in logs.splitlines(), "it and what went to stderr arrive in any order"
    assert "Read-only file system" in logs
    assert "gpu 0" in logs or "gpu 1" in logs or "gpu 2" in logs or "gpu 3" in logs
    assert "10.96.0.1" in logs
    assert node.kubectl("-n", strict, "exec", "inside", "--", "cat", "/proc/1/comm") == "tail\n"


def _if_has(text: str, part: str) -> str:
    return text if part in text else ""


def test_a_pod_that_is_not_restricted_is_refused(node: RealNode, strict: str) -> None:
    with pytest.raises(NodeError, match='violates PodSecurity "restricted:latest": runAsNonRoot != true'):
        node.kubectl("-n", strict, "apply", "-f", "-", stdin=pod("root", "id", runAsNonRoot=False))


def test_nothing_is_left_of_a_node_whose_owner_was_killed(binaries: Binaries, tmp_path: Path) -> None:
    home = tmp_path / "n"
    command = [sys.executable, "-m", "tests.node", str(home)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:
        assert owner.stdout is not None
        words = owner.stdout.readline().removeprefix("ready: ").split()
        (name,) = (home / "kubelet.json").read_text().split('"cgroupRoot": "/')[1].split('"')[:1]
        kubectl = words[: words.index("get")]
        subprocess.run(
            [*kubectl, "apply", "-f", "-"], input=pod("alive", "exec tail -f /dev/null"), text=True, check=True
        )
        waited = ["wait", "--for=condition=Ready", "pod/alive", "--timeout=120s"]
        subprocess.run([*kubectl, *waited], check=True)
        assert processes_of(home)
        assert cgroups.left(name)
        owner.kill()
    wait_for("end of all processes", lambda: not processes_of(home), 120)
    assert cgroups.left(name) == []
    assert not any(str(home) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    assert not Path("/sys/class/net/node0").exists()
    kept = {path.name for path in home.iterdir() if path.is_dir()}
    assert kept <= {"log", "volumes"}, "what is large is gone"


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the programs that name the node's home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(home) in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def test_a_program_that_ends_is_named(binaries: Binaries, tmp_path: Path) -> None:
    node = RealNode(tmp_path / "n", Binaries(binaries.kubelocal, Path("/bin/false"), binaries.kubedns))
    with pytest.raises(NodeError, match="kubelet ended"):
        node.start()
    assert cgroups.left(node.layout.cgroup) == []


@pytest.mark.parametrize("user", [0, 1000])
def test_a_machine_without_what_a_node_needs_gets_a_sentence(user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realnode.os, "geteuid", lambda: user)
    monkeypatch.setattr(realnode, "_PROGRAMS", ("containerd-of-nobody",))
    reason = realnode.obstacle()
    assert reason is not None
    assert "needs root" in reason if user else "needs containerd-of-nobody" in reason
    assert "`make node` installs" in reason or user

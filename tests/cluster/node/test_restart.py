"""The node is stopped, killed, or without an API server for a while."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.node.conftest import NodeProcess, Pods, eventually
from tests.cluster.node.test_pods import BUSY, lives, pid_of

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.processes import BackgroundProcess

pytestmark = pytest.mark.integration

OwnNode = Callable[..., NodeProcess]
FOREVER = "echo $$$$; exec sleep 100"


def test_a_stopped_node_ends_its_pods_with_grace_and_takes_them_up_again(
    own_node: OwnNode, pods: Pods, tmp_path: Path
) -> None:
    node = own_node()
    # It ends well: without the node's knowledge this would look like success.
    pods.create(
        "worker",
        f"trap 'touch {tmp_path}/saved; exit 0' TERM; {BUSY}",
        on=node,
        restartPolicy="OnFailure",
    )
    pods.create("once", FOREVER, on=node, restartPolicy="Never")
    pids = [pid_of(pods, "worker"), pid_of(pods, "once")]
    assert node.end(signal.SIGTERM) == 0
    assert [lives(pid) for pid in pids] == [False, False]
    assert (tmp_path / "saved").exists()
    seen = pods.state("worker")
    assert (seen["kind"], seen["reason"], seen["last"]["exitCode"]) == ("waiting", "NodeShutdown", 0)
    assert pods.get("once")["status"]["reason"] == "NodeShutdown"
    assert pods.phase("once") == "Failed"
    node.start()
    seen = eventually(lambda: pods.state("worker"), lambda state: state["kind"] == "running")
    assert seen["restarts"] == 1
    assert pods.phase("once") == "Failed"


def test_a_killed_node_leaves_nothing_doubled(own_node: OwnNode, pods: Pods) -> None:
    node = own_node()
    pods.create("worker", FOREVER, on=node, restartPolicy="OnFailure")
    pods.create("once", FOREVER, on=node, restartPolicy="Never")
    pods.create("doomed", FOREVER, on=node)
    pids = {name: pid_of(pods, name) for name in ("worker", "once", "doomed")}
    node.end(signal.SIGKILL)
    assert all(lives(pid) for pid in pids.values())
    pods.kubectl("delete", "pod", "doomed", "--force", "--grace-period=0")
    node.start()
    eventually(lambda: [lives(pid) for pid in pids.values()], lambda alive: not any(alive))
    seen = eventually(lambda: pods.state("worker"), lambda state: (state["restarts"], state["kind"]) == (1, "running"))
    assert (seen["last"]["exitCode"], seen["last"]["reason"]) == (137, "ContainerStatusUnknown")
    assert pid_of(pods, "worker") != pids["worker"]
    pods.wait("once", "Failed")
    eventually(lambda: len(list((node.home / "pods").iterdir())), lambda count: count == 2)


def test_a_lost_ledger_runs_nothing_twice(own_node: OwnNode, pods: Pods) -> None:
    node = own_node()
    pods.create("done", "echo done", on=node, restartPolicy="Never")
    pods.create("worker", FOREVER, on=node, restartPolicy="OnFailure")
    pods.wait("done", "Succeeded")
    pid_of(pods, "worker")
    node.end(signal.SIGTERM)
    for record in (node.home / "pods").glob("*/pod.json"):
        record.unlink()
    node.start()
    seen = eventually(lambda: pods.state("worker"), lambda state: state["kind"] == "running")
    assert seen["restarts"] == 1
    assert pods.phase("done") == "Succeeded"
    assert "done" in pods.log("done")


def test_pods_outlive_a_restart_of_the_api_server(tmp_path: Path, kubelocal: Path) -> None:
    plane = ControlPlane(tmp_path / "cp", kubelocal)
    plane.start()
    node = NodeProcess(tmp_path / "n", plane, {"CUDA_VISIBLE_DEVICES": ""})
    try:
        node.start()
        pods = Pods(lambda *words, stdin="": _kubectl(plane, *words, stdin=stdin))
        eventually(lambda: plane.kubectl("get", "serviceaccount", "default").returncode, lambda code: code == 0)
        pods.create("steady", FOREVER, on=node)
        pods.create("ending", "echo $$$$; while [ ! -e $HOME/go ]; do sleep 0.1; done", on=node, restartPolicy="Never")
        pid, ending = pid_of(pods, "steady"), pid_of(pods, "ending")
        home = node.home / "pods" / pods.get("ending")["metadata"]["uid"] / "home"
        server = BackgroundProcess("kube-apiserver", plane.home).find()
        assert server is not None
        server.kill()
        server.wait(10)
        (home / "go").touch()
        eventually(lambda: lives(ending), lambda alive: not alive)  # nobody can be told
        plane.start()
        pods.wait("ending", "Succeeded")
        assert lives(pid)
        assert pods.state("steady")["restarts"] == 0
        pods.create("later", "true", on=node, restartPolicy="Never")
        pods.wait("later", "Succeeded")
    finally:
        node.remove()
        plane.purge()


def _kubectl(plane: ControlPlane, *words: str, stdin: str) -> str:
    command = [str(plane.binary), "kubectl", "--kubeconfig", str(plane.kubeconfig), *words]
    answer = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr


def test_gpus_are_given_to_one_pod_each(own_node: OwnNode, pods: Pods) -> None:
    node = own_node(CUDA_VISIBLE_DEVICES="3,GPU-abc")
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    script = "echo $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES; exec sleep 100"
    for name in ("one", "two", "three"):
        pods.create(name, script, on=node, container=gpu)
    names = ("one", "two", "three")
    eventually(lambda: sorted(map(pods.phase, names)), lambda seen: seen == ["Pending", "Running", "Running"])
    running = [name for name in names if pods.phase(name) == "Running"]
    logs = [eventually(lambda name=name: pods.log(name), bool) for name in running]  # type: ignore[misc]
    assert sorted(logs) == ["3 3\n", "GPU-abc GPU-abc\n"]
    pods.kubectl("delete", "pod", running[0])
    waiting = next(name for name in names if name not in running)
    pods.wait(waiting, "Running")
    assert eventually(lambda: pods.log(waiting), bool) == logs[0]
    allocatable = json.loads(pods.kubectl("get", "node", node.name, "-o", "json"))["status"]["allocatable"]
    assert (allocatable["nvidia.com/gpu"], allocatable["rapidfire.ai/slot"]) == ("2", "0")


def test_a_node_that_finds_no_api_server_waits_and_can_be_stopped(tmp_path: Path, control_plane: ControlPlane) -> None:
    config = control_plane.kubeconfig.read_text().replace(control_plane.server, "https://127.0.0.1:1")
    (tmp_path / "kubeconfig").write_text(config)
    words = ["--home", str(tmp_path / "n"), "--kubeconfig", str(tmp_path / "kubeconfig"), "--name", "lonely"]
    command = [sys.executable, "-m", "rapidfireai.cluster.node", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "no success yet, still trying" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_kubeconfig_without_rights_is_answered_with_a_sentence(tmp_path: Path, control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.pki / "kube-scheduler.kubeconfig"
    words = ["--home", str(tmp_path / "n"), "--kubeconfig", str(kubeconfig), "--name", "meek"]
    command = [sys.executable, "-m", "rapidfireai.cluster.node", *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 1
    assert "no certificate for node meek" in answer.stderr
    assert "--kubeconfig has to be an administrator's" in answer.stderr


def test_two_nodes_never_share_a_home(own_node: OwnNode, control_plane: ControlPlane) -> None:
    node = own_node()
    second = NodeProcess(node.home, control_plane, {})
    second.log = node.home.with_suffix(".second.log")
    with pytest.raises(AssertionError, match=r"another node runs with --home .*; give each its own"):
        second.start()

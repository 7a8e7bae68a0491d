"""The story of one local cluster, from its first start to its removal, through the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from rapidfireai.cluster.local import LocalCluster
from rapidfireai.cluster.processes import BackgroundProcess
from rapidfireai.cluster.values import Ports

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.xdist_group("local-cluster")]
PROGRAM = str(Path(sys.executable).with_name("rapidfireai"))


class Machine:
    """One person's machine."""

    def __init__(self, home: Path) -> None:
        self.cluster = LocalCluster(home)
        self.env = {**os.environ, "RAPIDFIREAI_HOME": str(home)}

    def begin(self, *words: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([PROGRAM, *words], env=self.env, text=True, **pipes)

    def run(self, *words: str) -> str:
        with self.begin(*words) as process:
            text, _ = process.communicate(timeout=150)
        assert process.returncode == 0, text
        return text

    def processes(self) -> list[psutil.Process]:
        """Everything that the cluster runs: its own parts by their arguments, pods by their environment."""
        return [each for each in psutil.process_iter() if self._is_ours(each)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            named = any(str(self.cluster.home) in word for word in process.cmdline())
            return process.pid != os.getpid() and (named or self.cluster.owns(process))
        except psutil.Error:  # it has just ended
            return False


@pytest.fixture
def machine(kubelocal: Path, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "home")
    yield machine
    machine.cluster.purge()


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def test_a_cluster_starts_survives_everything_and_leaves_nothing_behind(machine: Machine) -> None:
    cluster = machine.cluster
    with ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", Ports().volume))
            taken.listen()
        except OSError:
            pass  # somebody else has the port already: as good
        two_starts_at_once(machine)
        assert port_of(cluster.volume_url) != Ports().volume
    plain_programs_work(machine)
    everything_is_killed(machine)
    stopped_and_its_port_taken(machine)
    assert "is removed" in machine.run("stop", "--purge")
    assert not cluster.home.exists()
    assert machine.processes() == []


def two_starts_at_once(machine: Machine) -> None:
    began = time.monotonic()
    first, second = machine.begin("start"), machine.begin("start")
    texts = [each.communicate(timeout=150)[0] for each in (first, second)]
    print(f"two starts at once took {time.monotonic() - began:.1f} s:", *texts, sep="\n")
    assert (first.returncode, second.returncode) == (0, 0), texts
    assert sum("another command is starting or stopping this cluster; waiting for it" in text for text in texts) == 1
    assert all("ready" in text for text in texts)
    assert "not running" not in machine.run("status")
    assert machine.cluster.status().ready
    assert f"dashboard: {machine.cluster.dashboard_url}  log in with `rapidfireai dashboard`" in texts[0]
    token = machine.cluster.home / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text().count(".") == 2


def plain_programs_work(machine: Machine) -> None:
    script = f'eval "$({PROGRAM} env)" && kubectl get deployments -A -o name && helm list -A -q'
    answer = subprocess.run(["/bin/sh", "-c", script], env=machine.env, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [
        "deployment.apps/rapidfire-volume",
        "deployment.apps/rapidfire-gateway",
        "deployment.apps/rapidfire-mlflow",
        "deployment.apps/rapidfire-operator",
        "rapidfireai",
    ]
    doctor = machine.run("doctor")
    assert "nothing is wrong" in doctor, doctor


def everything_is_killed(machine: Machine) -> None:
    """As a power cut does; what the API server had stored is there again."""
    assert machine.cluster.kubectl("create", "configmap", "kept").returncode == 0
    scheduler = BackgroundProcess("kube-scheduler", machine.cluster.plane_home).find()
    assert scheduler is not None
    scheduler.kill()
    with machine.begin("doctor") as doctor:
        text, _ = doctor.communicate(timeout=60)
    assert doctor.returncode == 1
    assert "kube-scheduler         not running" in text
    urls = machine.cluster.volume_url, machine.cluster.mlflow_url
    victims = machine.processes()
    assert len(victims) > 5
    for each in victims:
        each.send_signal(signal.SIGKILL)
    machine.run("start")
    assert machine.cluster.kubectl("get", "configmap", "kept").returncode == 0
    assert (machine.cluster.volume_url, machine.cluster.mlflow_url) == urls
    assert httpx.get(f"{urls[0]}/healthz", trust_env=False).status_code == 200


def stopped_and_its_port_taken(machine: Machine) -> None:
    """The API server's port is a free one, so another program may get it while the cluster is stopped."""
    node = BackgroundProcess("node", machine.cluster.home).find()
    assert node is not None
    node.kill()  # its pods outlive it, but not the stop
    machine.run("stop")
    assert machine.processes() == []
    record = machine.cluster.plane_home / "ports.json"
    port = json.loads(record.read_text())[0]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        machine.run("start")
        assert json.loads(record.read_text())[0] != port
    assert machine.cluster.kubectl("get", "configmap", "kept").returncode == 0

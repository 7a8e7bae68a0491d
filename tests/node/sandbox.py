"""Process 1 of a node's namespaces: starts the node's programs, and takes them along when it ends.

`python -m tests.node.sandbox LAYOUT` is started by `RealNode` in namespaces of its own, with a pipe as its standard
input. It ends when the pipe's other end is closed, so also when whoever holds that is killed.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.node import cgroups, settings
from tests.node.box import write_box
from tests.node.layout import ADDRESS, KUBERNETES_SERVICE, NODE, USER, VOLUMES, Layout

from rapidfireai.cluster import pki
from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.pki import Identity
from rapidfireai.cluster.processes import BackgroundProcess

_OURS = ("/run", "/srv", "/var/lib", "/var/log")
"""Where containerd, CNI plugins and the kubelet leave files wherever else they are told to: empty for us, then gone."""
PATIENCE = 180.0
"""Seconds that each program has until it answers, on a machine that does other things too."""


class Sandbox:
    """The inside of one node."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.plane = ControlPlane(layout.plane, layout.kubelocal, ADDRESS)

    def start(self) -> None:
        """Bring everything up; return once the node is ready for pods.

        Raises:
            RuntimeError: If a program ends, or does not answer in time.
        """
        layout = self.layout
        mount_what_is_ours(layout)
        socket.sethostname(NODE)
        make_network()
        cgroups.make(layout.cgroup)
        for name, text in settings.files(layout).items():
            path = layout.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._issue_certificates()
        containerd = self._run("containerd", "containerd", "--config", str(layout.home / "containerd.toml"))
        self.plane.start(PATIENCE)
        self._wait(containerd, lambda: ctr(layout, "version"))
        write_box(layout.home / "box.tar")
        self._wait(containerd, lambda: ctr(layout, "images", "import", str(layout.home / "box.tar")))
        self._run("kubedns", str(layout.kubedns), "-conf", str(layout.home / "Corefile"))
        node = str(layout.kubenode)
        self._run("kube-proxy", node, "kube-proxy", "--config", str(layout.home / "proxy.json"))
        kubelet = self._run("kubelet", node, "kubelet", *self._kubelet_flags())
        self._run("devices", node, "devices", f"--count={layout.gpus}")
        self._wait(kubelet, self._is_ready)

    def _kubelet_flags(self) -> list[str]:
        return [
            f"--config={self.layout.home / 'kubelet.json'}",
            f"--kubeconfig={self.layout.pki / 'kubelet.kubeconfig'}",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        ]

    def _issue_certificates(self) -> None:
        hosts = (ADDRESS, KUBERNETES_SERVICE)
        authority = pki.create(self.layout.pki, self.plane.server, hosts)
        clients = {
            "kubelet": Identity(f"system:node:{NODE}", ("system:nodes",)),
            "kube-proxy": Identity("system:kube-proxy", ("system:node-proxier",)),
        }
        for name, identity in clients.items():
            authority.issue(name, identity)
            authority.kubeconfig(name, self.plane.server)
        authority.issue("kubelet-server", clients["kubelet"], hosts=(NODE, ADDRESS))

    def _run(self, name: str, *command: str) -> BackgroundProcess:
        process = BackgroundProcess(name, self.layout.home)
        process.start(command)
        return process

    def _wait(self, process: BackgroundProcess, look: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not look():
            if process.find() is None:
                raise RuntimeError(f"{process.name} ended:\n{process.last_lines()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{process.name} is not ready in time:\n{process.last_lines()}")
            if is_closed(0):
                raise RuntimeError("whoever started this node has ended")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        path = '{.status.conditions[?(@.type=="Ready")].status} {.status.allocatable.nvidia\\.com/gpu}'
        answer = self.plane.kubectl("get", "node", NODE, "--output", f"jsonpath={path}")
        return answer.stdout == f"True {self.layout.gpus}"

    def end(self) -> None:
        """End every process of the namespaces, give the cgroups back, and remove all state but the logs."""
        with suppress(ProcessLookupError):  # there may be none
            os.kill(-1, signal.SIGKILL)
        with suppress(ChildProcessError):  # that was the last one
            while True:
                os.waitpid(-1, 0)
        cgroups.remove(self.layout.cgroup)
        if unmount_below(self.layout.home):
            for path in self.layout.home.iterdir():
                if path.is_dir() and path not in {self.layout.logs, self.layout.home / "volumes"}:
                    shutil.rmtree(path, ignore_errors=True)


def mount_what_is_ours(layout: Layout) -> None:
    """Give the node directories of its own where its programs insist on a path of the machine."""
    run("mount", "--make-rshared", "/")  # `unshare` has cut us off from the machine's mounts; pods share with us
    for path in _OURS:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path)
    for name, target in VOLUMES.items():
        folder = layout.volume(name)
        folder.mkdir(parents=True)
        os.chown(folder, USER, USER)
        Path(target).mkdir()
        run("mount", "--bind", str(folder), target)
    # Device plugins look for the kubelet here, whatever its --root-dir says.
    kubelet = layout.home / "kubelet"
    kubelet.mkdir()
    Path("/var/lib/kubelet").mkdir()
    run("mount", "--bind", str(kubelet), "/var/lib/kubelet")


def make_network() -> None:
    """Give the node an address, on one end of a cable whose other end is also ours."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "node0", "type", "veth", "peer", "name", "node0-end")
    run("ip", "link", "set", "node0-end", "up")
    run("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
    run("ip", "link", "set", "node0", "up")
    run("ip", "route", "add", "default", "dev", "node0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def run(*command: str) -> None:
    """Run a program.

    Raises:
        RuntimeError: If it fails, with what it said.
    """
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")


def ctr(layout: Layout, *words: str) -> bool:
    """Say whether containerd did what it was told."""
    command = ["ctr", "--address", str(layout.containerd), "--namespace", "k8s.io", *words]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount_below(folder: Path) -> bool:
    """Unmount everything that is mounted below a folder or from it; say whether nothing is left."""
    for _, target in reversed(_mounts(folder)):
        subprocess.run(["umount", "--lazy", target], capture_output=True, check=False)
    return not _mounts(folder)


def _mounts(folder: Path) -> list[tuple[str, str]]:
    """Return root and target of mounts below a folder, in the order in which they were made."""
    fields = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [(each[3], each[4]) for each in fields]
    return [(root, target) for root, target in found if Path(target).is_relative_to(folder)]


def is_closed(seconds: float) -> bool:
    """Say whether the pipe at standard input is closed, or gets closed within so many seconds."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def wait_for_the_end() -> None:
    """Return when the pipe at standard input is closed; until then see to orphans that end."""
    while not is_closed(0.5):
        with suppress(ChildProcessError):  # nobody is left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main() -> int:
    """Run the node until whoever started it closes the pipe; return the exit code."""
    if os.getpid() != 1:  # it would end every process of the machine
        print("this is the inside of a node; start one with tests.node.realnode.RealNode", file=sys.stderr)
        return 2
    sandbox = Sandbox(Layout.from_json(sys.argv[1]))
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    try:
        sandbox.start()
        sandbox.layout.ready.touch()
        wait_for_the_end()
    finally:
        sandbox.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())

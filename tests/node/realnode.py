"""A real Kubernetes node with its control plane, in namespaces of its own: nothing of it is seen outside of them.

kubelet, containerd, runc, a bridge for the pods, kube-proxy, CoreDNS and pretended GPUs; everything is started as a
cluster's administrator would, only that it needs no machine of its own. Needs root; `obstacle` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from tests.node import cgroups
from tests.node.binaries import Binaries
from tests.node.box import BUSYBOX
from tests.node.layout import ADDRESS, Layout
from tests.node.settings import CNI_PLUGINS

ROOT = Path(__file__).resolve().parents[2]
_NAMESPACES = ["--fork", "--pid", "--mount-proc", "--mount", "--net", "--uts", "--ipc"]
_PROGRAMS = ("unshare", "nsenter", "ip", "containerd", "ctr", "runc", "nft", "conntrack")
_START_SECONDS = 420.0


class NodeError(RuntimeError):
    """The node did not come up, or did not do what it was told; the message shows what was said."""


class RealNode:
    """One node, from `start` to `stop`.

    Args:
        home: The directory of all its state, which must not exist; about as large as the images that are loaded.
        binaries: The node's programs.
        gpus: How many GPUs it pretends to have.
    """

    def __init__(self, home: Path, binaries: Binaries, gpus: int = 4) -> None:
        programs = (binaries.kubelocal, binaries.kubenode, binaries.kubedns)
        self.layout = Layout(home.resolve(), cgroups.new_name(), *programs, gpus)
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def start(self) -> None:
        """Start the node and return once pods can run on it.

        Raises:
            NodeError: If it ends, or is not ready in time; nothing of it is left then.
        """
        cgroups.sweep()
        self.layout.home.mkdir(parents=True, mode=0o700)
        self.layout.logs.mkdir()
        command = ["unshare", *_NAMESPACES, sys.executable, "-m", "tests.node.sandbox", self.layout.to_json()]
        with (self.layout.logs / "sandbox.log").open("wb") as log:
            # The pipe is our hold on it: it ends when we do, however that happens.
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.layout.ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise NodeError(f"the node did not come up:\n{self.last_words()}")
            time.sleep(0.05)
        (init,) = psutil.Process(self._process.pid).children()
        self._init = init.pid

    def stop(self) -> None:
        """End the node and remove all of its state."""
        self._end()
        shutil.rmtree(self.layout.home, ignore_errors=True)

    def _end(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self._process.pid).children():
                child.kill()  # process 1 takes everything along
            self._process.wait(30)
        cgroups.remove(self.layout.cgroup)

    def last_words(self, count: int = 15) -> str:
        """Return the ends of the logs of what started last, for an error message."""
        logs = [path for path in self.layout.logs.glob("*.log") if path.stat().st_size]
        return "\n".join(f"== {path.name}\n{_tail(path, count)}" for path in logs)

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return a command as it runs on the node's network, with the machine's own files."""
        return ["nsenter", f"--net=/proc/{self._init}/ns/net", *command]

    def run(self, *command: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program on the node's network; `kubectl` and `helm` find the cluster.

        Raises:
            NodeError: If it fails and `check` is set.
        """
        program, *words = command
        found = [str(self.layout.kubelocal), program] if program in {"kubectl", "helm"} else [program]
        answer = subprocess.run(
            self.inside([*found, *words]),
            cwd=ROOT,
            env=self._environment(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and answer.returncode != 0:
            raise NodeError(f"{' '.join(command)}: {answer.stdout}{answer.stderr}")
        return answer

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl as the administrator and return what it prints.

        Raises:
            NodeError: If it fails.
        """
        return self.run("kubectl", *words, stdin=stdin).stdout

    def load(self, archive: Path) -> None:
        """Give the node an image out of a docker archive.

        Raises:
            NodeError: If the archive cannot be read.
        """
        words = ["ctr", "--address", str(self.layout.containerd), "--namespace", "k8s.io", "images", "import"]
        namespaces = ["nsenter", f"--net=/proc/{self._init}/ns/net", f"--mount=/proc/{self._init}/ns/mnt"]
        answer = subprocess.run([*namespaces, *words, str(archive)], capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise NodeError(f"{archive}: {answer.stderr}")

    def _environment(self) -> dict[str, str]:
        own = {f"HELM_{kind}_HOME": str(self.layout.home / "helm" / kind) for kind in ("CACHE", "CONFIG", "DATA")}
        own |= {"KUBECACHEDIR": str(self.layout.home / "kubectl"), "KUBECONFIG": str(self.layout.kubeconfig)}
        kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        return {**kept, **own}


def _tail(path: Path, count: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


def obstacle() -> str | None:
    """Return why no node can run here, as a sentence with what to do; None if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a real node needs root on Linux: it makes namespaces, mounts and cgroups"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    missing += [str(file) for file in (BUSYBOX, Path(CNI_PLUGINS) / "bridge") if not file.exists()]
    if BUSYBOX.exists() and b"ld-linux" in BUSYBOX.read_bytes()[:4096]:  # it would have no libraries in its image
        missing.append("busybox-static instead of busybox")
    if missing:
        return f"a real node needs {', '.join(missing)}: `make node` installs them on Debian and Ubuntu"
    trial = f"mount -t tmpfs tmpfs /run && ip link add node0 type veth && ip address add {ADDRESS}/24 dev node0"
    answer = subprocess.run(["unshare", *_NAMESPACES, "sh", "-c", trial], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return f"a real node needs namespaces, mounts and veth devices, which are refused here: {answer.stderr.strip()}"
    name = cgroups.new_name()
    try:
        cgroups.make(name)
    except OSError as error:
        return f"a real node needs cgroups of its own, which are refused here: {error}"
    finally:
        cgroups.remove(name)
    return None

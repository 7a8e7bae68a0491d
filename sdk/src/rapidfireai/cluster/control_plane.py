"""A real Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler. No root needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rapidfireai.cluster import pki
from rapidfireai.cluster.ports import ADDRESS, free_ports, is_free
from rapidfireai.cluster.processes import BackgroundProcess
from rapidfireai.errors import RapidFireError

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_LONGEST_SOCKET_PATH = 90
"""A unix socket's path may have 107 bytes; etcd adds a suffix of its own."""


class ControlPlaneError(RapidFireError):
    """The control plane did not come up; the message says which part and shows its last words."""


class ControlPlane:
    """The control plane whose state, certificates and logs lie in one directory.

    Args:
        home: The directory; made with mode 0700.
        binary: The `kubelocal` binary, from `rapidfireai.cluster.binary.find_binary`.
        address: Where the API server listens. With another one than loopback, Services have endpoints.
    """

    def __init__(self, home: Path, binary: Path, address: str = ADDRESS) -> None:
        self.home = home.resolve()
        self.binary = binary
        self.address = address
        self.pki = self.home / "pki"
        self.kubeconfig = self.pki / "admin.kubeconfig"
        self._processes = {name: BackgroundProcess(name, self.home) for name in COMPONENTS}

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self._ports()[0]}"

    def start(self, timeout: float = 90.0) -> None:
        """Start what does not run, and return once the API server is ready and namespaces get their accounts.

        Raises:
            ControlPlaneError: If a part ends early or is not ready within `timeout` seconds.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not any(self.running().values()):
            self._forget_stale()
        if not self.kubeconfig.exists():
            pki.create(self.pki, self.server)
        deadline = time.monotonic() + timeout
        self._start("etcd", self._etcd_flags())
        self._start("kube-apiserver", self._apiserver_flags())
        self._wait(("get", "--raw", "/readyz"), deadline, COMPONENTS[:2])
        _, manager_port, scheduler_port = self._ports()
        self._start("kube-controller-manager", self._manager_flags(manager_port))
        self._start("kube-scheduler", self._client_flags("kube-scheduler", scheduler_port))
        self._wait(("get", "serviceaccount", "default", "--namespace", "default"), deadline, COMPONENTS)

    def stop(self) -> None:
        """Stop every part, the API server's clients first."""
        for name in reversed(COMPONENTS):
            self._processes[name].stop()

    def purge(self) -> None:
        """Stop every part and remove all state."""
        self.stop()
        shutil.rmtree(self._sockets(), ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def running(self) -> dict[str, bool]:
        """Return which parts run."""
        return {name: process.find() is not None for name, process in self._processes.items()}

    def kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the cluster's administrator; the caller judges the exit code."""
        command = [str(self.binary), "kubectl", "--kubeconfig", str(self.kubeconfig), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _forget_stale(self) -> None:
        """Drop ports that somebody else took meanwhile, and certificates that end soon; resources stay."""
        usable = all(is_free(port) for port in self._ports()) and pki.is_valid(self.pki)
        if not usable:
            (self.home / "ports.json").unlink()
            shutil.rmtree(self.pki, ignore_errors=True)

    def _ports(self) -> tuple[int, int, int]:
        record = self.home / "ports.json"
        if not record.exists():
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            record.write_text(json.dumps(free_ports(3)))
        api, manager, scheduler = json.loads(record.read_text())
        return api, manager, scheduler

    def _sockets(self) -> Path:
        """Return where etcd's sockets lie: in the home, unless its path is too long for a socket."""
        if len(str(self.home / "etcd-peer.sock")) <= _LONGEST_SOCKET_PATH:
            return self.home
        record = self.home / "sockets.txt"
        if not record.exists() or not Path(record.read_text()).is_dir():
            record.write_text(tempfile.mkdtemp(prefix="rapidfireai-"))
        return Path(record.read_text())

    def _start(self, name: str, flags: dict[str, str]) -> None:
        process = self._processes[name]
        process.start([str(self.binary), name, *(f"--{key}={value}" for key, value in flags.items())])

    def _wait(self, words: tuple[str, ...], deadline: float, needed: Sequence[str]) -> None:
        """Poll a kubectl command until it succeeds; it is the API server's own word for being ready."""
        while (answer := self.kubectl(*words)).returncode != 0:
            for name in needed:
                if self._processes[name].find() is None:
                    raise ControlPlaneError(f"{name} ended:\n{self._processes[name].last_lines()}")
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"not ready in time: {answer.stderr.strip()}; logs are in {self.home / 'log'}")
            time.sleep(0.1)

    def _etcd_flags(self) -> dict[str, str]:
        sockets = self._sockets()
        client, peer = f"unix://{sockets}/etcd.sock", f"unix://{sockets}/etcd-peer.sock"
        if self._processes["etcd"].find() is None:
            for leftover in ("etcd.sock", "etcd-peer.sock"):  # an unclean shutdown leaves them
                (sockets / leftover).unlink(missing_ok=True)
        return {
            "name": "default",
            "data-dir": str(self.home / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }

    def _apiserver_flags(self) -> dict[str, str]:
        files = self.pki
        # A loopback address may not be an endpoint.
        endpoints = {"endpoint-reconciler-type": "none"} if self.address == ADDRESS else {}
        return {
            **endpoints,
            "etcd-servers": f"unix://{self._sockets()}/etcd.sock",
            "bind-address": self.address,
            "advertise-address": self.address,
            "secure-port": str(self._ports()[0]),
            "tls-cert-file": f"{files}/apiserver.crt",
            "tls-private-key-file": f"{files}/apiserver.key",
            "client-ca-file": f"{files}/ca.crt",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-account-key-file": f"{files}/sa.pub",
            "service-account-signing-key-file": f"{files}/sa.key",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-cluster-ip-range": "10.96.0.0/16",
            "kubelet-client-certificate": f"{files}/apiserver-kubelet.crt",
            "kubelet-client-key": f"{files}/apiserver-kubelet.key",
            "kubelet-certificate-authority": f"{files}/ca.crt",
            "kubelet-preferred-address-types": "InternalIP,Hostname",
            "requestheader-client-ca-file": f"{files}/front-proxy-ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": f"{files}/front-proxy.crt",
            "proxy-client-key-file": f"{files}/front-proxy.key",
        }

    def _client_flags(self, name: str, port: int) -> dict[str, str]:
        kubeconfig = str(self.pki / f"{name}.kubeconfig")
        return {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": ADDRESS,
            "secure-port": str(port),
            "leader-elect": "false",
        }

    def _manager_flags(self, port: int) -> dict[str, str]:
        # On loopback pods have such addresses too, which the endpoint controllers refuse with a warning each time.
        without_endpoints = "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"
        return {
            **self._client_flags("kube-controller-manager", port),
            "controllers": without_endpoints if self.address == ADDRESS else "*",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": str(self.pki / "sa.key"),
            "root-ca-file": str(self.pki / "ca.crt"),
            "cluster-signing-cert-file": str(self.pki / "ca.crt"),
            "cluster-signing-key-file": str(self.pki / "ca.key"),
            "node-monitor-period": "1s",  # how long a new node may have to wait for its first pod
            "kube-api-qps": "300",
            "kube-api-burst": "600",
            # A claim that is seen before its volume is looked at again only then; by default after 15 s.
            "pvclaimbinder-sync-period": "1s",
            "flex-volume-plugin-dir": str(self.home / "flexvolume"),
        }

"""What one node is made of: names, addresses and files. Pure."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

NODE = "node1"
ADDRESS = "192.0.2.10"
"""Of the node and of the API server. Not loopback: pods have to reach it. Nothing outside the namespaces sees it."""
PODS = "10.244.0.0/24"
KUBERNETES_SERVICE = "10.96.0.1"
"""The first address of the control plane's service range: under it pods find the API server."""
USER = 10001
"""The user of the chart's pods, who owns the volumes."""
BOX = "localhost/box:1"
"""An image with busybox alone. It is also what holds a pod's namespaces."""
VOLUMES = {"data": "/srv/rapidfire", "mlflow": "/srv/mlflow"}
"""Directories of the node, empty and owned by `USER`, by their name in `Layout.volume`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one node lies.

    Attributes:
        home: The directory of all its state; not there before, and removed in the end.
        cgroup: The name of its cgroup in every hierarchy: two kubelets must never share one.
        kubelocal: Control plane, kubectl and helm.
        kubenode: Kubelet, kube-proxy and the device plugin.
        kubedns: CoreDNS.
        gpus: How many pretended GPUs the node has.
    """

    home: Path
    cgroup: str
    kubelocal: Path
    kubenode: Path
    kubedns: Path
    gpus: int

    @property
    def plane(self) -> Path:
        """The control plane's directory."""
        return self.home / "plane"

    @property
    def pki(self) -> Path:
        """Where certificates and kubeconfigs are."""
        return self.plane / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.pki / "admin.kubeconfig"

    @property
    def containerd(self) -> Path:
        """The container runtime's socket."""
        return self.home / "run" / "containerd.sock"

    @property
    def logs(self) -> Path:
        """Where the node's programs log."""
        return self.home / "log"

    @property
    def ready(self) -> Path:
        """A file that is there once the node is ready."""
        return self.home / "ready"

    def volume(self, name: str) -> Path:
        """Return the directory that the node sees as `VOLUMES[name]`."""
        return self.home / "volumes" / name

    def to_json(self) -> str:
        """Return the layout as one word of a command line."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Return what `to_json` made a word of."""
        values = json.loads(text)
        paths = {key: Path(values.pop(key)) for key in ("home", "kubelocal", "kubenode", "kubedns")}
        return cls(**paths, **values)

"""The configuration files of a node's programs. Pure; JSON where a program reads YAML."""

from __future__ import annotations

import json
from typing import Any

from tests.node.layout import ADDRESS, BOX, NODE, PODS, Layout

CNI_PLUGINS = "/usr/lib/cni"


def files(layout: Layout) -> dict[str, str]:
    """Return every file by its path below the node's home."""
    return {
        "cni/10-pods.conflist": json.dumps(_network(layout)),
        "containerd.toml": _containerd(layout),
        "kubelet.json": json.dumps(_kubelet(layout)),
        "proxy.json": json.dumps(_proxy(layout)),
        "Corefile": _corefile(layout),
        "resolv.conf": "",  # what pods ask beyond the cluster: nobody
    }


def _network(layout: Layout) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": str(layout.home / "cni" / "addresses"),
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _containerd(layout: Layout) -> str:
    unused = ", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in ("aufs", "btrfs", "devmapper", "zfs"))
    runc = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc'
    return f"""version = 2
root = "{layout.home}/containerd"
state = "{layout.home}/run/containerd"
disabled_plugins = [{unused}]
[grpc]
  address = "{layout.containerd}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{BOX}"
  # Where CAP_SYS_RESOURCE is missing, as in many containers, a process cannot be spared by the OOM killer.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{layout.home}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"
  snapshotter = "overlayfs"
{runc}]
  runtime_type = "io.containerd.runc.v2"
{runc}.options]
  SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.home}/containerd-opt"
"""


def _kubelet(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(layout.pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(layout.pki / "kubelet-server.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{layout.containerd}",
        "podLogsDir": str(layout.logs / "pods"),
        "volumePluginDir": str(layout.home / "flexvolume"),
        "resolvConf": str(layout.home / "resolv.conf"),
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "enforceNodeAllocatable": ["pods"],
        # The tests' images must stay, and other programs may fill the disk.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "seccompDefault": True,
    }


def _proxy(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": "127.0.0.1",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": str(layout.pki / "kube-proxy.kubeconfig")},
        "conntrack": {"maxPerCore": 0},  # the machine's own limits stay as they are
    }


def _corefile(layout: Layout) -> str:
    return f"""cluster.local:53 {{
  bind {ADDRESS}
  errors
  cache 1
  ready 127.0.0.1:8181
  kubernetes cluster.local {{
    kubeconfig {layout.kubeconfig} rapidfire
    pods insecure
    ttl 1
  }}
}}
"""

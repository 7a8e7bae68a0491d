"""The Node object and its Lease: what the scheduler and the node controller know of this machine."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import structlog
from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.api import CONNECTION_ERRORS, MERGE_PATCH, STRATEGIC_PATCH, Api, now, persist, reason_of
from rapidfireai.cluster.node.devices import extended_resources
from rapidfireai.cluster.node.status import timestamp

RENEW_SECONDS = 10.0
STATUS_SECONDS = 60.0
LEASE_SECONDS = 40
MOST_PODS = 250
_NODES = "/api/v1/nodes"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

log = structlog.get_logger()


def capacity(home: Path, gpus: tuple[str, ...]) -> dict[str, str]:
    """Return what this machine offers to pods, as Kubernetes quantities."""
    cores = _cores()
    return {
        "cpu": str(cores),
        "memory": str(_memory()),
        "pods": str(MOST_PODS),
        "ephemeral-storage": str(shutil.disk_usage(home).total),
        **extended_resources(gpus, cores),
    }


def _cores() -> int:
    """Return how many cores this process may use, by its affinity and by the quota of its container."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return min(cores, max(int(quota) // int(period), 1)) if quota.isdigit() else cores


def _memory() -> int:
    """Return the bytes of memory of this machine, or of the container that the node itself runs in."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def node_object(name: str, offered: Mapping[str, str], port: int, moment: datetime) -> dict[str, Any]:
    """Return the Node as it is registered.

    Args:
        name: The node's.
        offered: Its capacity.
        port: Where it serves logs.
        moment: Since when it is ready.
    """
    arch = _ARCHITECTURES.get(platform.machine(), platform.machine())
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": arch,
                "rapidfire.ai/node": "process",
            },
        },
        "status": {
            "capacity": dict(offered),
            "allocatable": dict(offered),
            "conditions": [
                condition("Ready", True, "NodeReady", "The process node is running pods", moment),
                condition("MemoryPressure", False, "NotWatched", "The process node does not evict pods", moment),
                condition("DiskPressure", False, "NotWatched", "The process node does not evict pods", moment),
                condition("PIDPressure", False, "NotWatched", "The process node does not evict pods", moment),
            ],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": _info(arch),
        },
    }


def _info(arch: str) -> dict[str, str]:
    own = f"v{version('rapidfireai')}+process-node"
    return {
        "architecture": arch,
        "operatingSystem": "linux",
        "osImage": platform.platform(),
        "kernelVersion": platform.release(),
        "kubeletVersion": own,
        "kubeProxyVersion": "",
        "containerRuntimeVersion": f"process://python-{sys.version_info.major}.{sys.version_info.minor}",
        "machineID": "",
        "systemUUID": "",
        "bootID": str(int(psutil.boot_time())),
    }


def condition(kind: str, holds: bool, reason: str, message: str, moment: datetime) -> dict[str, str]:
    """Return a condition of the node."""
    time = timestamp(moment)
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": time,
        "lastTransitionTime": time,
    }


class Registration:
    """Keeps the node registered, its Lease renewed and its status true."""

    def __init__(self, api: Api, name: str, offered: Mapping[str, str], port: int) -> None:
        self._api = api
        self._name = name
        self._offered = offered
        self._port = port
        self._since = now()

    async def register(self) -> None:
        """Make the Node, or bring an earlier one up to date.

        Raises:
            ApiException: If the API server refuses.
        """
        await persist(self._apply, "registration")
        log.info("registered", node=self._name, capacity=dict(self._offered), port=self._port)

    async def run(self) -> None:
        """Renew the Lease and, less often, the status, until cancelled."""
        beats_a_status = int(STATUS_SECONDS / RENEW_SECONDS)
        beat = 0
        while True:
            try:
                await self._renew()
                if beat % beats_a_status == 0:
                    await self._apply()
                beat += 1
            except (ApiException, *CONNECTION_ERRORS) as error:
                log.warning("heartbeat failed", error=reason_of(error))
            await asyncio.sleep(RENEW_SECONDS)

    async def leave(self) -> None:
        """Say that the node is stopped, so that nothing is scheduled to it; the API server may be gone already."""
        stopped = condition("Ready", False, "NodeStopped", "The process node was stopped", now())
        try:
            await asyncio.wait_for(self._patch({"status": {"conditions": [stopped]}}), timeout=2)
        except (ApiException, *CONNECTION_ERRORS) as error:
            log.info("could not say goodbye", error=reason_of(error))

    async def _apply(self) -> None:
        wanted = node_object(self._name, self._offered, self._port, self._since)
        for each in wanted["status"]["conditions"]:
            each["lastHeartbeatTime"] = timestamp(now())
        try:
            await self._patch({"status": wanted["status"]})
            labels = {"metadata": {"labels": wanted["metadata"]["labels"]}}
            await self._api.call("PATCH", f"{_NODES}/{self._name}", body=labels, content_type=MERGE_PATCH)
        except ApiException as error:
            if error.status != 404:
                raise
            await self._api.call("POST", _NODES, body=wanted)

    async def _patch(self, body: dict[str, Any]) -> None:
        await self._api.call("PATCH", f"{_NODES}/{self._name}/status", body=body, content_type=STRATEGIC_PATCH)

    async def _renew(self) -> None:
        spec = {
            "holderIdentity": self._name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            await self._api.call("PATCH", f"{_LEASES}/{self._name}", body={"spec": spec}, content_type=MERGE_PATCH)
        except ApiException as error:
            if error.status != 404:
                raise
            node = await self._api.get(f"{_NODES}/{self._name}")
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": node["metadata"]["uid"]}
            await self._api.call(
                "POST",
                _LEASES,
                body={
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._name, "ownerReferences": [owner]},
                    "spec": spec,
                },
            )

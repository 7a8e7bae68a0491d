"""What the chart's values are on a cluster of one machine without containers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfireai.cluster.ports import ADDRESS

WORKSPACE = "default"
"""The one workspace of a local cluster."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the services of a local cluster listen on loopback.

    Attributes:
        gateway: The REST API.
        mlflow: MLflow.
        dashboard: The dashboard.
        volume: The volume service.
    """

    gateway: int = 8851
    mlflow: int = 8852
    dashboard: int = 8853
    volume: int = 8854


def url_of(port: int) -> str:
    """Return the URL of a service that listens on a port of loopback."""
    return f"http://{ADDRESS}:{port}"


def local_values(volume: Path, ports: Ports, gpus: int) -> dict[str, Any]:
    """Return the values that differ from the chart's defaults.

    Args:
        volume: The directory that is the volume, at the same path inside and outside of pods.
        ports: Where the services listen.
        gpus: How many GPUs the node has.
    """
    # Requests are small because two cores have to hold everything; null takes a default of the chart away.
    light = {"requests": {"cpu": "50m", "memory": None}, "limits": None}
    slot = {"nvidia.com/gpu": 1} if gpus else {"nvidia.com/gpu": None, "rapidfire.ai/slot": 1, "cpu": 1}
    return {
        "workspaces": [WORKSPACE],
        "hostNetwork": True,
        "podSecurityContext": None,
        "containerSecurityContext": None,
        # There is no pod network, and one machine needs one operator.
        "networkPolicy": {"enabled": False},
        # Nobody waits to take its place, and a busy machine may keep its renewals waiting.
        "operator": {"resources": light, "replicas": 1, "leaderSeconds": 30},
        "worker": {
            "resources": {"requests": light["requests"], "limits": slot},
            "allowFileUris": True,
        },
        "volume": {
            "hostPath": str(volume),
            "mountPath": str(volume),
            "port": ports.volume,
            "url": url_of(ports.volume),
            "resources": light,
        },
        "mlflow": {
            "hostPath": str(volume / "mlflow"),
            "mountPath": str(volume / "mlflow"),
            "port": ports.mlflow,
            "url": url_of(ports.mlflow),
            "resources": light,
        },
        "gateway": {
            "port": ports.gateway,
            "url": url_of(ports.gateway),
            "dashboardPort": ports.dashboard,
            "dashboardUrl": url_of(ports.dashboard),
            "resources": light,
        },
    }

"""Connections to the API server, one way for every part.

A pod on a real node finds its token at the usual place. On the process node of the local cluster many pods
share one file system, so the node names each pod's directory in an environment variable.
"""

from __future__ import annotations

import os
from pathlib import Path

from kubernetes import aio, client, config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader as AsyncInClusterLoader
from kubernetes.config.incluster_config import InClusterConfigLoader

SERVICE_ACCOUNT_DIR_ENV = "RAPIDFIRE_SERVICEACCOUNT_DIR"
"""Names the directory that holds `token`, `ca.crt` and `namespace` of this pod."""
USUAL_SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def service_account_dir() -> Path | None:
    """Return this pod's service account directory, or None outside a pod."""
    named = os.environ.get(SERVICE_ACCOUNT_DIR_ENV)
    directory = Path(named) if named else USUAL_SERVICE_ACCOUNT_DIR
    return directory if (directory / "token").is_file() else None


async def connect(kubeconfig: Path | None = None) -> aio.client.ApiClient:
    """Return an asynchronous client; inside a pod it re-reads its token, which expires, every minute.

    Args:
        kubeconfig: A kubeconfig to use instead of the pod's own account; outside a pod None means the usual one.

    Raises:
        kubernetes.aio.config.ConfigException: If there is nothing to connect with.
    """
    configuration = aio.client.Configuration()
    directory = service_account_dir()
    if kubeconfig is None and directory is not None:
        AsyncInClusterLoader(
            token_filename=str(directory / "token"), cert_filename=str(directory / "ca.crt")
        ).load_and_set(configuration)
    else:
        await aio.config.load_kube_config(
            config_file=str(kubeconfig) if kubeconfig else None, client_configuration=configuration
        )
    return aio.client.ApiClient(configuration)


def connect_sync(kubeconfig: Path | None = None) -> client.ApiClient:
    """Return a synchronous client, found the same way as by `connect`."""
    configuration = client.Configuration()
    directory = service_account_dir()
    if kubeconfig is None and directory is not None:
        InClusterConfigLoader(
            token_filename=str(directory / "token"), cert_filename=str(directory / "ca.crt")
        ).load_and_set(configuration)
    else:
        config.load_kube_config(config_file=str(kubeconfig) if kubeconfig else None, client_configuration=configuration)
    return client.ApiClient(configuration)

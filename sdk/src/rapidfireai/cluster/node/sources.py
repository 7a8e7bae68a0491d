"""What a pod refers to in the API: Secrets, ConfigMaps, claims."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from typing import Any

from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.api import CONNECTION_ERRORS, Api, reason_of
from rapidfireai.cluster.node.environment import ConfigurationError, Sources
from rapidfireai.cluster.node.facts import Json
from rapidfireai.cluster.node.volumes import claims


async def read_sources(api: Api, namespace: str, secrets: Iterable[str], config_maps: Iterable[str]) -> Sources:
    """Read the Secrets and ConfigMaps that a container's environment names.

    Raises:
        ConfigurationError: If the API server gives no answer, or refuses one.
    """
    return Sources(
        secrets={
            name: None if found is None else {key: _decode(value) for key, value in (found.get("data") or {}).items()}
            for name, found in [(name, await _read(api, namespace, "secrets", name)) for name in secrets]
        },
        config_maps={
            name: None if found is None else found.get("data") or {}
            for name, found in [(name, await _read(api, namespace, "configmaps", name)) for name in config_maps]
        },
    )


def _decode(value: str) -> str:
    """Return a Secret's bytes as an environment variable can hold them."""
    return os.fsdecode(base64.b64decode(value))


async def _read(api: Api, namespace: str, resource: str, name: str) -> dict[str, Any] | None:
    try:
        return await api.get(f"/api/v1/namespaces/{namespace}/{resource}/{name}")
    except ApiException as error:
        if error.status == 404:
            return None
        raise ConfigurationError(f"{resource} {name} cannot be read: {reason_of(error)}") from error
    except CONNECTION_ERRORS as error:
        raise ConfigurationError(f"{resource} {name} cannot be read: {reason_of(error)}") from error


async def persistent_volumes(api: Api, pod: Json) -> dict[str, Json]:
    """Return the spec of the PersistentVolume behind each bound claim of a pod, by claim name."""
    found: dict[str, Json] = {}
    for name in set(claims(pod).values()):
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/persistentvolumeclaims/{name}"
        claim = await api.get(path)
        if (claim.get("status") or {}).get("phase") == "Bound":
            volume = await api.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
            found[name] = volume["spec"]
    return found

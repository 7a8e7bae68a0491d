"""A container's environment variables and command line. Pure: what has to be read is an argument.

A container starts from a small clean environment, so that it behaves as it would in an image and none of the node's own
credentials (kubeconfig, tokens of hubs, home directory) reach it:

- `PATH`, with the node's Python environment first; `HOME` and `TMPDIR`, each pod's own;
- of the node's environment: the language and time zone, where libraries and certificates are, proxies, and how math
  libraries use the CPU (`PASSED` and `PASSED_PREFIXES`);
- the API server's address, the pod's service account directory, and the GPUs that it was given.
"""

from __future__ import annotations

import math
import os
import re
import site
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubernetes.utils import parse_quantity

from rapidfireai.cluster.node.facts import Json, containers_of
from rapidfireai.errors import RapidFireError

PASSED = frozenset({"LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_DEVICE_ORDER"})
PASSED_PREFIXES = ("LC_", "OPENBLAS_", "MKL_", "KMP_")
PASSED_CERTIFICATES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"})
PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8")
_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")


class ConfigurationError(RapidFireError):
    """The pod asks for something that is not there, or that the node does not do; the message says what."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The data of the Secrets and ConfigMaps that a pod's environment names; None where one does not exist."""

    secrets: Mapping[str, Mapping[str, str] | None]
    config_maps: Mapping[str, Mapping[str, str] | None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod runs: what the downward API tells it."""

    node: str
    ip: str
    allocatable: Mapping[str, str]


def base_environment(host: Mapping[str, str], home: Path, temporary: Path, server: str) -> dict[str, str]:
    """Return what every container of a pod starts from.

    Args:
        host: The node's own environment.
        home: The pod's home directory.
        temporary: The pod's directory for temporary files.
        server: The API server's URL.
    """
    address = urlsplit(server)
    port = str(address.port or 443)
    passed = {name: value for name, value in host.items() if _passes(name)}
    env = {
        **passed,
        "PATH": _search_path(host.get("PATH", os.defpath)),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "KUBERNETES_SERVICE_HOST": address.hostname or "",
        "KUBERNETES_SERVICE_PORT": port,
        "KUBERNETES_SERVICE_PORT_HTTPS": port,
    }
    env.setdefault("LANG", "C.UTF-8")
    env["PYTHONUNBUFFERED"] = "1"  # logs are read while they are written
    if site.ENABLE_USER_SITE:  # packages that were installed for the user are found although HOME is another
        env["PYTHONUSERBASE"] = site.getuserbase()
    if any(name.lower().endswith("_proxy") for name in passed):
        env |= {name: _without_loopback(host.get(name, "")) for name in ("no_proxy", "NO_PROXY")}
    return env


def _passes(name: str) -> bool:
    return name in PASSED or name in PASSED_CERTIFICATES or name.lower() in PROXIES or name.startswith(PASSED_PREFIXES)


def _search_path(path: str) -> str:
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, *(each for each in path.split(os.pathsep) if each and each != own)])


def _without_loopback(value: str) -> str:
    listed = [each for each in value.split(",") if each]
    return ",".join([*listed, *(each for each in LOOPBACK if each not in listed)])


def references(containers: Iterable[Json]) -> tuple[set[str], set[str]]:
    """Return the names of the Secrets and of the ConfigMaps that the containers' environments name."""
    secrets: set[str] = set()
    config_maps: set[str] = set()
    for container in containers:
        sources = [each.get("valueFrom") or {} for each in container.get("env") or ()]
        for source in (*sources, *(container.get("envFrom") or ())):
            for key, names in (("secret", secrets), ("configMap", config_maps)):
                named = source.get(f"{key}KeyRef") or source.get(f"{key}Ref")
                if named:
                    names.add(named["name"])
    return secrets, config_maps


def container_environment(pod: Json, container: Json, base: Json, sources: Sources, place: Place) -> dict[str, str]:
    """Return the whole environment of a container.

    Raises:
        ConfigurationError: If a Secret, a ConfigMap, a key or a field does not exist and is not optional.
    """
    env = dict(base)
    for source in container.get("envFrom") or ():
        env |= _all_of(source, sources)
    for each in container.get("env") or ():
        name = each["name"]
        if "valueFrom" in each:
            value = _value_from(pod, container, each["valueFrom"], sources, place)
            if value is not None:
                env[name] = value
        else:
            env[name] = expand(each.get("value", ""), env)
    return env


def _all_of(source: Json, sources: Sources) -> dict[str, str]:
    kind, reference, kept = _kept(source, "Ref", sources)
    data = kept.get(reference["name"])
    if data is None:
        if reference.get("optional"):
            return {}
        raise ConfigurationError(f'{kind} "{reference["name"]}" not found')
    prefix = source.get("prefix", "")
    return {f"{prefix}{key}": value for key, value in data.items() if "=" not in key}


def _kept(source: Json, suffix: str, sources: Sources) -> tuple[str, Json, Mapping[str, Mapping[str, str] | None]]:
    if f"secret{suffix}" in source:
        return "secret", source[f"secret{suffix}"], sources.secrets
    return "configmap", source[f"configMap{suffix}"], sources.config_maps


def _value_from(pod: Json, container: Json, source: Json, sources: Sources, place: Place) -> str | None:
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"], place)
    if "resourceFieldRef" in source:
        return _resource(pod, container, source["resourceFieldRef"], place)
    if "secretKeyRef" in source or "configMapKeyRef" in source:
        kind, reference, kept = _kept(source, "KeyRef", sources)
        data = kept.get(reference["name"])
        if data is not None and reference["key"] in data:
            return data[reference["key"]]
        if reference.get("optional"):
            return None
        if data is None:
            raise ConfigurationError(f'{kind} "{reference["name"]}" not found')
        raise ConfigurationError(f"couldn't find key {reference['key']} in {kind} {reference['name']}")
    raise ConfigurationError(f"the process node does not support valueFrom.{next(iter(source), '')} in env")


def field(pod: Json, path: str, place: Place) -> str:
    """Return a field of the pod as the downward API gives it.

    Raises:
        ConfigurationError: If the downward API has no such field.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    found = _SUBSCRIPT.match(path)
    if found:
        return str((metadata.get(found[1]) or {}).get(found[2], ""))
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "metadata.labels": _lines(metadata.get("labels") or {}),
        "metadata.annotations": _lines(metadata.get("annotations") or {}),
        "spec.nodeName": place.node,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": place.ip,
        "status.podIPs": place.ip,
        "status.hostIP": "127.0.0.1",
        "status.hostIPs": "127.0.0.1",
    }
    if path not in fields:
        raise ConfigurationError(f"the downward API has no field {path}; it has {', '.join(fields)}")
    return str(fields[path])


def _lines(values: Mapping[str, str]) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))


def _resource(pod: Json, container: Json, reference: Json, place: Place) -> str:
    """Return a container's request or limit in units of the divisor, rounded up; without a limit the node's own."""
    name = reference.get("containerName") or container["name"]
    owners = [each for each in containers_of(pod) if each["name"] == name]
    if not owners:
        raise ConfigurationError(f"resourceFieldRef: the pod has no container {name}")
    kind, _, resource = reference["resource"].partition(".")
    resources: Mapping[str, Any] = owners[0].get("resources") or {}
    asked = (resources.get(kind) or {}).get(resource)
    if asked is None:
        asked = place.allocatable.get(resource, "0") if kind == "limits" else "0"
    divisor = parse_quantity(reference.get("divisor") or "1") or Decimal(1)
    return str(math.ceil(parse_quantity(asked) / divisor))


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace each `$(NAME)`; `$$` is a literal `$`, and what is not in `env` stays as it is written."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def command_line(container: Json, env: Mapping[str, str]) -> Sequence[str]:
    """Return the program and its arguments."""
    return [expand(each, env) for each in (*container["command"], *(container.get("args") or ()))]


def refuse_unsupported(pod: Json) -> None:
    """Refuse what the node cannot do, before anything of the pod is started.

    Raises:
        ConfigurationError: With a sentence that says what to write instead.
    """
    for each in containers_of(pod):
        name = each["name"]
        if not each.get("command"):
            raise ConfigurationError(
                f"container {name} has no command: the process node does not use images, so write the program that it "
                f"is to run in spec.containers[].command"
            )
        if each.get("restartPolicy") == "Always":
            raise ConfigurationError(
                f"init container {name} is a sidecar (restartPolicy: Always), which the process node does not run: "
                f"list it under spec.containers"
            )
        if (each.get("lifecycle") or {}).get("postStart"):
            raise ConfigurationError(
                f"container {name} has lifecycle.postStart, which the process node does not run: "
                f"do it in the container's command"
            )
        if each.get("volumeDevices"):
            raise ConfigurationError(f"container {name} has volumeDevices: the process node has no block devices")

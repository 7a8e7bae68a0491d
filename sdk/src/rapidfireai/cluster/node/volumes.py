"""Which mounts the node can honour.

Containers here see the machine's own file system, so nothing can be made to appear at another path. A mount is honoured
if what it names lies at its path already:

- `hostPath`, and a claim bound to a volume with `hostPath` or `local`, whose path (with `subPath`) is the mount path;
- the service account's projected volume: written to a directory that the variable `RAPIDFIRE_SERVICEACCOUNT_DIR` names;
- `emptyDir` at /tmp: the variable `TMPDIR` names a directory of the pod's own (every pod has it); at /dev/shm: the
  machine's.

Everything else is refused with what to write instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rapidfireai.cluster.node.facts import Json, containers_of
from rapidfireai.errors import RapidFireError

SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_NODE_MADE = {
    "configMap": "take its keys as environment variables (env or envFrom)",
    "secret": "take its keys as environment variables (env or envFrom)",
    "downwardAPI": "take the fields as environment variables (env with fieldRef)",
    "projected": f"only {SERVICE_ACCOUNT_PATH} is served; take keys and fields as environment variables",
}


class MountError(RapidFireError):
    """A mount that the node cannot honour; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Directory:
    """A path that must be there before the pod starts.

    Attributes:
        type: Of a `hostPath`: `DirectoryOrCreate`, `Directory`, `FileOrCreate`, `File`; empty makes a directory if
            there is nothing, as container runtimes do.
    """

    path: Path
    type: str


def claims(pod: Json) -> dict[str, str]:
    """Return the names of the claims that a pod's volumes use, by volume."""
    volumes = pod["spec"].get("volumes") or ()
    return {
        each["name"]: each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each
    }


def mounts(pod: Json) -> Iterator[tuple[Json, Json, Json]]:
    """Yield (container, mount, volume) for every mount of a pod."""
    volumes = {each["name"]: each for each in pod["spec"].get("volumes") or ()}
    for container in containers_of(pod):
        for mount in container.get("volumeMounts") or ():
            yield container, mount, volumes[mount["name"]]


def service_account_volume(pod: Json, container: Json) -> Json | None:
    """Return the projected volume that a container has at the service account's usual path, if any."""
    for owner, mount, volume in mounts(pod):
        if owner["name"] == container["name"] and "projected" in volume and _at(mount, SERVICE_ACCOUNT_PATH):
            return volume
    return None


def required_directories(pod: Json, persistent: Mapping[str, Json]) -> list[Directory]:
    """Return the paths that must exist, once every mount can be honoured.

    Args:
        pod: The pod.
        persistent: The spec of the PersistentVolume behind each claim that is bound, by claim name.

    Raises:
        MountError: If a mount cannot be honoured, or a claim is not bound yet.
    """
    found: dict[Path, Directory] = {}
    for _, mount, volume in mounts(pod):
        directory = _required(mount, volume, persistent)
        if directory is not None:
            found[directory.path] = directory
    return list(found.values())


def _required(mount: Json, volume: Json, persistent: Mapping[str, Json]) -> Directory | None:
    path, name = mount["mountPath"], volume["name"]
    if "hostPath" in volume:
        return _same_path(mount, name, volume["hostPath"])
    if "persistentVolumeClaim" in volume:
        claim = volume["persistentVolumeClaim"]["claimName"]
        if claim not in persistent:
            raise MountError(f"volume {name}: claim {claim} is not bound to a volume yet")
        source = persistent[claim].get("hostPath") or persistent[claim].get("local")
        if source is None:
            raise MountError(
                f"volume {name}: claim {claim} is bound to a volume that is neither hostPath nor local, "
                f"and the process node has no other kinds"
            )
        return _same_path(mount, f"{name} (claim {claim})", source)
    if "emptyDir" in volume:
        if _at(mount, "/tmp") or _at(mount, "/dev/shm"):  # noqa: S108
            return None
        raise MountError(
            f"volume {name}: the process node cannot mount an emptyDir at {path}; mount it at /tmp and let the program "
            f"use the directory that TMPDIR names, or use a hostPath volume whose path is {path}"
        )
    if "projected" in volume and _at(mount, SERVICE_ACCOUNT_PATH):
        return None
    kind = next((key for key in volume if key != "name"), "")
    instead = _NODE_MADE.get(kind, f"use a hostPath volume whose path is {path}")
    raise MountError(f"volume {name}: the process node cannot mount a {kind} volume at {path}; {instead}")


def _same_path(mount: Json, name: str, source: Json) -> Directory:
    host = os.path.normpath(os.path.join(source["path"], mount.get("subPath", "")))  # noqa: PTH118
    if mount.get("subPathExpr"):
        raise MountError(f"volume {name}: the process node does not support subPathExpr; write a fixed subPath")
    if not _at(mount, host):
        raise MountError(
            f"volume {name}: its path on this machine is {host}, and the process node can mount it nowhere else: set "
            f"mountPath to {host} instead of {mount['mountPath']}"
        )
    return Directory(Path(host), source.get("type") or "")


def _at(mount: Json, path: str) -> bool:
    """Say whether a mount's path is `path`, symbolic links counted as what they point to."""
    wanted = str(mount["mountPath"])
    return os.path.normpath(wanted) == path or os.path.realpath(wanted) == os.path.realpath(path)


def provide(directory: Directory) -> None:
    """Check that a path is there as its type says, and make it where the type allows.

    Raises:
        MountError: If it is not there, or is something else.
    """
    path = directory.path
    try:
        if directory.type in {"", "DirectoryOrCreate"} and not path.exists():
            path.mkdir(parents=True)
        elif directory.type == "FileOrCreate":
            path.touch()
    except OSError as error:
        raise MountError(f"{path} cannot be made: {error}") from error
    if directory.type.startswith("Directory") and not path.is_dir():
        raise MountError(f"{path} is not a directory (hostPath type {directory.type})")
    if directory.type.startswith("File") and not path.is_file():
        raise MountError(f"{path} is not a file (hostPath type {directory.type})")

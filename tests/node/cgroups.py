"""The cgroups of test nodes: one name in every hierarchy of the machine, which tells whose it is."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_MOUNT = Path("/sys/fs/cgroup")
_CONTROLLERS = "+cpu +cpuset +memory +pids"
_NAME = re.compile(r"^rapidfireai-node-(\d+)-[0-9a-f]{8}$")


def new_name() -> str:
    """Return a name of this process for one more node."""
    return f"rapidfireai-node-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def make(name: str) -> None:
    """Make the cgroup wherever the kubelet looks for it."""
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # without them nothing may join a cpuset of version 1
            if (hierarchy / setting).exists():
                (folder / setting).write_text((hierarchy / setting).read_text())
    if _is_unified():
        for folder in (_MOUNT, _MOUNT / name):
            (folder / "cgroup.subtree_control").write_text(_CONTROLLERS)


def remove(name: str) -> None:
    """Remove the cgroup and what is below it, as far as no process is in it."""
    for folder in _found(name):
        below = [Path(path) for path, _, _ in os.walk(folder, topdown=False)]
        for each in below:
            with suppress(OSError):  # somebody is in it, or it has just gone
                each.rmdir()


def sweep() -> None:
    """Remove what the nodes of processes left that have ended: a node that was killed could not do so itself."""
    names = {path.name for hierarchy in _every_hierarchy() for path in hierarchy.glob("rapidfireai-node-*")}
    for name in names:
        owner = _NAME.match(name)
        if owner is not None and not psutil.pid_exists(int(owner[1])):
            remove(name)


def left(name: str) -> list[Path]:
    """Return where the cgroup still is."""
    return list(_found(name))


def _found(name: str) -> Iterator[Path]:
    return (hierarchy / name for hierarchy in _every_hierarchy() if (hierarchy / name).is_dir())


def _is_unified() -> bool:
    return (_MOUNT / "cgroup.controllers").exists()


def _every_hierarchy() -> list[Path]:
    """Return all of them: beside version 1 there may be an empty one of version 2, in which runc keeps processes."""
    return [_MOUNT] if _is_unified() else [path for path in _MOUNT.iterdir() if path.is_dir() and not path.is_symlink()]


def _hierarchies() -> list[Path]:
    return [path for path in _every_hierarchy() if _is_unified() or not (path / "cgroup.controllers").exists()]

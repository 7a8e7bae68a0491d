"""The programs of a node, each built once from a pinned Go module into the folder of the local cluster's binary.

`python -m tests.node.binaries` builds what is missing: `make node` does so beforehand.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rapidfireai.cluster.binary import BinaryError, cache_dir, find_binary, find_go

MODULES = Path(__file__).resolve().parent / "go"
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs lie.

    Attributes:
        kubelocal: Control plane, kubectl and helm.
        kubenode: Kubelet, kube-proxy and the device plugin.
        kubedns: CoreDNS.
    """

    kubelocal: Path
    kubenode: Path
    kubedns: Path


def find_binaries(report: Report = print) -> Binaries:
    """Return the programs; what is missing is built.

    Raises:
        BinaryError: If Go is missing or too old, or a build fails.
    """
    return Binaries(find_binary(report), _find("kubenode", report), _find("kubedns", report))


def cached(name: str) -> Path:
    """Return where the program of a module lies, or will lie: another source is another file."""
    digest = hashlib.sha256()
    for source in sorted((MODULES / name).iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return cache_dir() / f"{name}-{digest.hexdigest()[:16]}"


def _find(name: str, report: Report) -> Path:
    target = cached(name)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(MODULES / name, target, report)
    return target


def _build(module: Path, target: Path, report: Report) -> None:
    go = find_go(module)
    partial = target.with_suffix(".partial")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}
    report(f"Building {module.name} once (1 to 4 minutes) ...")
    started = time.monotonic()
    command = [go, "build", "-trimpath", "-ldflags", _link_flags(module), "-o", str(partial), "."]
    answer = subprocess.run(command, cwd=module, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BinaryError(f"building {module.name} failed:\n{answer.stderr[-2000:]}")
    partial.rename(target)
    report(f"{module.name} built in {time.monotonic() - started:.0f} s: {target}")


def _link_flags(module: Path) -> str:
    """Return flags that leave symbols out and write the version of Kubernetes in, which the kubelet reports."""
    found = re.search(r"^\s*k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)$", (module / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        return "-s -w"
    stamps = {"gitVersion": f"v{found[1]}.{found[2]}.{found[3]}", "gitMajor": found[1], "gitMinor": found[2]}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(
        ["-s -w", *(f"-X {package}.{key}={value}" for package in packages for key, value in stamps.items())]
    )


def main() -> int:
    """Build what is missing and return the exit code."""
    try:
        find_binaries(lambda line: print(line, flush=True))
    except BinaryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Find or build `kubelocal`: the control plane, kubectl and helm in one file.

Uses the standard library alone: `python3 binary.py` builds it while the Python packages are being installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE = Path(__file__).resolve().parent / "kubelocal"
PREBUILT_ENV = "RAPIDFIREAI_KUBELOCAL"
GO_FIX = "install it from your distribution or go.dev, or name a prebuilt binary in " + PREBUILT_ENV
Report = Callable[[str], None]


class BinaryError(RuntimeError):
    """There is no usable binary; the message says what to do."""


def cache_dir() -> Path:
    """Return the folder in which built binaries are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rapidfireai" / "bin"


def module_digest(module: Path = MODULE) -> str:
    """Return a short digest of the Go module's sources: another source is another binary."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((module / name).read_bytes())
    return digest.hexdigest()[:16]


def cached_binary(module: Path = MODULE) -> Path:
    """Return where the built binary of `module` lies, or will lie."""
    return cache_dir() / f"kubelocal-{module_digest(module)}"


def named_binary() -> Path | None:
    """Return the prebuilt binary that the environment names, or None if it names none.

    Raises:
        BinaryError: If what it names cannot be run.
    """
    named = os.environ.get(PREBUILT_ENV)
    if not named:
        return None
    path = Path(named)
    if not path.is_file() or not os.access(path, os.X_OK):
        raise BinaryError(f"{PREBUILT_ENV}={named}: not an executable file; correct it or unset it to build one")
    return path


def find_binary(report: Report = print) -> Path:
    """Return the `kubelocal` binary; the first call on a machine builds it.

    Args:
        report: Told one line of progress at a time.

    Raises:
        BinaryError: If a prebuilt one is named but unusable, if Go is missing or too old, or if the build fails.
    """
    prebuilt = named_binary()
    if prebuilt:
        return prebuilt
    target = cached_binary()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock"), report):
        if not target.exists():
            _build(target, report)
    return target


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another build of the control plane is under way; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def find_go(module: Path = MODULE) -> str:
    """Return a Go that can build `module`.

    Raises:
        BinaryError: If there is none on the PATH, or it is too old.
    """
    go = shutil.which("go")
    wanted = re.search(r"^go (\d+)\.(\d+)", (module / "go.mod").read_text(), re.MULTILINE)
    if wanted is None:
        raise BinaryError(f"{module / 'go.mod'}: no go line; reinstall the package")
    version = f"{wanted[1]}.{wanted[2]}"
    if go is None:
        raise BinaryError(f"Go {version} or newer builds the control plane and is not on PATH: {GO_FIX}")
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd="/")
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout.strip())
    if found is None or (int(found[1]), int(found[2])) < (int(wanted[1]), int(wanted[2])):
        raise BinaryError(f"Go {version} or newer is needed, {go} is {answer.stdout.strip() or 'broken'}: {GO_FIX}")
    return go


def _link_flags(module: Path) -> str:
    found = re.search(r"^\s*k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)$", (module / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BinaryError(f"{module / 'go.mod'}: no version of k8s.io/kubernetes; reinstall the package")
    stamps = {
        "gitVersion": f"v{found[1]}.{found[2]}.{found[3]}",
        "gitMajor": found[1],
        "gitMinor": found[2],
        "gitTreeState": "clean",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(["-s -w", *(f"-X {p}.{k}={v}" for p in packages for k, v in stamps.items())])


def _build(target: Path, report: Report, module: Path = MODULE) -> None:
    go = find_go(module)
    partial = target.with_suffix(".partial")
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    report("Building the control plane once (0.8 GB of Go modules, then about 12 core-minutes) ...")
    started = time.monotonic()
    total = _count_packages(go, module, env)
    command = [go, "build", "-v", "-trimpath", "-ldflags", _link_flags(module), "-o", str(partial), "."]
    with subprocess.Popen(command, cwd=module, env=env, stderr=subprocess.PIPE, text=True) as process:
        tail = _follow(process, total, report, started)
    if process.returncode != 0:
        raise BinaryError("building the control plane failed:\n" + "\n".join(tail))
    partial.rename(target)
    report(f"Control plane built in {time.monotonic() - started:.0f} s: {target}")


def _count_packages(go: str, module: Path, env: dict[str, str]) -> int:
    listed = subprocess.run(
        [go, "list", "-deps", "."], cwd=module, env=env, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        raise BinaryError("fetching the control plane's Go modules failed:\n" + listed.stderr[-2000:])
    return len(listed.stdout.splitlines())


def _follow(process: subprocess.Popen[str], total: int, report: Report, started: float) -> list[str]:
    """Report each tenth of the packages as it is compiled; return the last lines of output."""
    tail: list[str] = []
    reported = 0
    for count, line in enumerate(process.stderr or (), start=1):
        tail = [*tail[-19:], line.rstrip()]
        tenth = 10 * count // max(total, 1)
        if tenth > reported:
            reported = tenth
            report(f"  control plane: {count} of at most {total} packages, {time.monotonic() - started:.0f} s")
    return tail


def main() -> int:
    """Build the binary if it is not there yet; return the exit code."""
    try:
        path = find_binary(lambda line: print(line, flush=True))
    except BinaryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if "--quiet-if-present" not in sys.argv[1:]:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

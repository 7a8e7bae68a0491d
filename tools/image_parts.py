"""What the images are made of, and whether any of it has changed."""

from __future__ import annotations

import hashlib
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "rapidfireai"
FORMAT = 1
"""Raised when this tool begins to build in another way, so that everything is built anew."""
CA = "/run/secrets/ca.crt"
CACHE = "/media"
"""Where the machine's own uv cache is while an image is built; every Debian has this empty directory."""
_LEFT_OUT = frozenset({"__pycache__", "build", "dist"})
_PASSED_ON = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX", "UV_INSECURE_HOST", "UV_HTTP_TIMEOUT")
_PASSED_ON += ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES")
_PASSED_ON += ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Part:
    """One image.

    Attributes:
        name: Of the image, `<repository>/<name>:<version>`.
        dockerfile: What it is built with.
        target: The stage of the Dockerfile.
        lock: The lock file of what is installed in it, relative to the root.
        sources: The directories whose wheels are installed in it.
    """

    name: str
    dockerfile: str
    target: str
    lock: str
    sources: tuple[str, ...]

    @property
    def image(self) -> str:
        """The image's name, as the chart writes it."""
        return f"{REPOSITORY}/{self.name}:{version()}"


WORKER_TARGETS = ("cpu", "cuda")
PARTS = ("operator", "mlflow", "worker")


def part(name: str, worker_target: str) -> Part:
    """Return an image's description; `worker_target` is what the worker is built for."""
    if name == "operator":
        return Part(name, "Dockerfile.operator", name, "requirements/operator.txt", ("sdk", "operator"))
    if name == "mlflow":
        return Part(name, "Dockerfile.operator", name, "requirements/mlflow.txt", ())
    lock = f"requirements/worker-{worker_target}.txt"
    return Part(name, "Dockerfile.worker", worker_target, lock, ("sdk", "worker"))


def version() -> str:
    """Return the version that all parts have."""
    return str(tomllib.loads((ROOT / "sdk" / "pyproject.toml").read_text())["project"]["version"])


def inputs(image: Part, root: Path = ROOT) -> Iterator[Path]:
    """Yield the files that an image follows from, in a stable order."""
    yield from (
        root / name for name in (".dockerignore", "LICENSE", image.dockerfile, "requirements/build.txt", image.lock)
    )
    for source in image.sources:
        for folder, folders, files in os.walk(root / source):
            folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.endswith(".egg-info"))
            yield from (Path(folder) / name for name in sorted(files) if not name.endswith(".pyc"))


def digest(image: Part, base: str, root: Path = ROOT) -> str:
    """Return what changes if and only if the image has to be built again; `base` identifies the image below it."""
    total = hashlib.sha256(f"{FORMAT} {image.image} {image.target} {base}\n".encode())
    for path in inputs(image, root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root)} {path.stat().st_mode & 0o111} {content}\n".encode())
    return total.hexdigest()


def packages_env(environment: Mapping[str, str], pip_config: Mapping[str, str], *, ca: bool, cache: bool) -> str:
    """Return the shell file that tells pip and uv, while an image is built, where this machine finds packages.

    Args:
        environment: This process's.
        pip_config: What `pip config list` says, such as `{"global.index-url": ...}`.
        ca: Whether the machine's certificate authorities are handed in as the secret `ca.crt`.
        cache: Whether the machine's uv cache is mounted.
    """
    values = {name: value for name, value in environment.items() if name.startswith(_PASSED_ON)}
    for key, value in pip_config.items():
        name = f"PIP_{key.partition('.')[2].replace('-', '_').upper()}"
        if name in _PASSED_ON:
            values.setdefault(name, value)
    if ca:
        values |= dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"), CA)
    if cache:
        values["UV_CACHE_DIR"] = CACHE
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))

"""The images of this folder: buildah with a store of its own, so that nothing else on the machine is touched."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from image_parts import ROOT

HOME = ROOT / ".cache" / "containers"
PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


class ImageProblem(Exception):  # noqa: N818 - it is shown to the person who builds
    """An image cannot be built; the message says why and what helps."""


def _run_root() -> Path:
    """Return where mounts are counted: a place that a restart of the machine empties."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR", "/run" if os.getuid() == 0 else "/tmp"))  # noqa: S108
    return folder / f"rapidfireai-images-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}"


def need(program: str) -> None:
    """Refuse to go on without a program.

    Raises:
        ImageProblem: If it is not installed.
    """
    if shutil.which(program) is None:
        raise ImageProblem(f"{program} is not installed: make builder, or apt-get install {PROGRAMS[program]}")


def buildah(*words: str) -> str:
    """Run buildah on our store and return what it prints.

    Raises:
        ImageProblem: If it fails; the end of what it printed is in the message.
    """
    need("buildah")
    driver = os.environ.get("STORAGE_DRIVER", "overlay")
    command = ["buildah", "--root", str(HOME / "storage"), "--runroot", str(_run_root()), "--storage-driver", driver]
    (HOME / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(HOME / "tmp")}
    answer = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = "\n".join((answer.stdout + answer.stderr).splitlines()[-40:])
        raise ImageProblem(f"buildah {words[0]} failed with exit code {answer.returncode}:\n{said}")
    return answer.stdout.strip()


def image_id(name: str) -> str | None:
    """Return the ID of an image in our store, None if it is not there."""
    listed = buildah("images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Name}}:{{.Tag}}")
    for line in listed.splitlines():
        identifier, _, found = line.partition(" ")
        if found.strip() == name:
            return identifier
    return None


def prune() -> None:
    """Remove images that have lost their name to a newer one; whatever is still used goes another time."""
    listed = buildah("images", "--all", "--no-trunc", "--format", "{{.ID}}", "--filter", "dangling=true")
    for identifier in listed.split():
        with suppress(ImageProblem):  # a container of somebody who tests it
            buildah("rmi", identifier)


@contextmanager
def mounted(image: str, archive: Path) -> Iterator[Path]:
    """Mount an image's files, until the context ends; what is written there is lost.

    Args:
        image: Its name, as the chart writes it.
        archive: Where it is read from if it is not in our store.
    """
    name = f"localhost/{image}"
    if image_id(name) is None:
        buildah("tag", buildah("pull", "--quiet", f"docker-archive:{archive}"), name)
    container = buildah("from", "--pull-never", name)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


@contextmanager
def alone() -> Iterator[None]:
    """Wait until nobody else builds into the store, then keep others out."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

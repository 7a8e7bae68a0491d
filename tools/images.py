"""Build the images with buildah and write them as archives, which `ctr images import` and `docker load` read.

    python tools/images.py build                      operator, mlflow and the CPU worker on a base made here
    python tools/images.py build --part worker --target cuda --base python:3.11-slim
    python tools/images.py base                       a base image with Python, of Debian packages alone
    python tools/images.py check                      whether the archives are there and nothing has changed since

An image is built again only if something that it follows from has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from image_parts import CACHE, PARTS, ROOT, WORKER_TARGETS, Part, digest, packages_env, part, version
from image_store import ImageProblem, alone, buildah, image_id, need, prune
from setup import find_uv

OUTPUT = ROOT / ".cache" / "images"
SUITE = "bookworm"
"""The Debian whose Python is 3.11."""
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "netbase", "tzdata")
LOCAL_BASE = f"localhost/rapidfireai-base:{SUITE}"
TOOLS = "localhost/rapidfireai-tools:latest"
_NOT_NEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True, slots=True)
class Built:
    """What is known of an archive, in a file beside it.

    Attributes:
        image: The image's name in it.
        identifier: The image's ID.
        inputs: Digest of what it was built from.
        target: The Dockerfile's stage.
        base: The name of the image below it.
        archive_bytes: The archive's size; layers in it are not compressed.
        seconds: How long building and writing took.
    """

    image: str
    identifier: str
    inputs: str
    target: str
    base: str
    archive_bytes: int
    seconds: float


def built(archive: Path) -> Built | None:
    """Return what is known of an archive if it is whole."""
    try:
        known = Built(**json.loads(archive.with_suffix(".json").read_text()))
        whole = archive.stat().st_size == known.archive_bytes
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
    return known if whole else None


def fresh(archive: Path, inputs: str) -> Built | None:
    """Return what is known of an archive if it was built from these inputs and is whole."""
    known = built(archive)
    return known if known is not None and known.inputs == inputs else None


def outdated(name: str, output: Path) -> str | None:
    """Return what is wrong with a part's archive, None if it is what a build would write now."""
    archive = output / f"{name}.tar"
    known = built(archive)
    if known is None:
        return f"{archive} is not there: make images"
    if known.inputs != digest(part(name, known.target), image_id(known.base) or known.base):
        return f"{archive} is older than what it is built from: make images"
    return None


def make_base() -> str:
    """Make the base image from Debian packages unless it is there; return its name."""
    if image_id(LOCAL_BASE):
        return LOCAL_BASE
    need("mmdebstrap")
    started = time.monotonic()
    print(f"  {LOCAL_BASE} ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="rapidfireai-base-") as folder:
        archive = Path(folder) / "base.tar"
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"]
        words += [f"--dpkgopt=path-exclude={pattern}" for pattern in _NOT_NEEDED]
        words += [f"--aptopt={line}" for line in _apt_settings()]
        # How this machine reaches its packages is nobody else's business.
        words += ["--customize-hook=rm -f $1/etc/apt/apt.conf.d/99mmdebstrap", SUITE, str(archive)]
        if subprocess.run(words, check=False).returncode:
            raise ImageProblem("mmdebstrap could not make a base image; name one with --base instead")
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(archive), "/")
        buildah("config", "--cmd", "python3", "--label", f"org.opencontainers.image.title=debian:{SUITE}", container)
        buildah("commit", "--quiet", "--rm", container, LOCAL_BASE)
    print(f"  {LOCAL_BASE} made in {time.monotonic() - started:.0f} s", flush=True)
    return LOCAL_BASE


def _apt_settings() -> list[str]:
    """Return this machine's settings for reaching Debian's packages: proxies, certificates, dates."""
    answer = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
    return [line for line in answer.stdout.splitlines() if line.startswith(wanted) and not line.endswith('"";')]


def _pip_config() -> dict[str, str]:
    """Return pip's configuration of this machine."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    if answer.returncode:  # an environment that uv made has no pip
        answer = subprocess.run(["pip3", "config", "list"], capture_output=True, text=True, check=False)
    pairs = (line.partition("=") for line in answer.stdout.splitlines())
    return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}


def _package_options(folder: Path) -> list[str]:
    """Return the options that let pip, uv and apt use this machine's configuration, without a trace in the image."""
    config = _pip_config()
    authority = Path(os.environ.get("SSL_CERT_FILE") or config.get("global.cert") or "/does/not/exist")
    cache = Path(subprocess.run([find_uv(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip())
    cache.mkdir(parents=True, exist_ok=True)
    options = ["--volume", f"{cache}:{CACHE}"]
    if authority.is_file():
        options += ["--secret", f"id=ca.crt,src={authority}"]
    settings = {
        "packages.env": packages_env(os.environ, config, ca=authority.is_file(), cache=True),
        "apt.conf": "".join(f"{line}\n" for line in _apt_settings()),
    }
    for name, text in settings.items():
        (folder / name).touch(0o600)
        (folder / name).write_text(text)
        options += ["--secret", f"id={name},src={folder / name}"]
    return options


def _revision() -> str:
    answer = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def build(image: Part, base: str, output: Path) -> Built:
    """Build an image and write its archive, unless it is there and nothing has changed."""
    archive = output / f"{image.name}.tar"
    inputs = digest(image, image_id(base) or base)
    known = fresh(archive, inputs)
    if known is not None:
        print(f"  {image.image} is up to date: {archive}", flush=True)
        return known
    print(f"  {image.image} ({image.target}) ...", flush=True)
    started = time.monotonic()
    archive.with_suffix(".json").unlink(missing_ok=True)
    archive.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="rapidfireai-images-") as folder:
        common = ["build", "--quiet", "--layers", "--format", "docker", "--file", str(ROOT / image.dockerfile)]
        common += [
            *_package_options(Path(folder)),
            "--build-arg",
            f"BASE={base}",
            "--build-arg",
            f"VERSION={version()}",
        ]
        common += ["--build-arg", f"REVISION={_revision()}"]
        # Buildah of Debian 12 cannot mount a stage that it has taken from its cache, only an image.
        buildah(*common, "--target", "tools", "--tag", TOOLS, str(ROOT))
        context = ["--build-context", f"tools=container-image://{TOOLS}"]
        buildah(*common, *context, "--target", image.target, "--tag", f"localhost/{image.image}", str(ROOT))
    prune()
    built_in = time.monotonic() - started
    buildah("push", "--quiet", f"localhost/{image.image}", f"docker-archive:{archive}:{image.image}")
    seconds = time.monotonic() - started
    size = archive.stat().st_size
    print(
        f"  {image.image}: {size / 1e6:.0f} MB; built in {built_in:.0f} s, written in {seconds - built_in:.0f} s",
        flush=True,
    )
    known = Built(
        image.image, image_id(f"localhost/{image.image}") or "", inputs, image.target, base, size, round(seconds, 1)
    )
    archive.with_suffix(".json").write_text(json.dumps(asdict(known), indent=2) + "\n")
    return known


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("base", help="make the local base image")
    checker = commands.add_parser("check", help="say which archives are missing or outdated")
    checker.add_argument("--output", type=Path, default=OUTPUT, help="where the archives are (.cache/images)")
    builder = commands.add_parser("build", help="build images and write their archives")
    builder.add_argument("--part", action="append", choices=PARTS, help="all of them if not given; may be repeated")
    builder.add_argument("--target", choices=WORKER_TARGETS, default="cpu", help="what the worker is built for (cpu)")
    builder.add_argument("--base", help="an image with Python 3.11, such as python:3.11-slim; made here if not given")
    builder.add_argument("--output", type=Path, default=OUTPUT, help="where the archives go (.cache/images)")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    arguments = _arguments(words)
    try:
        with alone():
            if arguments.command == "base":
                make_base()
                return 0
            if arguments.command == "check":
                problems = [said for name in PARTS if (said := outdated(name, arguments.output.resolve()))]
                print("\n".join(problems))
                return 1 if problems else 0
            base = arguments.base or make_base()
            output = arguments.output.resolve()
            output.mkdir(parents=True, exist_ok=True)
            for name in arguments.part or PARTS:
                build(part(name, arguments.target), base, output)
    except ImageProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

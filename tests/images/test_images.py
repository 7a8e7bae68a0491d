"""The images as they are built: what is in them, who they run as, and that what they are for starts in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import image_parts
import pytest
from packaging.utils import canonicalize_name
from tests.images import archive
from tests.images.container import USER, Container
from tests.images.locks import pins

pytestmark = [pytest.mark.images, pytest.mark.xdist_group("images"), pytest.mark.timeout(2400)]
ROOT = Path(__file__).resolve().parents[2]
PARTS = ("operator", "mlflow", "worker")
OURS = {
    "operator": {"rapidfireai", "rapidfireai-operator"},
    "mlflow": set(),
    "worker": {"rapidfireai", "rapidfireai-worker"},
}
LOCK = {"operator": "operator", "mlflow": "mlflow", "worker": "worker-cpu"}


@pytest.fixture(scope="module", params=PARTS)
def part(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def installed(container: Container) -> dict[str, str]:
    """Return the versions of the packages that are installed, by canonical name."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    return {canonicalize_name(name): version for name, version in json.loads(container.python(code)).items()}


def test_the_configuration_says_who_and_what_it_is(archives: Path, part: str) -> None:
    config = archive.config(archives / f"{part}.tar")["config"]

    assert config["User"] == f"{USER}:{USER}"
    assert not config.get("Entrypoint")  # pods name their commands
    assert "HOME=/tmp" in config["Env"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == f"rapidfireai/{part}"
    assert labels["version"] == image_parts.version()
    assert labels["licenses"] == "Apache-2.0"
    assert labels["description"]
    assert re.fullmatch(r"[0-9a-f]{40}|", labels["revision"])


def test_the_archive_has_the_name_that_the_chart_writes(archives: Path, part: str) -> None:
    name = image_parts.part(part, "cpu").image

    written = [one for one in archive.names(archives / f"{part}.tar") if not one.startswith("localhost/")]

    assert [one.removeprefix(one.removesuffix(name)) for one in written] == [name]


def test_servers_have_healthchecks(archives: Path) -> None:
    checks = {part: archive.config(archives / f"{part}.tar")["config"].get("Healthcheck") for part in PARTS}

    assert {part for part, check in checks.items() if check} == {"operator", "mlflow"}


def test_exactly_the_locked_versions_are_installed(containers: dict[str, Container], part: str) -> None:
    found = installed(containers[part])

    ours = {name: found.pop(name) for name in OURS[part]}
    assert set(ours.values()) <= {image_parts.version()}
    assert found == pins(LOCK[part])


def test_nothing_that_builds_is_left(containers: dict[str, Container], part: str) -> None:
    root = containers[part].root

    left = [
        path
        for name in ("mnt", "media", "run/secrets", "root/.cache", "opt/wheels")
        for path in (root / name).rglob("*")
    ]
    assert not left
    code = "import shutil; print([shutil.which(n) for n in ('uv', 'gcc', 'cc', 'g++', 'make', 'pip', 'git', 'curl')])"
    assert set(json.loads(containers[part].python(code).replace("None", "null").replace("'", '"'))) == {None}


def test_how_this_machine_finds_packages_is_in_no_image(
    archives: Path, part: str, containers: dict[str, Container]
) -> None:
    history = json.dumps(archive.config(archives / f"{part}.tar"))
    apt = "".join(path.read_text() for path in (containers[part].root / "etc/apt/apt.conf.d").iterdir())

    assert not re.search(r"INDEX_URL=|UV_DEFAULT_INDEX=|_PROXY=|_proxy=", history)
    assert "Proxy" not in apt
    assert not (containers[part].root / "etc/pip.conf").exists()


def test_an_ordinary_user_writes_to_tmp_alone(containers: dict[str, Container], part: str) -> None:
    code = """
import errno, getpass, os, pathlib, sys
print(os.getuid(), os.getgid(), getpass.getuser(), os.path.realpath(pathlib.Path.home()), os.getcwd(), sys.prefix)
pathlib.Path("/tmp/file").write_text("")
for place in ("/opt/rapidfireai", "/usr", "/"):
    try:
        pathlib.Path(place, "file").write_text("")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    lines = containers[part].python(code).splitlines()

    assert lines == [f"{USER} {USER} rapidfire /tmp /tmp /opt/rapidfireai", "EROFS", "EROFS", "EROFS"]


def test_a_module_in_tmp_shadows_nothing(containers: dict[str, Container]) -> None:
    code = """
import pathlib, subprocess, sys
pathlib.Path("/tmp/kopf.py").write_text("raise SystemExit('shadowed')")
sys.exit(subprocess.run([sys.executable, "-m", "rapidfireai_operator"]).returncode)
"""
    answer = containers["operator"].run("python", "-c", code)

    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert "shadowed" not in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("part", "module", "variable"),
    [
        ("operator", "rapidfireai_operator", "RAPIDFIRE_NAMESPACES"),
        ("operator", "rapidfireai_gateway", "RAPIDFIRE_NAMESPACES"),
        ("worker", "rapidfireai_worker", "RAPIDFIRE_EXPERIMENT"),
        ("worker", "rapidfireai_worker.volume", "RAPIDFIRE_VOLUME"),
    ],
)
def test_a_program_without_settings_names_them(
    containers: dict[str, Container], part: str, module: str, variable: str
) -> None:
    answer = containers[part].run("python", "-m", module)

    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert variable in answer.stdout + answer.stderr


def test_every_module_of_operator_and_gateway_can_be_imported(containers: dict[str, Container]) -> None:
    code = """
import importlib, pkgutil
names = []
for top in ("rapidfireai_operator", "rapidfireai_gateway", "rapidfireai_dashboard"):
    package = importlib.import_module(top)
    names += [found.name for found in pkgutil.walk_packages(package.__path__, top + ".")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""
    assert int(containers["operator"].python(code, NICEGUI_STORAGE_PATH="/tmp/nicegui")) > 50


def test_the_worker_has_what_trains_and_answers(containers: dict[str, Container]) -> None:
    code = """
import torch, transformers, trl, peft, datasets, faiss, vllm, bitsandbytes, psycopg, sentence_transformers
import rapidfireai_worker.fit.engine, rapidfireai_worker.evals.engine
ones = torch.ones(2, 2)
print((ones @ ones).sum().item(), torch.__version__.partition("+")[0], torch.cuda.is_available())
"""
    assert containers["worker"].python(code).splitlines()[-1] == f"8.0 {pins('worker-cpu')['torch']} False"


def test_what_is_compiled_finds_its_libraries(containers: dict[str, Container]) -> None:
    """VLLM only warns if it does not, and fails when it is used."""
    code = """
import torch, vllm
from bitsandbytes.cextension import lib
from vllm.platforms import current_platform
current_platform.import_kernels()
print(hasattr(torch.ops._C, "init_cpu_memory_env"), type(lib).__name__)
"""
    assert containers["worker"].python(code).splitlines()[-1] == "True BNBNativeLibrary"


def test_mlflow_reaches_databases_and_buckets(containers: dict[str, Container]) -> None:
    code = """
import boto3, sqlalchemy
print(sqlalchemy.create_engine("postgresql://user@host/database").dialect.driver)
"""
    assert containers["mlflow"].python(code).strip() == "psycopg"
    answer = containers["mlflow"].run("mlflow", "server", "--help")
    assert answer.returncode == 0, answer.stderr
    assert "--allowed-hosts" in answer.stdout


def test_the_bill_of_materials_names_every_package(archives: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "tools" / "audit.py"), "sbom"], check=True)

    for part in PARTS:
        bill = json.loads((archives / f"{part}.cdx.json").read_text())
        listed = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
        assert listed == pins(LOCK[part]) | dict.fromkeys(OURS[part], image_parts.version())

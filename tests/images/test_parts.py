"""When an image is built again, and what pip and uv are told meanwhile."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import image_parts
import pytest
import yaml

import images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with what the operator's image follows from."""
    for name in (
        ".dockerignore",
        "LICENSE",
        "Dockerfile.operator",
        "requirements/build.txt",
        "requirements/operator.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("sdk/src/a.py", "operator/src/b.py", "worker/src/c.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1\n")
    return tmp_path


def operator_digest(tree: Path, base: str = "base") -> str:
    return image_parts.digest(image_parts.part("operator", "cpu"), base, tree)


@pytest.mark.parametrize(
    "name", ["operator/src/b.py", "sdk/src/a.py", "requirements/operator.txt", "Dockerfile.operator"]
)
def test_a_change_builds_the_image_again(tree: Path, name: str) -> None:
    before = operator_digest(tree)

    (tree / name).write_text("2\n")

    assert operator_digest(tree) != before


def test_another_base_and_a_new_file_build_the_image_again(tree: Path) -> None:
    before = operator_digest(tree)

    assert operator_digest(tree, "another") != before
    (tree / "sdk" / "src" / "new.py").write_text("")
    assert operator_digest(tree) != before


def test_what_is_not_in_the_image_builds_nothing(tree: Path) -> None:
    before = operator_digest(tree)

    (tree / "worker" / "src" / "c.py").write_text("2\n")
    (tree / "sdk" / "src" / "__pycache__").mkdir()
    (tree / "sdk" / "src" / "__pycache__" / "a.cpython-311.pyc").write_text("2\n")

    assert operator_digest(tree) == before


def test_an_archive_counts_only_while_it_is_whole(tmp_path: Path) -> None:
    archive = tmp_path / "operator.tar"
    archive.write_bytes(b"1234")
    known = images.Built("rapidfireai/operator:1", "id", "digest", "operator", "base", 4, 1.0)
    archive.with_suffix(".json").write_text(json.dumps(asdict(known)))

    assert images.fresh(archive, "digest") == known
    assert images.fresh(archive, "another digest") is None
    archive.write_bytes(b"12")
    assert images.fresh(archive, "digest") is None
    archive.unlink()
    assert images.fresh(archive, "digest") is None


def test_pip_and_uv_are_told_where_this_machine_finds_packages() -> None:
    environment = {"UV_DEFAULT_INDEX": "http://one/it's", "PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "planted"}
    config = {"global.index-url": "http://two", "global.cert": "/etc/ca", "install.user": "yes"}

    text = image_parts.packages_env(environment, config, ca=True, cache=False)

    assert text.splitlines() == [
        "export PIP_CERT=/run/secrets/ca.crt",
        "export PIP_INDEX_URL=http://two",
        "export REQUESTS_CA_BUNDLE=/run/secrets/ca.crt",
        "export SSL_CERT_FILE=/run/secrets/ca.crt",
        "export UV_DEFAULT_INDEX='http://one/it'\"'\"'s'",
    ]


def test_the_environment_wins_over_pips_files() -> None:
    text = image_parts.packages_env(
        {"PIP_INDEX_URL": "http://a"}, {"global.index-url": "http://b"}, ca=False, cache=True
    )

    assert text == "export PIP_INDEX_URL=http://a\nexport UV_CACHE_DIR=/media\n"


def test_dockerfiles_and_chart_have_one_version() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "rapidfireai" / "Chart.yaml").read_text())

    for name in ("Dockerfile.operator", "Dockerfile.worker"):
        assert set(re.findall(r"ARG VERSION=(\S+)", (ROOT / name).read_text())) == {image_parts.version()}
    assert chart["appVersion"] == image_parts.version()

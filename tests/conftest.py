"""A real control plane a test session, a fresh namespace a test."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rapidfireai.cluster.binary import find_binary
from rapidfireai.cluster.control_plane import ControlPlane

ROOT = Path(__file__).resolve().parent.parent
Kubectl = Callable[..., str]


@pytest.fixture(scope="session")
def kubelocal() -> Path:
    return find_binary()


@pytest.fixture(scope="session")
def control_plane(kubelocal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("cp"), kubelocal)
    plane.start()
    yield plane
    plane.purge()


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> None:
    for words in (
        ("apply", "--server-side", "-f", str(ROOT / "crds")),
        ("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds")),
    ):
        answer = control_plane.kubectl(*words)
        assert answer.returncode == 0, answer.stderr


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    assert control_plane.kubectl("create", "namespace", name).returncode == 0
    return name


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Kubectl:
    """Run kubectl in the test's namespace and return what it prints, errors included."""

    def run(*words: str, stdin: str = "") -> str:
        command = [str(control_plane.binary), "kubectl", "--kubeconfig", str(control_plane.kubeconfig)]
        answer = subprocess.run(
            [*command, "--namespace", namespace, *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        return answer.stdout + answer.stderr

    return run

"""Helm puts the chart on a real API server, whatever happened there before."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.install import CHART, SYSTEM_NAMESPACE, Helm, InstallError

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("chart")]


@pytest.fixture(scope="module")
def plane(kubelocal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own: the chart's fence would hold for everybody's tests."""
    plane = ControlPlane(tmp_path_factory.mktemp("cp"), kubelocal)
    plane.start()
    yield plane
    plane.purge()


@pytest.fixture
def helm(plane: ControlPlane, tmp_path: Path) -> Iterator[Helm]:
    yield Helm(plane.binary, plane.kubeconfig, tmp_path / "helm")
    plane_helm(plane, "uninstall", "rapidfireai", "--namespace", SYSTEM_NAMESPACE, "--ignore-not-found")


def plane_helm(plane: ControlPlane, *words: str) -> None:
    env = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    subprocess.run([str(plane.binary), "helm", *words], env=env, check=True, capture_output=True)


def test_installing_twice_is_an_upgrade(plane: ControlPlane, helm: Helm) -> None:
    assert "is installed" in helm.install()
    assert "is installed" in helm.install({"worker": {"idleSeconds": 60}})
    told = plane.kubectl("get", "deployment", "rapidfire-operator", "-n", SYSTEM_NAMESPACE, "-o", "yaml").stdout
    assert 'value: "60"' in told


def test_a_strict_api_server_knows_every_field(plane: ControlPlane, kubelocal: Path) -> None:
    plane.kubectl("create", "namespace", SYSTEM_NAMESPACE)
    words = ["template", "rapidfireai", str(CHART.resolve()), "--namespace", SYSTEM_NAMESPACE]
    text = subprocess.run([str(kubelocal), "helm", *words], capture_output=True, text=True, check=True).stdout
    command = [str(kubelocal), "kubectl", "--kubeconfig", str(plane.kubeconfig), "apply", "--dry-run=server"]
    answer = subprocess.run(
        [*command, "--validate=strict", "--filename", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_an_interrupted_installation_is_completed(plane: ControlPlane, helm: Helm) -> None:
    words = ["install", "rapidfireai", str(CHART.resolve()), "--namespace", SYSTEM_NAMESPACE, "--create-namespace"]
    env = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    # Without a node nothing gets ready, so it waits until it is killed.
    victim = subprocess.Popen([str(plane.binary), "helm", *words, "--wait", "--timeout=120s"], env=env)
    deadline = time.monotonic() + 60
    while not plane.kubectl("get", "deployment", "rapidfire-operator", "-n", SYSTEM_NAMESPACE, "-o", "name").stdout:
        assert time.monotonic() < deadline, "helm made nothing"
        time.sleep(0.1)
    victim.kill()
    victim.wait()
    assert "is installed" in helm.install()


def test_uninstalling_keeps_experiments_and_installing_finds_them_again(plane: ControlPlane, helm: Helm) -> None:
    helm.install()
    plane.kubectl("wait", "--for=condition=Established", "crd/experiments.rapidfire.ai", "--timeout=30s")
    example = Path(__file__).with_name("experiment.yaml")
    answer = plane.kubectl("apply", "--filename", str(example))
    assert answer.returncode == 0, answer.stderr
    plane_helm(plane, "uninstall", "rapidfireai", "--namespace", SYSTEM_NAMESPACE)
    assert plane.kubectl("get", "rfexp,pvc", "--output=name").stdout.split() == [
        "experiment.rapidfire.ai/kept",
        "persistentvolumeclaim/rapidfire-data",
    ]
    helm.install()
    assert plane.kubectl("get", "rfexp", "kept").returncode == 0


def test_a_workspace_that_does_not_exist_is_named(helm: Helm) -> None:
    with pytest.raises(InstallError, match='namespaces "team-a" not found'):
        helm.install({"workspaces": ["team-a"]})


def test_a_cluster_that_does_not_answer_is_an_error_in_words(kubelocal: Path, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    with pytest.raises(InstallError, match="helm could not install"):
        Helm(kubelocal, kubeconfig, tmp_path / "helm").install()

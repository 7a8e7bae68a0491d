"""Helm puts the chart on a real API server, whatever happened there before."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.waiting import wait_for

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.install import CHART, SYSTEM_NAMESPACE, Helm, InstallError

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("chart")]
HERE = Path(__file__).resolve().parent
PREVIOUS = HERE / "previous" / "rapidfireai-0.1.0.tgz"
"""The chart as it was packaged before it had the values of now."""
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"made-by": "test"}}}
RELEASE = ("rapidfireai", "--namespace", SYSTEM_NAMESPACE)


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
    run(plane, "helm", "uninstall", *RELEASE, "--ignore-not-found")


def attempt(plane: ControlPlane, *words: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run helm or kubectl as an administrator; what is given is JSON on its standard input."""
    env = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    text = json.dumps(given)
    return subprocess.run([str(plane.binary), *words], env=env, input=text, capture_output=True, text=True, check=False)


def run(plane: ControlPlane, *words: str, **given: Any) -> str:
    answer = attempt(plane, *words, **given)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def dry(plane: ControlPlane, name: str = "rapidfireai", namespace: str = SYSTEM_NAMESPACE, **values: Any) -> str:
    """Return what Helm says before it installs anything, NOTES or refusal, having looked at the cluster."""
    words = ["upgrade", "--install", name, str(CHART.resolve()), "--namespace", namespace, "--create-namespace"]
    answer = attempt(plane, "helm", *words, "--dry-run=server", "--hide-secret", "--values", "-", **values)
    return answer.stderr if answer.returncode else answer.stdout[answer.stdout.index("\nNOTES:") :]


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
    look = ("get", "deployment", "rapidfire-operator", "-n", SYSTEM_NAMESPACE, "-o", "name")
    wait_for("Deployment by helm", lambda: plane.kubectl(*look).stdout, 60)
    victim.kill()
    victim.wait()
    assert "is installed" in helm.install()


def test_uninstalling_keeps_experiments_and_installing_finds_them_again(plane: ControlPlane, helm: Helm) -> None:
    helm.install()
    make_experiment(plane)
    claims = "jsonpath={.items[*].metadata.uid}"
    before = run(plane, "kubectl", "get", "pvc", "--all-namespaces", "--output", claims)
    run(plane, "helm", "uninstall", *RELEASE)
    assert plane.kubectl("get", "rfexp,pvc", "--output=name").stdout.split() == [
        "experiment.rapidfire.ai/kept",
        "persistentvolumeclaim/rapidfire-data",
    ]
    left = ("clusterrole,clusterrolebinding,validatingadmissionpolicy", "--selector=app.kubernetes.io/name=rapidfireai")
    assert not run(plane, "kubectl", "get", *left, "--output=name")
    helm.install()
    assert plane.kubectl("get", "rfexp", "kept").returncode == 0
    assert run(plane, "kubectl", "get", "pvc", "--all-namespaces", "--output", claims) == before


def make_experiment(plane: ControlPlane) -> None:
    plane.kubectl("wait", "--for=condition=Established", "crd/experiments.rapidfire.ai", "--timeout=30s")
    run(plane, "kubectl", "apply", "--filename", str(HERE / "experiment.yaml"))


NEW_DEFAULTS = {"Experiment": {"suspend": False}, "Run": {"priority": 0}}
"""By kind: fields that came after the previous chart, with what they are where nobody wrote them."""


def as_operator() -> tuple[str, ...]:
    """The words that make kubectl act as the operator, who alone may write statuses, with all rights."""
    return ("--as", f"system:serviceaccount:{SYSTEM_NAMESPACE}:rapidfire-operator", "--as-group", "system:masters")


def test_upgrading_from_the_previous_chart_leaves_running_experiments_alone(plane: ControlPlane, helm: Helm) -> None:
    previous = ("upgrade", "--install", "rapidfireai", str(PREVIOUS), "--namespace", SYSTEM_NAMESPACE)
    run(plane, "helm", *previous, "--create-namespace", "--values", "-", worker={"idleSeconds": 77})
    make_experiment(plane)
    make_running(plane)
    things = ("rfexp/kept", "rfrun/kept-r1", "job/kept-w-0", "pvc/rapidfire-data")
    before = [state(plane, each) for each in things]
    chart = ("upgrade", "rapidfireai", str(CHART.resolve()), "--namespace", SYSTEM_NAMESPACE)
    run(plane, "helm", *chart, "--reset-then-reuse-values")
    for old, new in zip(before, (state(plane, each) for each in things), strict=True):
        # Fields that the previous chart did not know have their defaults; all else is as it was.
        assert new == {**old, "spec": {**NEW_DEFAULTS.get(old["kind"], {}), **old["spec"]}}
    operator = yaml.safe_load(
        run(plane, "kubectl", "get", "deployment", "rapidfire-operator", "-n", SYSTEM_NAMESPACE, "-o", "yaml")
    )["spec"]
    assert operator["replicas"] == 2
    told = {each["name"]: each.get("value") for each in operator["template"]["spec"]["containers"][0]["env"]}
    assert told["RAPIDFIRE_WORKER_IDLE_SECONDS"] == "77", "what somebody chose stays chosen"
    definition = run(plane, "kubectl", "get", "crd", "runs.rapidfire.ai", "--output=jsonpath={.metadata.annotations}")
    assert json.loads(definition)["rapidfire.ai/version"] == "0.1.0"


def state(plane: ControlPlane, thing: str) -> dict[str, Any]:
    """What must outlive an upgrade of an object."""
    found = json.loads(run(plane, "kubectl", "get", thing, "--output=json"))
    kept = {name: found["metadata"][name] for name in ("uid", "generation") if name in found["metadata"]}
    return {"kind": found["kind"], **kept, "spec": found["spec"], "status": found.get("status")}


def make_running(plane: ControlPlane) -> None:
    """What an operator makes of the experiment: a run that a worker has, and the worker's Job."""
    owner = json.loads(run(plane, "kubectl", "get", "rfexp", "kept", "--output=json"))["metadata"]
    reference = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "name": "kept", "uid": owner["uid"]}
    metadata = {"namespace": "default", "ownerReferences": [reference | {"controller": True}]}
    container = {"name": "worker", "image": "rapidfireai/worker:0.1.0", "command": ["python"]}
    template = {"spec": {"restartPolicy": "OnFailure", "containers": [container]}}
    objects: tuple[dict[str, Any], ...] = (
        {
            "apiVersion": "rapidfire.ai/v1alpha1",
            "kind": "Run",
            "metadata": {**metadata, "name": "kept-r1"},
            "spec": {"experimentRef": "kept", "index": 1, "config": {"model_name": "m"}},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {**metadata, "name": "kept-w-0"},
            # Nothing may change it behind our back.
            "spec": {"template": template, "suspend": True},
        },
    )
    create = ("kubectl", "apply", "--filename", "-")
    # The fence reads schemas of new definitions later than the API server serves them.
    wait_for("schemas", lambda: "There can be a delay" not in attempt(plane, *create, **objects[0]).stderr, 60)
    for each in objects:
        run(plane, *create, **each)
    run(plane, "kubectl", "wait", "--for=condition=Suspended", "job/kept-w-0", "--timeout=60s")
    pod = {"worker": "kept-w-0", "pod": "kept-w-0-abcde", "podUID": "u", "process": "p"}
    assignment = {**pod, "attempt": 1, "task": "chunk", "chunk": 0, "grantedAt": 1767225600}
    status = json.dumps({"status": {"state": "Running", "attempt": 1, "assignment": assignment}})
    patch = ("patch", "rfrun", "kept-r1", "--subresource=status", "--type=merge", "--patch", status)
    run(plane, "kubectl", *patch, *as_operator())


@pytest.fixture
def others(plane: ControlPlane) -> Iterator[None]:
    """A release of other people."""
    install = ("install", "other", str(CHART.resolve()), "--namespace", "elsewhere", "--create-namespace")
    # Definitions and claims that an earlier release left have its name on them.
    run(plane, "helm", *install, "--take-ownership")
    yield
    run(plane, "helm", "uninstall", "other", "--namespace", "elsewhere")
    # Else its name stays on what is kept.
    for kept in ("crd/experiments.rapidfire.ai", "crd/runs.rapidfire.ai", "crd/icops.rapidfire.ai"):
        run(plane, "kubectl", "delete", kept)
    run(plane, "kubectl", "delete", "pvc", "--all", "--wait=false")


@pytest.mark.usefixtures("others")
def test_a_second_release_is_refused_with_the_name_of_the_first(plane: ControlPlane) -> None:
    said = dry(plane, workspaces=["elsewhere"])
    assert "the release other in namespace elsewhere runs RapidFire AI in this cluster already" in said
    assert "helm upgrade other -n elsewhere" in said
    run(plane, "kubectl", "delete", "validatingadmissionpolicy", "rapidfire-run-status")
    assert "workspaces: default belongs to the release other in namespace elsewhere" in dry(plane)
    assert "the release other" in dry(plane, name="third", namespace="elsewhere"), "in one namespace neither"


def test_a_workspace_that_does_not_exist_is_named(helm: Helm) -> None:
    with pytest.raises(InstallError, match=r"workspaces\[0\]: there is no namespace team-a; make it first"):
        helm.install({"workspaces": ["team-a"]})


def test_a_claim_that_does_not_exist_is_named(plane: ControlPlane) -> None:
    said = dry(plane, volume={"existingClaim": "shared"})
    assert "volume.existingClaim: namespace default has no claim shared" in said


def test_monitors_need_the_prometheus_operator(plane: ControlPlane) -> None:
    said = dry(plane, monitoring={"podMonitor": {"enabled": True}})
    assert "monitoring.podMonitor.enabled: the cluster knows no PodMonitor" in said


def test_definitions_of_somebody_else_are_there_and_not_older(plane: ControlPlane) -> None:
    elsewhere = {"crds": {"install": False}}
    run(plane, "kubectl", "delete", "crd", "--ignore-not-found", "experiments.rapidfire.ai")
    assert "the cluster has no experiments.rapidfire.ai" in dry(plane, **elsewhere)
    run(plane, "kubectl", "apply", "--server-side", "--force-conflicts", "--filename", str(HERE.parents[1] / "crds"))
    assert "is installed" in dry(plane, **elsewhere)
    run(plane, "kubectl", "annotate", "--overwrite", "crd/runs.rapidfire.ai", "rapidfire.ai/version=0.0.9")
    said = dry(plane, **elsewhere)
    assert "runs.rapidfire.ai in the cluster is of version 0.0.9, older than this chart" in said
    run(plane, "kubectl", "delete", "crd", "experiments.rapidfire.ai", "runs.rapidfire.ai", "icops.rapidfire.ai")


@pytest.fixture
def nodes(plane: ControlPlane) -> Iterator[None]:
    """Two nodes without GPUs."""
    for name in ("a", "b"):
        body = {**NODE, "metadata": {**NODE["metadata"], "name": name}}  # type: ignore[dict-item]
        run(plane, "kubectl", "create", "--filename", "-", **body)
    yield
    run(plane, "kubectl", "delete", "node", "--selector=made-by=test")


def storage_class(plane: ControlPlane, name: str, provisioner: str, default: bool) -> None:
    annotations = {"storageclass.kubernetes.io/is-default-class": str(default).lower()}
    metadata = {"name": name, "annotations": annotations}
    body = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata, "provisioner": provisioner}
    run(plane, "kubectl", "apply", "--filename", "-", **body)


@pytest.mark.usefixtures("nodes")
def test_the_notes_warn_of_what_will_not_work(plane: ControlPlane) -> None:
    said = dry(plane)
    assert "No node has 1 nvidia.com/gpu" in said
    assert "The cluster has no default StorageClass: the claim stays Pending until volume.storageClassName" in said
    assert "MLflow keeps its records in SQLite" in said
    assert "There is no StorageClass nfs (volume.storageClassName)" in dry(plane, volume={"storageClassName": "nfs"})
    storage_class(plane, "disks", "ebs.csi.aws.com", default=True)
    storage_class(plane, "nfs", "nfs.csi.k8s.io", default=False)
    assert "The StorageClass disks (ebs.csi.aws.com) has disks of one node, not ReadWriteMany" in dry(plane)
    alone = dry(plane, volume={"accessModes": ["ReadWriteOnce"]})
    assert "volume.accessModes is ReadWriteOnce and there are 2 nodes" in alone
    good = {
        "volume": {"storageClassName": "nfs"},
        "mlflow": {"backendStoreSecret": {"name": "db"}},
        "worker": {"resources": {"limits": {"nvidia.com/gpu": None}}},
    }
    said = dry(plane, **good)
    assert "Mind:" not in said
    assert "rollout status deployment/rapidfire-operator" in said


def test_a_cluster_that_does_not_answer_is_an_error_in_words(kubelocal: Path, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    with pytest.raises(InstallError, match="helm could not install"):
        Helm(kubelocal, kubeconfig, tmp_path / "helm").install()

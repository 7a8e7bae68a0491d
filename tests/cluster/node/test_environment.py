"""Environment, command line, mounts and devices: pure."""

from __future__ import annotations

import site
from pathlib import Path
from typing import Any

import pytest

from rapidfireai.cluster.node.devices import Devices, NoDeviceError, extended_resources, find_gpus
from rapidfireai.cluster.node.environment import (
    ConfigurationError,
    Place,
    Sources,
    base_environment,
    command_line,
    container_environment,
    expand,
    field,
    references,
    refuse_unsupported,
)
from rapidfireai.cluster.node.volumes import Directory, MountError, provide, required_directories

PLACE = Place("n", "127.1.2.3", {"cpu": "4", "memory": "8Gi"})
NOTHING = Sources({}, {})


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    named = [{"name": f"c{index}", "command": ["x"], **each} for index, each in enumerate(containers or ({},))]
    metadata = {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": "1"}}
    return {"metadata": metadata, "spec": {"containers": named, **spec}}


def environment(sources: Sources = NOTHING, **container: Any) -> dict[str, str]:
    whole = pod(container)
    return container_environment(whole, whole["spec"]["containers"][0], {"BASE": "b"}, sources, PLACE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)$(A)y", "x11y"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_later_variables_see_earlier_ones_and_the_command_sees_all() -> None:
    env = environment(env=[{"name": "A", "value": "$(BASE)1"}, {"name": "B", "value": "$(A)2"}])
    assert env["B"] == "b12"
    assert command_line({"command": ["run", "$(B)"], "args": ["--x=$(A)"]}, env) == ["run", "b12", "--x=b1"]


def test_own_values_win_over_those_of_whole_secrets() -> None:
    sources = Sources({"s": {"A": "secret", "bad=name": "x"}}, {"m": {"A": "map", "C": "c"}})
    env = environment(
        sources,
        envFrom=[{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "m"}, "prefix": "P_"}],
        env=[{"name": "A", "value": "own"}],
    )
    assert env == {"BASE": "b", "A": "own", "P_A": "map", "P_C": "c"}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, 'secret "s" not found'),
        ({"configMapKeyRef": {"name": "m", "key": "k"}}, "couldn't find key k in configmap m"),
        ({"fieldRef": {"fieldPath": "spec.priority"}}, "the downward API has no field spec.priority"),
        ({"fileKeyRef": {"path": "x"}}, "does not support valueFrom.fileKeyRef"),
        ({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "z"}}, "the pod has no container z"),
    ],
)
def test_what_is_missing_is_named(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        environment(Sources({"s": None}, {"m": {}}), env=[{"name": "A", "valueFrom": source}])


@pytest.mark.parametrize(
    ("resource", "divisor", "expected"),
    [
        ("limits.cpu", "1", "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.memory", "1Mi", "100"),
        ("limits.memory", "1Gi", "8"),
        ("requests.cpu", "0", "0"),
    ],
)
def test_resources_are_rounded_up_and_default_to_the_nodes(resource: str, divisor: str, expected: str) -> None:
    reference = {"resourceFieldRef": {"resource": resource, "divisor": divisor}}
    resources = {"limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}}
    assert environment(resources=resources, env=[{"name": "A", "valueFrom": reference}])["A"] == expected


def test_labels_are_one_a_line() -> None:
    assert field(pod(), "metadata.labels", PLACE) == 'a="1"\nb="2"'
    assert field(pod(), "metadata.labels['b']", PLACE) == "2"


def test_only_what_a_container_names_is_read() -> None:
    containers = [
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, {"name": "B", "value": "x"}]},
        {"envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "t"}}]},
    ]
    assert references(containers) == ({"s", "t"}, {"m"})


HOST = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/me",
    "KUBECONFIG": "/home/me/.kube/config",
    "HF_TOKEN": "hf_secret",
    "OPENBLAS_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
    "https_proxy": "http://proxy:3128",
    "no_proxy": "example.com",
}


def test_the_base_environment_passes_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)
    env = base_environment(HOST, Path("/pod/home"), Path("/pod/tmp"), "https://127.0.0.1:6443")
    assert env.pop("PATH").endswith("/bin:/usr/bin:/bin")
    loopback = "example.com,localhost,127.0.0.1,127.0.0.0/8"
    assert env == {
        "HOME": "/pod/home",
        "TMPDIR": "/pod/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "6443",
        "https_proxy": "http://proxy:3128",
        "no_proxy": loopback,
        "NO_PROXY": loopback.removeprefix("example.com,"),
    }


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        ({"command": []}, "container c0 has no command"),
        ({"lifecycle": {"postStart": {"exec": {}}}}, "lifecycle.postStart"),
        ({"volumeDevices": [{}]}, "no block devices"),
    ],
)
def test_what_the_node_does_not_do_is_refused(container: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        refuse_unsupported(pod(container))


def test_sidecars_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"is a sidecar .* list it under spec.containers"):
        refuse_unsupported(pod(initContainers=[{"name": "s", "command": ["x"], "restartPolicy": "Always"}]))


def mounted(volume: dict[str, Any], path: str, **mount: str) -> dict[str, Any]:
    return pod({"volumeMounts": [{"name": "v", "mountPath": path, **mount}]}, volumes=[{"name": "v", **volume}])


CLAIM = {"persistentVolumeClaim": {"claimName": "data"}}


def test_mounts_at_their_own_path_are_honoured() -> None:
    assert required_directories(mounted({"hostPath": {"path": "/data/", "type": "Directory"}}, "/data"), {}) == [
        Directory(Path("/data"), "Directory")
    ]
    bound = {"data": {"hostPath": {"path": "/v", "type": ""}}}
    assert required_directories(mounted(CLAIM, "/v/sub", subPath="sub"), bound) == [Directory(Path("/v/sub"), "")]
    for path in ("/tmp", "/dev/shm"):
        assert required_directories(mounted({"emptyDir": {}}, path), {}) == []


def test_a_link_to_the_path_is_the_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    spec = mounted({"hostPath": {"path": str(tmp_path / "real")}}, str(tmp_path / "link"))
    assert len(required_directories(spec, {})) == 1


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (mounted(CLAIM, "/v"), "claim data is not bound to a volume yet"),
        (mounted({"emptyDir": {}}, "/x"), "use a hostPath volume whose path is /x"),
        (mounted({"nfs": {}}, "/x"), "cannot mount a nfs volume at /x"),
        (mounted({"projected": {}}, "/x"), "only /var/run/secrets/kubernetes.io/serviceaccount is served"),
        (mounted({"hostPath": {"path": "/a"}}, "/a", subPathExpr="$(X)"), "write a fixed subPath"),
    ],
)
def test_other_mounts_are_refused(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MountError, match=sentence.replace("(", r"\(")):
        required_directories(spec, {})


def test_a_claim_on_storage_of_another_kind_is_refused() -> None:
    with pytest.raises(MountError, match="neither hostPath nor local"):
        required_directories(mounted(CLAIM, "/v"), {"data": {"nfs": {}}})


def test_directories_are_made_where_the_type_allows(tmp_path: Path) -> None:
    provide(Directory(tmp_path / "a" / "b", ""))
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(MountError, match="is not a directory"):
        provide(Directory(tmp_path / "c", "Directory"))
    (tmp_path / "f").touch()
    with pytest.raises(MountError, match="is not a directory"):
        provide(Directory(tmp_path / "f", "DirectoryOrCreate"))
    provide(Directory(tmp_path / "f", "File"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("1,-1,2", ("1",)), ("GPU-a, GPU-b", ("GPU-a", "GPU-b"))],
)
def test_visible_devices_are_the_nodes_gpus(value: str, expected: tuple[str, ...]) -> None:
    assert find_gpus({"CUDA_VISIBLE_DEVICES": value}) == expected


def test_slots_are_there_only_without_gpus() -> None:
    assert extended_resources((), 1) == {"nvidia.com/gpu": "0", "rapidfire.ai/slot": "2"}
    assert extended_resources(("0",), 8) == {"nvidia.com/gpu": "1", "rapidfire.ai/slot": "0"}


def test_a_gpu_belongs_to_one_pod_until_it_is_released() -> None:
    devices = Devices(("0", "1", "2"))
    assert devices.take("a", {"x": 1, "y": 1}) == {"x": ("0",), "y": ("1",)}
    with pytest.raises(NoDeviceError, match="waiting for 2 GPUs; 1 of 3 are free"):
        devices.take("b", {"x": 2})
    assert not devices.keep("b", {"x": ("1",)})
    devices.release("a")
    assert devices.keep("b", {"x": ("1",)})
    assert devices.take("c", {"x": 2}) == {"x": ("0", "2")}

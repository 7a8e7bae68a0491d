"""What the chart renders, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import SYSTEM, Chart, Object, environment, find, pod

from rapidfireai.cluster.values import Ports, local_values

DATA = {"name": "data"}
TMP = {"name": "tmp", "mountPath": "/tmp"}


@pytest.fixture(scope="module")
def usual(chart: Chart) -> list[Object]:
    return chart.render(workspaces=["team-a", "team-b"])


def rules(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for each in objects:
        if each["kind"] in {"Role", "ClusterRole"}:
            for rule in each["rules"]:
                yield each["metadata"]["name"], rule


def test_it_passes_lint_without_a_warning(chart: Chart) -> None:
    answer = chart.helm("lint", "--strict")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_workspace_gets_what_the_contracts_say(usual: list[Object]) -> None:
    for workspace in ("team-a", "team-b"):
        for account in ("rapidfire-worker", "rapidfire-volume", "rapidfire-user"):
            for kind in ("ServiceAccount", "Role", "RoleBinding"):
                find(usual, kind, account, workspace)
        for kind in ("Deployment", "Service"):
            find(usual, kind, "rapidfire-volume", workspace)
        find(usual, "PersistentVolumeClaim", "rapidfire-data", workspace)
        assert find(usual, "ConfigMap", "rapidfire-workspace", workspace)["data"] == {
            "volume-url": f"http://rapidfire-volume.{workspace}.svc:8854",
            "mlflow-url": f"http://rapidfire-mlflow.{SYSTEM}.svc:8852",
            "claim-name": "rapidfire-data",
            "mount-path": "/rapidfire",
        }


def test_the_operator_is_told_everything_by_its_environment(usual: list[Object]) -> None:
    operator = find(usual, "Deployment", "rapidfire-operator", SYSTEM)
    told = environment(operator)
    assert json.loads(told.pop("RAPIDFIRE_WORKER_RESOURCES")) == {
        "requests": {"cpu": "1", "memory": "8Gi"},
        "limits": {"nvidia.com/gpu": 1},
    }
    assert told == {
        "POD_NAME": "metadata.name",
        "POD_UID": "metadata.uid",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_IP": "status.podIP",
        "RAPIDFIRE_NAMESPACES": "team-a,team-b",
        "RAPIDFIRE_LEASE_NAMESPACE": "metadata.namespace",
        "RAPIDFIRE_LEADER_SECONDS": "10",
        "RAPIDFIRE_QUEUE_NAME": "",
        "RAPIDFIRE_WORKER_POD": "{}",
        "RAPIDFIRE_MLFLOW_URL": f"http://rapidfire-mlflow.{SYSTEM}.svc:8852",
        "RAPIDFIRE_WORKER_IMAGE": "rapidfireai/worker:0.1.0",
        "RAPIDFIRE_WORKER_IDLE_SECONDS": "300",
        "RAPIDFIRE_LEASE_SECONDS": "30",
        "RAPIDFIRE_CLAIM_NAME": "rapidfire-data",
        "RAPIDFIRE_MOUNT_PATH": "/rapidfire",
        "RAPIDFIRE_ALLOW_FILE_URIS": "false",
        "RAPIDFIRE_PORT": "9090",
        "RAPIDFIRE_HEALTH_PORT": "8081",
    }
    container = pod(operator)["containers"][0]
    assert container["command"] == ["python", "-m", "rapidfireai_operator"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert pod(operator)["serviceAccountName"] == "rapidfire-operator"


def test_the_volume_service_mounts_the_claim_where_it_is_told(usual: list[Object]) -> None:
    volume = find(usual, "Deployment", "rapidfire-volume", "team-a")
    told = environment(volume)
    assert (told["RAPIDFIRE_PORT"], told["RAPIDFIRE_VOLUME"]) == ("8854", "/rapidfire")
    container = pod(volume)["containers"][0]
    assert container["command"] == ["python", "-m", "rapidfireai_worker.volume"]
    assert container["volumeMounts"] == [DATA | {"mountPath": "/rapidfire"}, TMP]
    assert pod(volume)["volumes"][0]["persistentVolumeClaim"] == {"claimName": "rapidfire-data"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_nobody_has_wildcards_or_reads_secrets(usual: list[Object]) -> None:
    for name, rule in rules(usual):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], name
        if "secrets" in rule["resources"]:
            assert (name, rule["verbs"]) == ("rapidfire-user", ["create"]), "people bring keys, and read none"


def test_pods_meet_the_restricted_standard(usual: list[Object]) -> None:
    deployments = [each for each in usual if each["kind"] == "Deployment"]
    assert len(deployments) == 5
    for each in deployments:
        spec = pod(each)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "hostNetwork" not in spec
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert TMP in container["volumeMounts"]


def test_what_users_made_survives_uninstalling(usual: list[Object]) -> None:
    kept = {
        (each["kind"], each["metadata"]["name"])
        for each in usual
        if each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {
        ("CustomResourceDefinition", "experiments.rapidfire.ai"),
        ("CustomResourceDefinition", "runs.rapidfire.ai"),
        ("CustomResourceDefinition", "icops.rapidfire.ai"),
        ("PersistentVolumeClaim", "rapidfire-data"),
        ("PersistentVolumeClaim", "rapidfire-mlflow"),
    }


def test_the_definitions_are_those_of_the_models(usual: list[Object]) -> None:
    for path in (Path(__file__).parents[2] / "crds").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())
        rendered = find(usual, "CustomResourceDefinition", definition["metadata"]["name"])
        assert rendered["spec"] == definition["spec"]


def test_the_fence_holds_in_every_namespace(usual: list[Object]) -> None:
    for name in ("rapidfire-run-status", "rapidfire-worker-leases"):
        policy = find(usual, "ValidatingAdmissionPolicy", name)["spec"]
        assert policy["failurePolicy"] == "Fail"
        assert all(each["message"] for each in policy["validations"])
        binding = find(usual, "ValidatingAdmissionPolicyBinding", name)["spec"]
        assert binding == {"policyName": name, "validationActions": ["Deny"]}
    variables = find(usual, "ValidatingAdmissionPolicy", "rapidfire-run-status")["spec"]["variables"]
    operator = next(each for each in variables if each["name"] == "operator")
    assert f"'system:serviceaccount:{SYSTEM}:rapidfire-operator'" in operator["expression"]


def test_mlflow_answers_by_its_service_names(usual: list[Object]) -> None:
    command = pod(find(usual, "Deployment", "rapidfire-mlflow", SYSTEM))["containers"][0]["command"]
    assert command[:2] == ["mlflow", "server"]
    hosts = next(each for each in command if each.startswith("--allowed-hosts="))
    assert f"rapidfire-mlflow.{SYSTEM}.svc:*" in hosts
    assert "--backend-store-uri=sqlite:////mlflow/mlflow.db" in command
    assert "--workers=1" in command


def test_the_gateway_has_no_rights_and_no_token(usual: list[Object]) -> None:
    gateway = find(usual, "Deployment", "rapidfire-gateway", SYSTEM)
    assert pod(gateway)["automountServiceAccountToken"] is False
    bound = [
        subject["name"]
        for each in usual
        if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}
        for subject in each["subjects"]
    ]
    assert "rapidfire-gateway" not in bound


def test_the_gateway_serves_two_ports_to_the_workspaces(usual: list[Object]) -> None:
    told = environment(find(usual, "Deployment", "rapidfire-gateway", SYSTEM))
    assert (told["RAPIDFIRE_NAMESPACES"], told["RAPIDFIRE_LISTEN"]) == ("team-a,team-b", "0.0.0.0")
    assert (told["RAPIDFIRE_PORT"], told["RAPIDFIRE_DASHBOARD_PORT"]) == ("8851", "8853")
    ports = find(usual, "Service", "rapidfire-gateway", SYSTEM)["spec"]["ports"]
    expected = {"http": 8851, "dashboard": 8853, "metrics": 9092}
    assert {each["name"]: each["port"] for each in ports} == expected


def test_without_the_gateway_nothing_of_it_is_installed(chart: Chart) -> None:
    objects = chart.render(gateway={"enabled": False})
    assert not [each for each in objects if "gateway" in each["metadata"]["name"]]


def test_an_mlflow_server_elsewhere_is_used_instead(chart: Chart) -> None:
    objects = chart.render(mlflow={"enabled": False, "url": "https://mlflow.example.org"})
    assert not [each for each in objects if each["metadata"]["name"] == "rapidfire-mlflow"]
    for name in ("rapidfire-operator", "rapidfire-volume"):
        assert environment(find(objects, "Deployment", name))["RAPIDFIRE_MLFLOW_URL"] == "https://mlflow.example.org"


def test_without_mlflow_nothing_is_tracked(chart: Chart) -> None:
    objects = chart.render(mlflow={"enabled": False})
    assert environment(find(objects, "Deployment", "rapidfire-operator"))["RAPIDFIRE_MLFLOW_URL"] == ""


def test_on_one_machine_everything_is_on_loopback_and_at_equal_paths(chart: Chart) -> None:
    objects = chart.render(**local_values(Path("/home/u/volume"), Ports(mlflow=1852, volume=1854), gpus=0))
    data = find(objects, "ConfigMap", "rapidfire-workspace", "default")["data"]
    assert data["volume-url"] == "http://127.0.0.1:1854"
    assert data["mlflow-url"] == "http://127.0.0.1:1852"
    volume = find(objects, "PersistentVolume", "rapidfire-data-default")["spec"]
    assert volume["hostPath"] == {"path": "/home/u/volume", "type": "DirectoryOrCreate"}
    assert volume["claimRef"]["namespace"] == "default"
    service = pod(find(objects, "Deployment", "rapidfire-volume"))
    assert service["containers"][0]["volumeMounts"] == [DATA | {"mountPath": "/home/u/volume"}, TMP]
    mlflow = pod(find(objects, "Deployment", "rapidfire-mlflow"))
    assert mlflow["hostNetwork"] is service["hostNetwork"] is True
    assert "--host=$(POD_IP)" in mlflow["containers"][0]["command"]
    operator = find(objects, "Deployment", "rapidfire-operator")
    assert environment(operator)["RAPIDFIRE_ALLOW_FILE_URIS"] == "true"
    assert json.loads(environment(operator)["RAPIDFIRE_WORKER_RESOURCES"]) == {
        "requests": {"cpu": "50m"},
        "limits": {"rapidfire.ai/slot": 1, "cpu": 1},
    }
    for each in (mlflow, service, pod(operator)):
        assert each["containers"][0]["resources"] == {"requests": {"cpu": "50m"}}
        assert "securityContext" not in each


def test_a_machine_with_gpus_gives_each_worker_one(chart: Chart) -> None:
    objects = chart.render(**local_values(Path("/v"), Ports(), gpus=2))
    told = environment(find(objects, "Deployment", "rapidfire-operator"))
    assert json.loads(told["RAPIDFIRE_WORKER_RESOURCES"])["limits"] == {"nvidia.com/gpu": 1}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"workspace": ["a"]}, "workspace"),
        ({"workspaces": []}, "minItems"),
        ({"workspaces": ["Team A"]}, "does not match pattern"),
        ({"volume": {"port": "8854"}}, "at '/volume/port': got string, want integer"),
        ({"volume": {"mountPath": "rapidfire"}}, "does not match pattern"),
        ({"volume": {"size": "a lot"}}, "does not match pattern"),
        ({"mlflow": {"url": "mlflow:5000"}}, "does not match pattern"),
        ({"worker": {"resources": {"limit": {}}}}, "limit"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"hostNetwork": True, "workspaces": ["a", "b"]}, "name one workspace only"),
        ({"volume": {"url": "http://v:1"}, "workspaces": ["a", "b"]}, "each workspace has a volume service of its own"),
        ({"volume": {"hostPath": "/data"}}, "volume.mountPath: must equal volume.hostPath (/data), it is /rapidfire"),
    ],
)
def test_a_wrong_value_is_refused_by_name(chart: Chart, values: Object, sentence: str) -> None:
    assert sentence in chart.refusal(**values)

"""What values change, and which the chart refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.rendering import SYSTEM, VALUE_SETS, Chart, Object, environment, find, pod

from rapidfireai.cluster.install import CHART

PARTS = {
    "operator": ("rapidfire-operator", SYSTEM),
    "gateway": ("rapidfire-gateway", SYSTEM),
    "mlflow": ("rapidfire-mlflow", SYSTEM),
    "volume": ("rapidfire-volume", "default"),
}
ADMINISTERED = {
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "priorityClassName": "high",
}


@pytest.fixture(scope="module")
def production(chart: Chart) -> list[Object]:
    return chart.render(**VALUE_SETS["production"])


@pytest.fixture(scope="module")
def given(chart: Chart) -> list[Object]:
    return chart.render(**VALUE_SETS["given"])


@pytest.fixture(scope="module")
def administered(chart: Chart) -> list[Object]:
    """Every Deployment with everything that an administrator may add to it."""
    extra = {
        "podAnnotations": {"a": "1"},
        "podLabels": {"b": "2", "app.kubernetes.io/component": "mine"},
        "extraEnv": [{"name": "EXTRA", "value": "3"}],
        "extraVolumes": [{"name": "extra", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    }
    return chart.render(**dict.fromkeys(PARTS, ADMINISTERED | extra))


@pytest.mark.parametrize("part", PARTS)
def test_every_deployment_takes_what_administrators_add(administered: list[Object], part: str) -> None:
    name, namespace = PARTS[part]
    deployment = find(administered, "Deployment", name, namespace)
    metadata, spec = deployment["spec"]["template"]["metadata"], pod(deployment)
    assert {key: spec[key] for key in ADMINISTERED} == ADMINISTERED
    assert metadata["annotations"]["a"] == "1"
    assert (metadata["labels"]["b"], metadata["labels"]["app.kubernetes.io/component"]) == ("2", part)
    assert environment(deployment)["EXTRA"] == "3"
    assert {"name": "extra", "emptyDir": {}} in spec["volumes"]
    assert {"name": "extra", "mountPath": "/extra"} in spec["containers"][0]["volumeMounts"]


def test_several_operators_are_spread_and_survive_a_drain(chart: Chart) -> None:
    objects = chart.render()
    operator = find(objects, "Deployment", "rapidfire-operator")
    assert (operator["spec"]["replicas"], operator["spec"]["strategy"]["type"]) == (2, "RollingUpdate")
    (spread,) = pod(operator)["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    budget = find(objects, "PodDisruptionBudget", "rapidfire-operator")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, operator["spec"]["selector"])


def test_one_operator_has_no_budget_that_would_block_a_drain(given: list[Object]) -> None:
    assert not [each for each in given if each["kind"] == "PodDisruptionBudget"]
    assert "topologySpreadConstraints" not in pod(find(given, "Deployment", "rapidfire-operator"))


def test_what_somebody_else_installs_is_left_out(given: list[Object]) -> None:
    kinds = {each["kind"] for each in given}
    assert not kinds & {"CustomResourceDefinition", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    assert not kinds & {"PersistentVolumeClaim", "NetworkPolicy"}
    assert {"ServiceAccount", "ValidatingAdmissionPolicy"} <= kinds


def test_a_claim_that_exists_is_used_by_all(given: list[Object]) -> None:
    volume = find(given, "Deployment", "rapidfire-volume")
    assert pod(volume)["volumes"][0] == {"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}
    assert environment(find(given, "Deployment", "rapidfire-operator"))["RAPIDFIRE_CLAIM_NAME"] == "shared"
    assert find(given, "ConfigMap", "rapidfire-workspace")["data"]["claim-name"] == "shared"


def test_a_database_of_mlflow_is_named_by_a_secret_alone(production: list[Object]) -> None:
    (container,) = pod(find(production, "Deployment", "rapidfire-mlflow"))["containers"]
    assert not [each for each in container["command"] if each.startswith("--backend-store-uri")]
    assert {
        "name": "MLFLOW_BACKEND_STORE_URI",
        "valueFrom": {"secretKeyRef": {"name": "mlflow-db", "key": "uri"}},
    } in container["env"]


def test_an_ingress_serves_each_host_and_browsers_are_told(production: list[Object]) -> None:
    spec = find(production, "Ingress", "rapidfire", SYSTEM)["spec"]
    served = {
        rule["host"]: rule["http"]["paths"][0]["backend"]["service"] | {"path": rule["http"]["paths"][0]["path"]}
        for rule in spec["rules"]
    }
    assert served == {
        "api.example.org": {"name": "rapidfire-gateway", "port": {"name": "http"}, "path": "/"},
        "rapidfire.example.org": {"name": "rapidfire-gateway", "port": {"name": "dashboard"}, "path": "/"},
        "mlflow.example.org": {"name": "rapidfire-mlflow", "port": {"name": "http"}, "path": "/"},
    }
    assert spec["tls"] == [{"secretName": "rapidfire-tls", "hosts": list(served)}]
    told = environment(find(production, "Deployment", "rapidfire-gateway"))
    assert told["RAPIDFIRE_GATEWAY_URL"] == "https://api.example.org"
    assert told["RAPIDFIRE_DASHBOARD_URL"] == "https://rapidfire.example.org"
    command = pod(find(production, "Deployment", "rapidfire-mlflow"))["containers"][0]["command"]
    assert "mlflow.example.org" in next(each for each in command if each.startswith("--allowed-hosts="))


def test_the_operator_is_told_what_every_worker_has(production: list[Object]) -> None:
    told = json.loads(environment(find(production, "Deployment", "rapidfire-operator", SYSTEM))["RAPIDFIRE_WORKER_POD"])
    given = VALUE_SETS["production"]["worker"]
    same = ("nodeSelector", "tolerations", "affinity", "priorityClassName")
    extra = {"env": "extraEnv", "volumes": "extraVolumes", "volumeMounts": "extraVolumeMounts"}
    assert told == {**{name: given[name] for name in same}, **{name: given[value] for name, value in extra.items()}}


def test_workers_pull_with_the_secrets_and_the_identity_of_their_account(production: list[Object]) -> None:
    account = find(production, "ServiceAccount", "rapidfire-worker", "team-b")
    assert account["imagePullSecrets"] == [{"name": "login"}]
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/w"}


def policies(objects: list[Object], name: str, namespace: str) -> Object:
    spec: Object = find(objects, "NetworkPolicy", name, namespace)["spec"]
    return spec


def test_every_pod_is_selected_and_denied_what_no_rule_opens(chart: Chart) -> None:
    objects = chart.render(workspaces=["team-a"])
    for namespace in ("team-a", SYSTEM):
        spec = policies(objects, "rapidfire-default-deny", namespace)
        assert spec["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "rapidfireai"}}
        assert (spec["policyTypes"], "ingress" in spec, "egress" in spec) == (["Ingress", "Egress"], False, False)
    for deployment in (each for each in objects if each["kind"] == "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        component = labels["app.kubernetes.io/component"]
        spec = policies(objects, f"rapidfire-{component}", deployment["metadata"]["namespace"])
        assert spec["podSelector"]["matchLabels"].items() <= labels.items()


def opened(spec: Object) -> set[int]:
    return {port["port"] for rule in spec["egress"] for port in rule.get("ports", ()) if port["port"] not in {53, 5353}}


def test_workers_reach_what_they_need_and_no_credentials_of_the_node(chart: Chart) -> None:
    spec = policies(chart.render(), "rapidfire-worker", "default")
    assert opened(spec) == {443, 6443, 8854, 80}
    (internet,) = [rule for rule in spec["egress"] if {"port": 80, "protocol": "TCP"} in rule["ports"]]
    assert internet["to"][0] == {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}


def test_workers_without_the_internet_reach_named_addresses_alone(production: list[Object]) -> None:
    spec = policies(production, "rapidfire-worker", "team-a")
    assert opened(spec) == {6443, 8854, 8000}
    unbounded = [rule for rule in spec["egress"] if "to" not in rule]
    assert [{each["port"] for each in rule["ports"]} for rule in unbounded] == [{53, 5353}]


def test_mlflow_elsewhere_is_opened_by_its_port(chart: Chart) -> None:
    objects = chart.render(mlflow={"enabled": False, "url": "http://mlflow.tools.svc:5000"})
    assert 5000 in opened(policies(objects, "rapidfire-volume", "default"))
    assert 443 in opened(
        policies(chart.render(mlflow={"enabled": False, "url": "https://m.org"}), "rapidfire-operator", SYSTEM)
    )


def test_pods_say_where_their_metrics_are(chart: Chart) -> None:
    objects = chart.render()
    ports = {"operator": "9090", "gateway": "9092", "volume": "8854"}
    for part, (name, namespace) in PARTS.items():
        metadata = find(objects, "Deployment", name, namespace)["spec"]["template"]["metadata"]
        assert metadata.get("annotations", {}).get("prometheus.io/port") == ports.get(part)


def test_monitors_select_ports_that_services_have(production: list[Object]) -> None:
    monitors = [each for each in production if each["kind"] == "ServiceMonitor"]
    assert {each["metadata"]["name"] for each in monitors} == {
        f"rapidfire-{each}" for each in ("operator", "gateway", "volume")
    }
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [
            each for each in production if each["kind"] == "Service" and wanted <= each["metadata"]["labels"].items()
        ]
        (endpoint,) = monitor["spec"]["endpoints"]
        assert services
        for service in services:
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
            assert service["metadata"]["namespace"] in monitor["spec"]["namespaceSelector"]["matchNames"]
        assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_dashboards_and_alerts_are_the_files_of_the_chart(production: list[Object]) -> None:
    files = sorted((CHART / "dashboards").glob("*.json"))
    maps = [each for each in production if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    assert len(maps) == len(files)
    for file in files:
        (text,) = find(production, "ConfigMap", f"rapidfire-dashboard-{file.stem}", SYSTEM)["data"].values()
        assert json.loads(text) == json.loads(file.read_text())
    rules = CHART / "alerts" / "rules.yaml"
    if rules.exists():
        assert find(production, "PrometheusRule", "rapidfire", SYSTEM)["spec"] == yaml.safe_load(rules.read_text())


def keys(values: Object, path: str = "") -> set[str]:
    """Return the paths of everything that has a name in a schema or in values."""
    return {
        found
        for name, value in values.items()
        for found in {f"{path}.{name}"} | (keys(value, f"{path}.{name}") if isinstance(value, dict) else set())
    }


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def named(part: Object) -> Object:
        part = schema["definitions"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
        return {name: named(value) for name, value in part.get("properties", {}).items()}

    open_ended = {".global", ".podSecurityContext", ".containerSecurityContext"}
    in_schema = {each for each in keys(named(schema)) if not _below(each, open_ended | {".resources", ".affinity"})}
    in_values = {each for each in keys(values) if not _below(each, open_ended | {".resources", ".affinity"})}
    assert in_schema == in_values


def _below(path: str, stems: set[str]) -> bool:
    """Whether a path is, or lies in, what Kubernetes defines."""
    return any(path == stem or f"{stem}." in f"{path}." for stem in stems)


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"operator": {"replicas": 0}}, ["at '/operator/replicas': minimum: got 0, want 1"]),
        ({"operator": {"replica": 2}}, ["at '/operator': additional properties 'replica' not allowed"]),
        (
            {"volume": {"accessModes": ["ReadWriteOften"]}},
            ["at '/volume/accessModes/0'", "'ReadWriteOnce', 'ReadWriteMany', 'ReadWriteOncePod'"],
        ),
        (
            {"image": {"pullPolicy": "Sometimes"}},
            ["at '/image/pullPolicy'", "'Always', 'IfNotPresent', 'Never'"],
        ),
        ({"worker": {"resources": {"limits": {"memory": "8 GB"}}}}, ["at '/worker/resources/limits/memory'"]),
        ({"worker": {"extraVolumes": [{"name": "claim-0"}]}}, ["at '/worker/extraVolumes/0/name'"]),
        ({"gateway": {"extraEnv": [{"value": "x"}]}}, ["at '/gateway/extraEnv/0': missing property 'name'"]),
        ({"mlflow": {"tolerations": [{"efect": "NoExecute"}]}}, ["at '/mlflow/tolerations/0'", "'efect' not allowed"]),
        ({"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1"]}}}, ["at '/networkPolicy/apiServer/cidrs/0'"]),
        ({"monitoring": {"podMonitor": {"interval": "15"}}}, ["at '/monitoring/podMonitor/interval'"]),
        ({"ingress": {"apiHost": "https://x.org"}}, ["at '/ingress/apiHost'", "does not match pattern"]),
        ({"crds": {"install": "yes"}}, ["at '/crds/install': got string, want boolean"]),
    ],
)
def test_the_schema_names_the_path_and_what_is_allowed(chart: Chart, values: Any, sentences: list[str]) -> None:
    refusal = chart.refusal(**values)
    for sentence in sentences:
        assert sentence in refusal


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"ingress": {"enabled": True}}, "ingress.enabled: name a host"),
        ({"ingress": {"enabled": True, "apiHost": "a.org", "dashboardHost": "a.org"}}, "need a host each"),
        (
            {"ingress": {"enabled": True, "apiHost": "a.org"}, "gateway": {"enabled": False}},
            "ingress.apiHost, ingress.dashboardHost: there is nothing behind them",
        ),
        ({"ingress": {"enabled": True, "mlflowHost": "m.org"}}, "networkPolicy.mlflowFrom: name the pods"),
        ({"networkPolicy": {"workerInternet": False}}, "networkPolicy.apiServer.cidrs: name the API server's"),
        (
            {"mlflow": {"backendStoreUri": "postgresql://u:pw@db/m"}},
            "mlflow.backendStoreUri: there is a password in it; put it into a Secret",
        ),
        (
            {"volume": {"hostPath": "/rapidfire", "existingClaim": "x"}},
            "volume.existingClaim: the claim says already what the volume is",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(chart: Chart, values: Any, sentence: str) -> None:
    assert sentence in chart.refusal(**values)


def test_the_password_is_not_repeated_in_the_refusal(chart: Chart) -> None:
    assert "hunter2" not in chart.refusal(mlflow={"backendStoreUri": "postgresql://u:hunter2@db/m"})


def test_the_tree_has_a_page_of_the_values() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "values.md").read_text()
    assert "| `operator.replicas` | `2` |" in page

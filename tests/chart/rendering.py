"""The chart as Helm renders it, and sets of values that people have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from rapidfireai.cluster.install import CHART
from rapidfireai.cluster.values import Ports, local_values

Object = dict[str, Any]
SYSTEM = "rapidfire-system"
MONITORS = tuple(f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"))
"""What `helm template` has to be told that the cluster has."""

VALUE_SETS: dict[str, Object] = {
    "defaults": {},
    "local": local_values(Path("/home/u/volume"), Ports(), gpus=0),
    "production": {
        "workspaces": ["team-a", "team-b"],
        "image": {"repository": "images.example.org:5000/rapidfire", "tag": "v1", "pullSecrets": ["login"]},
        "serviceAccounts": {"worker": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/w"}}},
        "operator": {
            "replicas": 3,
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "high",
            "podLabels": {"team": "ml", "app.kubernetes.io/name": "mine"},
            "podAnnotations": {"example.org/note": "kept"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "extraVolumes": [{"name": "authority", "configMap": {"name": "authority"}}],
            "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/authority", "readOnly": True}],
        },
        "worker": {
            "queueName": "gpus",
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "low",
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "extraVolumes": [{"name": "authority", "configMap": {"name": "authority"}}],
            "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/authority", "readOnly": True}],
        },
        "volume": {"storageClassName": "nfs", "size": "1Ti"},
        "mlflow": {"backendStoreSecret": {"name": "mlflow-db"}, "artifactsDestination": "s3://bucket/mlflow"},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"cert-manager.io/cluster-issuer": "main"},
            "apiHost": "api.example.org",
            "dashboardHost": "rapidfire.example.org",
            "mlflowHost": "mlflow.example.org",
            "tlsSecretName": "rapidfire-tls",
        },
        "networkPolicy": {
            "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
            "workerInternet": False,
            "workerEgress": [{"ports": [{"port": 8000}], "to": [{"namespaceSelector": {}}]}],
            "mlflowFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
            "mlflowEgress": [{"ports": [{"port": 5432}]}],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True},
            "dashboards": {"enabled": True, "annotations": {"grafana_folder": "RapidFire AI"}},
        },
    },
    "given": {
        "crds": {"install": False},
        "rbac": {"create": False},
        "volume": {"existingClaim": "shared"},
        "mlflow": {"enabled": False, "url": "https://mlflow.example.org"},
        "gateway": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "monitoring": {"scrapeAnnotations": False},
        "operator": {"replicas": 1},
    },
}


class Chart:
    """The chart, rendered with Helm."""

    def __init__(self, kubelocal: Path) -> None:
        self._kubelocal = kubelocal

    def helm(self, *words: str, values: Object | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self._kubelocal), "helm", *words, str(CHART.resolve()), "--namespace", SYSTEM, "--values", "-"]
        return subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True, check=False)

    def text(self, **values: Any) -> str:
        words = ["template", "rapidfireai", *(word for each in MONITORS for word in ("--api-versions", each))]
        answer = self.helm(*words, values=values)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def render(self, **values: Any) -> list[Object]:
        return [each for each in yaml.safe_load_all(self.text(**values)) if each]

    def refusal(self, **values: Any) -> str:
        answer = self.helm("template", "rapidfireai", values=values)
        assert answer.returncode != 0, "it was accepted"
        return answer.stderr


def find(objects: list[Object], kind: str, name: str, namespace: str | None = None) -> Object:
    found = [
        each
        for each in objects
        if each["kind"] == kind
        and each["metadata"]["name"] == name
        and namespace in {None, each["metadata"].get("namespace")}
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pod(deployment: Object) -> Object:
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


def environment(deployment: Object) -> dict[str, str]:
    """The variables of a Deployment; what the downward API fills in is shown by its path."""
    pairs = pod(deployment)["containers"][0]["env"]
    return {
        each["name"]: each.get("value", each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath"))
        for each in pairs
    }

"""The Job of a worker slot, as a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rapidfireai.api import API_VERSION, ExperimentSpec
from rapidfireai.api.base import EXPERIMENT_LABEL, WORKER_LABEL
from rapidfireai_operator.core.snapshot import QUEUE_LABEL, TEMPLATE_ANNOTATION, Subject

GRACE_SECONDS = 120
"""How long a worker has from SIGTERM: to finish its step and make a checkpoint durable."""
_COMMIT_SECONDS = GRACE_SECONDS - 10
BACKOFF_LIMIT = 6
"""Restarts of a worker's container before its Job is made anew, maybe on another node."""
METRICS_PORT = 9091
_SCRAPED = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(METRICS_PORT),
    "prometheus.io/path": "/metrics",
}
_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
    # As the chart's other pods: they share the volume.
    "fsGroup": 10001,
    "fsGroupChangePolicy": "OnRootMismatch",
}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
SERVICE_ACCOUNT = "rapidfire-worker"
_VOLUME_URL = {"name": "rapidfire-workspace", "key": "volume-url", "optional": True}
"""Where the chart says how the workspace's volume service is reached."""


@dataclass(frozen=True, slots=True)
class WorkerDefaults:
    """What the chart says about worker pods.

    Attributes:
        image: The image.
        resources: Requests and limits.
        claim: The workspace's PersistentVolumeClaim.
        mount_path: Where it is mounted.
        lease_seconds: How long a worker's Lease lives.
        queue_name: The LocalQueue of Kueue for experiments that name none; empty without Kueue.
        pod: What the experiment's template is laid over: `nodeSelector`, `tolerations`, `affinity`,
            `priorityClassName`, `env`, `volumes` and `volumeMounts`, as a pod and its container have them.
    """

    image: str
    resources: Mapping[str, Any]
    claim: str
    mount_path: str
    lease_seconds: int
    queue_name: str = ""
    pod: Mapping[str, Any] = field(default_factory=dict)


def owner(subject: Subject) -> dict[str, Any]:
    """Return the reference by which an experiment owns what it made."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Experiment",
        "name": subject.name,
        "uid": subject.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def labels(experiment: str, component: str) -> dict[str, str]:
    """Return the labels of everything that belongs to an experiment."""
    return {
        EXPERIMENT_LABEL: experiment,
        "app.kubernetes.io/name": "rapidfireai",
        "app.kubernetes.io/part-of": "rapidfireai",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "rapidfireai-operator",
    }


def selector(experiment: str) -> str:
    """Return the label selector of an experiment's worker pods."""
    return f"{EXPERIMENT_LABEL}={experiment},app.kubernetes.io/component=worker"


def manifest(
    subject: Subject, spec: ExperimentSpec, slot: str, defaults: WorkerDefaults, claims: Mapping[str, str]
) -> dict[str, Any]:
    """Return the Job of one worker slot.

    Args:
        subject: The experiment.
        spec: Its spec.
        slot: The slot's name, which is the Job's.
        defaults: What the chart says.
        claims: Mount paths, by name, of the claims that hold data, models or the volume.
    """
    own = spec.storage.claim_name or defaults.claim
    mounts = {**claims, own: claims.get(own, defaults.mount_path)}
    names = {**labels(subject.name, "worker"), WORKER_LABEL: slot}
    queue = spec.workers.queue_name or defaults.queue_name
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": slot,
            "namespace": subject.namespace,
            # Whether it is suspended is Kueue's to say: `spec.suspend` is never written.
            "labels": {**names, **({QUEUE_LABEL: queue} if queue else {})},
            "ownerReferences": [owner(subject)],
        },
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "template": {
                "metadata": {"labels": names, "annotations": _SCRAPED},
                "spec": _pod(subject, spec, slot, defaults, mounts, own),
            },
        },
    }
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
    job["metadata"]["annotations"] = {TEMPLATE_ANNOTATION: digest}  # type: ignore[index]
    return job


def _pod(
    subject: Subject, spec: ExperimentSpec, slot: str, defaults: WorkerDefaults, mounts: Mapping[str, str], own: str
) -> dict[str, Any]:
    template = spec.workers.template.spec
    container = template.containers[0] if template.containers else None
    env = [*_environment(subject, spec, slot, defaults, mounts, own), *_code(spec)]
    own_variables = [variable.to_wire() for variable in container.env] if container is not None else []
    extra = _laid_over(defaults.pod.get("env", ()), own_variables)
    secret = [variable["name"] for variable in extra if "secretKeyRef" in (variable.get("valueFrom") or {})]
    env.append({"name": "RAPIDFIRE_SECRET_VARIABLES", "value": ",".join(secret)})
    replaced = {variable["name"] for variable in extra}
    return {
        **_place(template.to_wire(), defaults.pod),
        "restartPolicy": "OnFailure",
        "serviceAccountName": SERVICE_ACCOUNT,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "enableServiceLinks": False,
        "securityContext": _SECURITY,
        "containers": [
            {
                "name": "worker",
                "image": (container.image if container is not None else None) or defaults.image,
                "command": ["python", "-m", "rapidfireai_worker"],
                "env": [variable for variable in env if variable["name"] not in replaced] + extra,
                "resources": (container.resources if container is not None else None) or dict(defaults.resources),
                "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
                "securityContext": _CONTAINER_SECURITY,
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the one place besides claims to write to
                    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - what data loaders and vLLM share
                    *(
                        {"name": f"claim-{index}", "mountPath": path, "readOnly": claim != own}
                        for index, (claim, path) in enumerate(sorted(mounts.items()))
                    ),
                    *defaults.pod.get("volumeMounts", ()),
                ],
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *(
                {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": claim != own}}
                for index, claim in enumerate(sorted(mounts))
            ),
            *defaults.pod.get("volumes", ()),
        ],
    }


def _place(chosen: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return where and as what a pod runs: what the experiment says, over what the chart does."""
    place = {key: value for key, value in chosen.items() if key != "containers"}
    place["nodeSelector"] = {**usual.get("nodeSelector", {}), **(chosen.get("nodeSelector") or {})}
    place["tolerations"] = [*usual.get("tolerations", ()), *(chosen.get("tolerations") or ())]
    for key in ("affinity", "priorityClassName"):
        place[key] = chosen.get(key) or usual.get(key)
    return {key: value for key, value in place.items() if value}


def _laid_over(usual: Iterable[Mapping[str, Any]], own: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the chart's variables but for those that the experiment has too, and then the experiment's."""
    named = {variable["name"]: variable for variable in own}
    return [*(variable for variable in usual if variable["name"] not in named), *named.values()]


def _code(spec: ExperimentSpec) -> list[dict[str, Any]]:
    """Return the variable that holds the source of a ConfigMap: fixed while the container runs, without any right."""
    named = spec.code.config_map if spec.code is not None else None
    if named is None:
        return []
    reference = {"name": named.name, "key": named.key}
    return [{"name": "RAPIDFIRE_CODE", "valueFrom": {"configMapKeyRef": reference}}]


def _environment(
    subject: Subject, spec: ExperimentSpec, slot: str, defaults: WorkerDefaults, mounts: Mapping[str, str], own: str
) -> list[dict[str, Any]]:
    values = {
        "RAPIDFIRE_EXPERIMENT": subject.name,
        "RAPIDFIRE_WORKER": slot,
        "RAPIDFIRE_MODE": spec.mode,
        "RAPIDFIRE_VOLUME": mounts[own],
        "RAPIDFIRE_CLAIMS": json.dumps(dict(sorted(mounts.items()))),
        "RAPIDFIRE_LEASE_SECONDS": str(defaults.lease_seconds),
        "RAPIDFIRE_GRACE_SECONDS": str(_COMMIT_SECONDS),
        "RAPIDFIRE_PORT": str(METRICS_PORT),
        "HF_HOME": f"{mounts[own]}/models",
    }
    downward = {
        "POD_NAME": "metadata.name",
        "POD_UID": "metadata.uid",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_IP": "status.podIP",
    }
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in downward.items()),
        # A fit needs it not, and a namespace without the chart's ConfigMap must not keep it from starting.
        {"name": "RAPIDFIRE_VOLUME_URL", "valueFrom": {"configMapKeyRef": _VOLUME_URL}},
        {
            "name": "OMP_NUM_THREADS",
            "valueFrom": {"resourceFieldRef": {"containerName": "worker", "resource": "limits.cpu"}},
        },
        {
            "name": "RAPIDFIRE_MEMORY_LIMIT",
            "valueFrom": {"resourceFieldRef": {"containerName": "worker", "resource": "limits.memory"}},
        },
    ]

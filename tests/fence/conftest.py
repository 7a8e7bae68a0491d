"""The chart's fence and roles on a real API server, and the identities that try them."""

from __future__ import annotations

import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import yaml

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.install import CHART, SYSTEM_NAMESPACE

RUNS = "/apis/rapidfire.ai/v1alpha1/namespaces/{namespace}/runs"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
MERGE = {"Content-Type": "application/merge-patch+json"}
MUTATING = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
UNAVAILABLE = 503
FENCED = {"fenced": "yes"}


class Identity:
    """Somebody who writes to the API server."""

    def __init__(self, http: httpx.Client, namespace: str) -> None:
        self._http = http
        self._namespace = namespace

    def status(self, run: str, status: dict[str, Any]) -> str:
        """Merge a status into a Run's; return why it was refused, or an empty string."""
        path = f"{RUNS.format(namespace=self._namespace)}/{run}/status"
        return refusal(self._http.patch(path, json={"status": status}, headers=MERGE))

    def lease(self, name: str, holder: str) -> str:
        """Create a Lease or take it over; return why it was refused, or an empty string."""
        path = LEASES.format(namespace=self._namespace)
        found = self._http.get(f"{path}/{name}")
        body = {"metadata": {"name": name}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30}}
        if found.status_code == 404:
            return refusal(self._http.post(path, json=body))
        body = {**found.json(), "spec": body["spec"]}
        return refusal(self._http.put(f"{path}/{name}", json=body))

    def send(self, method: str, path: str, **words: Any) -> str:
        """Make any request; return why it was refused, or an empty string."""
        return refusal(self._http.request(method, path, **words))


def refusal(answer: httpx.Response) -> str:
    return "" if answer.is_success else str(answer.json()["message"])


@dataclass
class Stage:
    """A namespace with the chart's roles, the run `r`, and two worker pods."""

    plane: ControlPlane
    admin: httpx.Client
    namespace: str = field(default_factory=lambda: f"fence-{uuid.uuid4().hex[:8]}")
    pods: dict[str, str] = field(default_factory=dict)
    elsewhere: Stage | None = None
    _clients: list[httpx.Client] = field(default_factory=list)

    def prepare(self) -> None:
        self._create("/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": FENCED}})
        rendered = render(self.plane, "operator/rbac", "workspace/rbac", workspaces=[self.namespace])
        apply(self.plane, [each for each in rendered if each["metadata"].get("namespace") == self.namespace])
        spec = {"experimentRef": "e", "index": 1, "config": {}}
        run = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Run", "metadata": {"name": "r"}, "spec": spec}
        self._create(RUNS.format(namespace=self.namespace), run)
        for pod in ("e-w-0-aaaaa", "e-w-1-bbbbb"):
            self.create_pod(pod)

    def create_pod(self, name: str) -> None:
        spec = {"serviceAccountName": "rapidfire-worker", "containers": [{"name": "c", "image": "x"}]}
        pod = self._create(f"/api/v1/namespaces/{self.namespace}/pods", {"metadata": {"name": name}, "spec": spec})
        self.pods[name] = pod["metadata"]["uid"]

    def delete_pod(self, name: str) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        assert self.admin.delete(path, params={"gracePeriodSeconds": 0}).is_success

    def worker(self, pod: str = "e-w-0-aaaaa") -> Identity:
        """A worker with the token that is bound to its pod."""
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": self.pods[pod]}
        return self._identity(self.namespace, "rapidfire-worker", {"boundObjectRef": bound})

    def operator(self) -> Identity:
        return self._identity(SYSTEM_NAMESPACE, "rapidfire-operator", {})

    def account(self, name: str) -> Identity:
        """A service account of the namespace, with a token that is bound to nothing."""
        return self._identity(self.namespace, name, {})

    def foreign_worker(self, admitted: bool = False) -> Identity:
        """A worker of another namespace whose pod is named as the first one here; `admitted` by a RoleBinding here."""
        if self.elsewhere is None:
            self.elsewhere = Stage(self.plane, self.admin)
            self.elsewhere.prepare()
        there = self.elsewhere
        if admitted:
            group = "rbac.authorization.k8s.io"
            meta = {"name": f"foreign-{uuid.uuid4().hex[:8]}"}
            role = {"apiGroup": group, "kind": "Role", "name": "rapidfire-worker"}
            subject = {"kind": "ServiceAccount", "name": "rapidfire-worker", "namespace": there.namespace}
            path = f"/apis/{group}/v1/namespaces/{self.namespace}/rolebindings"
            self._create(path, {"metadata": meta, "roleRef": role, "subjects": [subject]})
        pod = "e-w-0-aaaaa"
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": there.pods[pod]}
        return self._identity(there.namespace, "rapidfire-worker", {"boundObjectRef": bound})

    def administrator(self) -> Identity:
        return Identity(self.admin, self.namespace)

    def assignment(
        self, attempt: int = 1, chunk: int = 0, pod: str = "e-w-0-aaaaa", task: str = "chunk"
    ) -> dict[str, Any]:
        """What the operator writes to give a task to a pod."""
        given = {
            "worker": pod[:-6],
            "pod": pod,
            "podUID": self.pods[pod],
            "process": f"{pod}/1",
            "attempt": attempt,
            "task": task,
            "chunk": chunk,
            "grantedAt": 1.5,
        }
        return {"state": "Running", "attempt": attempt, "assignment": given}

    def path(self, kind: str) -> str:
        """Where our resources of a kind are."""
        return f"/apis/rapidfire.ai/v1alpha1/namespaces/{self.namespace}/{kind}"

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.get(f"{self.path(kind)}/{name}").json()
        return found

    def read(self) -> dict[str, Any]:
        """The status of the run."""
        found: dict[str, Any] = self.admin.get(f"{RUNS.format(namespace=self.namespace)}/r").json()["status"]
        return found

    def everything(self) -> dict[str, Any]:
        """All that an attack could change, by kind and name; of pods the names alone."""
        kinds = {
            **{kind: self.path(kind) for kind in ("runs", "icops")},
            "leases": LEASES.format(namespace=self.namespace),
            "pods": f"/api/v1/namespaces/{self.namespace}/pods",
        }
        found = {}
        for kind, path in kinds.items():
            items = self.admin.get(path).json()["items"]
            found[kind] = {each["metadata"]["name"]: None if kind == "pods" else each for each in items}
        return found

    def close(self) -> None:
        if self.elsewhere is not None:
            self.elsewhere.close()
        for each in self._clients:
            each.close()
        self.admin.delete(f"/api/v1/namespaces/{self.namespace}")

    def _create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.admin.post(path, json=body)
        deadline = time.monotonic() + 30
        while answer.status_code == UNAVAILABLE and time.monotonic() < deadline:
            # Admission learns of new definitions later than the API server serves them.
            time.sleep(0.1)
            answer = self.admin.post(path, json=body)
        assert answer.is_success, answer.text
        created: dict[str, Any] = answer.json()
        return created

    def _identity(self, namespace: str, account: str, spec: dict[str, Any]) -> Identity:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        token = self._create(path, {"spec": {"expirationSeconds": 600, **spec}})["status"]["token"]
        http = client(self.plane, headers={"Authorization": f"Bearer {token}"})
        self._clients.append(http)
        return Identity(http, self.namespace)


def client(plane: ControlPlane, certificate: bool = False, headers: dict[str, str] | None = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(plane.pki / "ca.crt"))
    if certificate:
        context.load_cert_chain(plane.pki / "admin.crt", plane.pki / "admin.key")
    return httpx.Client(base_url=plane.server, verify=context, headers=headers, trust_env=False, timeout=30)


def render(plane: ControlPlane, *templates: str, **values: Any) -> list[dict[str, Any]]:
    """Render some of the chart's templates."""
    words = [str(plane.binary), "helm", "template", "rapidfireai", str(CHART.resolve()), "--namespace"]
    words += [SYSTEM_NAMESPACE, "--values", "-", "--api-versions", MUTATING]
    words += [word for each in templates for word in ("--show-only", f"templates/{each}.yaml")]
    text = subprocess.run(words, input=yaml.safe_dump(values), capture_output=True, text=True, check=True).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def apply(plane: ControlPlane, objects: list[dict[str, Any]]) -> None:
    command = [str(plane.binary), "kubectl", "--kubeconfig", str(plane.kubeconfig), "apply", "-f", "-"]
    answer = subprocess.run(command, input=yaml.safe_dump_all(objects), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.fixture(scope="session")
def admin(control_plane: ControlPlane) -> Iterator[httpx.Client]:
    with client(control_plane, certificate=True) as http:
        yield http


@pytest.fixture(scope="session")
def fence(control_plane: ControlPlane, crds: None, admin: httpx.Client) -> None:
    """Put up the fence, for the namespaces of these tests alone: others share the API server."""
    admin.post("/api/v1/namespaces", json={"metadata": {"name": SYSTEM_NAMESPACE}})
    objects = render(control_plane, "fence/run-status", "fence/worker-leases", "fence/requested-by", "operator/rbac")
    for each in objects:
        if each["kind"].endswith("AdmissionPolicyBinding"):
            each["spec"]["matchResources"] = {"namespaceSelector": {"matchLabels": FENCED}}
    apply(control_plane, [each for each in objects if each["metadata"].get("namespace") != "default"])
    stage = Stage(control_plane, admin)
    stage.prepare()
    _wait_for(lambda: "by the operator" in stage.administrator().status("r", {"state": "Running"}))
    _wait_for(lambda: "must be bound" in stage.account("rapidfire-worker").lease("e-w-0", "x"))
    _wait_for(lambda: _is_stamped(stage))
    stage.close()


def _is_stamped(stage: Stage) -> bool:
    """Return whether the API server writes down who makes an ICOp, and refuses another name.

    It answers 500 as long as the policy knows the kind and its schema is not there yet.
    """
    spec = {"experimentRef": "e", "op": "Stop", "runs": ["r"]}
    body = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "ICOp", "metadata": {"generateName": "probe-"}, "spec": spec}
    made = stage.admin.post(stage.path("icops"), json=body).json()
    forged = stage.admin.post(stage.path("icops"), json={**body, "spec": {**spec, "requestedBy": "forged"}})
    return "requestedBy" in made.get("spec", {}) and not forged.is_success


def _wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Wait until a policy is in force: the API server reads new ones in its own time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the fence never came into force"
        time.sleep(0.1)


@pytest.fixture
def stage(control_plane: ControlPlane, admin: httpx.Client, fence: None) -> Iterator[Stage]:
    stage = Stage(control_plane, admin)
    stage.prepare()
    yield stage
    stage.close()

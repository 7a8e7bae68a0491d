"""Two workspaces: nobody of the one reads or writes anything of the other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from tests.fence.conftest import client as client_of
from tests.worker.conftest import NewWorkspace, Process, Workspace, admin, fence, new_workspace, roles

from rapidfireai.cluster.control_plane import ControlPlane

__all__ = ["admin", "fence", "new_workspace", "roles"]
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("tenants")]
ACCOUNTS = ("rapidfire-user", "rapidfire-worker", "rapidfire-volume")
MERGE = {"Content-Type": "application/merge-patch+json"}
ABSENT = "0" * 64


@dataclass
class Tenants:
    """Workspace `ours` with a run, and `theirs`, each with its volume service."""

    ours: Workspace
    theirs: Workspace
    service: Process
    their_service: Process
    run: str

    def path(self, suffix: str = "") -> str:
        uid = self.ours.run(self.run)["metadata"]["uid"]
        return f"/v1/experiments/{self.ours.experiment['metadata']['uid']}/runs/{uid}{suffix}"


@pytest.fixture(scope="module")
def tenants(new_workspace: NewWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    with (
        new_workspace(tmp_path_factory.mktemp("ours")) as ours,
        new_workspace(tmp_path_factory.mktemp("theirs")) as theirs,
    ):
        run = ours.create_run()
        log = ours.log_path(run)
        log.parent.mkdir(parents=True)
        log.write_text('{"kind":"log","sequence":1,"step":1,"time":1.0,"values":{"loss":0.5}}\n')
        for namespace, name in ((ours.namespace, "keys"), (theirs.namespace, "keys")):
            body = {"metadata": {"name": name}, "stringData": {"key": "one-that-nobody-sees"}}
            ours.post(f"/api/v1/namespaces/{namespace}/secrets", body)
        yield Tenants(ours, theirs, ours.volume_service(), theirs.volume_service(), run)


def service_client(service: Process, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"http://{service.address}", headers=headers, trust_env=False, timeout=30)


REQUESTS = (
    ("GET", "{ours}/experiments", "list", "experiments"),
    ("GET", "{ours}/experiments/e", "get", "experiments"),
    ("GET", "{ours}/runs", "list", "runs"),
    ("GET", "{ours}/runs/{run}", "get", "runs"),
    ("GET", "{ours}/runs?watch=1&timeoutSeconds=1", "watch", "runs"),
    ("PATCH", "{ours}/runs/{run}", "patch", "runs"),
    ("PATCH", "{ours}/runs/{run}/status", "patch", "runs/status"),
    ("DELETE", "{ours}/runs/{run}", "delete", "runs"),
    ("POST", "{ours}/experiments", "create", "experiments"),
    ("PATCH", "{ours}/experiments/e/scale", "patch", "experiments/scale"),
    ("GET", "{ours}/icops", "list", "icops"),
    ("POST", "{ours}/icops", "create", "icops"),
    ("GET", "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", "list", "leases"),
    ("POST", "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", "create", "leases"),
    ("GET", "{core}/secrets", "list", "secrets"),
    ("GET", "{core}/secrets/keys", "get", "secrets"),
    ("POST", "{core}/secrets", "create", "secrets"),
    ("GET", "{core}/configmaps/rapidfire-workspace", "get", "configmaps"),
    ("GET", "{core}/pods", "list", "pods"),
    ("GET", "{core}/pods/e-w-0-aaaaa/log", "get", "pods/log"),
    ("POST", "{core}/serviceaccounts/rapidfire-user/token", "create", "serviceaccounts/token"),
    ("GET", "/apis/rapidfire.ai/v1alpha1/runs", "list", "runs"),
    ("GET", "/apis/rapidfire.ai/v1alpha1/experiments", "list", "experiments"),
)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_api_server_lets_nobody_of_the_other_workspace_in(
    control_plane: ControlPlane, tenants: Tenants, account: str
) -> None:
    ours = tenants.ours
    words = {
        "ours": ours.path()[:-1] if ours.path().endswith("/") else ours.path(),
        "core": f"/api/v1/namespaces/{ours.namespace}",
        "namespace": ours.namespace,
        "run": tenants.run,
    }
    headers = {"Authorization": f"Bearer {tenants.theirs.token(account)}"}
    with client_of(control_plane, headers=headers) as http:
        for method, path, verb, resource in REQUESTS:
            body = {"json": {"metadata": {"name": "x"}}} if method in {"POST", "PATCH"} else {}
            kind = MERGE if method == "PATCH" else {}
            answer = http.request(method, path.format(**words), headers=kind, **body)
            assert answer.status_code == 403, (method, path, answer.text)
            assert f'cannot {verb} resource "{resource}"' in answer.json()["message"]


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("audience", ["", "rapidfire-volume"], ids=["for the API server", "for the volume service"])
def test_the_volume_service_lets_nobody_of_the_other_workspace_in(
    tenants: Tenants, account: str, audience: str
) -> None:
    token = tenants.theirs.token(account, **({"audiences": [audience]} if audience else {}))
    blob = os.urandom(100)
    experiment = tenants.path().split("/runs/")[0]
    with service_client(tenants.service, token) as http:
        answers = [
            http.get(tenants.path("/metrics")),
            http.get(tenants.path("/checkpoints")),
            http.get(tenants.path("/checkpoints/8-1/manifest.json")),
            http.get(tenants.path("/shards")),
            http.head(f"/v1/bundles/{ABSENT}"),
            http.put(f"/v1/bundles/{hashlib.sha256(blob).hexdigest()}", content=blob),
            http.put(f"/v1/datasets/{hashlib.sha256(blob).hexdigest()}", content=blob),
            http.post(f"{experiment}/budgets/k/lease", json=LEASE),
        ]
    assert {answer.status_code for answer in answers} == {403}
    assert not (tenants.ours.volume / "bundles").exists()


LEASE = {"holder": "w", "requests": 1, "tokens": 1, "least": 1, "rpm": 10, "tpm": 10, "returned": []}


def test_whoever_belongs_here_is_let_in(tenants: Tenants) -> None:
    """Else the tests above would prove nothing."""
    with service_client(tenants.service, tenants.ours.token("rapidfire-user", audiences=["rapidfire-volume"])) as http:
        assert '"loss":0.5' in http.get(tenants.path("/metrics")).text.replace(" ", "")
        experiment = tenants.path().split("/runs/")[0]
        assert http.post(f"{experiment}/budgets/k/lease", json=LEASE).is_success


def test_what_is_on_one_volume_is_not_found_through_the_other_service(tenants: Tenants) -> None:
    """A user of the other workspace who names our run's UIDs to their own service."""
    token = tenants.theirs.token("rapidfire-user", audiences=["rapidfire-volume"])
    with service_client(tenants.their_service, token) as http:
        assert http.get(tenants.path("/metrics")).status_code == 404
        assert http.get(tenants.path("/shards")).status_code == 404


def test_a_token_for_the_volume_service_opens_nothing_else(control_plane: ControlPlane, tenants: Tenants) -> None:
    token = tenants.ours.token("rapidfire-user", audiences=["rapidfire-volume"])
    with client_of(control_plane, headers={"Authorization": f"Bearer {token}"}) as http:
        assert http.get(tenants.ours.path("runs")).status_code == 401


def test_a_token_for_something_else_does_not_open_the_volume_service(tenants: Tenants) -> None:
    with service_client(tenants.service, tenants.ours.token("rapidfire-user", audiences=["mlflow"])) as http:
        assert http.get(tenants.path("/metrics")).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1/bundles/../../etc/passwd",
        "/v1/bundles/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/experiments/../runs/x/metrics",
        "/v1/experiments/%2e%2e/runs/%2e%2e/metrics",
        "{run}/checkpoints/../../../../../../etc/passwd",
        "{run}/checkpoints/8-1/%2e%2e%2f%2e%2e%2flogs%2fmetrics.jsonl",
        "{run}/checkpoints/8-1/model/..%2f..%2f..%2flogs%2fmetrics.jsonl",
        "{run}/checkpoints/%2e%2e/manifest.json",
        "{run}/shards/8-1/..%2fmanifest.json",
        "{run}/checkpoints/8-1//etc/passwd",
    ],
)
def test_a_path_that_leads_out_of_the_volume_finds_nothing(tenants: Tenants, path: str) -> None:
    token = tenants.ours.token("rapidfire-user", audiences=["rapidfire-volume"])
    host, port = tenants.service.address.split(":")
    # As it is: a client would tidy it up.
    import http.client

    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", path.format(run=tenants.path()), headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status in {404, 405, 422}, (answer.status, content)
    assert b"root:" not in content
    assert b'"loss"' not in content

"""What people may do who are bound to Kubernetes' own roles, asked of the API server in their names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest
from tests.fence.conftest import FENCED, admin, apply, render
from tests.support.waiting import wait_for

from rapidfireai.cluster.control_plane import ControlPlane

__all__ = ["admin"]
pytestmark = pytest.mark.integration
KINDS = ("experiments", "runs", "icops")
READ, WRITE = {"get", "list", "watch"}, {"create", "patch", "update", "delete"}
VERBS = {"view": READ, "edit": READ | WRITE, "admin": READ | WRITE | {"deletecollection"}}
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture(scope="module")
def people(control_plane: ControlPlane, crds: None, admin: httpx.Client) -> Iterator[str]:
    """A namespace in which view-alice, edit-alice and admin-alice are bound to Kubernetes' roles of these names."""
    apply(control_plane, render(control_plane, "rbac/people"))
    namespace = f"people-{uuid.uuid4().hex[:8]}"
    admin.post("/api/v1/namespaces", json={"metadata": {"name": namespace, "labels": FENCED}})
    for role in VERBS:
        for bound in (role, f"rapidfire-{role}"):
            subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"{bound}-alice"}
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": bound}
            body = {"metadata": {"name": bound}, "roleRef": reference, "subjects": [subject]}
            assert admin.post(f"{RBAC}/namespaces/{namespace}/rolebindings", json=body).is_success
    yield namespace
    admin.delete(f"/api/v1/namespaces/{namespace}")


def may(admin: httpx.Client, user: str, verb: str, resource: str, namespace: str, group: str = "rapidfire.ai") -> bool:
    resource, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
    spec = {"user": user, "resourceAttributes": attributes | ({"subresource": subresource} if subresource else {})}
    answer = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json={"spec": spec})
    return bool(answer.json()["status"]["allowed"])


@pytest.mark.parametrize("role", VERBS)
@pytest.mark.parametrize("prefix", ["", "rapidfire-"], ids=["Kubernetes' own", "ours alone"])
def test_a_role_reaches_our_kinds(admin: httpx.Client, people: str, role: str, prefix: str) -> None:
    user = f"{prefix}{role}-alice"
    wait_for("the aggregation", lambda: may(admin, user, "list", "experiments", people))
    every = READ | WRITE | {"deletecollection"}
    for kind in KINDS:
        assert {verb for verb in every if may(admin, user, verb, kind, people)} == VERBS[role], kind
        for verb in every:
            assert not may(admin, user, verb, f"{kind}/status", people), "the fence's and the operator's"
    scale = {verb for verb in ("get", "patch", "update") if may(admin, user, verb, "experiments/scale", people)}
    assert scale == ({"get"} if role == "view" else {"get", "patch", "update"})
    assert not may(admin, user, "list", "experiments", "default"), "elsewhere"


@pytest.mark.parametrize(
    "user", ["view-alice", "rapidfire-view-alice", "rapidfire-edit-alice", "rapidfire-admin-alice"]
)
def test_who_only_looks_and_whoever_has_our_roles_alone_sees_no_secret(
    admin: httpx.Client, people: str, user: str
) -> None:
    wait_for("the aggregation", lambda: may(admin, user, "list", "experiments", people))
    for verb in (*READ, *WRITE):
        assert not may(admin, user, verb, "secrets", people, group="")
    assert not may(admin, user, "create", "serviceaccounts/token", people, group="")

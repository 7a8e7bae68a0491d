"""A worker's Lease says which process is in a slot: nobody else may say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fence.conftest import Stage

pytestmark = pytest.mark.integration


def test_a_worker_takes_renews_and_leaves_its_own_lease(stage: Stage) -> None:
    worker = stage.worker()
    assert worker.lease("e-w-0", "e-w-0-aaaaa/1") == ""
    assert worker.lease("e-w-0", "e-w-0-aaaaa/1") == ""
    assert worker.lease("e-w-0", "") == ""


def test_the_next_pod_of_a_slot_takes_the_lease_over(stage: Stage) -> None:
    assert stage.worker().lease("e-w-0", "e-w-0-aaaaa/1") == ""
    stage.create_pod("e-w-0-ccccc")
    assert stage.worker("e-w-0-ccccc").lease("e-w-0", "e-w-0-ccccc/1") == ""


def test_a_lease_of_another_slot_is_refused(stage: Stage) -> None:
    assert "the Lease of its own slot only" in stage.worker().lease("e-w-1", "e-w-0-aaaaa/1")
    assert "the Lease of its own slot only" in stage.worker().lease("e-w-0-aaaaa", "e-w-0-aaaaa/1")


def test_holding_a_lease_in_another_name_is_refused(stage: Stage) -> None:
    answer = stage.worker().lease("e-w-0", "e-w-1-bbbbb/1")
    assert "a worker holds its Lease in its own name" in answer


def test_taking_over_a_lease_of_another_slot_is_refused(stage: Stage) -> None:
    assert stage.worker("e-w-1-bbbbb").lease("e-w-1", "e-w-1-bbbbb/1") == ""
    assert "the Lease of its own slot only" in stage.worker().lease("e-w-1", "e-w-0-aaaaa/1")


def test_a_token_that_is_bound_to_no_pod_is_refused(stage: Stage) -> None:
    assert "must be bound to its pod" in stage.account("rapidfire-worker").lease("e-w-0", "e-w-0-aaaaa/1")


@pytest.mark.parametrize(
    ("account", "verb"), [("rapidfire-volume", "get"), ("rapidfire-volume", "create"), ("rapidfire-user", "create")]
)
def test_other_accounts_have_no_leases_and_people_only_see_them(stage: Stage, account: str, verb: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{stage.namespace}/leases"
    body = {"metadata": {"name": "e-w-0"}, "spec": {"holderIdentity": "x"}}
    method, where = ("GET", f"{path}/e-w-0") if verb == "get" else ("POST", path)
    answer = stage.account(account).send(method, where, **({} if verb == "get" else {"json": body}))
    assert f"cannot {verb} resource" in answer

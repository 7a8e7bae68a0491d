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


def test_taking_over_a_lease_of_another_slot_is_refused(stage: Stage) -> None:
    assert stage.worker("e-w-1-bbbbb").lease("e-w-1", "e-w-1-bbbbb/1") == ""
    assert "the Lease of its own slot only" in stage.worker().lease("e-w-1", "e-w-0-aaaaa/1")


def test_the_volume_service_does_not_see_leases(stage: Stage) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{stage.namespace}/leases/e-w-0"
    assert "cannot get resource" in stage.account("rapidfire-volume").send("GET", path)

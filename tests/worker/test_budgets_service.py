"""Leases from the real volume service, asked for with the tokens of real accounts."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from rapidfireai_worker.evals.limits import VolumeLessor, lease_url
from rapidfireai_worker.volume.budgets import Ask, Grant

if TYPE_CHECKING:
    from conftest import NewWorkspace, Process, Workspace

pytestmark = pytest.mark.integration
KEY = "api.example.com-tiny-0123"


@pytest.fixture(scope="module")
def workspace(new_workspace: NewWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with new_workspace(tmp_path_factory.mktemp("workspace")) as made:
        yield made


def url_of(service: Process, experiment: str) -> str:
    return lease_url(f"http://{service.address}", experiment, KEY)


def test_a_workers_own_token_gets_leases(workspace: Workspace, service: Process) -> None:
    experiment = workspace.experiment["metadata"]["uid"]

    async def ask() -> Grant:
        lessor = VolumeLessor(url_of(service, experiment), lambda: workspace.token("rapidfire-worker"))
        try:
            return await lessor.lease(Ask("w-0", 3, 500, 100, rpm=100, tpm=10_000))
        finally:
            await lessor.close()

    grant = asyncio.run(ask())
    assert (grant.requests, grant.tokens, grant.rpm, grant.tpm) == (3, 500, 100, 10_000)
    record = workspace.volume / "experiments" / experiment / "budgets" / f"{KEY}.json"
    assert set(json.loads(record.read_text())) == {"until"}


def test_others_get_none(workspace: Workspace, service: Process) -> None:
    body = {"holder": "w-0", "requests": 1, "rpm": 10}
    url = url_of(service, workspace.experiment["metadata"]["uid"])

    def status(token: str, address: str = url) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.post(address, json=body, headers=headers, trust_env=False, timeout=30).status_code

    worker = workspace.token("rapidfire-worker")
    assert [status(""), status("nonsense"), status(workspace.token("default"))] == [401, 401, 403]
    assert status(worker, url_of(service, str(uuid.uuid4()))) == 404
    assert status(worker) == 200

"""The operator as a process, a client, and a simulated node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kubernetes import aio
from tests.operator.harness import OperatorProcess, log_in_as_operator
from tests.operator.simulated import Node

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.kube import connect
from rapidfireai_operator.adapters.kubernetes import Api
from rapidfireai_operator.adapters.metrics import Metrics


@pytest.fixture
def make_operator(
    control_plane: ControlPlane, crds: None, namespace: str, tmp_path: Path
) -> Iterator[Callable[..., OperatorProcess]]:
    home = log_in_as_operator(control_plane, namespace, tmp_path)
    made: list[OperatorProcess] = []

    def make(**settings: str) -> OperatorProcess:
        made.append(OperatorProcess(control_plane, namespace, home, **settings))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.kill()
        print(each.log.read_text()[-8000:])


@pytest_asyncio.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[aio.client.ApiClient]:
    made = await connect(control_plane.kubeconfig)
    yield made
    await made.close()


@pytest.fixture
def api(client: aio.client.ApiClient) -> Api:
    return Api(client, Metrics())


@pytest_asyncio.fixture
async def make_node(client: aio.client.ApiClient, namespace: str) -> AsyncIterator[Callable[..., Node]]:
    tasks = []

    def make(**how: Any) -> Node:
        node = Node(client, namespace, **how)
        tasks.append(asyncio.create_task(node.run()))
        return node

    yield make
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError):
            raise AssertionError("the simulated node ended") from outcome

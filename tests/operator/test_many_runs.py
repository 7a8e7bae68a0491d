"""A large experiment: all of its runs are made, each once, whoever dies meanwhile, and it goes on training."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.operator.builders import condition, experiment
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import Attempt, Node

from rapidfireai_operator.adapters.kubernetes import Api

pytestmark = pytest.mark.integration
RUNS = 300
LARGEST_STATUS = 50_000
"""Bytes."""


async def test_hundreds_of_runs_are_made_once_though_the_operator_is_killed_in_the_middle(
    api: Api, namespace: str, make_operator: Callable[..., OperatorProcess], make_node: Callable[..., Node]
) -> None:
    operator = make_operator()
    node = make_node()
    await api.create("experiments", namespace, experiment(runs=RUNS, replicas=2))

    async def first_commit() -> list[Attempt]:
        return node.ledger

    await until("a first commit", first_commit, api, namespace, seconds=90)
    operator.kill()
    operator.start()

    async def all_made() -> dict[str, Any] | None:
        body = await api.get("experiments", namespace, "exp")
        described = body["status"]["runs"].get("pending", 0) + body["status"]["runs"].get("running", 0)
        return body if condition(body, "Expanded").get("status") == "True" and described == RUNS else None

    body = await until("all runs are made", all_made, api, namespace, seconds=180)
    runs = (await api.list("runs", namespace)).items
    assert sorted(run["spec"]["index"] for run in runs) == list(range(1, RUNS + 1))
    assert {run["spec"]["config"]["training_args"]["learning_rate"] for run in runs} == {
        round(0.001 * index, 6) for index in range(1, RUNS + 1)
    }
    assert len(json.dumps(body["status"])) < LARGEST_STATUS
    done = len(node.ledger)

    async def goes_on() -> bool:
        return len(node.ledger) >= done + 4

    await until("chunks are given out", goes_on, api, namespace, seconds=90)
    assert len({(each.run, each.chunk) for each in node.ledger}) == len(node.ledger)

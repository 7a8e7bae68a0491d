"""Manifests of every wrong sort that the CRD lets through: each gets a condition, and the operator lives on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.operator.builders import condition, experiment
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import Node

from rapidfireai_operator.adapters.kubernetes import Api, ApiError

pytestmark = pytest.mark.integration
Body = dict[str, Any]

REFUSED: dict[str, tuple[Body, str, str]] = {
    "unknown-argument": (
        {"configs": [{"trainer": "SFT", "config": {"model_name": "m", "training_args": {"learning_rte": 1}}}]},
        "InvalidConfig",
        "learning_rate",
    ),
    "unknown-key": ({"configs": [{"trainer": "SFT", "config": {"modle_name": "m"}}]}, "InvalidConfig", "model_name"),
    "range": (
        {"configs": [{"trainer": "SFT", "config": {"training_args": {"seed": {"$range": {"start": 1, "end": 2}}}}}]},
        "InvalidConfig",
        "training_args.seed",
    ),
    "many": (
        {"configs": [{"trainer": "SFT", "config": {"training_args": {"seed": {"$list": list(range(10_001))}}}}]},
        "InvalidConfig",
        "10001 runs, and spec.maxRuns allows 10000",
    ),
    "file": ({"data": {"train": {"uri": "file:///a.jsonl"}}}, "FileUriRefused", "pvc://"),
    "objective": ({"objective": {"direction": "maximize"}}, "InvalidObjective", "minimize"),
}


async def test_a_refused_experiment_says_why_and_holds_nobody_up(
    api: Api, namespace: str, make_operator: Callable[..., OperatorProcess], make_node: Callable[..., Node]
) -> None:
    make_operator()
    make_node()
    for name, (change, _, _) in REFUSED.items():
        await api.create("experiments", namespace, experiment(name, **change))
    await api.create("experiments", namespace, experiment("x" * 60))
    for name, (_, reason, word) in {**REFUSED, "x" * 60: ({}, "NameTooLong", "metadata.name")}.items():

        async def look(name: str = name) -> Body:
            return condition(await api.get("experiments", namespace, name), "Accepted")

        accepted = await until(f"{name} judged", look, api, namespace)
        assert (accepted["status"], accepted["reason"]) == ("False", reason), accepted
        assert word in accepted["message"]
        body = await api.get("experiments", namespace, name)
        assert body["status"]["state"] == "Refused"
        assert condition(body, "Finished")["status"] == "True"
    await api.create("experiments", namespace, experiment("good", runs=1))

    async def done() -> bool:
        return condition(await api.get("experiments", namespace, "good"), "Succeeded").get("status") == "True"

    await until("a good experiment runs", done, api, namespace)


async def test_a_job_that_the_api_server_refuses_is_explained(
    api: Api, namespace: str, make_operator: Callable[..., OperatorProcess]
) -> None:
    make_operator()
    resources: list[Any] = [{"limits": 5}, {"limits": {"nvidia.com/gpu": "many"}}, {"requests": {"cpu": [1]}}]
    for index, each in enumerate(resources):
        template = {"spec": {"containers": [{"name": "worker", "resources": each}]}}
        body = experiment(f"exp{index}", workers={"replicas": 1, "template": template})
        await api.create("experiments", namespace, body)
    for index in range(len(resources)):

        async def look(name: str = f"exp{index}") -> Body | None:
            ready = condition(await api.get("experiments", namespace, name), "WorkersReady")
            return ready if ready.get("reason") == "JobRefused" else None

        assert "spec.workers.template" in (await until(f"exp{index} explained", look, api, namespace))["message"]


def garbage(count: int) -> list[Body]:
    """Return experiments with anything at all in the places where the CRD lets anything through."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text("abc.$/ ", max_size=6),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["$list", "$ref", "$none", "training_args", "peft_config", "limits", "a"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
    objects = st.dictionaries(
        st.sampled_from(["model_name", "training_args", "peft_config", "limits", "$list", "key"]), values, max_size=3
    )
    found: list[Body] = []

    @given(objects, objects, objects)
    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def draw(config: Body, resources: Body, other: Body) -> None:
        body = copy.deepcopy(experiment(f"g{len(found)}", runs=1))
        if len(found) % 2:
            body["spec"]["configs"][0]["config"] = config
        pod = {"containers": [{"name": "worker", "resources": resources}], "affinity": other, "tolerations": [other]}
        body["spec"]["workers"]["template"] = {"spec": pod}
        found.append(body)

    draw()
    return found


async def test_garbage_that_the_crd_admits_gets_a_condition_and_the_operator_lives(
    api: Api, namespace: str, make_operator: Callable[..., OperatorProcess]
) -> None:
    operator = make_operator()
    admitted = []
    for body in garbage(40):
        try:
            await api.create("experiments", namespace, body)
        except ApiError as error:
            assert error.refused, error
        else:
            admitted.append(body["metadata"]["name"])
    assert len(admitted) > 20
    for name in admitted:

        async def judged(name: str = name) -> bool:
            body = await api.get("experiments", namespace, name)
            accepted, ready = condition(body, "Accepted"), condition(body, "WorkersReady")
            return accepted.get("status") == "False" or bool(ready.get("message"))

        await until(f"{name} judged", judged, api, namespace)
    assert operator.process is not None
    assert operator.process.poll() is None
    log = operator.log.read_text()
    assert "looking at an experiment failed" not in log
    assert "the API server failed" not in log

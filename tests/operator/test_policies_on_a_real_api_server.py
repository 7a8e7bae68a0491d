"""Policies of whole experiments: the operator as a process, a real control plane, simulated workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.operator.builders import condition, experiment, icop
from tests.operator.harness import OperatorProcess, until
from tests.operator.races import Story
from tests.operator.simulated import BOUNDARIES, Deed, Node

from rapidfireai.api.policies import Policy, PolicyRecord
from rapidfireai_operator.adapters.kubernetes import Api

pytestmark = pytest.mark.integration
MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., Node]
Kubectl = Callable[..., str]
Body = dict[str, Any]


async def finished(api: Api, namespace: str) -> Body:
    async def look() -> Body | None:
        body = await api.get("experiments", namespace, "exp")
        return body if condition(body, "Finished").get("status") == "True" else None

    return await until("the experiment is finished", look, api, namespace, 60)


async def states(api: Api, namespace: str) -> dict[str, str]:
    return {run["metadata"]["name"]: run["status"]["state"] for run in (await api.list("runs", namespace)).items}


async def run_is(api: Api, namespace: str, name: str, state: str) -> Body:
    async def look() -> Body | None:
        body = await api.get("runs", namespace, name)
        return body if (body.get("status") or {}).get("state") == state else None

    return await until(f"{name} {state}", look, api, namespace)


async def test_successive_halving_ends_as_the_curves_say(
    api: Api, namespace: str, kubectl: Kubectl, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    operator = make_operator()
    node = make_node()
    policy = {"successiveHalving": {"eta": 2}}
    await api.create("experiments", namespace, experiment(runs=9, policies=[policy]))

    async def first_rung() -> bool:
        return len((await api.list("icops", namespace)).items) > 0

    await until("a first stop", first_rung, api, namespace)
    operator.kill()
    operator.start()
    body = await finished(api, namespace)
    shown = [2.1 - 0.1 * boundary for boundary in BOUNDARIES]
    curves: dict[str, list[float | None]] = {
        f"exp-r{index}": [value + 0.01 * index for value in shown] for index in range(1, 10)
    }
    story = Story(curves, [Policy.model_validate(policy)], chunks=len(BOUNDARIES))
    story.play(lambda moving: moving[0])
    operations = (await api.list("icops", namespace)).items
    asked = {(each["spec"]["runs"][0], each["metadata"]["labels"]["rapidfire.ai/policy-chunks"]) for each in operations}
    assert asked == {(name, str(mark.chunks)) for name, marks in story.stops.items() for mark in marks}
    assert len(operations) == len(asked) == 7
    assert {(each["spec"]["op"], each["spec"]["requestedBy"]) for each in operations} == {
        ("Stop", "policy:successiveHalving")
    }
    ends = await states(api, namespace)
    assert {name for name, state in ends.items() if state == "Succeeded"} == {"exp-r1", "exp-r2"}
    assert {name for name, state in ends.items() if state == "Stopped"} == set(story.stops)
    records = [PolicyRecord.model_validate(each) for each in body["status"]["policies"]]
    assert [each.model_copy(update={"metric": "eval_loss"}) for each in records] == list(story.records)
    assert max(each.chunk for each in node.ledger if each.run == "exp-r9") < 2, "at most the chunk that was under way"
    run = await api.get("runs", namespace, "exp-r5")
    assert [(each["policy"], each["chunks"]) for each in run["status"]["stoppedBy"]] == [("successiveHalving", 1)]
    table = kubectl("get", "icop")
    line = next(each for each in table.splitlines() if each.startswith("exp-r5-successivehalving-1-"))
    assert "policy:successiveHalving" in line
    assert "is place 5 of 9; the best 4 go on, with 1.74 or better" in line
    events = kubectl("get", "events", "--field-selector", "reason=PolicyActed")
    assert "5 of 9 runs stop after 1 chunk" in events


async def test_a_run_that_a_user_resumes_goes_on_though_the_records_are_deleted(
    api: Api, namespace: str, kubectl: Kubectl, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node()
    policies = [{"successiveHalving": {"eta": 3, "minChunks": 2}}, {"stopWhenWorse": {"minChunks": 2}}]
    await api.create("experiments", namespace, experiment(runs=3, policies=policies))
    for name in ("exp-r2", "exp-r3"):
        run = await run_is(api, namespace, name, "Stopped")
        assert "Stopped by policy:successiveHalving" in condition(run, "Progressing")["message"]
    await run_is(api, namespace, "exp-r1", "Succeeded")
    kubectl("delete", "icop", "--all")
    await api.create("icops", namespace, icop("again", "Resume", ["exp-r3"]))
    await run_is(api, namespace, "exp-r3", "Succeeded")
    await finished(api, namespace)
    assert await states(api, namespace) == {"exp-r1": "Succeeded", "exp-r2": "Stopped", "exp-r3": "Succeeded"}
    assert [each["metadata"]["name"] for each in (await api.list("icops", namespace)).items] == ["again"]


async def test_time_stops_all_runs_once_and_whoever_is_resumed_goes_on(
    api: Api, namespace: str, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node(behaviour=lambda _: Deed(seconds=0.5))
    await api.create("experiments", namespace, experiment(runs=4, policies=[{"maxDuration": {"limit": "2s"}}]))
    body = await finished(api, namespace)
    assert condition(body, "Finished")["reason"] == "RunsStopped"
    assert [(each["policy"], each["limit"]) for each in body["status"]["policies"]] == [("maxDuration", "2s")]
    (operation,) = (await api.list("icops", namespace)).items
    assert operation["spec"]["requestedBy"] == "policy:maxDuration"
    assert operation["spec"]["when"] == "Immediate"
    assert operation["spec"]["reason"] == "the experiment has run for 2s; raise maxDuration, or resume runs by hand"
    stopped = next(name for name, state in (await states(api, namespace)).items() if state == "Stopped")
    await api.create("icops", namespace, icop("again", "Resume", [stopped]))
    await run_is(api, namespace, stopped, "Succeeded")
    assert len((await api.list("icops", namespace)).items) == 2


@pytest.mark.parametrize(
    ("policies", "sentence"),
    [
        ([{}], "write exactly one of successiveHalving"),
        ([{"successiveHalving": {}, "stopWhenWorse": {}}], "write exactly one of successiveHalving"),
        ([{"successiveHalving": {}}, {"successiveHalving": {"eta": 2}}], "write each policy once"),
        ([{"maxDuration": {"limit": "tomorrow"}}], "write a duration such as 90m, 8h or 1d12h"),
        ([{"maxDuration": {"limit": "0h"}}], "write a duration such as 90m, 8h or 1d12h"),
        ([{"successiveHalving": {"eta": 1}}], "should be greater than or equal to 2"),
        ([{"maxCost": {"limit": 20}}], "pricePerWorkerHour: Required value"),
        ([{"hyperband": {}}], 'unknown field "spec.policies[0].hyperband"'),
    ],
)
@pytest.mark.usefixtures("crds")
def test_nonsense_is_refused_with_the_fix(kubectl: Kubectl, policies: list[Body], sentence: str) -> None:
    answer = kubectl("create", "-f", "-", stdin=json.dumps(experiment(policies=policies)))
    assert sentence in answer

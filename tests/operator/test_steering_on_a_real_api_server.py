"""Stop, Resume, Delete and CloneModify while runs train, by ICOp and by hand: the operator on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.operator.builders import condition, experiment, icop
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import Deed, Node

from rapidfireai_operator.adapters.kubernetes import Api, ApiError

pytestmark = pytest.mark.integration
MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., Node]
Body = dict[str, Any]
FASTER = {"training_args": {"learning_rate": 0.5}}


class Helm:
    """Somebody who steers the experiment `exp`."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    async def run(self, index: int) -> Body:
        return await self.api.get("runs", self.namespace, f"exp-r{index}")

    async def runs(self) -> dict[str, Body]:
        return {body["metadata"]["name"]: body for body in (await self.api.list("runs", self.namespace)).items}

    async def ask(self, name: str, op: str, runs: list[int], **spec: Any) -> None:
        body = icop(name, op, [f"exp-r{index}" for index in runs])
        body["spec"] |= spec
        await self.api.create("icops", self.namespace, body)

    async def clone(self, name: str, runs: list[int], patch: Body | None = None, warm: bool = False) -> None:
        await self.ask(name, "CloneModify", runs, clone={"patch": patch or {}, "warmStart": warm})

    async def want(self, index: int, **spec: Any) -> None:
        await self.api.patch("runs", self.namespace, f"exp-r{index}", {"spec": spec})

    async def until(self, what: str, look: Callable[[], Any]) -> Any:
        return await until(what, look, self.api, self.namespace)

    async def complete(self, name: str) -> Body:
        async def look() -> Body | None:
            body = await self.api.get("icops", self.namespace, name)
            return body if condition(body, "Complete").get("status") == "True" else None

        return await self.until(f"{name} complete", look)

    async def run_is(self, index: int, state: str) -> Body:
        async def look() -> Body | None:
            body = await self.run(index)
            return body if (body.get("status") or {}).get("state") == state else None

        return await self.until(f"run {index} {state}", look)

    async def wanted(self, index: int, desired: str) -> None:
        async def look() -> bool:
            return bool((await self.run(index))["spec"]["desiredState"] == desired)

        await self.until(f"run {index} asked to be {desired}", look)

    async def finished(self, reason: str = "AllSucceeded") -> Body:
        async def look() -> Body | None:
            body = await self.api.get("experiments", self.namespace, "exp")
            found = condition(body, "Finished")
            return body if found.get("status") == "True" and found["reason"] == reason else None

        return await self.until(f"finished {reason}", look)

    async def computes(self, index: int, chunk: int) -> None:
        async def look() -> bool:
            progress = ((await self.run(index)).get("status") or {}).get("progress") or {}
            return progress.get("chunk") == chunk and not progress["final"]

        await self.until(f"run {index} computes chunk {chunk}", look)


@pytest.fixture
def helm(api: Api, namespace: str) -> Helm:
    return Helm(api, namespace)


def results(record: Body) -> dict[str, str]:
    return {result["run"]: result.get("message", "") for result in record["status"]["results"]}


@pytest.mark.parametrize("by_hand", [False, True], ids=["icop", "kubectl"])
async def test_stop_resume_and_delete_mean_the_same_by_icop_and_by_hand(
    helm: Helm, make_operator: MakeOperator, make_node: MakeNode, by_hand: bool
) -> None:
    async def do(op: str, index: int, when: str = "Boundary") -> None:
        if by_hand:
            desired = {"Stop": "Stopped", "Resume": "Running", "Delete": "Deleted"}[op]
            await helm.want(index, desiredState=desired, when=when)
        else:
            await helm.ask(f"{op.lower()}-{index}", op, [index], when=when)

    gates = {("exp-r1", 1): asyncio.Event(), ("exp-r2", 2): asyncio.Event()}
    make_operator()
    node = make_node(behaviour=lambda attempt: Deed(gate=gates.get((attempt.run, attempt.chunk))))
    await helm.api.create("experiments", helm.namespace, experiment(runs=3, replicas=3))
    await helm.computes(1, 1)
    await do("Stop", 1)
    await helm.wanted(1, "Stopped")
    gates["exp-r1", 1].set()
    assert (await helm.run_is(1, "Stopped"))["status"]["display"]["chunks"] == "2/4"
    await do("Resume", 1)
    await helm.computes(2, 2)
    await do("Delete", 2, "Immediate")
    deleted = await helm.run_is(2, "Deleted")
    checkpoint = deleted["status"]["progress"]["checkpoint"]
    assert checkpoint["step"] not in {0, 4, 8, 12, 16}, "it parked between two boundaries and committed there"
    body = await helm.finished()
    assert body["status"]["runs"]["deleted"] == 1
    assert body["status"]["runs"]["total"] == body["status"]["runs"]["succeeded"] == 2
    assert body["status"]["chunks"]["summary"] == "8/8"
    assert body["status"]["best"]["run"] == "exp-r1"
    assert condition(await helm.run(2), "Finished")["reason"] == "Deleted"
    await helm.want(1, desiredState="Deleted")
    await helm.run_is(1, "Deleted")

    async def best() -> str:
        found = await helm.api.get("experiments", helm.namespace, "exp")
        return str(found["status"]["best"]["run"]) if found["status"]["runs"]["deleted"] == 2 else ""

    assert await helm.until("the best of what is left", best) == "exp-r3"
    with pytest.raises(ApiError, match="a deleted run stays deleted; clone it"):
        await helm.want(1, desiredState="Running")
    assert len({(each.run, each.chunk) for each in node.ledger}) >= 12


async def test_clones_begin_where_their_parents_were_and_reopen_a_finished_experiment(
    helm: Helm, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    gate = asyncio.Event()
    make_operator(RAPIDFIRE_WORKER_IDLE_SECONDS="0")
    make_node(behaviour=lambda attempt: Deed(gate=gate if (attempt.run, attempt.chunk) == ("exp-r1", 1) else None))
    await helm.api.create("experiments", helm.namespace, experiment(runs=2))
    await helm.computes(1, 1)
    await helm.clone("early", [1], FASTER, warm=True)
    record = await helm.complete("early")
    (result,) = record["status"]["results"]
    assert result["created"] == "exp-r3"
    assert record["status"]["summary"] == "1 cloned"
    child, parent = await helm.run(3), await helm.run(1)
    reference = child["spec"]["parentRef"]
    assert reference["checkpoint"] == result["checkpoint"]
    assert reference["checkpoint"]["step"] == 4, "what was committed, not what is under way"
    assert reference["checkpoint"] in parent["status"]["pinned"]
    assert (reference["name"], reference["uid"]) == ("exp-r1", parent["metadata"]["uid"])
    assert child["spec"]["config"]["training_args"]["learning_rate"] == 0.5
    assert child["metadata"]["labels"]["rapidfire.ai/run-index"] == "3"
    gate.set()
    await helm.finished()

    async def no_jobs() -> bool:
        return not (await helm.api.list("jobs", helm.namespace)).items

    await helm.until("its workers left", no_jobs)
    await helm.ask("late", "Stop", [1])
    assert "the experiment is finished" in results(await helm.complete("late"))["exp-r1"]
    await helm.clone("grandchild", [3], {"training_args": {"learning_rate": 0.25}})
    await helm.complete("grandchild")
    await helm.run_is(4, "Succeeded")
    body = await helm.finished()
    assert body["status"]["runs"]["succeeded"] == 4
    assert body["status"]["nextIndex"] == 5
    assert (await helm.run(4))["spec"]["parentRef"]["name"] == "exp-r3"
    assert "checkpoint" not in (await helm.run(4))["spec"]["parentRef"]


async def test_twenty_clones_are_made_once_though_the_operator_is_killed_among_them(
    helm: Helm, make_operator: MakeOperator
) -> None:
    operator = make_operator()
    await helm.api.create("experiments", helm.namespace, experiment(runs=4, replicas=0))
    await helm.run_is(4, "Pending")
    names = [f"clone-{number}" for number in range(5)]
    for name in names:
        await helm.clone(name, [1, 2, 3, 4], FASTER)

    async def claimed() -> bool:
        bodies = (await helm.api.list("icops", helm.namespace)).items
        return any((body.get("status") or {}).get("results") for body in bodies)

    async def some() -> bool:
        return len(await helm.runs()) > 4

    for what, look in (("a name is claimed", claimed), ("a clone is made", some), ("a clone is made", some)):
        await helm.until(what, look)
        operator.kill()
        operator.start()
    records = [await helm.complete(name) for name in names]
    created = [result["created"] for record in records for result in record["status"]["results"]]
    runs = await helm.runs()
    assert sorted(created) == sorted(f"exp-r{index}" for index in range(5, 25))
    assert set(runs) == {f"exp-r{index}" for index in range(1, 25)}
    for record in records:
        for result in record["status"]["results"]:
            clone = runs[result["created"]]
            assert clone["metadata"]["labels"]["rapidfire.ai/icop"] == record["metadata"]["uid"]
            assert clone["spec"]["parentRef"]["name"] == result["run"]
    assert (await helm.api.get("experiments", helm.namespace, "exp"))["status"]["nextIndex"] == 25


async def test_what_cannot_be_done_is_refused_with_the_next_step(helm: Helm, make_operator: MakeOperator) -> None:
    make_operator()
    await helm.api.create("experiments", helm.namespace, experiment(runs=2, replicas=0))
    await helm.api.create("experiments", helm.namespace, experiment(name="other", runs=1, replicas=0))
    await helm.run_is(2, "Pending")
    refusals = {
        "unknown": ({"op": "Stop", "runs": ["exp-r7"]}, "its runs are exp-r1, exp-r2"),
        "foreign": ({"op": "Stop", "runs": ["other-r1"]}, "write experimentRef: other"),
        "knob": ({"clone": {"patch": {"training_args.learning_rte": 1}}}, "did you mean learning_rate"),
        "type": ({"clone": {"patch": {"training_args": {"learning_rate": "fast"}}}}, "training_args.learning_rate"),
        "early": ({"clone": {"warmStart": True}}, "wait for its first chunk, or clone it cold"),
    }
    for name, (spec, _) in refusals.items():
        body = icop(name, "CloneModify", ["exp-r1"])
        body["spec"] |= spec
        await helm.api.create("icops", helm.namespace, body)
    for name, (_, sentence) in refusals.items():
        record = await helm.complete(name)
        (message,) = results(record).values()
        assert sentence in message
        assert record["status"]["summary"] == "1 refused"
    await helm.want(1, desiredState="Deleted")
    await helm.run_is(1, "Deleted")
    await helm.ask("gone", "Resume", [1])
    assert "it was deleted; clone it" in results(await helm.complete("gone"))["exp-r1"]
    assert set(await helm.runs()) == {"exp-r1", "exp-r2", "other-r1"}, "nothing was made"

    async def owned() -> bool:
        bodies = (await helm.api.list("icops", helm.namespace)).items
        return all(body["metadata"].get("ownerReferences", [{}])[0].get("name") == "exp" for body in bodies)

    await helm.until("the experiment owns the records", owned)


async def test_records_go_when_they_asked_to_and_selectors_choose_when_accepted(
    helm: Helm, make_operator: MakeOperator
) -> None:
    make_operator()
    await helm.api.create("experiments", helm.namespace, experiment(runs=3, replicas=0))
    await helm.run_is(3, "Pending")
    await helm.ask("one", "Stop", [1], requestedBy="alice")
    await helm.run_is(1, "Stopped")
    body = icop("rest", "Stop", [])
    body["spec"] |= {"selector": {"states": ["Pending"]}, "ttlSecondsAfterComplete": 1}
    del body["spec"]["runs"]
    await helm.api.create("icops", helm.namespace, body)
    for index in (2, 3):
        await helm.run_is(index, "Stopped")

    async def removed() -> bool:
        return [each["metadata"]["name"] for each in (await helm.api.list("icops", helm.namespace)).items] == ["one"]

    await helm.until("the record that asked to go is gone", removed)
    assert (await helm.run(1))["spec"]["requestedBy"] == "alice"

    async def told() -> list[str]:
        events = (await helm.api.list("events", helm.namespace)).items
        return [event["message"] for event in events if event["message"].startswith("Stopped by alice.")]

    await helm.until("who stopped it", told)

"""Evaluations from prepare over their indexes to the last shard: the operator on a real API server."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.operator.builders import condition, evaluation, icop, retrieval
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import BOUNDARIES, Attempt, Deed, Node, index_of

from rapidfireai_operator.adapters.kubernetes import Api

pytestmark = pytest.mark.integration
MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., Node]
Body = dict[str, Any]
SHARDS = len(BOUNDARIES)


class Lab:
    """What a user sees and does."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    async def until(self, what: str, look: Callable[[], Awaitable[Any]]) -> Any:
        return await until(what, look, self.api, self.namespace, 60)

    async def create(self, body: Body) -> None:
        await self.api.create(f"{body['kind'].lower()}s", self.namespace, body)

    async def runs(self) -> list[Body]:
        bodies = (await self.api.list("runs", self.namespace)).items
        return sorted(bodies, key=lambda body: body["spec"]["index"])

    async def run(self, index: int) -> Body:
        return await self.api.get("runs", self.namespace, f"exp-r{index}")

    async def run_is(self, index: int, state: str) -> Body:
        async def look() -> Body | None:
            body = await self.run(index)
            return body if (body.get("status") or {}).get("state") == state else None

        return await self.until(f"run {index} {state}", look)

    async def building(self, count: int) -> list[Body]:
        """Return the runs that build, once so many do and have said so."""

        async def look() -> list[Body] | None:
            found = [
                body
                for body in await self.runs()
                if ((body.get("status") or {}).get("assignment") or {}).get("task") == "index"
                and body["status"]["progress"]["attempt"] == body["status"]["assignment"]["attempt"]
            ]
            return found if len(found) == count else None

        return await self.until(f"{count} build", look)

    async def waiting(self, count: int) -> list[Body]:
        """Return the runs that wait for an index, once so many do."""

        async def look() -> list[Body] | None:
            found = [each for each in await self.runs() if condition(each, "Progressing").get("reason") == WAITING]
            return found if len(found) == count else None

        return await self.until(f"{count} wait", look)

    async def computes(self, index: int, chunk: int) -> None:
        async def look() -> bool:
            progress = ((await self.run(index)).get("status") or {}).get("progress") or {}
            return progress.get("chunk") == chunk and not progress["final"]

        await self.until(f"run {index} answers shard {chunk}", look)

    async def has_begun(self, index: int) -> None:
        async def look() -> bool:
            return (((await self.run(index)).get("status") or {}).get("progress") or {}).get("chunk", -1) >= 0

        await self.until(f"run {index} answers a shard", look)

    async def finished(self) -> Body:
        async def look() -> Body | None:
            body = await self.api.get("experiments", self.namespace, "exp")
            return body if condition(body, "Finished").get("status") == "True" else None

        return await self.until("the experiment is finished", look)

    async def complete(self, name: str) -> Body:
        async def look() -> Body | None:
            body = await self.api.get("icops", self.namespace, name)
            return body if condition(body, "Complete").get("status") == "True" else None

        return await self.until(f"{name} complete", look)

    async def ask(self, name: str, op: str, index: int, **spec: Any) -> Body:
        body = icop(name, op, [f"exp-r{index}"])
        body["spec"] |= spec
        await self.create(body)
        return await self.complete(name)


WAITING = "WaitingForIndex"


@pytest.fixture
def lab(api: Api, namespace: str) -> Lab:
    return Lab(api, namespace)


def committed(node: Node, task: str) -> Counter[tuple[str, int]]:
    return Counter((each.run, each.chunk) for each in node.ledger if each.task == task)


def indexes(runs: list[Body]) -> dict[str, str]:
    """Return the index of each run."""
    return {run["metadata"]["name"]: run["status"]["prepared"]["index"] for run in runs}


def check_ends(node: Node, runs: list[Body], *, deleted: str = "") -> None:
    """Check that each run has each shard once and each index was built once."""
    digest = indexes(runs)
    builds = Counter(digest[run] for run, _ in committed(node, "index").elements())
    assert builds == Counter(dict.fromkeys(digest.values(), 1))
    names = [name for name in digest if name != deleted]
    answered = Counter({each: times for each, times in committed(node, "chunk").items() if each[0] != deleted})
    assert answered == Counter({(name, shard): 1 for name in names for shard in range(SHARDS)})
    assert set(committed(node, "prepare").values()) == {1}
    assert all(run["status"]["prepared"]["indexBuilt"] for run in runs)


async def test_each_index_is_built_once_though_a_builder_is_killed_half_way(
    lab: Lab, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    gate = asyncio.Event()
    make_operator()
    node = make_node(behaviour=lambda attempt: Deed(gate=gate if attempt.task == "index" else None))
    await lab.create(retrieval())
    builders, waiting = await lab.building(2), await lab.waiting(2)
    digests = indexes(await lab.runs())
    assert len(set(digests.values())) == len({digests[body["metadata"]["name"]] for body in builders}) == 2
    told = {each["metadata"]["name"]: condition(each, "Progressing")["message"] for each in waiting}
    shares = {digests[each["metadata"]["name"]]: each["metadata"]["name"] for each in builders}
    for name, message in told.items():
        assert message == f"It goes on when {shares[digests[name]]} has built the index that both search."
    victim = builders[0]
    await node.kill(victim["status"]["assignment"]["worker"])

    async def handed_over() -> bool:
        given = [each["metadata"]["name"] for each in await lab.building(2)]
        return victim["metadata"]["name"] not in given

    await lab.until("another run builds", handed_over)
    gate.set()
    body = await lab.finished()
    assert body["status"]["state"] == "Succeeded"
    assert body["status"]["chunks"]["summary"] == f"{4 * SHARDS}/{4 * SHARDS}"
    runs = await lab.runs()
    check_ends(node, runs)
    assert [run["status"]["failures"]["crashes"] for run in runs].count(1) == 1
    assert body["status"]["best"]["summary"] == "exp-r4 (0.6 [0.5375, 0.6625])"
    best = runs[3]["status"]
    assert best["display"]["objective"] == "0.6 [0.5375, 0.6625]"
    assert (best["objective"][0]["lower"], best["objective"][0]["upper"]) == (0.35, 0.85)


async def test_an_operator_that_is_restarted_half_way_builds_nothing_again(
    lab: Lab, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
    operator = make_operator()
    node = make_node(behaviour=lambda attempt: Deed(gate=gates[attempt.run] if attempt.task == "index" else None))
    await lab.create(retrieval())
    first, second = await lab.building(2)
    operator.kill()
    gates[first["metadata"]["name"]].set()

    async def one_is_built() -> bool:
        return bool(committed(node, "index"))

    await lab.until("one index is built while nobody looks", one_is_built)
    operator.start()
    await lab.has_begun(first["spec"]["index"])
    operator.kill()
    gates[second["metadata"]["name"]].set()
    operator.start()
    assert (await lab.finished())["status"]["state"] == "Succeeded"
    check_ends(node, await lab.runs())


async def test_a_builder_that_fails_or_is_stopped_hands_over(
    lab: Lab, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    gate = asyncio.Event()

    def behaviour(attempt: Attempt) -> Deed:
        if attempt.task != "index":
            return Deed()
        if attempt.run == "exp-r1":
            return Deed("fail", reason="DocumentsUnreadable", message="the loader raised OSError: no such file")
        return Deed(gate=gate)

    make_operator()
    node = make_node(behaviour=behaviour)
    await lab.create(retrieval(splitters=1, searches=3))
    failed = await lab.run_is(1, "Failed")
    assert condition(failed, "Finished")["reason"] == "DocumentsUnreadable"
    (builder,) = await lab.building(1)
    assert builder["metadata"]["name"] == "exp-r2"
    await lab.ask("stop", "Stop", 2, when="Immediate")
    gate.set()
    await lab.run_is(2, "Stopped")
    succeeded = await lab.run_is(3, "Succeeded")
    assert succeeded["status"]["prepared"]["indexBuilt"]
    await lab.ask("resume", "Resume", 2)
    await lab.run_is(2, "Succeeded")
    assert len(set(indexes((await lab.runs())[1:]).values())) == 1
    assert node.built == {index_of(await lab.run(1))}


async def test_stop_resume_clone_and_delete_take_effect_where_shards_end(
    lab: Lab, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    gates = {("exp-r1", 1): asyncio.Event(), ("exp-r2", 1): asyncio.Event()}
    make_operator()
    node = make_node(behaviour=lambda attempt: Deed(gate=gates.get((attempt.run, attempt.chunk))))
    await lab.create(retrieval(splitters=1, searches=2))
    await lab.computes(1, 1)
    await lab.computes(2, 1)
    await lab.ask("stop", "Stop", 1)
    await lab.ask("delete", "Delete", 2)
    for gate in gates.values():
        gate.set()
    stopped, deleted = await lab.run_is(1, "Stopped"), await lab.run_is(2, "Deleted")
    for run in (stopped, deleted):
        assert run["status"]["progress"]["checkpoint"]["step"] == BOUNDARIES[1], "the shard under way was answered"
    warm = await lab.ask("warm", "CloneModify", 1, clone={"patch": {}, "warmStart": True})
    assert warm["status"]["results"][0]["message"] == (
        "an evaluation has no weights to go on from; set clone.warmStart: false"
    )
    search = {"vllm_config": {"rag": {"search_kwargs": {"k": 7}}}}
    split = {"vllm_config": {"rag": {"text_splitter": {"kwargs": {"chunk_size": 700}}}}}
    for name, patch in (("search", search), ("split", split)):
        record = await lab.ask(name, "CloneModify", 1, clone={"patch": patch, "warmStart": False})
        assert record["status"]["results"][0]["outcome"] == "Applied", record["status"]
    for index in (3, 4):
        await lab.run_is(index, "Succeeded")
    await lab.ask("resume", "Resume", 1)
    await lab.run_is(1, "Succeeded")
    runs = await lab.runs()
    digest = indexes(runs)
    assert digest["exp-r1"] == digest["exp-r3"] != digest["exp-r4"]
    check_ends(node, runs, deleted="exp-r2")


async def test_a_run_that_another_one_beats_is_stopped_with_both_intervals(
    lab: Lab, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node()
    await lab.create(evaluation(runs=4, policies=[{"stopWhenBeaten": {"minChunks": 2}}]))
    stopped = await lab.run_is(1, "Stopped")
    (stop,) = stopped["status"]["stoppedBy"]
    assert (stop["policy"], stop["chunks"]) == ("stopWhenBeaten", 2)
    assert stop["reason"] == "Accuracy 0.3 [0.175, 0.425] after 2 chunks lies wholly below 0.6 [0.475, 0.725] of exp-r4"
    assert "Stopped by policy:stopWhenBeaten" in condition(stopped, "Progressing")["message"]
    await lab.run_is(4, "Succeeded")
    await lab.ask("resume", "Resume", 1)
    await lab.run_is(1, "Succeeded")
    records = (await lab.api.list("icops", lab.namespace)).items
    assert len([each for each in records if each["spec"]["runs"] == ["exp-r1"] and each["spec"]["op"] == "Stop"]) == 1

"""Suspending, expiring, queueing and preferring, on a real API server with simulated workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.operator.builders import condition, experiment
from tests.operator.harness import OperatorProcess
from tests.operator.simulated import Attempt, Deed, Node
from tests.operator.test_life_on_a_real_api_server import Body, Cluster, times

from rapidfireai_operator.adapters.kubernetes import Api, ConflictError, NotFoundError

pytestmark = pytest.mark.integration
MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., Node]
WAIT = 90.0


@pytest.fixture
def cluster(api: Api, namespace: str) -> Cluster:
    return Cluster(api, namespace)


async def change(cluster: Cluster, **spec: Any) -> None:
    await cluster.api.patch("experiments", cluster.namespace, "exp", {"spec": spec})


async def jobs(cluster: Cluster) -> list[Body]:
    return (await cluster.api.list("jobs", cluster.namespace)).items


async def test_a_suspended_experiment_commits_leaves_its_workers_and_goes_on_where_it_was(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    gate = asyncio.Event()

    def behave(attempt: Attempt) -> Deed:
        return Deed(gate=gate) if attempt.chunk == 1 and not gate.is_set() else Deed()

    make_operator()
    node = make_node(behaviour=behave)
    await cluster.create(experiment(runs=2))
    await cluster.committed(node, 4)
    await change(cluster, suspend=True)
    body = await cluster.judged("Suspended", "True", "Suspended", seconds=WAIT)
    assert body["status"]["state"] == "Suspended"
    assert "eta" not in body["status"]
    assert body["status"]["workers"]["summary"] == "0/0"
    assert condition(body, "Finished")["status"] == "False"
    assert not await jobs(cluster)

    async def all_say_so() -> bool:
        runs = await cluster.runs()
        told = [condition(run, "Progressing") for run in runs]
        return all((each["status"], each["reason"]) == ("False", "Suspended") for each in told) and not any(
            run["status"].get("assignment") for run in runs
        )

    await cluster.until("both runs say that they are suspended", all_say_so)
    await cluster.want(2, "Stopped")
    await cluster.run_is(2, "Stopped")
    gate.set()
    await change(cluster, suspend=False)
    body = await cluster.judged("Finished", "True", "RunsStopped", seconds=WAIT)
    assert condition(body, "Suspended")["reason"] == "Resumed"
    assert (await cluster.run(1))["status"]["state"] == "Succeeded"
    counted = times(node.ledger)
    # A chunk that was cut short at its next step is committed as far as it went, and goes on from there.
    assert all(counted["exp-r1", chunk] == (2 if chunk == 1 else 1) for chunk in range(4)), counted


async def test_an_experiment_that_is_created_suspended_makes_its_runs_and_no_worker(
    cluster: Cluster, make_operator: MakeOperator
) -> None:
    make_operator()
    await cluster.create(experiment(runs=3, suspend=True))
    await cluster.judged("Expanded", "True")
    body = await cluster.judged("Suspended", "True")
    assert body["status"]["runs"]["pending"] == 3
    assert not await jobs(cluster)


async def test_a_finished_experiment_goes_when_its_time_is_over(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node()
    await cluster.create(experiment(runs=1, ttlSecondsAfterFinished=3600))
    body = await cluster.judged("Finished", "True", seconds=WAIT)
    assert "It is deleted at " in condition(body, "Finished")["message"]
    await change(cluster, ttlSecondsAfterFinished=0)

    async def gone() -> bool:
        try:
            await cluster.experiment()
        except NotFoundError:
            return True
        return False

    await cluster.until("the experiment is gone", gone, WAIT)

    async def without_runs() -> bool:
        return not await cluster.runs()

    await cluster.until("its runs are gone", without_runs, WAIT)


async def test_scale_takes_the_idle_slot(cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode) -> None:
    gate = asyncio.Event()
    make_operator()
    node = make_node(behaviour=lambda attempt: Deed(gate=gate) if attempt.chunk == 0 else Deed())
    await cluster.create(experiment(runs=1, replicas=2))
    await cluster.judged("WorkersReady", "True", seconds=WAIT)

    async def busy() -> str:
        given = (await cluster.run(1))["status"].get("assignment") or {}
        return str(given["worker"]) if given.get("chunk") == 0 else ""

    holder = await cluster.until("a worker holds the run", busy, WAIT)
    scale = await cluster.api.get("experiments", cluster.namespace, "exp/scale")
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
    await cluster.api.patch("experiments", cluster.namespace, "exp/scale", {"spec": {"replicas": 1}})

    async def one() -> bool:
        return await cluster.names("jobs") == [holder]

    await cluster.until("the busy slot alone is left", one, WAIT)
    gate.set()
    await cluster.judged("Finished", "True", "AllSucceeded", seconds=WAIT)
    assert set(times(node.ledger).values()) == {1}


async def test_an_image_is_changed_slot_by_slot_while_the_others_work(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    old, new = "example.org/worker:1", "example.org/worker:2"
    standing: list[int] = []

    async def images() -> list[str]:
        """The images of the slots that are not on their way out."""
        found = [job for job in await jobs(cluster) if "deletionTimestamp" not in job["metadata"]]
        standing.append(len(found))
        return sorted(job["spec"]["template"]["spec"]["containers"][0]["image"] for job in found)

    make_operator()
    node = make_node(behaviour=lambda _: Deed(seconds=1.0))
    body = experiment(runs=4, replicas=3)
    body["spec"]["workers"]["template"] = {"spec": {"containers": [{"name": "worker", "image": old}]}}
    await cluster.create(body)
    await cluster.judged("WorkersReady", "True", seconds=WAIT)
    await cluster.committed(node, 4)
    assert await images() == [old] * 3
    standing.clear()
    body["spec"]["workers"]["template"]["spec"]["containers"][0]["image"] = new
    await change(cluster, workers=body["spec"]["workers"])

    async def all_new() -> bool:
        return await images() == [new] * 3

    await cluster.until("all slots have the new image", all_new, WAIT)
    assert min(standing) >= 2, "one slot at a time"
    await cluster.judged("Finished", "True", "AllSucceeded", seconds=WAIT)
    held = [run["status"].get("failures", {}) for run in await cluster.runs()]
    assert not any(each.get("crashes") or each.get("errors") for each in held), "nobody pays for an upgrade"


@pytest_asyncio.fixture
async def kueue(cluster: Cluster) -> AsyncIterator[Callable[[str], None]]:
    """Suspends what is in a queue, as Kueue's webhook does, until it is let in by name."""
    admitted: set[str] = set()

    async def act() -> None:
        while True:
            for job in await jobs(cluster):
                name, suspended = job["metadata"]["name"], bool(job["spec"].get("suspend"))
                queued = "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]
                if queued and suspended == (name in admitted) and not job["metadata"].get("deletionTimestamp"):
                    try:
                        await cluster.api.patch(
                            "jobs", cluster.namespace, name, {"spec": {"suspend": name not in admitted}}
                        )
                    except (ConflictError, NotFoundError):
                        continue  # looked at again in the next round
            await asyncio.sleep(0.05)

    task = asyncio.create_task(act())
    yield admitted.add
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_worker_waits_for_its_queue_and_says_so(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode, kueue: Callable[[str], None]
) -> None:
    make_operator(RAPIDFIRE_QUEUE_NAME="everybody")
    body = experiment(runs=2, replicas=2)
    body["spec"]["workers"]["queueName"] = "team-a"
    await cluster.create(body)
    seen = await cluster.judged("WorkersReady", "False", "Queued", seconds=WAIT)
    assert "from queue team-a" in condition(seen, "WorkersReady")["message"]
    before = {job["metadata"]["name"]: job["metadata"]["uid"] for job in await jobs(cluster)}
    make_node()
    kueue("exp-w-0")
    kueue("exp-w-1")
    await cluster.judged("Finished", "True", "AllSucceeded", seconds=WAIT)
    after = {job["metadata"]["name"]: job["metadata"]["uid"] for job in await jobs(cluster)}
    assert after.items() <= before.items(), "a Job that waits is left alone"


async def test_a_run_of_higher_priority_goes_first_and_one_chunk_further_at_most(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    await cluster.create(experiment(runs=3, replicas=1))
    await cluster.judged("Expanded", "True")
    await cluster.api.patch("runs", cluster.namespace, "exp-r3", {"spec": {"priority": 10}})
    node = make_node()
    await cluster.judged("Finished", "True", "AllSucceeded", seconds=WAIT)
    order = [(each.run, each.chunk) for each in node.ledger if each.chunk >= 0]
    assert order.index(("exp-r3", 1)) < min(order.index(("exp-r1", 1)), order.index(("exp-r2", 1)))
    assert order.index(("exp-r3", 2)) > max(order.index(("exp-r1", 0)), order.index(("exp-r2", 0)))

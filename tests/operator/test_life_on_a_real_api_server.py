"""Whole lives of experiments: the operator as a process, a real control plane, simulated workers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from kubernetes import aio
from tests.operator.builders import condition, experiment, icop
from tests.operator.harness import OperatorProcess, until
from tests.operator.simulated import BOUNDARIES, Attempt, Deed, Node

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai_operator.adapters.kubernetes import Api, NotFoundError, open_session

pytestmark = pytest.mark.integration
MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., Node]
Body = dict[str, Any]
LOSSLESS = 4 * (len(BOUNDARIES) + 1)
"""Commits of four runs: each prepares once and has each chunk once."""


class Cluster:
    """What a user sees and does."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    async def until(self, what: str, look: Callable[[], Awaitable[Any]], seconds: float = 40.0) -> Any:
        return await until(what, look, self.api, self.namespace, seconds)

    async def experiment(self, name: str = "exp") -> Body:
        return await self.api.get("experiments", self.namespace, name)

    async def run(self, index: int, name: str = "exp") -> Body:
        return await self.api.get("runs", self.namespace, f"{name}-r{index}")

    async def runs(self) -> list[Body]:
        return (await self.api.list("runs", self.namespace)).items

    async def names(self, kind: str) -> list[str]:
        return [body["metadata"]["name"] for body in (await self.api.list(kind, self.namespace)).items]

    async def create(self, body: Body) -> None:
        await self.api.create(f"{body['kind'].lower()}s", self.namespace, body)

    async def judged(self, type_: str, status: str, reason: str = "", name: str = "exp", seconds: float = 40.0) -> Body:
        async def look() -> Body | None:
            body = await self.experiment(name)
            found = condition(body, type_)
            return body if found.get("status") == status and reason in {"", found["reason"]} else None

        return await self.until(f"{name} {type_}={status} {reason}", look, seconds)

    async def run_is(self, index: int, state: str) -> Body:
        async def look() -> Body | None:
            body = await self.run(index)
            return body if (body.get("status") or {}).get("state") == state else None

        return await self.until(f"run {index} {state}", look)

    async def want(self, index: int, state: str) -> None:
        await self.api.patch("runs", self.namespace, f"exp-r{index}", {"spec": {"desiredState": state}})

    async def scale(self, replicas: int) -> None:
        await self.api.patch("experiments", self.namespace, "exp", {"spec": {"workers": {"replicas": replicas}}})

    async def committed(self, node: Node, count: int) -> None:
        async def look() -> bool:
            return len(node.ledger) >= count

        await self.until(f"{count} commits", look)

    async def delete(self, kind: str, name: str) -> None:
        await self.api.delete(
            kind, self.namespace, name, (await self.api.get(kind, self.namespace, name))["metadata"]["uid"]
        )


@pytest.fixture
def cluster(api: Api, namespace: str) -> Cluster:
    return Cluster(api, namespace)


def times(ledger: list[Attempt]) -> Counter[tuple[str, int]]:
    return Counter((each.run, each.chunk) for each in ledger)


def slowly(seconds: float) -> Callable[[Attempt], Deed]:
    return lambda _: Deed(seconds=seconds)


async def test_a_grid_runs_to_its_end(cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode) -> None:
    make_operator()
    node = make_node()
    await cluster.create(experiment(runs=4))
    body = await cluster.judged("Finished", "True")
    assert body["status"]["state"] == "Succeeded"
    assert body["status"]["chunks"]["summary"] == "16/16"
    assert body["status"]["runs"]["succeeded"] == 4
    assert body["status"]["best"]["run"] == "exp-r1"
    assert body["status"]["best"]["metric"] == "boundary/eval_loss"
    assert set(times(node.ledger).values()) == {1}
    assert len(node.ledger) == LOSSLESS
    run = await cluster.run(1)
    assert [point["step"] for point in run["status"]["objective"]] == BOUNDARIES
    assert run["status"]["display"] == {"chunks": "4/4", "objective": "0.51"}
    assert condition(run, "Succeeded")["status"] == "True"

    async def no_jobs() -> bool:
        return not await cluster.names("jobs")

    await cluster.until("the Jobs are gone", no_jobs)


async def test_events_tell_changes_of_state_and_nothing_else(
    cluster: Cluster, api: Api, namespace: str, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node()
    await cluster.create(experiment(runs=2))
    await cluster.judged("Finished", "True")

    async def told() -> Counter[tuple[str, str]] | None:
        events = [
            event
            for event in (await api.list("events", namespace)).items
            if event["involvedObject"]["kind"] in {"Run", "Experiment"}
        ]
        assert {event["source"]["component"] for event in events} == {"rapidfireai-operator"}
        told = Counter((event["involvedObject"]["name"], event["reason"]) for event in events)
        return (
            told
            if told["exp", "AllSucceeded"] and told["exp-r1", "Succeeded"] and told["exp-r2", "Succeeded"]
            else None
        )

    events = await cluster.until("the last events", told)
    assert all(times == 1 for (_, reason), times in events.items() if reason != "Starting"), events
    assert {"Started", "Succeeded"} == {reason for name, reason in events if name == "exp-r1"}
    assert {"Valid", "AllRunsMade", "AllSucceeded"} <= {reason for name, reason in events if name == "exp"}
    assert all("kopf" not in key for body in await cluster.runs() for key in body["metadata"].get("annotations", {}))


async def test_a_killed_worker_process_costs_the_active_run_a_crash_and_nothing_is_lost(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    crashes = {"exp-r2": 1}

    def behaviour(attempt: Attempt) -> Deed:
        if attempt.chunk == 1 and crashes.get(attempt.run):
            crashes[attempt.run] -= 1
            return Deed("crash", seconds=0.2, exit_code=137)
        return Deed(seconds=0.2)

    make_operator()
    node = make_node(behaviour=behaviour)
    await cluster.create(experiment(runs=4))
    body = await cluster.judged("Finished", "True")
    assert body["status"]["state"] == "Succeeded"
    failures = {run["metadata"]["name"]: run["status"]["failures"]["crashes"] for run in await cluster.runs()}
    assert failures == {"exp-r1": 0, "exp-r2": 1, "exp-r3": 0, "exp-r4": 0}
    assert set(times(node.ledger).values()) == {1}


async def test_a_run_that_keeps_crashing_fails_and_the_others_finish(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    def behaviour(attempt: Attempt) -> Deed:
        return Deed("crash") if attempt.run == "exp-r1" and attempt.task == "chunk" else Deed()

    make_operator()
    make_node(behaviour=behaviour)
    await cluster.create(experiment(runs=3, crashLimit=1))
    body = await cluster.judged("Finished", "True", "RunsFailed")
    assert body["status"]["runs"] == {
        "total": 3,
        "active": 0,
        "pending": 0,
        "running": 0,
        "stopped": 0,
        "succeeded": 2,
        "failed": 1,
        "deleted": 0,
    }
    run = await cluster.run(1)
    finished = condition(run, "Finished")
    assert finished["reason"] == "WorkerCrashed"
    assert "(OOMKilled): it used more memory than its limit" in finished["message"]
    assert run["status"]["failures"]["crashes"] == 2


async def test_a_job_that_gave_up_is_made_again(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    crashes = iter(range(8))

    def behaviour(attempt: Attempt) -> Deed:
        return Deed("crash", seconds=0.0) if next(crashes, None) is not None else Deed()

    make_operator()
    node = make_node(behaviour=behaviour)
    await cluster.create(experiment(runs=1, replicas=1, crashLimit=20))
    body = await cluster.judged("Finished", "True", "AllSucceeded")
    assert body["status"]["runs"]["succeeded"] == 1
    assert node.pods_seen > 1, "the Job controller gives up after some restarts, and the operator makes another Job"


async def test_a_removed_pod_and_a_silent_worker_cost_nobody_anything(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    node = make_node(behaviour=slowly(0.3))
    await cluster.create(experiment(runs=4))
    await cluster.committed(node, 6)
    await node.remove("exp-w-0")
    await cluster.committed(node, 8)
    node.processes["exp-w-1"].frozen = True
    body = await cluster.judged("Finished", "True", seconds=90)
    assert body["status"]["state"] == "Succeeded"
    assert {run["status"]["failures"]["crashes"] for run in await cluster.runs()} == {0}
    assert set(times(node.ledger).values()) == {1}


async def test_an_operator_that_is_killed_again_and_again_loses_and_doubles_nothing(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    operator = make_operator()
    node = make_node(behaviour=slowly(0.2))
    await cluster.create(experiment(runs=4))
    for commits in (0, 1, 5, 11):
        await cluster.committed(node, commits)
        await asyncio.sleep(0)
        operator.kill()
        operator.start()
    body = await cluster.judged("Finished", "True")
    assert body["status"]["state"] == "Succeeded"
    assert sorted(await cluster.names("runs")) == [f"exp-r{index}" for index in range(1, 5)]
    assert set(times(node.ledger).values()) == {1}
    assert len(node.ledger) == LOSSLESS


async def test_stop_takes_effect_at_the_next_boundary_and_resume_goes_on(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    node = make_node(behaviour=slowly(0.3))
    await cluster.create(experiment(runs=2))

    async def under_way() -> bool:
        progress = (await cluster.run(1)).get("status", {}).get("progress") or {}
        return progress.get("chunk") == 1 and not progress["final"]

    await cluster.until("run 1 computes chunk 1", under_way)
    await cluster.want(1, "Stopped")
    run = await cluster.run_is(1, "Stopped")
    assert run["status"]["display"]["chunks"] == "2/4"
    assert "residence" not in run["status"]
    body = await cluster.judged("Finished", "True", "RunsStopped")
    assert body["status"]["state"] == "Stopped"
    assert times(node.ledger)["exp-r1", 2] == 0
    await cluster.want(1, "Running")
    body = await cluster.judged("Finished", "True", "AllSucceeded")
    assert set(times(node.ledger).values()) == {1}


async def test_ic_ops_are_applied_once_and_recorded(
    cluster: Cluster, api: Api, namespace: str, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node(behaviour=slowly(0.2))
    await cluster.create(experiment(runs=2))
    await cluster.run_is(1, "Running")
    await cluster.create(icop("stop", "Stop", ["exp-r1", "exp-r9"]))

    async def complete(name: str) -> Body:
        async def look() -> Body | None:
            body = await api.get("icops", namespace, name)
            return body if condition(body, "Complete").get("status") == "True" else None

        return await cluster.until(f"{name} complete", look)

    record = await complete("stop")
    results = {result["run"]: result["outcome"] for result in record["status"]["results"]}
    assert results == {"exp-r1": "Applied", "exp-r9": "Refused"}
    assert condition(record, "Complete")["reason"] == "PartlyApplied"
    await cluster.run_is(1, "Stopped")
    await cluster.run_is(2, "Succeeded")
    await cluster.create(icop("again", "Stop", ["exp-r2"]))
    assert "it has reached its last step" in json.dumps(await complete("again"))
    await cluster.create(icop("resume", "Resume", ["exp-r1"]))
    await complete("resume")
    await cluster.judged("Finished", "True", "AllSucceeded")
    await cluster.create(icop("lost", "Stop", ["x"], experiment_ref="nowhere"))
    assert "there is no experiment nowhere" in json.dumps(await complete("lost"))


async def test_a_deleted_run_is_never_made_again(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    operator = make_operator()
    node = make_node(behaviour=slowly(0.2))
    await cluster.create(experiment(runs=3))
    await cluster.committed(node, 4)
    await cluster.delete("runs", "exp-r2")
    operator.kill()
    operator.start()
    body = await cluster.judged("Finished", "True")
    assert body["status"]["runs"]["total"] == 2
    assert sorted(await cluster.names("runs")) == ["exp-r1", "exp-r3"]


async def test_scaling_keeps_the_busy_workers_and_parks_what_it_takes_away(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    node = make_node(behaviour=slowly(0.3))
    await cluster.create(experiment(runs=4, replicas=1))
    await cluster.committed(node, 1)
    await cluster.scale(3)
    await cluster.judged("WorkersReady", "True", "AllReady")

    async def ready(count: int) -> Body | None:
        body = await cluster.experiment()
        workers = body["status"]["workers"]
        return body if workers["ready"] == workers["replicas"] == count else None

    await cluster.until("three workers", lambda: ready(3))
    await cluster.scale(1)
    await cluster.until("one worker", lambda: ready(1))
    body = await cluster.judged("Finished", "True", seconds=60)
    assert body["status"]["state"] == "Succeeded"
    assert {run["status"]["failures"]["crashes"] for run in await cluster.runs()} == {0}


async def test_idle_workers_leave_and_come_back(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator(RAPIDFIRE_WORKER_IDLE_SECONDS="1")
    node = make_node(behaviour=slowly(0.5))
    await cluster.create(experiment(runs=2, replicas=2))
    for index in (1, 2):
        await cluster.run_is(index, "Running")
        await cluster.want(index, "Stopped")
    for index in (1, 2):
        await cluster.run_is(index, "Stopped")

    async def no_jobs() -> bool:
        return not await cluster.names("jobs")

    await cluster.until("idle workers leave", no_jobs)
    await cluster.judged("WorkersReady", "False", "NotNeeded")
    await cluster.want(1, "Running")
    await cluster.run_is(1, "Succeeded")
    assert (await cluster.run(2))["status"]["state"] == "Stopped", "nobody resumed it"
    await cluster.until("they leave again", no_jobs)
    await cluster.want(2, "Running")
    await cluster.judged("Finished", "True", "AllSucceeded")
    assert set(times(node.ledger).values()) == {1}, "nothing was done twice"


async def test_a_run_that_is_resumed_soon_finds_its_worker_there(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node(behaviour=slowly(0.5))
    await cluster.create(experiment(runs=1, replicas=1))
    await cluster.run_is(1, "Running")
    await cluster.want(1, "Stopped")
    await cluster.run_is(1, "Stopped")
    before = [job["metadata"]["uid"] for job in (await cluster.api.list("jobs", cluster.namespace)).items]
    assert len(before) == 1
    await cluster.want(1, "Running")
    await cluster.run_is(1, "Running")
    assert [job["metadata"]["uid"] for job in (await cluster.api.list("jobs", cluster.namespace)).items] == before
    await cluster.judged("Finished", "True", "AllSucceeded")


async def test_deleting_the_experiment_takes_everything_along(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    node = make_node(behaviour=slowly(0.3))
    await cluster.create(experiment(runs=4))
    await cluster.committed(node, 2)
    await cluster.delete("experiments", "exp")

    async def nothing_left() -> bool:
        return not [*await cluster.names("runs"), *await cluster.names("jobs"), *await cluster.names("pods")]

    await cluster.until("everything is gone", nothing_left)
    await cluster.create(experiment(runs=1))
    body = await cluster.judged("Finished", "True")
    assert body["status"]["state"] == "Succeeded"


async def test_an_error_of_the_run_fails_it_with_its_message(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator()
    make_node(behaviour=lambda attempt: Deed("fail") if attempt.run == "exp-r2" else Deed())
    await cluster.create(experiment(runs=2))
    await cluster.judged("Finished", "True", "RunsFailed")
    failed = condition(await cluster.run(2), "Finished")
    assert failed["reason"] == "FormattingFailed"
    assert "KeyError: 'text'" in failed["message"]
    assert (await cluster.run(1))["status"]["state"] == "Succeeded"


async def test_an_error_is_tried_again_from_the_last_commit_unless_another_try_would_end_alike(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    errors = ["exp-r1"]

    def behaviour(attempt: Attempt) -> Deed:
        if attempt.chunk == 1 and attempt.run in errors:
            errors.remove(attempt.run)
            return Deed("fail")
        if attempt.chunk == 1 and attempt.run == "exp-r2":
            return Deed("fail", reason="OutOfMemory", message="it needs 9 GiB of 8", retry=False)
        return Deed()

    make_operator()
    node = make_node(behaviour=behaviour)
    await cluster.create(experiment(runs=3, backoffLimit=2))
    await cluster.judged("Finished", "True", "RunsFailed")
    states = [(await cluster.run(index))["status"] for index in (1, 2, 3)]
    assert [(status["state"], status["failures"]["errors"]) for status in states] == [
        ("Succeeded", 1),
        ("Failed", 1),
        ("Succeeded", 0),
    ]
    assert condition(await cluster.run(2), "Finished")["reason"] == "OutOfMemory"
    assert set(times(node.ledger).values()) == {1}


async def test_a_full_disk_is_waited_out_and_costs_nobody_anything(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    full = [True, True]

    def behaviour(attempt: Attempt) -> Deed:
        if attempt.chunk == 1 and full:
            full.pop()
            return Deed(
                "fail", reason="StorageFull", message="the volume is full; free some space", blame="Infrastructure"
            )
        return Deed()

    make_operator()
    node = make_node(behaviour=behaviour)
    await cluster.create(experiment(runs=1, replicas=1))

    async def waits() -> Body | None:
        found = condition(await cluster.run(1), "Progressing")
        return found if found.get("reason") == "StorageFull" else None

    assert "free some space" in (await cluster.until("a wait that says why", waits))["message"]
    await cluster.judged("Finished", "True", "AllSucceeded", seconds=60)
    assert set(times(node.ledger).values()) == {1}


async def test_a_missing_worker_is_explained(
    cluster: Cluster, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_operator(RAPIDFIRE_WORKER_RESOURCES='{"limits": {"nvidia.com/gpu": "1"}}')
    make_node(room=1)
    await cluster.create(experiment(runs=2, replicas=2))

    async def explained() -> str | None:
        message = condition(await cluster.experiment(), "WorkersReady").get("message", "")
        return message if message.startswith("Waiting for 1 of 2 workers: ") else None

    await cluster.until("a sentence about the missing worker", explained)


async def test_pods_are_restricted_and_know_their_slot(
    cluster: Cluster, api: Api, namespace: str, make_operator: MakeOperator
) -> None:
    make_operator(RAPIDFIRE_MOUNT_PATH="/data")
    env = [{"name": "HF_HUB_OFFLINE", "value": "1"}, {"name": "HF_HOME", "value": "/elsewhere"}]
    template = {"spec": {"containers": [{"name": "worker", "image": "mine:1", "env": env}], "nodeSelector": {"a": "b"}}}
    data = {"train": {"uri": "pvc://sets/train.jsonl"}}
    await cluster.create(experiment(data=data, workers={"replicas": 1, "template": template}))

    async def job() -> Body | None:
        jobs = (await api.list("jobs", namespace)).items
        return jobs[0] if jobs else None

    pod = (await cluster.until("a Job", job))["spec"]["template"]["spec"]
    container = pod["containers"][0]
    values = {each["name"]: each.get("value") for each in container["env"]}
    assert pod["restartPolicy"] == "OnFailure"
    assert pod["serviceAccountName"] == "rapidfire-worker"
    assert pod["nodeSelector"] == {"a": "b"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["image"] == "mine:1"
    assert values["HF_HOME"] == "/elsewhere"
    assert json.loads(values["RAPIDFIRE_CLAIMS"]) == {"rapidfire-data": "/data", "sets": "/claims/sets"}
    assert {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]} == {
        "/data": False,
        "/claims/sets": True,
        "/tmp": False,
        "/dev/shm": False,
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


async def test_the_probes_answer(
    cluster: Cluster, api: Api, namespace: str, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    operator = make_operator()
    make_node()
    await cluster.create(experiment(runs=2))
    await cluster.judged("Finished", "True")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{operator.health_port}/healthz") as answer:
            assert answer.status == 200

        async def scraped() -> str | None:
            async with session.get(f"http://127.0.0.1:{operator.port}/metrics") as answer:
                text = await answer.text()
            return text if 'state="Succeeded"} 2.0' in text else None

        text = await until("both runs in the metrics", scraped, api, namespace)
    assert "rapidfire_planner_lag_seconds_count" in text
    assert operator.stop() == 0


async def test_a_run_of_an_earlier_experiment_of_the_same_name_is_not_taken_over(
    cluster: Cluster, api: Api, namespace: str, make_operator: MakeOperator
) -> None:
    stray = {"experimentRef": "exp", "index": 1, "config": {}, "desiredState": "Running"}
    meta = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Run", "metadata": {"name": "exp-r1"}, "spec": stray}
    await cluster.create(meta)
    make_operator()
    await cluster.create(experiment(runs=1))
    await cluster.judged("Expanded", "False", "Expanding")
    await cluster.delete("runs", "exp-r1")
    await cluster.judged("Expanded", "True")
    owners = (await cluster.run(1))["metadata"]["ownerReferences"]
    assert owners[0]["kind"] == "Experiment"
    with pytest.raises(NotFoundError):
        await api.get("runs", namespace, "exp-r2")


async def test_others_may_write_to_the_same_objects_all_the_time(
    cluster: Cluster, api: Api, namespace: str, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    async def meddle() -> None:
        number = 0
        while True:
            for kind in ("runs", "experiments"):
                for name in await cluster.names(kind):
                    number += 1
                    await api.patch(kind, namespace, name, {"metadata": {"annotations": {"note": str(number)}}})

    make_operator()
    node = make_node()
    await cluster.create(experiment(runs=3))
    meddling = asyncio.create_task(meddle())
    body = await cluster.judged("Finished", "True")
    meddling.cancel()
    assert body["status"]["state"] == "Succeeded"
    assert set(times(node.ledger).values()) == {1}


async def test_kopfs_session_sends_the_token_that_is_valid_now(control_plane: ControlPlane, namespace: str) -> None:
    configuration = aio.client.Configuration(host=control_plane.server, ssl_ca_cert=str(control_plane.pki / "ca.crt"))
    token = control_plane.kubectl("create", "token", "default", "--namespace", namespace).stdout.strip()
    async with aio.client.ApiClient(configuration) as client, open_session(client) as session:
        for value, status in (("expired", 401), (token, 200)):
            configuration.api_key["BearerToken"] = f"Bearer {value}"
            async with session.get(f"{control_plane.server}/apis") as answer:
                assert answer.status == status

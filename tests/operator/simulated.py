"""A node whose worker processes only pretend to compute, so that the operator's part runs on the real API server.

It holds Leases, obeys assignments and commits as `docs/contracts.md` says. It can be told to fail, crash and hang. Of
an evaluation it prepares, builds indexes on a volume that all its processes share, and answers shards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import aiohttp
from kubernetes import aio
from kubernetes.aio.watch import Watch

from rapidfireai.api.base import GROUP, VERSION
from rapidfireai_operator.adapters.kubernetes import Api, ApiError, ConflictError, NotFoundError
from rapidfireai_operator.adapters.metrics import Metrics

Body = dict[str, Any]
BOUNDARIES = [4, 8, 12, 16]
PREPARED = {"totalSteps": BOUNDARIES[-1], "boundaries": BOUNDARIES, "bytes": 1000}
POLL_SECONDS = 0.03
WATCH_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a worker was told to do."""

    run: str
    task: str
    chunk: int
    attempt: int
    worker: str


@dataclass(frozen=True, slots=True)
class Deed:
    """How an attempt goes."""

    how: Literal["commit", "fail", "crash", "hang"] = "commit"
    seconds: float = 0.05
    reason: str = "FormattingFailed"
    message: str = "formatting_func raised KeyError: 'text'"
    blame: Literal["Run", "Infrastructure"] = "Run"
    retry: bool = True
    exit_code: int = 137
    gate: asyncio.Event | None = None
    """Computes until this is set, however long it takes, instead of some seconds."""


Behaviour = Callable[[Attempt], Deed]


def index_of(run: Body) -> str | None:
    """Return the digest of the index that a run searches: it follows from what would be split and how."""
    rag = (run["spec"]["config"].get("vllm_config") or {}).get("rag")
    if rag is None:
        return None
    return hashlib.sha256(json.dumps(rag.get("text_splitter"), sort_keys=True).encode()).hexdigest()


class Crash(Exception):  # noqa: N818 - it is an outcome, not an error
    """The process is gone."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class Process:
    """One worker process in one pod."""

    api: Api
    objects: aio.client.CustomObjectsApi
    namespace: str
    pod: Body
    behaviour: Behaviour
    ledger: list[Attempt]
    lease_seconds: float
    built: set[str]
    mine: dict[str, Body] = field(default_factory=dict)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    frozen: bool = False
    holder: str = ""

    def __post_init__(self) -> None:
        labels = self.pod["metadata"]["labels"]
        self.experiment, self.slot = labels["rapidfire.ai/experiment"], labels["rapidfire.ai/worker"]
        self.holder = f"{self.pod['metadata']['name']}/{uuid.uuid4().hex[:8]}"

    async def run(self) -> None:
        """Live until told to leave; raise Crash if an attempt ends that way."""
        await self.beat()
        tasks = [asyncio.create_task(self.renew()), asyncio.create_task(self.watch())]
        done: set[tuple[str, int]] = set()
        try:
            while not self.leaving.is_set():
                work = None if self.frozen else self.next_work(done)
                if work is None:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                attempt = self.attempt(work)
                done.add((attempt.run, attempt.attempt))
                await self.work(work, attempt)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.beat(holder="")

    async def renew(self) -> None:
        while True:
            await asyncio.sleep(self.lease_seconds / 3)
            if not self.frozen:
                with suppress(ApiError):  # the next renewal tries again
                    await self.beat()

    async def beat(self, holder: str | None = None) -> None:
        spec = {
            "holderIdentity": self.holder if holder is None else holder,
            "leaseDurationSeconds": int(self.lease_seconds),
            "renewTime": now(),
        }
        labels = {"rapidfire.ai/experiment": self.experiment, "rapidfire.ai/worker": self.slot}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.slot, "namespace": self.namespace, "labels": labels},
            "spec": spec,
        }
        await self.api.apply("leases", self.namespace, body)

    async def watch(self) -> None:
        """Know the runs that are assigned to this pod, as workers do."""
        selector = f"status.assignment.pod={self.pod['metadata']['name']}"
        while True:
            self.mine.clear()
            with suppress(aio.client.ApiException, aiohttp.ClientError, TimeoutError):  # it is begun anew
                stream = Watch().stream(
                    self.objects.list_namespaced_custom_object,
                    GROUP,
                    VERSION,
                    self.namespace,
                    "runs",
                    field_selector=selector,
                    timeout_seconds=WATCH_SECONDS,
                )
                async for event in stream:
                    run = event["object"]
                    self.mine.pop(run["metadata"]["name"], None)
                    if event["type"] != "DELETED":
                        self.mine[run["metadata"]["name"]] = run
            await asyncio.sleep(POLL_SECONDS)

    def next_work(self, done: set[tuple[str, int]]) -> Body | None:
        mine = []
        for run in self.mine.values():
            given = (run.get("status") or {}).get("assignment")
            if given is None or given["process"] != self.holder or run["spec"]["desiredState"] != "Running":
                continue
            if (run["metadata"]["name"], given["attempt"]) not in done:
                mine.append(run)
        assert len(mine) <= 2, f"{self.holder} holds {len(mine)} assignments"
        return min(mine, key=lambda run: run["status"]["assignment"]["grantedAt"], default=None)

    def attempt(self, run: Body) -> Attempt:
        given = run["status"]["assignment"]
        return Attempt(run["metadata"]["name"], given["task"], given["chunk"], given["attempt"], self.slot)

    async def work(self, run: Body, attempt: Attempt) -> None:
        progress = (run["status"].get("progress") or {}).get("checkpoint") or {"step": 0}
        start = progress["step"]
        report: Body = {
            "attempt": attempt.attempt,
            "chunk": attempt.chunk,
            "step": start,
            "final": False,
            "error": None,
        }
        if not await self.report(attempt, report):
            return
        deed = self.behaviour(attempt)
        if deed.how == "hang":
            await asyncio.Event().wait()
        parked = await self.told_to_park(attempt.run, deed)
        if deed.how == "crash":
            raise Crash(deed.exit_code)
        if deed.how == "fail":
            error = {"reason": deed.reason, "message": deed.message, "blame": deed.blame, "retry": deed.retry}
            await self.report(attempt, {**report, "final": True, "error": error})
            return
        report |= self.found(run, attempt) if attempt.task != "chunk" else self.computed(run, attempt, parked)
        report |= {"final": True, "seconds": deed.seconds}
        if await self.report(attempt, report):
            self.ledger.append(attempt)

    def found(self, run: Body, attempt: Attempt) -> Body:
        """What preparing found, or what there is once its index is built."""
        digest = index_of(run)
        if digest is None:
            return {"prepared": PREPARED}
        if attempt.task == "index":
            self.built.add(digest)
        return {"prepared": {**PREPARED, "index": digest, "indexBuilt": digest in self.built}}

    def computed(self, run: Body, attempt: Attempt, parked: bool) -> Body:
        """What a chunk or a shard came to."""
        start = ((run["status"].get("progress") or {}).get("checkpoint") or {"step": 0})["step"]
        end, index = BOUNDARIES[attempt.chunk], int(attempt.run.rpartition("-r")[2])
        step = min(end, start + 1) if parked else end
        reached = {"step": step, "checkpoint": {"path": f"{step}-{attempt.attempt}", "digest": "0" * 64, "step": step}}
        if "vllm_config" in run["spec"]["config"]:
            digest, value, margin = index_of(run), round(0.2 + 0.1 * index, 3), 1 / step
            assert digest is None or digest in self.built, f"{attempt.run} searches an index that is not there"
            estimate = {"value": value, "lower": value - margin, "upper": value + margin, "level": 0.95}
            metrics = {"Samples Processed": float(step), "Accuracy": value}
            return {**reached, "metrics": metrics, "estimates": {"Accuracy": {**estimate, "method": "normal"}}}
        loss = 2.0 - 0.1 * step + 0.01 * index
        metrics = {"loss": loss, "chunk/loss": loss, "boundary/eval_loss": loss + 0.1}
        return {**reached, "loss": f"{loss:.3f}", "metrics": metrics}

    async def told_to_park(self, run: str, deed: Deed) -> bool:
        """Compute for a while; return whether it was cut short, as the worker leaves or an operation cannot wait."""
        clock, gate = asyncio.get_running_loop().time, deed.gate
        end = clock() + deed.seconds
        while (left := end - clock()) > 0 if gate is None else not gate.is_set():
            spec = self.mine[run]["spec"] if run in self.mine else {}
            if self.leaving.is_set() or (spec.get("desiredState") != "Running" and spec.get("when") == "Immediate"):
                return True
            with suppress(TimeoutError):
                await asyncio.wait_for(self.leaving.wait(), min(left, POLL_SECONDS) if gate is None else POLL_SECONDS)
        return self.leaving.is_set()

    async def report(self, attempt: Attempt, progress: Body) -> bool:
        """Write progress as the fence would let it; return whether it was let."""
        while True:
            try:
                run = await self.api.get("runs", self.namespace, attempt.run)
                given = run["status"].get("assignment") or {}
                if given.get("attempt") != attempt.attempt or given.get("process") != self.holder:
                    return False
                version = {"resourceVersion": run["metadata"]["resourceVersion"]}
                body = {"metadata": version, "status": {"progress": progress}}
                await self.api.patch("runs", self.namespace, attempt.run, body, status=True)
            except ConflictError:
                continue
            except NotFoundError:
                return False
            return True


class Node:
    """A node that runs worker pods of one namespace.

    Args:
        client: An administrator's client.
        namespace: The namespace whose pods it runs.
        behaviour: How attempts go.
        room: How many pods it runs at a time; the others stay unscheduled.
        lease_seconds: How long the workers' Leases live.
    """

    def __init__(
        self,
        client: aio.client.ApiClient,
        namespace: str,
        behaviour: Behaviour = lambda _: Deed(),
        room: int = 8,
        lease_seconds: float = 6,
    ) -> None:
        self.api, self.namespace, self.behaviour = Api(client, Metrics()), namespace, behaviour
        self.core = aio.client.CoreV1Api(client)
        self.objects = aio.client.CustomObjectsApi(client)
        self.room, self.lease_seconds = room, lease_seconds
        self.ledger: list[Attempt] = []
        self.built: set[str] = set()
        self.processes: dict[str, Process] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.name = f"node-{namespace}"
        self.bound = self.pods_seen = 0

    async def run(self) -> None:
        """Be a kubelet until cancelled."""
        # Without capacity, so that the scheduler leaves it alone.
        await self.core.create_node({"metadata": {"name": self.name}})
        try:
            while True:
                pods = (await self.api.list("pods", self.namespace)).items
                self.bound = sum(bool(pod["spec"].get("nodeName")) for pod in pods)
                for pod in pods:
                    with suppress(NotFoundError, ConflictError):  # looked at again in the next round
                        await self.care(pod)
                for uid in set(self.tasks) - {pod["metadata"]["uid"] for pod in pods}:
                    self.tasks.pop(uid).cancel()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
            await self.core.delete_node(self.name)

    async def care(self, pod: Body) -> None:
        uid, bound = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        if pod["metadata"].get("deletionTimestamp"):
            await self.terminate(pod)
        elif not bound and self.bound < self.room:
            await self.bind(pod)
        elif bound == self.name and uid not in self.tasks and (pod["status"].get("phase") == "Pending"):
            self.tasks[uid] = asyncio.create_task(self.contain(pod))

    async def bind(self, pod: Body) -> None:
        self.bound += 1
        self.pods_seen += 1
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await self.core.create_namespaced_pod_binding_without_preload_content(name, self.namespace, body)

    async def contain(self, pod: Body) -> None:
        """Run a pod's container, again and again if it crashes."""
        name, restarts, last = pod["metadata"]["name"], 0, {}
        while True:
            process = self.process(pod)
            self.processes[process.slot] = process
            running = {"running": {"startedAt": now()}}
            await self.status(name, "Running", running, last, restarts)
            try:
                await process.run()
            except Crash as crash:
                last = self.terminated(crash.exit_code)
                await self.status(name, "Running", last, {}, restarts)
                restarts += 1
            else:
                await self.status(name, "Succeeded", self.terminated(0), last, restarts)
                return

    def process(self, pod: Body) -> Process:
        return Process(
            self.api,
            self.objects,
            self.namespace,
            pod,
            self.behaviour,
            self.ledger,
            self.lease_seconds,
            self.built,
        )

    async def kill(self, slot: str, exit_code: int = 137) -> None:
        """Kill the process of a slot; the kubelet starts another one."""
        process = self.processes[slot]
        uid = process.pod["metadata"]["uid"]
        self.tasks[uid].cancel()
        await asyncio.gather(self.tasks[uid], return_exceptions=True)
        name, last = process.pod["metadata"]["name"], self.terminated(exit_code)
        await self.status(name, "Running", last, {}, 0)
        self.tasks[uid] = asyncio.create_task(self.contain(process.pod))

    async def remove(self, slot: str) -> None:
        """Delete a slot's pod without a warning, as a reclaimed node does."""
        process = self.processes[slot]
        self.tasks[process.pod["metadata"]["uid"]].cancel()
        await self.force(process.pod["metadata"]["name"])

    async def terminate(self, pod: Body) -> None:
        uid, slot = pod["metadata"]["uid"], pod["metadata"]["labels"]["rapidfire.ai/worker"]
        task, process = self.tasks.get(uid), self.processes.get(slot)
        if process is not None and process.pod["metadata"]["uid"] == uid:
            process.leaving.set()
        if task is None or task.done():
            await self.force(pod["metadata"]["name"])

    async def force(self, name: str) -> None:
        with suppress(aio.client.ApiException):  # it is gone already
            await self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def terminated(self, exit_code: int) -> Body:
        reason = "OOMKilled" if exit_code == 137 else "Error" if exit_code else "Completed"
        return {"terminated": {"exitCode": exit_code, "reason": reason, "finishedAt": now()[:19] + "Z"}}

    async def status(self, pod: str, phase: str, state: Body, last: Body, restarts: int) -> None:
        states = {kind: state.get(kind) for kind in ("running", "terminated", "waiting")}
        container = {
            "name": "worker",
            "image": "none",
            "imageID": "",
            "ready": "running" in state,
            "restartCount": restarts,
            "state": states,
            "lastState": last,
        }
        body = {"status": {"phase": phase, "containerStatuses": [container]}}
        await self.api.patch("pods", self.namespace, pod, body, status=True)

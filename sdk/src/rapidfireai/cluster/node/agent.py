"""The node's loop: what the API server binds to it runs, what the API server forgets is ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import structlog
from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.acceptance import accept
from rapidfireai.cluster.node.api import CONNECTION_ERRORS, Api, now, reason_of, unless
from rapidfireai.cluster.node.credentials import obtain
from rapidfireai.cluster.node.devices import Devices, find_gpus
from rapidfireai.cluster.node.events import Events
from rapidfireai.cluster.node.facts import Json, PodFacts
from rapidfireai.cluster.node.ledger import Ledger, recover
from rapidfireai.cluster.node.logs import LogFile
from rapidfireai.cluster.node.pod import Node, PodRunner
from rapidfireai.cluster.node.registration import Registration, capacity
from rapidfireai.cluster.node.server import serve

_PODS = "/api/v1/pods"
_RETRY_SECONDS = 1.0
_LAST_EVENTS_SECONDS = 2.0

log = structlog.get_logger()


class Agent:
    """The process node.

    Args:
        home: Where it keeps its records; no other node uses it.
        kubeconfig: Of somebody who may have certificates signed.
        name: The node's.
    """

    def __init__(self, home: Path, kubeconfig: Path, name: str) -> None:
        self._home = home
        self._kubeconfig = kubeconfig
        self._name = name
        self._ledger = Ledger(home)
        self._recovered: dict[str, PodFacts] = {}
        self._pods: dict[str, PodRunner] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Be the node until `stop` is set, then end every pod's processes with their grace.

        Raises:
            CredentialsError: If the node gets no certificate.
            ApiException: If it may not register.
        """
        self._recovered = await asyncio.to_thread(recover, self._home, now())
        credentials = await unless(stop, obtain(self._home, self._name, self._kubeconfig))
        if credentials is None:
            return
        runner, port = await serve(self, credentials)
        gpus = find_gpus(os.environ)
        offered = capacity(self._home, gpus)
        async with await Api.connect(credentials.kubeconfig) as api:
            events = Events(self._name)
            node = Node(self._name, api, self._ledger, events, Devices(gpus), dict(os.environ), offered)
            registration = Registration(api, self._name, offered, port)
            await unless(stop, registration.register())
            writing = asyncio.create_task(events.run(api))
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(work) for work in (registration.run(), self._watch(node))]
                    await stop.wait()
                    for task in tasks:
                        task.cancel()
            finally:
                await self._shutdown(registration, events)
                writing.cancel()
                await runner.cleanup()

    def find_log(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogFile | None:
        """Return a container's log, see `LogSource`."""
        for each in self._pods.values():
            if (each.facts.namespace, each.facts.name) == (namespace, pod):
                return each.find_log(container, previous=previous)
        raise KeyError(f"pod {namespace}/{pod}")

    async def _shutdown(self, registration: Registration, events: Events) -> None:
        log.info("stopping", pods=len(self._pods))
        await registration.leave()
        await asyncio.gather(*(each.shutdown() for each in self._pods.values()))
        await events.drain(_LAST_EVENTS_SECONDS)

    async def _watch(self, node: Node) -> None:
        """List and watch for ever; a lost or outdated watch lists again."""
        query = {"fieldSelector": f"spec.nodeName={self._name}"}
        version = ""
        while True:
            try:
                if not version:
                    listed = await node.api.get(_PODS, query)
                    self._compare(listed.get("items") or [], node)
                    version = listed["metadata"]["resourceVersion"]
                async for kind, pod in node.api.watch(_PODS, query, version):
                    version = pod["metadata"]["resourceVersion"]
                    self._fold(kind, pod, node)
            except (ApiException, *CONNECTION_ERRORS, ValueError) as error:
                log.info("watch ended, listing again", error=reason_of(error))
                version = ""
                await asyncio.sleep(_RETRY_SECONDS)

    def _compare(self, pods: list[dict[str, Any]], node: Node) -> None:
        """Bring the runners in line with a full list."""
        present = {each["metadata"]["uid"] for each in pods}
        for uid, runner in self._pods.items():
            if uid not in present:
                runner.vanish()
        for each in pods:
            self._fold("MODIFIED", each, node)
        for uid in self._ledger.uids() - self._pods.keys():  # deleted while the node was away
            known = self._recovered.pop(uid, None)
            self._ledger.remove(uid, known.temporary if known else "")

    def _fold(self, kind: str, pod: Json, node: Node) -> None:
        """Take one event of the watch."""
        if kind == "BOOKMARK":
            return
        uid = pod["metadata"]["uid"]
        runner = self._pods.get(uid)
        if kind == "DELETED":
            if runner is not None:
                runner.vanish()
        elif runner is not None:
            runner.update(pod)
        else:
            self._start(pod, node)

    def _start(self, pod: Json, node: Node) -> None:
        uid = pod["metadata"]["uid"]
        facts = self._recovered.pop(uid, None)
        if facts is None:
            taken = [each.facts.ip for each in self._pods.values()]
            facts = accept(pod, str(self._ledger.temporary(uid)), taken, now())
        self._ledger.write(facts)
        runner = self._pods[uid] = PodRunner(pod, facts, node)
        closing = asyncio.create_task(self._forget_after(runner))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _forget_after(self, runner: PodRunner) -> None:
        facts = runner.facts
        if await runner.ended():
            del self._pods[facts.uid]
            await asyncio.to_thread(self._ledger.remove, facts.uid, facts.temporary)

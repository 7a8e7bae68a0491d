"""A pod's object in the API: its newest version, its status kept true, its removal at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.api import STRATEGIC_PATCH, Api, now, persist, reason_of, wait_or
from rapidfireai.cluster.node.facts import Json, PodFacts
from rapidfireai.cluster.node.status import differs, pod_status

_RETRY_SECONDS = 1.0

log = structlog.get_logger()


class Reporter:
    """Writes a pod's status whenever it differs from what the API has.

    Args:
        api: The connection.
        pod: The pod as the API has it.
        facts: What the node knows of it.
    """

    def __init__(self, api: Api, pod: Json, facts: PodFacts) -> None:
        self._api = api
        self._pod = pod
        self._facts = facts
        self._path = f"/api/v1/namespaces/{facts.namespace}/pods/{facts.name}"
        self._gone = asyncio.Event()
        self._dirty = asyncio.Event()
        self._clean = asyncio.Event()

    @property
    def pod(self) -> Json:
        """The newest version of the object that was seen."""
        return self._pod

    @property
    def is_gone(self) -> bool:
        """Whether the API has the pod no more."""
        return self._gone.is_set()

    def take(self, pod: Json) -> None:
        """Take a version of the object; a patch's answer may overtake the watch, so an older one is left."""
        if int(pod["metadata"]["resourceVersion"]) >= int(self._pod["metadata"]["resourceVersion"]):
            self._pod = pod
            self._dirty.set()

    def tell(self, facts: PodFacts) -> None:
        """Take what the node knows now."""
        self._facts = facts
        self._dirty.set()

    def gone(self) -> None:
        """Learn that the API has the pod no more: nothing is written from now on."""
        self._gone.set()
        self._dirty.set()

    async def run(self) -> None:
        """Write the status until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not self.is_gone:
                await self._write()
            if not self._dirty.is_set():
                self._clean.set()

    async def flush(self) -> None:
        """Return when the API has the present status, or the pod is gone."""
        self._clean.clear()
        self._dirty.set()
        await self._clean.wait()

    async def delete(self) -> None:
        """Remove the object, which was marked for deletion, and return when it is gone."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._facts.uid}}
        if not self.is_gone:
            await self._request(lambda: self._api.call("DELETE", self._path, body=body))
            await self._gone.wait()  # a finalizer may hold it

    async def _write(self) -> None:
        before = self._pod.get("status") or {}
        status = pod_status(self._pod, self._facts, before, now())
        if not differs(status, before):
            return
        body = {"metadata": {"uid": self._facts.uid}, "status": status}
        written = await self._request(
            lambda: self._api.call("PATCH", f"{self._path}/status", body=body, content_type=STRATEGIC_PATCH)
        )
        if not written:
            await wait_or(self._gone, _RETRY_SECONDS)
            self._dirty.set()

    async def _request(self, action: Callable[[], Awaitable[dict[str, Any]]]) -> bool:
        try:
            answer = await persist(action, f"pod {self._facts.name}")
        except ApiException as error:
            # 404: gone, 409: another pod of this name; the watch will say so.
            if error.status not in {404, 409}:
                log.warning("the API server refuses", pod=self._facts.name, error=reason_of(error))
            return False
        if answer.get("kind") == "Pod":
            self.take(answer)
        return True

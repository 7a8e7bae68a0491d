"""Events of pods, written in the background and in order; losing one never disturbs a pod."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import structlog
from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.api import MERGE_PATCH, Api, now, persist, reason_of
from rapidfireai.cluster.node.facts import Json
from rapidfireai.cluster.node.status import timestamp

COMPONENT = "rapidfire-node"
_KEPT = 1000
_LONGEST_MESSAGE = 1024

log = structlog.get_logger()
_Key = tuple[str, str, str, str]


class Events:
    """Takes events at once and writes them in the background; an equal one only raises the first one's count."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._queue: asyncio.Queue[tuple[Json, str, str, str, str]] = asyncio.Queue(_KEPT)
        self._written: dict[_Key, tuple[str, int]] = {}

    def emit(self, pod: Json, reason: str, message: str, *, container: str = "", warning: bool = False) -> None:
        """Say that something happened to a pod, or to one of its containers."""
        kind = "Warning" if warning else "Normal"
        log.info("event", pod=pod["metadata"]["name"], container=container, reason=reason, message=message)
        if self._queue.full():
            log.warning("event dropped: the API server does not take them", reason=reason)
            return
        self._queue.put_nowait((pod, reason, message[:_LONGEST_MESSAGE], container, kind))

    async def run(self, api: Api) -> None:
        """Write events until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await persist(lambda event=event: self._write(api, *event), "event")  # type: ignore[misc]
            except ApiException as error:
                log.debug("event refused", error=reason_of(error))
            finally:
                self._queue.task_done()

    async def drain(self, seconds: float) -> None:
        """Wait until everything is written, at most so long."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            log.warning("some events were not written before the end")

    async def _write(self, api: Api, pod: Json, reason: str, message: str, container: str, kind: str) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        key = (metadata["uid"], container, reason, message)
        time = timestamp(now())
        if key in self._written:
            name, count = self._written[key]
            self._written[key] = (name, count + 1)
            await api.call(
                "PATCH", f"{path}/{name}", body={"count": count + 1, "lastTimestamp": time}, content_type=MERGE_PATCH
            )
            return
        name = f"{metadata['name']}.{uuid.uuid4().hex[:16]}"
        await api.call("POST", path, body=self._event(metadata, name, reason, message, container, kind, time))
        self._remember(key, name)

    def _remember(self, key: _Key, name: str) -> None:
        self._written[key] = (name, 1)
        if len(self._written) > _KEPT:
            del self._written[next(iter(self._written))]

    def _event(
        self, metadata: Json, name: str, reason: str, message: str, container: str, kind: str, time: str
    ) -> dict[str, Any]:
        involved = {"apiVersion": "v1", "kind": "Pod", **{k: metadata[k] for k in ("name", "namespace", "uid")}}
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        return {
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": kind,
            "source": {"component": COMPONENT, "host": self._node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }

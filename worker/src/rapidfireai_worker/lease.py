"""The worker's heartbeat: one Lease, whose holder names the pod and this very process."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import structlog

from rapidfireai.api.base import API_VERSION, EXPERIMENT_LABEL, WORKER_LABEL
from rapidfireai_worker.kubeapi import Body, Conflict, Forbidden, KubeApi, Refused, Unavailable
from rapidfireai_worker.patience import insist

GROUP = "coordination.k8s.io"
VERSION = "v1"
RENEWALS = 3
"""Renewals in the time that the Lease lives."""
_AGAIN_SECONDS = 1.0
_log = structlog.get_logger(__name__)


class LeaseLost(Exception):  # noqa: N818 - the process's reason to go
    """The Lease is another's, or could not be renewed in time: this process no longer counts."""


class Lease:
    """The Lease of one worker slot.

    Args:
        api: The API server.
        slot: The Lease's name.
        holder: `<pod>/<process id>`.
        owner: The Experiment, which takes the Lease with it when it goes.
        seconds: How long it lives without a renewal.
    """

    def __init__(self, api: KubeApi, slot: str, holder: str, owner: Body, seconds: int) -> None:
        self._api = api
        self._slot = slot
        self._holder = holder
        self._owner = owner
        self._seconds = seconds
        self._held: Body | None = None

    async def acquire(self) -> None:
        """Take the Lease, whoever held it: a slot has one pod, and the newest process in it is the live one.

        Raises:
            LeaseLost: If the API server refuses it.
        """
        try:
            self._held = await insist(self._take)
        except Refused as refusal:
            raise LeaseLost(f"the API server refuses the lease {self._slot}: {refusal}") from refusal

    async def keep(self) -> None:
        """Renew the Lease for ever.

        An import of torch can hold the interpreter for seconds. So time alone loses nothing: only renewals that fail,
        more than one, until the Lease's time is over.

        Raises:
            LeaseLost: If another took it, or it could not be renewed in time.
        """
        while True:
            renewed, failures = time.monotonic(), 0
            await asyncio.sleep(self._seconds / RENEWALS)
            while not await self._renew():
                failures += 1
                since = time.monotonic() - renewed
                if since >= self._seconds and failures > 1:
                    raise LeaseLost(f"the lease {self._slot} was not renewed for {since:.0f} s")
                await asyncio.sleep(_AGAIN_SECONDS)

    async def release(self) -> None:
        """Say that this process is gone and left nothing behind; without an answer the Lease just runs out."""
        if self._held is None:
            return
        try:
            await self._write({**self._spec(), "holderIdentity": ""})
        except (Refused, Unavailable) as problem:
            _log.warning("lease not released, it will run out", error=str(problem))

    async def _take(self) -> Body:
        found = await self._api.get("leases", self._slot, GROUP, VERSION)
        if found is None:
            return await self._api.create("leases", self._body({"name": self._slot}), GROUP, VERSION)
        return await self._api.replace("leases", self._body(found["metadata"]), GROUP, VERSION)

    async def _renew(self) -> bool:
        """Try once; return whether the Lease is renewed.

        Raises:
            LeaseLost: If it is another's.
        """
        try:
            if self._held is None:
                self._held = await self._take()
            else:
                await self._write(self._spec())
        except Conflict:
            await self._look()
            return False
        except (Unavailable, Forbidden) as problem:
            _log.warning("cannot renew the lease, trying again", error=str(problem))
            return False
        except Refused as refusal:
            if refusal.status != 404:
                raise LeaseLost(f"the API server refuses the lease {self._slot}: {refusal}") from refusal
            self._held = None
            return False
        return True

    async def _look(self) -> None:
        """After a conflict: see whose the Lease is, and remember its version if it is ours still."""
        try:
            found = await self._api.get("leases", self._slot, GROUP, VERSION)
        except (Unavailable, Forbidden):
            return
        holder = found["spec"].get("holderIdentity") if found else self._holder
        if holder != self._holder:
            raise LeaseLost(f"{holder or 'nobody'} holds the lease {self._slot} now")
        self._held = found

    async def _write(self, spec: Body) -> None:
        if self._held is None:
            raise LeaseLost(f"the lease {self._slot} was never taken")
        self._held = await self._api.replace("leases", {**self._held, "spec": spec}, GROUP, VERSION)

    def _body(self, metadata: Body) -> Body:
        experiment = self._owner["metadata"]
        owner = {
            "apiVersion": API_VERSION,
            "kind": "Experiment",
            "name": experiment["name"],
            "uid": experiment["uid"],
        }
        labels = {EXPERIMENT_LABEL: experiment["name"], WORKER_LABEL: self._slot}
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Lease",
            "metadata": {
                **metadata,
                "labels": {**metadata.get("labels", {}), **labels},
                "ownerReferences": [owner],
            },
            "spec": self._spec(),
        }

    def _spec(self) -> Body:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self._holder, "leaseDurationSeconds": self._seconds, "renewTime": now}

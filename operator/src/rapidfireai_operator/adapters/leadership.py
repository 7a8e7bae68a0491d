"""One of several operators leads: it holds a Lease, and it ends before anybody else can take that."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from rapidfireai_operator.adapters.kubernetes import Api, ApiError, ConflictError, NotFoundError
from rapidfireai_operator.adapters.metrics import Metrics
from rapidfireai_operator.core.election import Election

LEASE = "rapidfire-operator"
RENEWALS = 5
"""Renewals in the duration of a Lease."""
LOOKS = 10
"""How often a candidate looks in the duration of a Lease."""
EXIT_CODE = 1
_log = structlog.get_logger(__name__)


def since_boot() -> float:
    """Return seconds on a clock that never jumps and, on Linux, goes on while the process or the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def end_process(why: str) -> None:
    """End at once, without the courtesies of a shutdown: whatever they would write is no longer ours to write."""
    _log.error("ending, because this operator no longer leads", reason=why)
    os._exit(EXIT_CODE)


class Leadership:
    """This operator's part in the election.

    Without a namespace there is no election, and this operator leads.

    Args:
        api: The API server, without a guard.
        namespace: Where the Lease is; empty for no election.
        identity: The pod's name: a container that is started again in it takes its own Lease up at once.
        seconds: How long the Lease lasts without a renewal.
        metrics: Where `rapidfire_operator_leader` is shown.
        clock: Seconds on a clock that never jumps.
        end: Ends the process; told why.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        identity: str,
        seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = since_boot,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._api, self._namespace, self._seconds, self._metrics = api, namespace, seconds, metrics
        self._clock, self._end = clock, end
        self._election = Election(identity, seconds)
        self._resigned = False
        self._problem = ""
        self.leading = asyncio.Event()
        """Set once this operator leads, for as long as the process lives."""

    def check(self) -> None:
        """Let a write pass if this operator leads; end the process if it did and does not any more.

        Raises:
            ApiError: If this operator does not lead.
        """
        if not self._namespace or self._election.left(self._clock()) > 0:
            return
        if self.leading.is_set() and not self._resigned:
            self._end("its Lease ran out while it stood still")
        raise ApiError(0, "NotLeading", "another operator may lead by now")

    async def campaign(self) -> None:
        """Take the Lease when it is free and renew it for ever; ends the process if that fails for too long."""
        if not self._namespace:
            self._lead()
            return
        while True:
            pause = await self._turn()
            await asyncio.sleep(pause)

    async def resign(self) -> None:
        """Give the Lease back, so that another operator leads at once."""
        self._resigned = True
        if not self._namespace or self._election.left(self._clock()) <= 0:
            return
        self._election.resign()
        self._metrics.leader.set(0)
        try:
            async with asyncio.timeout(self._seconds / RENEWALS):
                lease = await self._api.get("leases", self._namespace, LEASE)
                if lease["spec"].get("holderIdentity") == self._election.identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._api.replace("leases", self._namespace, LEASE, lease)
        except (ApiError, TimeoutError) as error:
            _log.warning("the Lease is not given back and has to run out", error=str(error))
            return
        _log.info("gave the Lease back", lease=LEASE, namespace=self._namespace)

    async def _turn(self) -> float:
        """Try once; return for how many seconds to wait before the next time."""
        wait = 0.0
        try:
            async with asyncio.timeout(self._patience()):
                wait = await self._try()
            self._problem = ""
        except ConflictError:  # somebody was faster, or an earlier request arrived after all: look again
            pass
        except (ApiError, TimeoutError) as error:
            self._complain(str(error) or self._problem or "no answer in time")
        left = self._election.left(self._clock())
        if self.leading.is_set():
            if left <= 0:
                self._end(f"it could not renew its Lease {self._namespace}/{LEASE}: {self._problem or 'taken'}")
            return min(self._seconds / RENEWALS if not self._problem else self._seconds / LOOKS, left)
        return min(self._seconds / LOOKS, wait) if wait else self._seconds / LOOKS

    def _patience(self) -> float:
        """Return the longest that a try may take: a leader never waits for an answer beyond its Lease."""
        patience = self._seconds / RENEWALS * 2
        return min(patience, self._election.left(self._clock())) if self.leading.is_set() else patience

    async def _try(self) -> float:
        """Take or renew the Lease if that is allowed; return for how many seconds it is not.

        Raises:
            ApiError: If the API server refuses or does not answer.
        """
        try:
            lease = await self._api.get("leases", self._namespace, LEASE)
        except NotFoundError:
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE}}
            sent = self._clock()
            await self._api.create("leases", self._namespace, {**body, "spec": self._spec({})})
            return self._took(sent)
        spec, version = lease.get("spec") or {}, lease["metadata"]["resourceVersion"]
        holder = str(spec.get("holderIdentity") or "")
        lasts = float(spec.get("leaseDurationSeconds") or self._seconds)
        wait = self._election.wait(holder, version, lasts, self._clock())
        if wait:
            if self.leading.is_set():
                self._end(f"{holder} took its Lease")
            return wait
        sent = self._clock()
        await self._api.replace("leases", self._namespace, LEASE, {**lease, "spec": self._spec(spec)})
        return self._took(sent)

    def _took(self, sent: float) -> float:
        self._election.renewed(sent)
        if not self.leading.is_set():
            self._lead()
        return 0.0

    def _lead(self) -> None:
        self.leading.set()
        self._metrics.leader.set(1)
        _log.info("leading", identity=self._election.identity, namespace=self._namespace)

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return the Lease's next spec; its times are for people to read."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = before.get("holderIdentity") == self._election.identity
        return {
            "holderIdentity": self._election.identity,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": before.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not mine),
        }

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("cannot take or renew the Lease", lease=LEASE, namespace=self._namespace, error=problem)
        self._problem = problem

"""Lists everything now and then: what a broken watch missed is found here, and the first list opens the planning."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus

import structlog

from rapidfireai_operator.adapters.clock import Clock
from rapidfireai_operator.adapters.kubernetes import Api, ApiError
from rapidfireai_operator.core.picture import KINDS, Picture
from rapidfireai_operator.loops.experiments import Experiments
from rapidfireai_operator.loops.health import Health

FIRST_PAUSE_SECONDS = 1.0
_log = structlog.get_logger(__name__)


class Comparison:
    """The periodic list-and-compare over all workspaces.

    Args:
        api: The API server.
        picture: What is corrected.
        experiments: What is woken by corrections.
        namespaces: The workspaces.
        seconds: The period.
        clock: The clock.
        health: Learns that the comparison comes round.
        leading: Set once this operator leads; until then it keeps its picture and decides nothing.
    """

    def __init__(
        self,
        api: Api,
        picture: Picture,
        experiments: Experiments,
        namespaces: tuple[str, ...],
        seconds: float,
        clock: Clock,
        health: Health,
        leading: asyncio.Event,
    ) -> None:
        self._api, self._picture, self._experiments = api, picture, experiments
        self._namespaces, self._seconds, self._clock, self._health = namespaces, seconds, clock, health
        self._leading = leading
        self.listed = asyncio.Event()
        """Set once this operator leads and every kind was listed in every workspace since."""
        self._closed: dict[str, str] = {}

    async def run(self) -> None:
        """Compare for ever; reconcilers begin once everything was listed by an operator that leads."""
        while True:
            leads = self._leading.is_set()
            pause = self._seconds if self.listed.is_set() or not leads else FIRST_PAUSE_SECONDS
            try:
                listed = await self.compare()
                if leads:
                    for namespace in listed:
                        self._experiments.open(namespace)
                    if len(listed) == len(self._namespaces):
                        pause = self._seconds
                        self.listed.set()
            except ApiError as error:
                _log.warning("cannot list, trying again", error=str(error), seconds=pause)
            self._health.turned()
            await self._rest(pause, leads)

    async def _rest(self, seconds: float, led: bool) -> None:
        """Wait; an operator that begins to lead waits no longer."""
        if led:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):  # then it is time to compare again
            async with asyncio.timeout(seconds):
                await self._leading.wait()

    async def compare(self) -> list[str]:
        """List every kind in every workspace and correct the picture; return the workspaces where that is allowed.

        A workspace that lacks a right is left alone, and the others go on.

        Raises:
            ApiError: If the API server does not answer.
        """
        listed = []
        for namespace in self._namespaces:
            try:
                await self._compare(namespace)
            except ApiError as error:
                if error.code != HTTPStatus.FORBIDDEN:
                    raise
                if self._closed.get(namespace) != error.message:
                    self._closed[namespace] = error.message
                    _log.error("a workspace lacks a right and is left alone", namespace=namespace, error=error.message)
                continue
            self._closed.pop(namespace, None)
            listed.append(namespace)
        return listed

    async def _compare(self, namespace: str) -> None:
        for kind in KINDS:
            listing = await self._api.list(kind, namespace)
            changed = self._picture.replace(kind, namespace, listing.items, listing.version, self._clock.monotonic())
            for key in changed:
                self._experiments.wake(key)

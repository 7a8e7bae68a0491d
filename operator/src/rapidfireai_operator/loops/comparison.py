"""Lists everything now and then: what a broken watch missed is found here, and the first list opens the planning."""

from __future__ import annotations

import asyncio

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
    ) -> None:
        self._api, self._picture, self._experiments = api, picture, experiments
        self._namespaces, self._seconds, self._clock, self._health = namespaces, seconds, clock, health
        self.listed = asyncio.Event()
        """Set once every kind was listed in every workspace."""

    async def run(self) -> None:
        """Compare for ever; reconcilers begin once everything was listed for the first time."""
        while True:
            pause = self._seconds if self.listed.is_set() else FIRST_PAUSE_SECONDS
            try:
                await self.compare()
                if not self.listed.is_set():
                    pause = self._seconds
                    self.listed.set()
                    self._experiments.open()
            except ApiError as error:
                _log.warning("cannot list, trying again", error=str(error), seconds=pause)
            self._health.turned()
            await asyncio.sleep(pause)

    async def compare(self) -> None:
        """List every kind in every workspace and correct the picture.

        Raises:
            ApiError: If the API server refuses or does not answer.
        """
        for namespace in self._namespaces:
            for kind in KINDS:
                listing = await self._api.list(kind, namespace)
                changed = self._picture.replace(
                    kind, namespace, listing.items, listing.version, self._clock.monotonic()
                )
                for key in changed:
                    self._experiments.wake(key)

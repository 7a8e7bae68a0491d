"""Keeps what the API server has of experiments and runs on the volume: `rapidfireai adopt` makes them again from it.

This service sees every resource of the workspace and has the volume anyway. Runs are followed; experiments, which
seldom change, are listed when a run of one appears and every minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from rapidfireai_worker.durable import keep_file
from rapidfireai_worker.kubeapi import Body, KubeApi, Refused, Unavailable
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.volume.homes import Home, directory_of, home_of
from rapidfireai_worker.volume.memory import experiment_text, run_text

PERIOD_SECONDS = 1.0
"""How often what changed is written."""
_LIST_SECONDS = 60.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a run, and where."""

    home: Home
    text: str


def kept_of(body: Body) -> Kept | None:
    """Return what to keep of a Run; None if no experiment owns it."""
    home = home_of(body)
    return Kept(home, run_text(body)) if home.experiment else None


class Recorder:
    """Writes the records of one workspace.

    Args:
        volume: The shared volume.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._runs: Mapping[str, Kept] = {}
        self._written: dict[Path, str] = {}
        self._listed = float("-inf")
        self._absent: frozenset[str] = frozenset()

    async def run(self, api: KubeApi) -> None:
        """Record for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(api))
            while True:
                await asyncio.sleep(PERIOD_SECONDS)
                try:
                    await self._pass(api)
                except (Refused, Unavailable, OSError) as problem:
                    _log.warning("the records are written later", error=str(problem))
                except Exception:  # one resource that cannot be kept must not end the care for the others
                    _log.exception("the records cannot be written")

    async def _follow(self, api: KubeApi) -> None:
        async for runs in api.follow_runs(kept_of):
            self._runs = runs

    async def _pass(self, api: KubeApi) -> None:
        runs = list(self._runs.values())
        if time.monotonic() - self._listed > _LIST_SECONDS or self._has_strangers(runs):
            experiments = await api.list_all("experiments")
            self._listed = time.monotonic()
            self._absent = frozenset(each.home.experiment for each in runs) - {*map(directory_of, experiments)}
            await asyncio.to_thread(self.keep_experiments, experiments)
        await asyncio.to_thread(self.keep_runs, runs)

    def _has_strangers(self, runs: Iterable[Kept]) -> bool:
        """Return whether there is a run of an experiment that is not written down, and was not just deleted."""
        homes = {each.home.experiment for each in runs} - self._absent
        return any(self._volume.experiment_record(each) not in self._written for each in homes)

    def keep_experiments(self, experiments: Iterable[Body]) -> None:
        """Write down experiments that are not, or not as they are now. It blocks.

        Raises:
            OSError: If the volume does not take it.
        """
        for body in experiments:
            self._keep(self._volume.experiment_record(directory_of(body)), experiment_text(body))

    def keep_runs(self, runs: Iterable[Kept]) -> None:
        """Write down runs that are not, or not as they are now. It blocks.

        Raises:
            OSError: If the volume does not take it.
        """
        for each in runs:
            if each.home.experiment not in self._absent:
                self._keep(self._volume.run(each.home.experiment, each.home.run).resource, each.text)

    def _keep(self, path: Path, text: str) -> None:
        if self._written.get(path) == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_file(path, text.encode())
        self._written[path] = text

"""Budgets over HTTP: one for each experiment and key, and what keeps their promise over a restart of this service.

A restart forgets what is leased. So before anything is granted, a small file says until when grants may be out; it
reaches some seconds ahead, so that few are written. A service that finds such a file begins with a budget of which
nothing is left until those seconds have left the window. Budgets that were not used lately begin whole.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi import Path as InPath

from rapidfireai_worker.durable import sync_directory
from rapidfireai_worker.kubeapi import KubeApi
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.volume.auth import Verb
from rapidfireai_worker.volume.budgets import Ask, Budget, Grant, Terms, exhausted, lease
from rapidfireai_worker.volume.homes import directory_of

Uid = Annotated[str, InPath(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Key = Annotated[str, InPath(pattern="^[a-z0-9][a-z0-9.-]{0,127}$")]
Admit = Callable[[Request, Verb], Awaitable[Any]]
_AHEAD_SECONDS = 10.0
"""How far ahead the file on the volume reaches; it is written so often at most."""
_KEPT = 1000
"""Budgets that are kept in memory; those without anything in their window leave first."""


@dataclass
class _Entry:
    """One budget, and until when (by the wall clock) its file says that grants may be out."""

    budget: Budget
    recorded: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Budgets:
    """The budgets of a workspace.

    Args:
        volume: The shared volume.
        terms: How they are kept.
    """

    def __init__(self, volume: Volume, terms: Terms | None = None) -> None:
        self._volume = volume
        self._terms = terms or Terms()
        self._entries: dict[tuple[str, str], _Entry] = {}

    async def lease(self, experiment: str, key: str, ask: Ask) -> Grant:
        """Answer a holder.

        Raises:
            OSError: If the volume does not take what must be known after a restart; nothing is granted then.
        """
        entry = self._entries.get((experiment, key))
        if entry is None:
            loaded = await asyncio.to_thread(self._load, experiment, key)
            self._shrink()
            entry = self._entries.setdefault((experiment, key), loaded)
        async with entry.lock:
            budget, grant = lease(entry.budget, ask, time.monotonic())
            if grant.lease and time.time() + self._terms.lease > entry.recorded:
                recorded = time.time() + self._terms.lease + _AHEAD_SECONDS
                await asyncio.to_thread(_record, self._path(experiment, key), recorded)
                entry.recorded = recorded
                budget, grant = lease(entry.budget, ask, time.monotonic())
            entry.budget = budget
        return grant

    def _path(self, experiment: str, key: str) -> Path:
        return self._volume.experiments / experiment / "budgets" / f"{key}.json"

    def _load(self, experiment: str, key: str) -> _Entry:
        """Return a budget as it is known after a restart."""
        series = uuid.uuid4().hex[:8]
        recorded = _recorded(self._path(experiment, key))
        # Whoever ran before this process gave nothing after now, and its leases last so long at most.
        end = min(recorded - time.time(), self._terms.lease)
        if end + self._terms.window + self._terms.slack <= 0:
            return _Entry(Budget(self._terms, series), recorded)
        return _Entry(exhausted(self._terms, series, time.monotonic() + end), recorded)

    def _shrink(self) -> None:
        """Forget budgets that nothing is charged to; their files know enough of them."""
        if len(self._entries) >= _KEPT:
            limit = time.time() - self._terms.window - self._terms.slack
            self._entries = {key: entry for key, entry in self._entries.items() if entry.recorded > limit}


def _recorded(path: Path) -> float:
    """Return until when grants may be out, in seconds of the wall clock; 0 if there were none."""
    try:
        return float(json.loads(path.read_text())["until"])
    except FileNotFoundError:
        return 0.0
    except (ValueError, KeyError, TypeError):
        return time.time()  # it was damaged: take it that grants are out


def _record(path: Path, until: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        json.dump({"until": until}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync_directory(path.parent)


class Experiments:
    """Which experiments there are, so that nobody makes budgets of others.

    Args:
        api: The API server.
    """

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._known: frozenset[str] = frozenset()

    async def knows(self, uid: str) -> bool:
        """Return whether there is, or lately was, an experiment."""
        if uid not in self._known:
            self._known = frozenset(map(directory_of, await self._api.list_all("experiments")))
        return uid in self._known


def add_budget_routes(
    app: FastAPI, admit: Admit, budgets: Budgets, known: Callable[[Request, str], Awaitable[bool]]
) -> None:
    """Add the routes.

    Args:
        app: The service.
        admit: Lets a request in, or raises what it is answered with.
        budgets: The budgets.
        known: Tells whether there is an experiment.
    """

    @app.post("/v1/experiments/{experiment}/budgets/{key}/lease")
    async def take(request: Request, experiment: Uid, key: Key, ask: Ask) -> dict[str, Any]:
        await admit(request, "get")
        problem = ask.limits.problem()
        if problem is not None:
            raise HTTPException(422, problem)
        if not await known(request, experiment):
            raise HTTPException(404, f"there is no experiment {experiment} in this namespace any more")
        return (await budgets.lease(experiment, key, ask)).to_wire()

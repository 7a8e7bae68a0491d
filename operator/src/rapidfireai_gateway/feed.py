"""Live changes of one experiment: one list and watch for all who look with the same token, with bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from rapidfireai_gateway.errors import GatewayError
from rapidfireai_gateway.kube import Body, Kind, Kube, path_of
from rapidfireai_gateway.trimming import without_bookkeeping

Key = tuple[Kind, str]
Event = Literal["snapshot", "experiment", "run", "icop", "gone", "error"]
_WORD: Mapping[Kind, Event] = {"experiments": "experiment", "runs": "run", "icops": "icop"}
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0
_log = structlog.get_logger(__name__)
_FATAL = frozenset({401, 403})
"""Refusals that asking again does not mend."""


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a feed.

    Attributes:
        event: `snapshot` comes first, and again after an error; `error` says that nothing comes for a while.
        data: Of `snapshot` `{experiment, runs, icops}`; of `error` `{detail, status, final}`; else the object, which is
            shared with others and must not be changed. After `final: true` nothing follows.
    """

    event: Event
    data: Mapping[str, Any]


class Feed:
    """The objects of one experiment as the owner of one token may see them.

    Args:
        kube: The API server.
        token: Whose rights count.
        namespace: The workspace.
        experiment: The experiment's name.
    """

    def __init__(self, kube: Kube, token: str, namespace: str, experiment: str) -> None:
        self._kube, self._token, self._namespace, self._experiment = kube, token, namespace, experiment
        self._objects: dict[Key, Body] = {}
        self._subscribers: set[Subscription] = set()
        self._trouble: Change | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def watched(self) -> bool:
        """Whether anybody looks."""
        return bool(self._subscribers)

    @property
    def over(self) -> bool:
        """Whether it has ended: the token is of no use any more."""
        return self._task is not None and self._task.done()

    async def open(self) -> None:
        """List everything and begin to watch.

        Raises:
            GatewayError: If there is no such experiment, or it cannot be listed.
        """
        await self._kube.call(self._token, "GET", path_of("experiments", self._namespace, self._experiment))
        versions = {kind: await self._list(kind) for kind in _WORD}
        self._task = asyncio.create_task(self._run(versions))
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Leave nobody waiting for a feed that a mistake of ours has ended."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("a feed failed", namespace=self._namespace, experiment=self._experiment, exc_info=error)
            self._announce(GatewayError(500, "the gateway failed; its log has the reason"), final=True)

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)  # it was told to end

    def subscribe(self) -> Subscription:
        """Return a new view, which begins with a snapshot."""
        made = Subscription(self)
        self._subscribers.add(made)
        if self._trouble is not None:
            made.trouble(self._trouble)
        return made

    def leave(self, subscription: Subscription) -> None:
        """Forget a view."""
        self._subscribers.discard(subscription)

    def snapshot(self) -> Change:
        """Return all objects as they are now."""
        by_kind: dict[Kind, list[Body]] = {kind: [] for kind in _WORD}
        for (kind, _), body in self._objects.items():
            by_kind[kind].append(body)
        runs = sorted(by_kind["runs"], key=lambda body: int(body["spec"]["index"]))
        icops = sorted(by_kind["icops"], key=lambda body: str(body["metadata"].get("creationTimestamp")))
        return Change(
            "snapshot", {"experiment": next(iter(by_kind["experiments"]), None), "runs": runs, "icops": icops}
        )

    async def _run(self, versions: dict[Kind, str]) -> None:
        """Watch until closed, or until asking is of no use; begin anew whenever a watch breaks."""
        while True:
            try:
                await self._follow(versions)
            except GatewayError as error:
                if error.status != 410 and self._tell(error):
                    return
            listed = await self._list_patiently()
            if listed is None:
                return
            versions = listed

    async def _list_patiently(self) -> dict[Kind, str] | None:
        """List everything, however long it takes; return None if asking is of no use."""
        wait = _FIRST_WAIT
        while True:
            try:
                versions = {kind: await self._list(kind) for kind in _WORD}
            except GatewayError as error:
                if self._tell(error):
                    return None
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                self._recovered()
                return versions

    async def _follow(self, versions: dict[Kind, str]) -> None:
        """Watch all kinds until one of the watches ends.

        Raises:
            GatewayError: If one breaks off.
        """
        tasks = [asyncio.create_task(self._watch(kind, version)) for kind, version in versions.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # they were told to end

    async def _watch(self, kind: Kind, version: str) -> None:
        where = path_of(kind, self._namespace)
        async for type_, body in self._kube.watch(self._token, where, self._selector(kind), version):
            key = (kind, str(body["metadata"].get("name", "")))
            if type_ == "DELETED":
                self._remove(key)
            elif type_ != "BOOKMARK":
                self._keep(key, body)

    async def _list(self, kind: Kind) -> str:
        """Take over what a list says, and return its version; what vanished meanwhile is reported as gone."""
        seen: set[Key] = set()
        version = ""
        where = path_of(kind, self._namespace)
        async for page, listed_at in self._kube.pages(self._token, where, self._selector(kind)):
            version = listed_at
            for body in page:
                key = (kind, str(body["metadata"]["name"]))
                seen.add(key)
                self._keep(key, body)
        for key in [key for key in self._objects if key[0] == kind and key not in seen]:
            self._remove(key)
        return version

    def _selector(self, kind: Kind) -> dict[str, str]:
        field = "metadata.name" if kind == "experiments" else "spec.experimentRef"
        return {"fieldSelector": f"{field}={self._experiment}"}

    def _keep(self, key: Key, body: Body) -> None:
        before = self._objects.get(key)
        if before and before["metadata"].get("resourceVersion") == body["metadata"].get("resourceVersion"):
            return
        self._objects[key] = without_bookkeeping(body)
        self._publish(key, Change(_WORD[key[0]], self._objects[key]))

    def _remove(self, key: Key) -> None:
        body = self._objects.pop(key, None)
        if body is not None:
            self._publish(key, Change("gone", body))

    def _publish(self, key: Key, change: Change) -> None:
        for each in self._subscribers:
            each.put(key, change)

    def _tell(self, error: GatewayError) -> bool:
        """Tell everybody what is wrong; return whether it is for good."""
        final = error.status in _FATAL
        self._announce(error, final=final)
        return final

    def _announce(self, error: GatewayError, *, final: bool) -> None:
        self._trouble = Change("error", {"detail": error.detail, "status": error.status, "final": final})
        for each in self._subscribers:
            each.trouble(self._trouble)

    def _recovered(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            for each in self._subscribers:
                each.begin_anew()


class Subscription:
    """One who looks. Changes of one object that are not fetched in time become the latest of them."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._pending: dict[Key, Change] = {}
        self._trouble: Change | None = None
        self._whole = True
        self._wake = asyncio.Event()
        self._wake.set()

    def put(self, key: Key, change: Change) -> None:
        """Have a change delivered, instead of an earlier one of the same object."""
        if not self._whole:
            self._pending.pop(key, None)
            self._pending[key] = change
        self._wake.set()

    def trouble(self, change: Change) -> None:
        """Have an error delivered, before anything else."""
        self._trouble = change
        self._wake.set()

    def begin_anew(self) -> None:
        """Have a snapshot delivered instead of what is pending."""
        self._pending.clear()
        self._whole = True
        self._wake.set()

    async def changes(self) -> AsyncIterator[Change]:
        """Yield what is pending and what comes, until an error is final."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._whole:
                self._whole = False
                yield self._feed.snapshot()
            while self._pending and not self._whole:
                yield self._pending.pop(next(iter(self._pending)))
            if self._trouble is not None:
                told, self._trouble = self._trouble, None
                yield told
                if told.data["final"]:
                    return


class Feeds:
    """The feeds of all callers.

    Args:
        kube: The API server.
        most: How many there may be.
        idle_seconds: How long one goes on after its last watcher left, for those who come back at once.
    """

    def __init__(self, kube: Kube, most: int, idle_seconds: float) -> None:
        self._kube, self._most, self._idle_seconds = kube, most, idle_seconds
        self._feeds: dict[tuple[str, str, str], Feed] = {}
        self._locks: dict[tuple[str, str, str], asyncio.Lock] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End all feeds."""
        for task in self._closing:
            task.cancel()
        for feed in self._feeds.values():
            await feed.close()
        self._feeds.clear()

    def count(self) -> int:
        """Return how many experiments are watched, once for each caller."""
        return len(self._feeds)

    async def changes(self, token: str, namespace: str, experiment: str) -> AsyncGenerator[Change]:
        """Yield a snapshot of an experiment and then its changes.

        Raises:
            GatewayError: If there is no such experiment, it cannot be listed, or too many are watched.
        """
        key = (hashlib.sha256(token.encode()).hexdigest(), namespace, experiment)
        self._make_room(key)
        async with self._locks.setdefault(key, asyncio.Lock()):
            feed = self._feeds.get(key)
            if feed is None or feed.over:
                feed = Feed(self._kube, token, namespace, experiment)
                self._feeds[key] = feed
                try:
                    await feed.open()
                except BaseException:
                    self._forget(key, feed)
                    raise
            subscription = feed.subscribe()
        try:
            async for change in subscription.changes():
                yield change
        finally:
            feed.leave(subscription)
            if not feed.watched:
                task = asyncio.create_task(self._close_later(key, feed))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _make_room(self, key: tuple[str, str, str]) -> None:
        if key not in self._feeds and len(self._feeds) >= self._most:
            raise GatewayError(
                503,
                f"{self._most} experiments are watched already; close some pages, or raise RAPIDFIRE_MAX_FEEDS",
                {"Retry-After": "10"},
            )

    async def _close_later(self, key: tuple[str, str, str], feed: Feed) -> None:
        await asyncio.sleep(self._idle_seconds)
        if not feed.watched:
            self._forget(key, feed)
            await feed.close()

    def _forget(self, key: tuple[str, str, str], feed: Feed) -> None:
        if self._feeds.get(key) is feed:
            del self._feeds[key]
            self._locks.pop(key, None)


__all__ = ["Change", "Feeds"]

"""Writes what was decided, one object at a time, and tells the picture what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog

from rapidfireai.api import API_VERSION
from rapidfireai.api.base import RUN_INDEX_LABEL
from rapidfireai_operator.adapters.clock import Clock
from rapidfireai_operator.adapters.kubernetes import Api, ApiError, ConflictError, NotFoundError
from rapidfireai_operator.core.accounts import Account, of_icop, of_run
from rapidfireai_operator.core.conditions import Event
from rapidfireai_operator.core.outcome import Change, Outcome, StatusPatch
from rapidfireai_operator.core.picture import Kind, Picture
from rapidfireai_operator.core.snapshot import Subject, World, owner_uid

AT_ONCE = 16
"""Requests under way at a time, where their order does not matter."""
T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Memory:
    """What is remembered of one experiment between two looks.

    Attributes:
        made: Indices of runs that are known to have been made.
        refusals: Why the API server refused to make an object, by its name.
        accounts: What was written and is not counted yet.
    """

    uid: str = ""
    made: set[int] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)

    def of(self, uid: str) -> Memory:
        """Return itself, after forgetting everything if it was about an earlier experiment of the same name."""
        if self.uid != uid:
            self.uid, self.made, self.refusals = uid, set(), {}
        return self


class Writer:
    """Carries out decisions.

    Args:
        api: The API server.
        picture: Learns the answers, so that the next look does not act on what is known to be old.
        clock: The clock.
    """

    def __init__(self, api: Api, picture: Picture, clock: Clock) -> None:
        self._api, self._picture, self._clock = api, picture, clock
        self._posts: set[asyncio.Task[None]] = set()

    async def write(self, world: World, outcome: Outcome, memory: Memory) -> bool:
        """Write everything in the order that keeps a crash half way harmless.

        Returns:
            Whether the experiment has to be looked at again at once: something had changed meanwhile, or what was
            written asks for more. Chunks that were given out, and counts that moved, ask for nothing.

        Raises:
            ApiError: If the API server does not answer.
        """
        namespace, again = world.experiment.namespace, bool(outcome.icops)
        if not await self._apply_icops(world, outcome, memory):
            return True  # what the records say would not be so
        if not await self._write_runs(world, outcome.runs, memory):
            return True  # decided on what is no longer so; the rest may depend on it
        await self._keep_icops(namespace, outcome, memory)
        again |= await self._write_jobs(world, outcome, memory)
        again |= await self._make_all("runs", namespace, outcome.create, memory)
        again |= await self._make_all("icops", namespace, outcome.make_icops, memory)
        if outcome.experiment is not None:
            written = await self.patch_status("experiments", namespace, outcome.experiment)
            again |= not written or not outcome.experiment.status.keys().isdisjoint({"conditions", "nextIndex"})
        if outcome.expire:
            await self._expire(world.experiment)
        return again

    async def _expire(self, subject: Subject) -> None:
        """Delete an experiment that is finished for long enough, unless it changed since."""
        log = _log.bind(namespace=subject.namespace, experiment=subject.name)
        try:
            await self._api.delete(
                "experiments", subject.namespace, subject.name, subject.uid, subject.resource_version
            )
        except ApiError as error:
            if not error.refused:
                raise
            log.warning("the API server refuses to remove a finished experiment", error=error.message)
            return
        log.info("removed, finished for as long as spec.ttlSecondsAfterFinished says")
        await self._refresh("experiments", subject.namespace, subject.name)

    async def _apply_icops(self, world: World, outcome: Outcome, memory: Memory) -> bool:
        """Write what IC Ops do and then their records; return whether all that they do was still good."""
        namespace, before = world.experiment.namespace, {icop.metadata.name: icop for icop in world.icops}
        for some in _in_parts(outcome.pins):
            if not all(await _together(self.patch_status("runs", namespace, pin) for pin in some)):
                return False
        for asked in _in_parts(outcome.asks):
            if not all(await _together(self._ask("runs", namespace, ask, memory) for ask in asked)):
                return False
        for patch in outcome.icops:
            if await self.patch_status("icops", namespace, patch):
                memory.accounts.append(of_icop(before[patch.name], patch, self._clock.now()))
                for key in [key for key in memory.refusals if key.startswith(f"{patch.name}/")]:
                    del memory.refusals[key]
        return True

    async def _ask(self, kind: Kind, namespace: str, ask: Change, memory: Memory) -> bool:
        """Change an object, if nobody else did meanwhile; remember why the API server refused it."""
        body = {**ask.body, "metadata": {**ask.body.get("metadata", {}), "resourceVersion": ask.resource_version}}
        try:
            return await self._patch(kind, namespace, ask.name, body, status=False)
        except ApiError as error:
            if not error.refused:
                raise
            memory.refusals[ask.cause] = error.message
            _log.warning("the API server refuses a change", kind=kind, name=ask.name, error=error.message)
            return False

    async def _keep_icops(self, namespace: str, outcome: Outcome, memory: Memory) -> None:
        """Let the experiment own its IC Ops, and remove the records that were kept long enough."""
        for change in outcome.adopt:
            await self._ask("icops", namespace, change, memory)
        for name, uid in outcome.remove_icops.items():
            try:
                await self._api.delete("icops", namespace, name, uid)
            except ApiError as error:
                if not error.refused:
                    raise
                _log.warning("the API server refuses to remove a record", icop=name, error=error.message)
            await self._refresh("icops", namespace, name)

    async def _write_runs(self, world: World, patches: Iterable[StatusPatch], memory: Memory) -> bool:
        """Write the statuses of runs, assignments first and in order; return whether all were still good."""
        namespace, described = world.experiment.namespace, []
        before = {run.metadata.name: run for run in world.runs}
        for patch in patches:
            if "assignment" not in patch.status:
                described.append(patch)
                continue
            if not await self.patch_status("runs", namespace, patch):
                return False
            memory.accounts.append(of_run(before[patch.name], patch))
            log = _log.bind(namespace=namespace, experiment=world.experiment.name, run=patch.name)
            log.info("assigned", **(patch.status["assignment"] or {"worker": None}))
        for some in _in_parts(described):
            if not all(await _together(self.patch_status("runs", namespace, patch) for patch in some)):
                return False
        return True

    async def patch_status(self, kind: Kind, namespace: str, patch: StatusPatch) -> bool:
        """Patch a status, unless the object changed since; then take up what it is now.

        Raises:
            ApiError: If the API server does not answer.
        """
        body = {"metadata": {"resourceVersion": patch.resource_version}, "status": patch.status}
        written = await self._patch(kind, namespace, patch.name, body, status=True)
        if written:
            for event in patch.events:
                self.post(namespace, event)
        return written

    async def _patch(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], *, status: bool) -> bool:
        try:
            answer = await self._api.patch(kind, namespace, name, body, status=status)
        except ConflictError:
            await self._refresh(kind, namespace, name)
            return False
        except NotFoundError:
            self._picture.forget_name(kind, namespace, name)
            return False
        self._picture.fold(kind, answer, self._clock.monotonic())
        return True

    async def _refresh(self, kind: Kind, namespace: str, name: str) -> None:
        """Read an object anew, without waiting for the watch."""
        try:
            self._picture.fold(kind, await self._api.get(kind, namespace, name), self._clock.monotonic())
        except NotFoundError:
            self._picture.forget_name(kind, namespace, name)

    async def _write_jobs(self, world: World, outcome: Outcome, memory: Memory) -> bool:
        namespace = world.experiment.namespace
        for name in outcome.remove_jobs:
            job = world.slots[name].job
            if job is not None:
                await self._api.delete("jobs", namespace, name, job.uid)
                await self._refresh("jobs", namespace, name)
        made = await self._make_all("jobs", namespace, outcome.make_jobs, memory)
        return bool(outcome.remove_jobs) or made

    async def _make_all(self, kind: Kind, namespace: str, bodies: Iterable[Mapping[str, Any]], memory: Memory) -> bool:
        """Make objects until one is refused; return whether anything changed by it."""
        changed = False
        for some in _in_parts(bodies):
            changed |= any(await _together(self._make(kind, namespace, body, memory) for body in some))
            if any(body["metadata"]["name"] in memory.refusals for body in some):
                break
        return changed

    async def _make(self, kind: Kind, namespace: str, body: Mapping[str, Any], memory: Memory) -> bool:
        """Make an object and remember why it was refused, if it was; return whether anything changed by it."""
        name, before = body["metadata"]["name"], memory.refusals.pop(body["metadata"]["name"], None)
        try:
            # A config and a patch of one may have nulls, which only a POST keeps.
            method = self._api.apply if kind == "jobs" else self._api.create
            answer = await method(kind, namespace, body)
        except ConflictError:
            await self._refresh(kind, namespace, name)
            return True
        except ApiError as error:
            # Server-side apply answers 500 where a manifest has the wrong types.
            if not (error.refused or error.code == 500):
                raise
            memory.refusals[name] = error.message
            if before != error.message:
                _log.warning("the API server refuses to make an object", kind=kind, name=name, error=error.message)
            return before != error.message
        self._picture.fold(kind, answer, self._clock.monotonic())
        index = (answer["metadata"].get("labels") or {}).get(RUN_INDEX_LABEL)
        if index is not None and owner_uid(answer["metadata"]) == memory.uid:
            memory.made.add(int(index))
        return True

    def post(self, namespace: str, event: Event) -> None:
        """Post an event in the background; nobody waits for it, and one that is lost is only missed."""
        task = asyncio.create_task(self._post_now(namespace, event), name=f"event {event.reason} of {event.name}")
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _post_now(self, namespace: str, event: Event) -> None:
        try:
            await self._api.create("events", namespace, event_body(namespace, event, self._clock.now()))
        except ApiError as error:
            _log.warning("event not posted", name=event.name, reason=event.reason, error=str(error))


def _in_parts(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items, as many at a time as may be under way together."""
    rest = list(items)
    while rest:
        yield rest[:AT_ONCE]
        rest = rest[AT_ONCE:]


async def _together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Await the calls side by side; if one fails, raise its error when none is under way any more."""
    answers: list[T] = []
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
        answers.append(answer)
    return answers


def event_body(namespace: str, event: Event, now: float) -> dict[str, Any]:
    """Return an Event of the API server."""
    moment = datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{event.name}.", "namespace": namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": event.kind,
            "name": event.name,
            "namespace": namespace,
            "uid": event.uid,
        },
        "reason": event.reason,
        "message": event.message,
        "type": "Warning" if event.warning else "Normal",
        "source": {"component": "rapidfireai-operator"},
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }

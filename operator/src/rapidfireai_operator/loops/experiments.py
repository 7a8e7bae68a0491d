"""One task an experiment: look, decide, write; woken by what changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import structlog

from rapidfireai_operator.adapters.clock import Clock
from rapidfireai_operator.adapters.kubernetes import Api, ApiError
from rapidfireai_operator.adapters.metrics import Metrics
from rapidfireai_operator.core import icops
from rapidfireai_operator.core.acceptance import Accepted, Refused, adopted_twice, judge, on_one_node, unshared
from rapidfireai_operator.core.accounts import Progress, decisions
from rapidfireai_operator.core.adoption import rival
from rapidfireai_operator.core.conditions import Event
from rapidfireai_operator.core.outcome import Rules, StatusPatch
from rapidfireai_operator.core.picture import Key, Picture
from rapidfireai_operator.core.reconcile import reconcile
from rapidfireai_operator.core.snapshot import Subject, World
from rapidfireai_operator.loops.claims import Claims, default_path
from rapidfireai_operator.loops.health import Health
from rapidfireai_operator.loops.writer import Memory, Writer

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds to wait after the API server failed; each failure in a row doubles them."""
ORPHAN_SECONDS = 10.0
"""How long an IC Op waits for its experiment: both may have been applied together."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Follower:
    """The task of one experiment, and what it remembers between two looks."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    woken_at: float | None = None
    memory: Memory = field(default_factory=Memory)
    verdict: tuple[str, int, Accepted | Refused] | None = None
    claims: Claims = field(default_factory=Claims)
    task: asyncio.Task[None] | None = None


class Experiments:
    """The reconcilers of all experiments.

    Args:
        api: The API server.
        picture: What is known of the cluster.
        rules: The operator's settings.
        clock: The clock.
        metrics: Where passes are measured.
        health: Where passes that hang are noticed.
    """

    def __init__(
        self, api: Api, picture: Picture, rules: Rules, clock: Clock, metrics: Metrics, health: Health
    ) -> None:
        self._api, self._picture, self._rules = api, picture, rules
        self._clock, self._metrics, self._health = clock, metrics, health
        self._writer = Writer(api, picture, clock)
        self._followers: dict[Key, _Follower] = {}
        self._open: set[str] = set()

    def open(self, namespace: str) -> None:
        """Let the reconcilers of a workspace begin: every kind has been listed there."""
        if namespace in self._open:
            return
        self._open.add(namespace)
        for key in self._picture.known():
            self.wake(key)

    def learn(self, outdated: str) -> bool:
        """Let every experiment say `outdated` of the definitions in the cluster; return whether it is news."""
        if outdated == self._rules.outdated:
            return False
        self._rules = replace(self._rules, outdated=outdated)
        for key in self._picture.known():
            self.wake(key)
        return True

    async def close(self) -> None:
        """Stop every task; whatever they were about to write is decided anew by the next operator."""
        tasks = [follower.task for follower in self._followers.values() if follower.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, key: Key) -> None:
        """Let an experiment be looked at."""
        if key.namespace not in self._open:
            return
        follower = self._followers.get(key)
        if follower is None:
            follower = self._followers[key] = _Follower()
            follower.task = asyncio.create_task(self._follow(key, follower), name=f"experiment {key}")
        if follower.woken_at is None:
            follower.woken_at = self._clock.monotonic()
        follower.wake.set()

    async def _follow(self, key: Key, follower: _Follower) -> None:
        """Look whenever something changed, or when it is time to, until nothing is left of the experiment."""
        log = _log.bind(namespace=key.namespace, experiment=key.name)
        failures, delay = 0, None
        while self._picture.knows(key):
            with contextlib.suppress(TimeoutError):  # then it is time to look without a change
                async with asyncio.timeout(delay):
                    await follower.wake.wait()
            follower.wake.clear()
            try:
                with self._measured(key, follower):
                    delay = await self._look(key, follower)
                failures = 0
            except ApiError as error:
                failures += 1
                delay = _pause(failures)
                log.warning("the API server failed, looking again", error=str(error), seconds=delay)
            except Exception:
                # A mistake of ours over one experiment must not end the care for the others.
                failures += 1
                delay = _pause(failures)
                log.exception("looking at an experiment failed", seconds=delay)
        del self._followers[key]
        self._metrics.drop(key.namespace, key.name)

    @contextlib.contextmanager
    def _measured(self, key: Key, follower: _Follower) -> Iterator[None]:
        woken, follower.woken_at = follower.woken_at, None
        self._health.begin(key)
        try:
            with self._metrics.reconcile.time():
                yield
        finally:
            self._health.end(key)
            if woken is not None:
                self._metrics.lag.observe(self._clock.monotonic() - woken)

    async def _look(self, key: Key, follower: _Follower) -> float | None:
        """Look once; return the seconds after which to look again, or None to wait for a change."""
        subject = self._picture.subject(key)
        if subject is None:
            return await self._refuse_orphans(key)
        memory = follower.memory.of(subject.uid)
        verdict = await self._judge(subject, follower)
        claims = await self._find_claims(key, verdict, follower.claims)
        world = self._picture.world(
            subject, self._clock.now(), self._clock.monotonic(), made=memory.made, refusals=memory.refusals
        )
        memory.made.update(world.made)
        outcome = reconcile(world, verdict, claims, self._rules)
        self._metrics.decide(decisions(outcome))
        if await self._writer.write(world, outcome, memory):
            self.wake(key)
        self._show(world)
        self._metrics.count(key.namespace, key.name, memory.accounts)
        memory.accounts.clear()
        return None if outcome.look_again is None else max(0.0, outcome.look_again - self._clock.now())

    async def _judge(self, subject: Subject, follower: _Follower) -> Accepted | Refused:
        """Judge a spec once, and beside the loop: thousands of runs take their time to expand."""
        known = follower.verdict
        if known is not None and known[:2] == (subject.uid, subject.generation):
            return known[2]
        follower.claims = Claims()  # a claim that was refused may be another one by now
        spec, files = subject.body.get("spec"), self._rules.allow_file_uris
        verdict = await asyncio.to_thread(judge, subject.name, spec, allow_file_uris=files)
        if isinstance(verdict, Accepted):
            verdict = await self._judge_claims(subject, verdict, follower.claims)
        if isinstance(verdict, Accepted) and verdict.spec.adopted is not None:
            other = rival(subject, self._picture.subjects(subject.namespace))
            verdict = verdict if other is None else adopted_twice(verdict.spec.adopted.uid, other)
        follower.verdict = (subject.uid, subject.generation, verdict)
        return verdict

    async def _judge_claims(self, subject: Subject, verdict: Accepted, claims: Claims) -> Accepted | Refused:
        """Refuse claims that workers cannot share, before there is a worker; tell of those that keep them together."""
        spec, names = verdict.spec, self._claims_of(verdict)
        found = await claims.look(self._api, subject.namespace, names)
        modes = {name: found[name].modes for name in names if name in found}
        refused = unshared(modes, spec.workers.replicas)
        if refused is None and spec.workers.replicas > 1 and (together := on_one_node(modes)):
            message = (
                f"The PersistentVolumeClaim {together[0]} is ReadWriteOnce: all {spec.workers.replicas} workers have "
                "to run on the node that has it, others wait for ever. Use ReadWriteMany for workers on several nodes."
            )
            self._writer.post(
                subject.namespace, Event("Experiment", subject.name, subject.uid, "ClaimOnOneNode", message, False)
            )
        return refused or verdict

    async def _find_claims(self, key: Key, verdict: Accepted | Refused, claims: Claims) -> Mapping[str, str]:
        """Return where workers mount the claims of an experiment."""
        if isinstance(verdict, Refused):
            return {}
        names, defaults = self._claims_of(verdict), self._rules.defaults
        found = await claims.look(self._api, key.namespace, names - {defaults.claim})
        paths = {name: found[name].mount_path if name in found else default_path(name) for name in sorted(names)}
        return paths | ({defaults.claim: defaults.mount_path} if defaults.claim in names else {})

    def _claims_of(self, verdict: Accepted) -> frozenset[str]:
        return verdict.claims | {verdict.spec.storage.claim_name or self._rules.defaults.claim}

    async def _refuse_orphans(self, key: Key) -> float | None:
        """Answer IC Ops that name an experiment which is not there."""
        now = self._clock.now()
        waits = []
        for icop in self._picture.icops(key):
            created = icop.metadata.creation_timestamp
            age = now - created.timestamp() if created is not None else ORPHAN_SECONDS
            if icops.is_complete(icop):
                continue
            if age < ORPHAN_SECONDS:
                waits.append(ORPHAN_SECONDS - age)
                continue
            record = icops.refuse(icop, f"there is no experiment {key.name} in namespace {key.namespace}", now)
            patch = StatusPatch(icop.metadata.name, icop.metadata.resource_version, record.to_wire())
            if await self._writer.patch_status("icops", key.namespace, patch):
                self.wake(key)
        return min(waits, default=None)

    def _show(self, world: World) -> None:
        states = Counter(str(each.tally.state or "Pending") for each in world.standings)
        assignments = sum(each.tally.held for each in world.standings)
        self._metrics.show(world.experiment.namespace, world.experiment.name, states, assignments)
        progress = Progress.of(world.experiment.status)
        self._metrics.show_progress(world.experiment.namespace, world.experiment.name, progress)


def _pause(failures: int) -> float:
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, 10)))

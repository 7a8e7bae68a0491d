"""A worker's side of budgets: requests wait here until a lease allows them, and report what they took."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import aiohttp
import structlog

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.volume.budgets import Ask, Budget, Grant, Limits, Returned, Terms, lease

_REPORT_SECONDS = 0.25
"""How long reports and unused leases wait for others, or for new demand, before they are sent."""
_PATIENCE_SECONDS = 300.0
"""How long the volume service may give no answer before the runs that wait for it are told."""
_REQUEST_SECONDS = 10.0
_LONGEST_PAUSE = 8.0
_log = structlog.get_logger(__name__)


class NoAnswer(Exception):  # noqa: N818 - it passes
    """The volume service did not answer; whether it granted something is not known, and does not matter."""


class TooLarge(Exception):  # noqa: N818 - it is the row's
    """A request takes more tokens than the limit of a minute: it can never be started."""


class Lessor(Protocol):
    """Grants leases of one budget."""

    async def lease(self, ask: Ask) -> Grant:
        """Answer a holder.

        Raises:
            NoAnswer: If there is none.
            RunFailure: If there never will be.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class LocalLessor:
    """A budget of this process alone, where there is no volume service."""

    def __init__(self, terms: Terms | None = None) -> None:
        self._budget = Budget(terms or Terms())

    async def lease(self, ask: Ask) -> Grant:
        """Answer a holder."""
        self._budget, grant = lease(self._budget, ask, time.monotonic())
        return grant

    async def close(self) -> None:
        """There is nothing to let go of."""


class VolumeLessor:
    """A budget that the volume service keeps.

    Args:
        url: Where the budget is: `<volume service>/v1/experiments/<uid>/budgets/<key>/lease`.
        token: Returns the token of the worker's account.
    """

    def __init__(self, url: str, token: Callable[[], str]) -> None:
        self._url = url
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def lease(self, ask: Ask) -> Grant:
        """Ask the volume service."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS))
        token = await asyncio.to_thread(self._token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with self._session.post(self._url, json=asdict(ask), headers=headers) as answer:
                if answer.status == 200:
                    return Grant.from_wire(await answer.json())
                words = (await answer.text())[:500]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        if answer.status in (404, 422):
            raise RunFailure("InvalidConfig", f"the volume service refuses the rate limits: {words}")
        raise NoAnswer(f"{answer.status}: {words}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


@dataclass(eq=False)
class _Held:
    """A lease as its holder knows it."""

    name: str
    end: float
    requests: int
    tokens: int
    unused: int = 0
    back: int = 0
    owed: int = 0
    running: int = 0
    sending: int = 0
    closed: bool = False

    def close(self) -> None:
        """Start nothing more of it."""
        if not self.closed:
            self.closed = True
            self.unused += self.requests
            self.back += self.tokens

    def report(self) -> Returned:
        closed = self.closed and not self.sending
        return Returned(self.name, self.unused, self.back, self.owed, closed, closed and not self.running)


class Permit:
    """One request may be started, at once."""

    def __init__(self, limiter: Limiter, held: _Held, tokens: int) -> None:
        self._limiter = limiter
        self._held = held
        self.tokens = tokens
        self._sent = False

    def sent(self) -> None:
        """Say that the request is on its way: until then its lease does not end."""
        if not self._sent:
            self._sent = True
            self._held.sending -= 1
            self._limiter.changed()

    def settle(self, used: int) -> None:
        """Say how many tokens the request took in the end."""
        self._held.back += max(0, self.tokens - used)
        self._held.owed += max(0, used - self.tokens)
        self._end()

    def give_back(self) -> None:
        """Say that the request was not started."""
        self._held.unused += 1
        self._held.back += self.tokens
        self._end()

    @property
    def expired(self) -> bool:
        """Whether it came too late to be used."""
        return self._limiter.now() >= self._held.end

    def _end(self) -> None:
        self._held.running -= 1
        self.sent()
        self._limiter.changed()


@dataclass(eq=False)
class _Waiting:
    """A request that waits: what is set aside for it, and what it takes in any case."""

    tokens: int
    surely: int
    granted: asyncio.Future[Permit]


class Limiter:
    """Holds leases of one budget for all requests of this process that share it. Lives in one event loop.

    Args:
        lessor: Who grants leases.
        limits: What the run's config says.
        holder: Under what name; no other limiter has it.
        patience: How many seconds the lessor may give no answer.
    """

    def __init__(self, lessor: Lessor, limits: Limits, holder: str, patience: float = _PATIENCE_SECONDS) -> None:
        self._lessor = lessor
        self._limits = limits
        self._holder = holder
        self._patience = patience
        self._waiting: deque[_Waiting] = deque()
        self._lease: _Held | None = None
        self._held: dict[str, _Held] = {}
        self._told: dict[str, Returned] = {}
        self._starts: deque[tuple[float, int]] = deque()
        self._lease_seconds = Terms().lease
        self._tpm = limits.tpm
        self._warned = False
        self._silent_since: float | None = None
        self._wake = asyncio.Event()
        self._demand = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def now(self) -> float:
        """Return the time of its loop."""
        return asyncio.get_running_loop().time()

    def changed(self) -> None:
        """Note that there is something to report."""
        self._wake.set()

    async def permit(self, tokens: int, surely: int = 0) -> Permit:
        """Wait until a request may be started; start it at once.

        Args:
            tokens: What it takes at most, as far as is known; no more than the whole limit is set aside.
            surely: What it takes in any case.

        Raises:
            TooLarge: If it takes more than the limit of a minute.
            RunFailure: If there is nobody who could grant it.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"limiter of {self._holder}")
        while True:
            permit = await self._wait(tokens, surely)
            if not permit.expired:
                self._starts.append((self.now(), permit.tokens))
                return permit
            permit.give_back()

    async def _wait(self, tokens: int, surely: int) -> Permit:
        waiting = _Waiting(tokens, surely, asyncio.get_running_loop().create_future())
        self._fit(waiting)
        self._waiting.append(waiting)
        self._demand.set()
        self._wake.set()
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.done() and not waiting.granted.cancelled():
                waiting.granted.result().give_back()
            raise

    def _fit(self, waiting: _Waiting) -> None:
        """Set no more aside than the whole limit.

        Raises:
            TooLarge: If that is not enough in any case.
        """
        if self._tpm is None:
            return
        if waiting.surely > self._tpm:
            raise TooLarge(
                f"the prompt and its answer take {waiting.surely} tokens at least and tpm_limit is {self._tpm}: "
                "shorten the prompt, lower max_completion_tokens, or raise tpm_limit"
            )
        waiting.tokens = min(waiting.tokens, self._tpm)

    async def close(self) -> None:
        """Give back what is held; who still waits gets nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)  # it was told to end
            self._fail(RunFailure("Closed", "the worker gives the run up", blame="Infrastructure"))
            try:
                await self._ask()
            except (NoAnswer, RunFailure) as problem:
                _log.info("leases are left to run out", holder=self._holder, problem=str(problem))
        await self._lessor.close()

    async def _run(self) -> None:
        """Serve who waits, ask for more, and report what came back."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._serve()
            if not self._waiting and self._to_report():
                self._demand.clear()
                with contextlib.suppress(TimeoutError):  # nobody came: report
                    await asyncio.wait_for(self._demand.wait(), _REPORT_SECONDS)
                self._serve()
                if not self._waiting and self._demand.is_set() and self._lease is not None:
                    self._wake.set()  # the lease serves what comes: what is to be reported waits a little more
                    continue
            if self._waiting or self._to_report():
                await asyncio.sleep(await self._insist())
                self._serve()
                self._wake.set()

    def _serve(self) -> None:
        """Let start what the lease allows, in the order of coming."""
        held = self._lease
        while held is not None and self._waiting:
            first = self._waiting[0]
            if first.granted.done():  # its row was given up
                self._waiting.popleft()
                continue
            if held.requests < 1 or held.tokens < first.tokens or self.now() >= held.end:
                break
            self._waiting.popleft()
            held.requests, held.tokens = held.requests - 1, held.tokens - first.tokens
            held.running, held.sending = held.running + 1, held.sending + 1
            first.granted.set_result(Permit(self, held, first.tokens))
        while self._waiting and self._waiting[0].granted.done():
            self._waiting.popleft()

    def _to_report(self) -> bool:
        return self._lease is not None or any(
            self._told.get(name) != held.report() for name, held in self._held.items()
        )

    async def _insist(self) -> float:
        """Ask once; return how long to wait then. Who waits is told if there is no answer for too long."""
        try:
            grant = await self._ask()
        except RunFailure as failure:
            self._fail(failure)
            return _REPORT_SECONDS
        except NoAnswer as problem:
            self._silent_since = self._silent_since or self.now()
            silent = self.now() - self._silent_since
            _log.warning("the volume service grants nothing, trying again", problem=str(problem), seconds=silent)
            if silent >= self._patience:
                words = f"the volume service granted nothing for {silent:.0f} s, last: {problem}"
                self._fail(RunFailure("BudgetUnavailable", words, blame="Infrastructure"))
            return random.uniform(0.2, 1) * min(_LONGEST_PAUSE, 0.5 + silent)  # noqa: S311 - so that not all come at once
        self._silent_since = None
        return 0.0 if grant.lease else max(grant.retry_after, 0.0)

    async def _ask(self) -> Grant:
        """Give back the lease that is of no more use, and get another one if anybody waits."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None
        reports = {name: held.report() for name, held in self._held.items()}
        told = tuple(report for name, report in reports.items() if self._told.get(name) != report)
        requests, tokens = self._wanted()
        least = self._waiting[0].tokens if self._waiting else 0
        limits = self._limits
        asked_at = self.now()
        grant = await self._lessor.lease(
            Ask(self._holder, requests, tokens, least, limits.rpm, limits.tpm, returned=told)
        )
        self._told.update((report.lease, report) for report in told)
        for report in told:
            if report.settled:
                del self._held[report.lease], self._told[report.lease]
        if grant.lease:
            self._lease_seconds = grant.end
            self._lease = _Held(grant.lease, asked_at + grant.end, grant.requests, grant.tokens)
            self._held[grant.lease] = self._lease
        self._learn(grant)
        return grant

    def _wanted(self) -> tuple[int, int]:
        """Return what to ask for: what waits, and as much as was started in the last half of a lease's time."""
        requests, tokens = len(self._waiting), sum(waiting.tokens for waiting in self._waiting)
        if not requests:
            return 0, 0
        since = self.now() - self._lease_seconds / 2
        while self._starts and self._starts[0][0] < since:
            self._starts.popleft()
        return requests + len(self._starts), tokens + sum(tokens for _, tokens in self._starts)

    def _learn(self, grant: Grant) -> None:
        """Take note of the limits that hold; another run's may be lower."""
        if not self._warned and (grant.rpm, grant.tpm) != (self._limits.rpm, self._limits.tpm):
            self._warned = True
            _log.warning(
                "another run of the same model knows of lower limits: these hold",
                rpm_limit=grant.rpm,
                tpm_limit=grant.tpm,
                own_rpm_limit=self._limits.rpm,
                own_tpm_limit=self._limits.tpm,
            )
        self._tpm = grant.tpm
        for waiting in [each for each in self._waiting if not each.granted.done()]:
            try:
                self._fit(waiting)
            except TooLarge as problem:
                waiting.granted.set_exception(problem)

    def _fail(self, failure: RunFailure) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.granted.done():
                waiting.granted.set_exception(failure)


def lease_url(volume_url: str, experiment_uid: str, key: str) -> str:
    """Return where leases of a budget are asked for."""
    return f"{volume_url.rstrip('/')}/v1/experiments/{experiment_uid}/budgets/{key}/lease"

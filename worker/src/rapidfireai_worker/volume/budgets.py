"""What workers may ask of a rate-limited API, together: leases out of one budget. Pure: no clock, no disk, no network.

The promise: in no window of `Terms.window` seconds do all holders together start more requests, or requests worth more
tokens, than the limits say. It follows from one rule. A lease may be used from when it is given until its end, so it
is charged from the one to a window after the other, whether it is used or not, and whoever holds it may die at any
time. What a holder gives back is no longer charged, and a lease that it closes, once all that it started is on its
way, ended just then: sooner than agreed, or later if the holder's machine was slow. A new lease is what is not
charged at that moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

from pydantic import Field

UNLIMITED = 1 << 53
"""What a limit that is not set comes to."""
Count = Annotated[int, Field(ge=0, le=UNLIMITED)]
_BUCKETS = 240
"""A window has so many buckets of what is settled: what leaves the window is known to a quarter of a second."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How budgets are kept; all in seconds but `portion`.

    Attributes:
        window: The window that the limits are for: limits a minute.
        lease: How long a lease may be used.
        slack: By how much more than another a request may be late at the API, after it was sent.
        patience: How long a waiting holder keeps its place in the queue without asking again.
        portion: The part of a limit that one lease holds at most: what is lost with a worker that is cut off.
    """

    window: float = 60.0
    lease: float = 2.0
    slack: float = 2.0
    patience: float = 3.0
    portion: float = 0.05

    @property
    def longest_wait(self) -> float:
        """How long a holder waits at most before it asks again."""
        return self.lease / 2

    @property
    def shortest_wait(self) -> float:
        """How long a holder waits at least before it asks again."""
        return self.lease / 100


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be started in a window; None is no limit."""

    rpm: int | None = None
    tpm: int | None = None

    @property
    def requests(self) -> int:
        """Requests of a window."""
        return UNLIMITED if self.rpm is None else self.rpm

    @property
    def tokens(self) -> int:
        """Tokens of a window."""
        return UNLIMITED if self.tpm is None else self.tpm

    def problem(self) -> str | None:
        """Return what is wrong with them, as a sentence with the fix; None if nothing is."""
        for name, value in (("rpm_limit", self.rpm), ("tpm_limit", self.tpm)):
            if value is not None and not 0 < value < UNLIMITED:
                return (
                    f"{name}={value}: nothing could ever be asked; write what the API grants a minute, 1 at least, "
                    "or leave it out for no limit"
                )
        return None


@dataclass(frozen=True, slots=True)
class Returned:
    """All that became known of a lease so far; each number only grows, so a report may be lost, doubled or late.

    Attributes:
        lease: Which one.
        requests: Requests that were not started.
        tokens: Tokens that were not needed: of requests not started, or more than an answer took.
        owed: Tokens that answers took beyond what was set aside for them.
        closed: Whether nothing more is started of it, and all that was started is sent.
        settled: Whether nothing more will be reported of it.
    """

    lease: Annotated[str, Field(max_length=64)]
    requests: Count = 0
    tokens: Count = 0
    owed: Count = 0
    closed: bool = False
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """What a holder wants.

    Attributes:
        holder: Who asks; one name for each client that starts requests.
        requests: How many requests wait to be started; 0 to report only.
        tokens: What they take, all together.
        least: What the first of them takes: less is of no use.
        rpm: The limit of requests a minute that the holder knows of; None for none.
        tpm: The limit of tokens a minute that the holder knows of; None for none.
        returned: What became known of its leases.
    """

    holder: Annotated[str, Field(min_length=1, max_length=128)]
    requests: Count = 0
    tokens: Count = 0
    least: Count = 0
    rpm: int | None = None
    tpm: int | None = None
    returned: tuple[Returned, ...] = ()

    @property
    def limits(self) -> Limits:
        """The limits that the holder knows of."""
        return Limits(self.rpm, self.tpm)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a holder may start.

    Attributes:
        lease: Its name; empty if nothing is granted.
        requests: How many requests.
        tokens: How many tokens they may take.
        begin: From when on, in seconds from now.
        end: Until when, in seconds from now.
        retry_after: When to ask again if nothing is granted, in seconds from now.
        rpm: The limit that holds, the lowest that any holder of the last window knows of; None for none.
        tpm: The same for tokens.
    """

    lease: str = ""
    requests: int = 0
    tokens: int = 0
    begin: float = 0.0
    end: float = 0.0
    retry_after: float = 0.0
    rpm: int | None = None
    tpm: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return it as the volume service answers it."""
        wire = asdict(self)
        wire["retryAfter"] = wire.pop("retry_after")
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Grant:
        """Return what the volume service answered."""
        known = {each.name: wire[each.name] for each in fields(cls) if each.name in wire}
        return cls(**known, retry_after=wire["retryAfter"])


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was given: it is charged until a window after `end`."""

    name: str
    requests: int
    tokens: int
    end: float
    back: Returned
    closed: bool = False

    @property
    def charge(self) -> tuple[int, int]:
        """Requests and tokens that count."""
        used = max(0, self.requests - self.back.requests)
        return used, max(0, self.tokens - self.back.tokens + self.back.owed)


@dataclass(frozen=True, slots=True)
class Spent:
    """What leases that are settled come to; charged until `until`."""

    until: float
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asked within the last window; `since` is when it began to wait, None if it waits for nothing."""

    name: str
    limits: Limits
    seen: float
    since: float | None = None
    requests: int = 0
    tokens: int = 0
    least: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """All that is known of one budget.

    Attributes:
        terms: How it is kept.
        series: Begins the names of its leases, so that those of another budget are told apart.
        count: Leases that were given so far.
        leases: Those about which something may still become known.
        spent: What the others come to, by when it leaves the window.
        holders: Who asked within the last window, the longest-waiting first.
    """

    terms: Terms = field(default_factory=Terms)
    series: str = "lease"
    count: int = 0
    leases: tuple[Lease, ...] = ()
    spent: tuple[Spent, ...] = ()
    holders: tuple[Holder, ...] = ()

    @property
    def limits(self) -> Limits:
        """The lowest limits that a holder of the last window knows of."""
        requests = [holder.limits.rpm for holder in self.holders if holder.limits.rpm is not None]
        tokens = [holder.limits.tpm for holder in self.holders if holder.limits.tpm is not None]
        return Limits(min(requests, default=None), min(tokens, default=None))

    def charged(self) -> tuple[int, int]:
        """Return the requests and tokens that count now."""
        charges = [lease.charge for lease in self.leases] + [(each.requests, each.tokens) for each in self.spent]
        return sum(requests for requests, _ in charges), sum(tokens for _, tokens in charges)


def exhausted(terms: Terms, series: str, until: float) -> Budget:
    """Return a budget of which nothing is known but that it may all be used up, by leases that end at `until`."""
    return Budget(terms, series, spent=(Spent(until + terms.window + terms.slack, UNLIMITED, UNLIMITED),))


def lease(budget: Budget, ask: Ask, now: float) -> tuple[Budget, Grant]:
    """Answer a holder; return the budget as it is then, and the answer.

    Who waits longest is served first, a portion at a time; what others behind it get leaves enough for it.
    """
    budget = _forget(_take_back(budget, ask.returned, now), now)
    holder, ahead = _queue(budget, ask, now)
    budget = replace(budget, holders=_seen(budget.holders, holder, now - budget.terms.window))
    if not ask.requests:
        return budget, Grant(rpm=budget.limits.rpm, tpm=budget.limits.tpm)
    least = max(1, ask.least)
    requests, tokens = _portion(budget, ask.requests, ask.tokens, least)
    kept_requests, kept_tokens = _kept(budget, ahead)
    free_requests, free_tokens = _free(budget)
    requests = min(requests, free_requests - kept_requests)
    tokens = min(tokens, free_tokens - kept_tokens)
    if requests < 1 or tokens < least:
        wait = _until_free(budget, 1 + kept_requests, least + kept_tokens, now)
        return budget, Grant(retry_after=wait, rpm=budget.limits.rpm, tpm=budget.limits.tpm)
    return _give(budget, replace(holder, since=now), requests, tokens, now)


def _give(budget: Budget, holder: Holder, requests: int, tokens: int, now: float) -> tuple[Budget, Grant]:
    """Enter a new lease; its holder, if it wants more, waits anew."""
    terms = budget.terms
    name = f"{budget.series}-{budget.count + 1}"
    given = Lease(name, requests, tokens, now + terms.lease, Returned(name))
    more = holder.requests > requests
    holder = replace(holder, since=now if more else None)
    budget = replace(
        budget,
        count=budget.count + 1,
        leases=(*budget.leases, given),
        holders=_seen(budget.holders, holder, now - terms.window),
    )
    limits = budget.limits
    return budget, Grant(
        lease=name,
        requests=requests,
        tokens=tokens,
        end=terms.lease,
        rpm=limits.rpm,
        tpm=limits.tpm,
    )


def _take_back(budget: Budget, reports: Iterable[Returned], now: float) -> Budget:
    """Enter what became known of leases; a lease of which nothing more will is charged as spent."""
    known = {report.lease: report for report in reports}
    if not known:
        return budget
    kept: list[Lease] = []
    settled: list[Lease] = []
    for each in budget.leases:
        report = known.get(each.name)
        if report is None:
            kept.append(each)
            continue
        end = now if report.closed and not each.closed else each.end
        told = replace(each, end=end, back=_merged(each.back, report), closed=each.closed or report.closed)
        (settled if report.settled and report.closed else kept).append(told)
    return replace(budget, leases=tuple(kept), spent=_spent(budget, settled))


def _merged(old: Returned, new: Returned) -> Returned:
    return Returned(old.lease, max(old.requests, new.requests), max(old.tokens, new.tokens), max(old.owed, new.owed))


def _spent(budget: Budget, settled: Iterable[Lease]) -> tuple[Spent, ...]:
    """Return what is spent, that of settled leases added; ends are rounded up to those of buckets."""
    bucket = budget.terms.window / _BUCKETS
    totals = {each.until: (each.requests, each.tokens) for each in budget.spent}
    for each in settled:
        until = math.ceil(_leaves(budget.terms, each) / bucket) * bucket
        before = totals.get(until, (0, 0))
        totals[until] = (before[0] + each.charge[0], before[1] + each.charge[1])
    return tuple(Spent(until, *totals[until]) for until in sorted(totals))


def _leaves(terms: Terms, each: Lease) -> float:
    """Return when a lease leaves the window for good."""
    return each.end + terms.window + terms.slack


def _forget(budget: Budget, now: float) -> Budget:
    """Drop what is no longer in the window."""
    return replace(
        budget,
        leases=tuple(each for each in budget.leases if _leaves(budget.terms, each) > now),
        spent=tuple(each for each in budget.spent if each.until > now),
    )


def _queue(budget: Budget, ask: Ask, now: float) -> tuple[Holder, tuple[Holder, ...]]:
    """Return who asks, and those who wait longer."""
    before = next((holder for holder in budget.holders if holder.name == ask.holder), None)
    since = before.since if before and before.since is not None else now
    holder = Holder(ask.holder, ask.limits, now, since if ask.requests else None, ask.requests, ask.tokens, ask.least)
    ahead = tuple(
        other
        for other in budget.holders
        if other.name != ask.holder
        and other.since is not None
        and other.since < since
        and other.seen >= now - budget.terms.patience
    )
    return holder, ahead


def _seen(holders: tuple[Holder, ...], holder: Holder, oldest: float) -> tuple[Holder, ...]:
    """Return the holders with one of them as it is now, without those who were last seen before `oldest`."""
    others = (other for other in holders if other.name != holder.name and other.seen >= oldest)
    return (*others, holder)


def _portion(budget: Budget, requests: int, tokens: int, least: int) -> tuple[int, int]:
    """Return how much one lease holds at most of what is wanted."""
    limits, share = budget.limits, budget.terms.portion
    return (
        min(requests, math.ceil(limits.requests * share)),
        max(least, min(tokens, math.ceil(limits.tokens * share))),
    )


def _kept(budget: Budget, ahead: Iterable[Holder]) -> tuple[int, int]:
    """Return what is kept for those who wait longer."""
    portions = [_portion(budget, holder.requests, holder.tokens, holder.least) for holder in ahead]
    return sum(requests for requests, _ in portions), sum(tokens for _, tokens in portions)


def _free(budget: Budget) -> tuple[int, int]:
    """Return what is not charged."""
    requests, tokens = budget.charged()
    return budget.limits.requests - requests, budget.limits.tokens - tokens


def _until_free(budget: Budget, requests: int, tokens: int, now: float) -> float:
    """Return in how many seconds so much is free if nobody gives anything back; within the bounds of the terms."""
    free_requests, free_tokens = _free(budget)
    leaving = [(each.until, each.requests, each.tokens) for each in budget.spent]
    leaving += [(_leaves(budget.terms, each), *each.charge) for each in budget.leases]
    wait = budget.terms.longest_wait
    for until, more_requests, more_tokens in sorted(leaving):
        if free_requests >= requests and free_tokens >= tokens:
            break
        free_requests, free_tokens, wait = free_requests + more_requests, free_tokens + more_tokens, until - now
    return min(max(wait, budget.terms.shortest_wait), budget.terms.longest_wait)

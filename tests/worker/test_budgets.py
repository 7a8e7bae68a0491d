"""Budgets of rate-limited APIs, held by simulated workers over virtual time; measured is what the workers start."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidfireai_worker.volume.budgets import Ask, Budget, Grant, Limits, Returned, Terms, exhausted, lease

WINDOW = 60.0


@dataclass
class Clock:
    """Virtual time: what is due next happens next."""

    now: float = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.due, (self.now + seconds, len(self.due) + random.getrandbits(40), act))

    def run_until(self, end: float) -> None:
        while self.due and self.due[0][0] <= end:
            self.now, _, act = heapq.heappop(self.due)
            act()
        self.now = end


@dataclass
class Started:
    """One request that reached the API: when, and what it took in the end."""

    at: float
    tokens: int


@dataclass
class Server:
    """The volume service: one budget, which a restart empties of all knowledge."""

    clock: Clock
    budget: Budget
    arrived: list[Started] = field(default_factory=list)

    def restart(self) -> None:
        terms = self.budget.terms
        self.budget = exhausted(terms, f"after-{self.clock.now}", self.clock.now + terms.lease)

    def ask(self, ask: Ask) -> Grant:
        self.budget, grant = lease(self.budget, ask, self.clock.now)
        return grant


@dataclass
class Holding:
    name: str
    end: float
    requests: int
    tokens: int
    back: int = 0
    owed: int = 0
    unsettled: int = 0
    closed: bool = False


@dataclass
class SimulatedWorker:
    """Has rows from a time on, each with its tokens, and starts them as its leases allow."""

    name: str
    server: Server
    limits: Limits
    chance: random.Random
    rows: int
    largest: int
    over: float
    concurrency: int = 30
    begins: float = 0.0
    dies: float = float("inf")
    waiting: deque[int] = field(default_factory=deque)
    running: int = 0
    asking: bool = False
    current: Holding | None = None
    held: dict[str, Holding] = field(default_factory=dict)

    def start(self) -> None:
        self.server.clock.after(self.begins, self.step)

    @property
    def clock(self) -> Clock:
        return self.server.clock

    def step(self) -> None:
        """Start what the lease allows, then ask for more."""
        if self.clock.now >= self.dies:
            return
        while self.rows and self.running + len(self.waiting) < self.concurrency:
            self.rows -= 1
            self.waiting.append(self.chance.randint(1, self.largest))
        self.use()
        if (self.waiting or self.held) and not self.asking:
            self.asking = True
            self.clock.after(self.chance.uniform(0, 0.05), self.ask)

    def use(self) -> None:
        held = self.current
        while held and self.waiting and held.requests and held.tokens >= self.waiting[0] and self.clock.now < held.end:
            reserved = self.waiting.popleft()
            held.requests, held.tokens, held.unsettled = held.requests - 1, held.tokens - reserved, held.unsettled + 1
            used = max(1, round(reserved * self.chance.uniform(self.over, 1)))
            self.running += 1
            late = self.chance.uniform(0, self.server.budget.terms.slack)
            self.server.arrived.append(Started(self.clock.now + late, used))
            self.clock.after(self.chance.uniform(0.05, 3), partial(self.answered, held, reserved, used))

    def answered(self, held: Holding, reserved: int, used: int) -> None:
        held.unsettled -= 1
        held.back += reserved - used
        self.running -= 1
        self.clock.after(0.0, self.step)

    def ask(self) -> None:
        if self.clock.now >= self.dies:
            return
        if self.current is not None:
            self.current.closed = True
            self.current.back += self.current.tokens
            self.current = None
        returned = tuple(
            Returned(each.name, each.requests, each.back, each.owed, each.closed, each.closed and not each.unsettled)
            for each in self.held.values()
        )
        asked_at = self.clock.now
        least = self.waiting[0] if self.waiting else 0
        grant = self.server.ask(
            Ask(self.name, len(self.waiting), sum(self.waiting), least, self.limits.rpm, self.limits.tpm, returned)
        )
        self.held = {each.name: each for each in self.held.values() if not (each.closed and not each.unsettled)}
        if grant.lease:
            self.current = Holding(grant.lease, asked_at + grant.end, grant.requests, grant.tokens)
            self.held[grant.lease] = self.current
        wait = self.chance.uniform(0, 0.05) if grant.lease else grant.retry_after
        self.clock.after(wait or 0.5, self.asked)

    def asked(self) -> None:
        self.asking = False
        if self.waiting or self.held:
            self.step()


def largest_window(started: list[Started], worth: Callable[[Started], int], window: float = WINDOW) -> int:
    """Return the most that was started in any window."""
    ordered = sorted(started, key=lambda each: each.at)
    largest = total = first = 0
    for each in ordered:
        total += worth(each)
        while ordered[first].at <= each.at - window:
            total -= worth(ordered[first])
            first += 1
        largest = max(largest, total)
    return largest


def requests_of(_: Started) -> int:
    return 1


def tokens_of(started: Started) -> int:
    return started.tokens


@settings(max_examples=60, deadline=None)
@given(
    rpm=st.integers(1, 300),
    tpm=st.integers(200, 20_000),
    workers=st.lists(
        st.tuples(st.floats(0, 90), st.floats(0.1, 1), st.one_of(st.none(), st.floats(0, 150))), min_size=1, max_size=6
    ),
    restarts=st.lists(st.floats(1, 180), max_size=2),
    seed=st.integers(0, 1 << 30),
)
def test_no_window_ever_holds_more_than_the_limits(
    rpm: int,
    tpm: int,
    workers: list[tuple[float, float, float | None]],
    restarts: list[float],
    seed: int,
) -> None:
    """Whoever joins late, is cut off with a lease, or loses the volume service."""
    chance, clock = random.Random(seed), Clock()
    server = Server(clock, Budget(Terms(), "lease"))
    for index, (begins, over, dies) in enumerate(workers):
        worker = SimulatedWorker(f"w-{index}", server, Limits(rpm, tpm), chance, 400, 200, over, begins=begins)
        worker.dies = begins + dies if dies is not None else float("inf")
        worker.start()
    for at in restarts:
        clock.after(at, server.restart)
    clock.run_until(240)
    assert largest_window(server.arrived, requests_of) <= rpm
    assert largest_window(server.arrived, tokens_of) <= tpm


def demand(limits: Limits, seconds: float, *workers: dict[str, float], seed: int = 1, over: float = 1.0) -> Server:
    """Run workers that always have rows for a while, and return the server."""
    clock, chance = Clock(), random.Random(seed)
    server = Server(clock, Budget(Terms(), "lease"))
    for index, more in enumerate(workers):
        worker = SimulatedWorker(f"w-{index}", server, limits, chance, 10**6, 100, over)
        worker.begins, worker.dies = more.get("begins", 0.0), more.get("dies", float("inf"))
        worker.start()
    clock.run_until(seconds)
    return server


@pytest.mark.parametrize(
    ("limits", "worth", "limit"),
    [(Limits(rpm=120), requests_of, 120), (Limits(tpm=9000), tokens_of, 9000), (Limits(7, 10**6), requests_of, 7)],
)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_nine_tenths_are_used_where_there_is_demand(
    limits: Limits, worth: Callable[[Started], int], limit: int, workers: int
) -> None:
    server = demand(limits, 600, *[{}] * workers)
    assert sum(map(worth, server.arrived)) >= 0.9 * limit * 600 / WINDOW
    assert largest_window(server.arrived, worth) <= limit


def test_over_reserved_tokens_are_used_once_answers_come() -> None:
    server = demand(Limits(tpm=9000), 600, {}, {}, over=0.2)
    assert sum(map(tokens_of, server.arrived)) >= 0.9 * 9000 * 600 / WINDOW
    assert largest_window(server.arrived, tokens_of) <= 9000


@pytest.mark.parametrize("dies", [0.3, 61.2, 100.0])
def test_nine_tenths_are_used_after_a_worker_was_cut_off(dies: float) -> None:
    server = demand(Limits(rpm=200), 610, {}, {"dies": dies})
    assert sum(map(requests_of, server.arrived)) >= 0.9 * 200 * 610 / WINDOW


def test_who_joins_late_gets_its_part() -> None:
    clock, chance = Clock(), random.Random(3)
    server = Server(clock, Budget(Terms(), "lease"))
    first, second = (
        SimulatedWorker(f"w-{index}", server, Limits(rpm=100), chance, 10**6, 100, 1.0) for index in (0, 1)
    )
    second.begins = 30.0
    for worker in (first, second):
        worker.start()
    clock.run_until(30 + 10 * WINDOW)
    used = [10**6 - worker.rows - len(worker.waiting) for worker in (first, second)]
    assert used[1] >= 0.4 * sum(used)


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    clock, chance = Clock(), random.Random(4)
    server = Server(clock, Budget(Terms(), "lease"))
    small = SimulatedWorker("small", server, Limits(tpm=1000), chance, 10**6, 20, 1.0)
    small.start()
    got: list[Grant] = []

    def ask() -> None:
        grant = server.ask(Ask("large", 1, 800, 800, tpm=1000))
        got.append(grant)
        if not grant.lease:
            clock.after(grant.retry_after, ask)

    clock.after(1, ask)
    clock.run_until(70)
    assert got[-1].tokens == 800


def test_what_is_given_back_is_free_at_once() -> None:
    budget, first = lease(Budget(Terms(portion=1.0)), Ask("a", 10, 0, 0, rpm=10), 0.0)
    budget, nothing = lease(budget, Ask("b", 10, 0, 0, rpm=10), 0.1)
    back = Returned(first.lease, requests=6, closed=True, settled=True)
    budget, _ = lease(budget, Ask("a", returned=(back,), rpm=10), 0.2)
    budget, second = lease(budget, Ask("b", 10, 0, 0, rpm=10), 0.3)
    assert (first.requests, nothing.requests, second.requests) == (10, 0, 6)
    assert 0 < nothing.retry_after <= Terms().longest_wait


def test_a_report_that_comes_twice_or_late_changes_nothing() -> None:
    budget, grant = lease(Budget(Terms(portion=1.0)), Ask("a", 10, 1000, 100, tpm=1000), 0.0)
    early = Returned(grant.lease, 2, 300, 0, closed=True)
    late = replace(early, tokens=500, owed=40)
    for report in (early, late, late, early):
        budget, _ = lease(budget, Ask("a", returned=(report,), tpm=1000), 1.0)
    assert budget.charged() == (8, 540)


def test_what_an_answer_took_beyond_is_paid_back() -> None:
    budget, grant = lease(Budget(Terms(portion=1.0)), Ask("a", 1, 400, 400, tpm=1000), 0.0)
    back = Returned(grant.lease, owed=500, closed=True, settled=True)
    budget, _ = lease(budget, Ask("a", returned=(back,), tpm=1000), 1.0)
    budget, more = lease(budget, Ask("a", 1, 400, 400, tpm=1000), 2.0)
    assert (budget.charged(), more.lease) == ((1, 900), "")


def test_the_lowest_limit_that_anybody_knows_holds_until_a_window_after() -> None:
    budget, _ = lease(Budget(Terms()), Ask("a", 1, 0, 0, rpm=100), 0.0)
    budget, second = lease(budget, Ask("b", 1, 0, 0, rpm=20, tpm=500), 1.0)
    budget, third = lease(budget, Ask("a", 50, 0, 0, rpm=100), 2.0)
    assert (second.rpm, third.rpm, third.tpm, third.requests) == (20, 20, 500, 1)
    budget, later = lease(budget, Ask("a", 50, 0, 0, rpm=100), 2.0 + WINDOW)
    assert (later.rpm, later.tpm, later.requests) == (100, None, 5)


def test_nothing_is_granted_after_a_restart_until_what_may_be_out_has_left_the_window() -> None:
    terms = Terms()
    budget = exhausted(terms, "new", 100 + terms.lease)
    for at in (100.0, 130.0, 163.9):
        budget, grant = lease(budget, Ask("a", 1, 0, 0, rpm=100), at)
        assert grant.lease == ""
    _, grant = lease(budget, Ask("a", 1, 0, 0, rpm=100), 164.1)
    assert grant.requests == 1


def test_what_is_kept_does_not_grow_with_what_was_asked() -> None:
    budget = Budget(Terms())
    for index in range(3000):
        now = index * 0.1
        budget, grant = lease(budget, Ask("a", 1, 10, 10, rpm=10**4, tpm=10**6), now)
        back = Returned(grant.lease, 0, 0, 0, closed=True, settled=True)
        budget, _ = lease(budget, Ask("a", returned=(back,), rpm=10**4, tpm=10**6), now + 0.05)
    assert (len(budget.leases), len(budget.spent) <= 260) == (0, True)


def test_a_lease_that_was_sent_late_counts_from_then() -> None:
    """Whose machine is slow says so when it closes the lease; to say it again changes nothing."""
    terms = Terms(portion=1.0)
    budget, grant = lease(Budget(terms), Ask("a", 1, 0, 0, rpm=1), 0.0)
    closed = Returned(grant.lease, closed=True)
    for at in (10.0, 20.0):
        budget, _ = lease(budget, Ask("a", returned=(closed,), rpm=1), at)
    budget, early = lease(budget, Ask("a", 1, 0, 0, rpm=1), 10 + WINDOW + terms.slack - 0.1)
    _, then = lease(budget, Ask("a", 1, 0, 0, rpm=1), 10 + WINDOW + terms.slack + 0.1)
    assert (early.requests, then.requests) == (0, 1)


@pytest.mark.parametrize("limits", [Limits(rpm=0), Limits(tpm=0), Limits(rpm=-1)])
def test_limits_of_nothing_are_refused_with_the_fix(limits: Limits) -> None:
    problem = limits.problem()
    assert problem is not None
    assert "=0" in problem or "=-1" in problem
    assert "leave it out" in problem


def test_a_grant_survives_the_wire() -> None:
    grant = Grant("lease-1", 2, 30, 0.0, 2.0, 0.0, 10, None)
    assert "retryAfter" in grant.to_wire()
    assert Grant.from_wire(grant.to_wire()) == grant

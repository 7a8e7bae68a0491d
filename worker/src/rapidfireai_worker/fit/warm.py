"""The sessions that are in memory, and the room that is made for the next one."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import structlog

from rapidfireai_worker.engine import Holdings, RunJob
from rapidfireai_worker.fit.memory import Meter
from rapidfireai_worker.fit.models import Base
from rapidfireai_worker.fit.program import Builder
from rapidfireai_worker.fit.residency import Cost, Picture, Plan, Resident, Shared, make_room, need
from rapidfireai_worker.fit.session import Session

_log = structlog.get_logger(__name__)


class WarmSessions:
    """Sessions by run, within the memory's budget.

    Args:
        builder: Holds the bases that they share.
        meter: Measures the memory.
    """

    def __init__(self, builder: Builder, meter: Meter) -> None:
        self._builder = builder
        self._meter = meter
        self._sessions: dict[str, Session] = {}
        self._costs: dict[str, Cost] = {}
        self._evictions = 0
        self._began_with = 0

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions by run, the least recently used first."""
        return self._sessions

    def get(self, uid: str) -> Session | None:
        """Return a run's session, which counts as using it; or None."""
        session = self._sessions.pop(uid, None)
        if session is not None:
            self._sessions[uid] = session
        return session

    def put(self, uid: str, session: Session) -> None:
        """Keep a session that was just built."""
        self._sessions[uid] = session

    def evict(self, uid: str) -> None:
        """Drop a run's session: all that was committed of it is on the volume. Unknown runs are ignored."""
        session = self._sessions.pop(uid, None)
        if session is not None:
            session.close()
            self._meter.trim()

    def evict_all(self, uid: str) -> None:
        """Drop every session, and every base but the one that a run stands on."""
        own = self._costs.get(uid, Cost()).base
        others = tuple(base.identity for base in self._builder.loaded() if base.identity != own)
        self._follow(Plan(tuple(self._sessions), others))

    def users_of(self, base: Base) -> list[str]:
        """Return the runs whose sessions share a base's weights."""
        return [
            uid
            for uid, session in self._sessions.items()
            if (session.base is base and not session.private) or session.reference is base
        ]

    def make_room(self, job: RunJob) -> None:
        """Drop what has to go before a run's next chunk is computed, as far as is known what it takes."""
        uid = job.run_uid
        cost = self._costs.get(uid, Cost(rest=job.resident_bytes))
        others = [other for run, other in self._costs.items() if run != uid]
        while True:
            loaded = [base.identity for base in self._builder.loaded()]
            wanted = need(cost, others, loaded, warm=uid in self._sessions)
            picture = self._picture()
            plan = make_room(picture, wanted, uid, cost.base)
            if not plan:
                return
            _log.info("making room", needs=wanted, used=picture.used, budget=picture.budget, sessions=plan.sessions)
            self._follow(plan)  # what it freed is measured, and looked at again

    @contextmanager
    def building(self, uid: str) -> Iterator[None]:
        """Measure what the building of a run's session takes, beyond its base if that is loaded meanwhile."""
        before = {base.identity for base in self._builder.loaded()}
        self._begin()
        yield
        session = self._sessions[uid]
        fresh = sum(base.bytes for base in self._builder.loaded() if base.identity not in before)
        self._costs[uid] = Cost(
            build=max(0, self._meter.growth() - fresh),
            rest=session.bytes(),
            step=self._costs.get(uid, Cost()).step,
            base=session.base.identity,
            base_bytes=session.base.bytes,
        )

    @contextmanager
    def computing(self, uid: str) -> Iterator[None]:
        """Measure what a run's chunk takes."""
        self._begin()
        yield
        if uid in self._costs:
            self._costs[uid] = replace(self._costs[uid], step=self._meter.growth())

    def peak(self) -> int:
        """Return the most that the process held in what was measured last, in bytes."""
        return self._began_with + self._meter.growth()

    def budget(self) -> int:
        """Return what the process may hold, in bytes."""
        return self._meter.budget()

    def holdings(self) -> Holdings:
        """Return what is held in memory now."""
        return Holdings(self.bytes(), self._meter.used(), self._meter.budget(), self._evictions)

    def bytes(self) -> Mapping[str, int]:
        """Return what leaves with each session, in bytes, by the run's UID."""
        return {uid: self._costs[uid].rest for uid in self._sessions}

    def _begin(self) -> None:
        self._meter.begin()
        self._began_with = self._meter.used()

    def _picture(self) -> Picture:
        users: dict[str, set[str]] = {base.identity: set() for base in self._builder.loaded()}
        for uid, session in self._sessions.items():
            for base in (session.base, session.reference):
                if base is not None:
                    users.setdefault(base.identity, set()).add(uid)
        return Picture(
            budget=self._meter.budget(),
            used=self._meter.used(),
            residents=tuple(
                Resident(uid, self._costs[uid].rest, session.stands) for uid, session in self._sessions.items()
            ),
            bases=tuple(
                Shared(base.identity, base.bytes, frozenset(users[base.identity])) for base in self._builder.loaded()
            ),
        )

    def _follow(self, plan: Plan) -> None:
        for uid in plan.sessions:
            self._drop(uid)
        for base in self._builder.loaded():
            if base.identity in plan.bases:
                self._builder.forget(base)
        gc.collect()
        self._meter.trim()

    def _drop(self, uid: str) -> None:
        self._sessions.pop(uid).close()
        self._evictions += 1

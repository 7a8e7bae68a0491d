"""Which warm sessions leave when memory runs short: pure decisions over what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """A warm session.

    Attributes:
        uid: The run.
        bytes: What leaves with it.
        settled: Whether it stands at its last commit and nothing is being written of it: only then dropping it frees
            its memory at once and costs no more than building it again.
    """

    uid: str
    bytes: int
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Shared:
    """A base model in memory.

    Attributes:
        identity: What was loaded.
        bytes: What leaves with it.
        users: The runs whose warm sessions stand on it.
    """

    identity: str
    bytes: int
    users: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Picture:
    """What the process holds, in bytes.

    Attributes:
        budget: What it may hold.
        used: What it holds, all things together.
        residents: The warm sessions, the least recently used first.
        bases: The base models.
    """

    budget: int
    used: int
    residents: tuple[Resident, ...] = ()
    bases: tuple[Shared, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What leaves: the runs' sessions and the base models, by UID and identity."""

    sessions: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sessions or self.bases)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run was measured to take, in bytes; 0 is not known yet.

    Attributes:
        build: The most that building its session took beyond what was there.
        rest: What its parked session holds.
        step: The most that a chunk took beyond that: activations, gradients, the copy that is saved.
        base: The identity of the base that it stands on.
        base_bytes: That base's.
    """

    build: int = 0
    rest: int = 0
    step: int = 0
    base: str = ""
    base_bytes: int = 0


def need(cost: Cost, others: Iterable[Cost], loaded: Iterable[str], *, warm: bool) -> int:
    """Return the bytes that a run needs beyond what the process holds, to compute its next chunk.

    Args:
        cost: What is known of the run.
        others: What is known of the others: the hungriest of them stands for a run whose chunks were never measured.
        loaded: The identities of the bases in memory.
        warm: Whether its session is there.
    """
    step = cost.step or max((other.step for other in others), default=0)
    if warm:
        return step
    base = cost.base_bytes if cost.base not in loaded else 0
    return max(cost.build, cost.rest + step) + base


def make_room(picture: Picture, wanted: int, run: str, base: str) -> Plan:
    """Choose what leaves so that `wanted` more bytes fit into the budget.

    First bases that nobody stands on, then sessions, the least recently used first, each with its base if it was the
    last on it. If all that is not enough, all of it leaves.

    Args:
        picture: What is held.
        wanted: What is needed beyond it, in bytes.
        run: The run that computes next; it stays.
        base: The base that it stands on; it stays too.
    """
    missing = picture.used + wanted - picture.budget
    idle = [each for each in picture.bases if not each.users and each.identity != base]
    used = [each for each in picture.bases if each.users and each.identity != base]
    sessions: list[str] = []
    bases: list[str] = []
    for each in idle:
        if missing > 0:
            bases.append(each.identity)
            missing -= each.bytes
    for resident in picture.residents:
        if missing <= 0:
            break
        if resident.uid == run or not resident.settled:
            continue
        sessions.append(resident.uid)
        missing -= resident.bytes
        for each in [each for each in used if each.users <= set(sessions)]:
            used.remove(each)
            bases.append(each.identity)
            missing -= each.bytes
    return Plan(tuple(sessions), tuple(bases))

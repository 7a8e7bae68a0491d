"""Workers, their logs and the cluster's events, put in order. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfireai.api import worker_name
from rapidfireai.api.base import WORKER_LABEL
from rapidfireai.show.worker_logs import WorkerLog
from rapidfireai_gateway.errors import GatewayError

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """One worker slot.

    Attributes:
        name: Its name.
        job: Its Job; None if there is none, or the caller may not read Jobs.
        pods: Its pods, the newest last.
        lease: Its Lease; None if there is none, or the caller may not read Leases.
        unreadable: The resources that the caller may not read.
    """

    name: str
    job: Body | None
    pods: tuple[Body, ...]
    lease: Body | None
    unreadable: tuple[str, ...]


def slots(jobs: Sequence[Body] | None, pods: Sequence[Body] | None, leases: Sequence[Body] | None) -> list[Slot]:
    """Return the slots that the objects name, in the order of their numbers; None is what could not be read."""
    kinds = {"jobs": jobs, "pods": pods, "leases": leases}
    names = {_slot(body) for bodies in kinds.values() for body in bodies or ()} - {""}

    def of(name: str, bodies: Sequence[Body] | None) -> tuple[Body, ...]:
        mine = [body for body in bodies or () if _slot(body) == name]
        return tuple(sorted(mine, key=lambda body: str(body["metadata"].get("creationTimestamp"))))

    return [
        Slot(
            name=name,
            job=next(iter(of(name, jobs)[-1:]), None),
            pods=of(name, pods),
            lease=next(iter(of(name, leases)[-1:]), None),
            unreadable=tuple(kind for kind, bodies in kinds.items() if bodies is None),
        )
        for name in sorted(names, key=_number)
    ]


def events_of(experiment: str, events: Sequence[Body]) -> list[Body]:
    """Return the events of an experiment, its runs and workers, oldest first."""
    pattern = re.compile(rf"{re.escape(experiment)}(-r\d+|-w-\d+(-[a-z0-9]+)?)?")
    mine = [event for event in events if pattern.fullmatch(str(event["involvedObject"].get("name", "")))]
    return sorted(mine, key=_time)


def chosen_pods(experiment: str, pods: Sequence[Body], worker: str) -> list[tuple[str, str]]:
    """Return the (pod, slot) whose logs are wanted.

    Raises:
        GatewayError: If there is no such worker.
    """
    wanted = worker_name(experiment, int(worker)) if worker.isdecimal() else worker
    found = [(str(pod["metadata"]["name"]), _slot(pod)) for pod in pods]
    chosen = [(pod, slot) for pod, slot in found if wanted in {"", slot}]
    if wanted and not chosen:
        there = ", ".join(sorted({slot for _, slot in found})) or "none now; their logs go with them"
        raise GatewayError(404, f"worker: there is no {wanted}; there are {there}")
    return chosen


def merged_logs(texts: Mapping[str, str]) -> str:
    """Return the logs of several workers as lines for people, by time.

    Args:
        texts: What each slot wrote, each line behind its time.
    """
    entries = [entry for slot, text in texts.items() for entry in WorkerLog(slot).read(text.splitlines())]
    return "".join(f"{entry.line()}\n" for entry in sorted(entries, key=lambda entry: entry.time))


def _slot(body: Body) -> str:
    return str((body["metadata"].get("labels") or {}).get(WORKER_LABEL, ""))


def _number(slot: str) -> tuple[int, str]:
    last = slot.rpartition("-")[2]
    return (int(last) if last.isdecimal() else 0, slot)


def _time(event: Body) -> str:
    return str(event.get("eventTime") or event.get("lastTimestamp") or event["metadata"].get("creationTimestamp"))

"""IC Ops: what may be asked of which run, and what becomes of it.

`TRANSITIONS` is the whole answer for a run that exists; the rest of this module finds the runs and keeps the record.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfireai.api import ICOp, ICOpStatus, Run
from rapidfireai.api.icop import DONE, ICOpResult, Op
from rapidfireai.api.run import ENDED, DesiredState, RunState, When
from rapidfireai.expand import is_evaluation
from rapidfireai_operator.core.acceptance import Accepted, Refused
from rapidfireai_operator.core.clones import Nursery, Pin, is_accepted
from rapidfireai_operator.core.conditions import Event, Verdict, find, judged, shortened
from rapidfireai_operator.core.snapshot import World

FULL_RESULTS = 1000
"""So many results say why they were refused; the API server takes no object that is much larger."""
_FEW = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation does to a run.

    Attributes:
        desired: The state that the run is asked to take; None if the operation is refused.
        message: Why it is refused, with the next step; or that there was nothing to do.
        warmly: How a clone may go on from what was trained, where something was.
    """

    desired: DesiredState | None
    message: str = ""
    warmly: str = ""

    def told(self, *, evaluation: bool) -> str:
        """Return the whole sentence; an evaluation has no weights to go on from."""
        return f"{self.message}, {self.warmly}" if self.warmly and not evaluation else self.message


_STOP, _GO, _DELETE = Answer("Stopped"), Answer("Running"), Answer("Deleted")
_SUCCEEDED = Answer(None, "it has reached its last step; clone it", "warm to go on from its weights")
_FAILED = Answer(None, "it has failed; clone it with the cause corrected", "warm to go on from its last commit")
_DELETED = Answer(None, "it was deleted; clone it", "warm to go on from its last commit")
TRANSITIONS: Mapping[tuple[RunState, Op], Answer] = {
    ("Pending", "Stop"): _STOP,
    ("Running", "Stop"): _STOP,
    ("Stopped", "Stop"): Answer("Stopped", "it was stopped already"),
    ("Succeeded", "Stop"): _SUCCEEDED,
    ("Failed", "Stop"): _FAILED,
    ("Deleted", "Stop"): _DELETED,
    ("Pending", "Resume"): Answer("Running", "it was not stopped"),
    ("Running", "Resume"): Answer("Running", "it was not stopped"),
    ("Stopped", "Resume"): _GO,
    ("Succeeded", "Resume"): _SUCCEEDED,
    ("Failed", "Resume"): _FAILED,
    ("Deleted", "Resume"): _DELETED,
    ("Pending", "Delete"): _DELETE,
    ("Running", "Delete"): _DELETE,
    ("Stopped", "Delete"): _DELETE,
    ("Succeeded", "Delete"): _DELETE,
    ("Failed", "Delete"): _DELETE,
    ("Deleted", "Delete"): Answer("Deleted", "it was deleted already"),
}
"""What each operation does to a run in each state. A run counts as what it was last asked to be: one that stops at the
next boundary is Stopped, one that will be deleted there is Deleted. Clones may be made of all of them."""


def position(state: RunState | None, wanted: DesiredState) -> RunState:
    """Return the state that counts for operations on a run.

    Args:
        state: The run's state; None before anybody looked at it.
        wanted: The state that it was last asked to take.
    """
    if wanted == "Deleted":
        return "Deleted"
    if state is not None and state in ENDED:
        return state
    if wanted == "Stopped":
        return "Stopped"
    return "Pending" if state in {None, "Pending"} else "Running"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a run's spec is to become, because an operation asks for it."""

    icop: str
    run: Run
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """An operation's next status, and what is worth telling about it."""

    icop: ICOp
    status: ICOpStatus
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Applications:
    """How the open operations are applied: pins first, then what is asked of runs, then the records."""

    pins: tuple[Pin, ...] = ()
    asks: tuple[Ask, ...] = ()
    records: tuple[Record, ...] = ()


def is_complete(icop: ICOp) -> bool:
    """Return whether the operation was already applied."""
    condition = find(icop.status.conditions, "Complete")
    return condition is not None and condition.status == "True"


def apply(world: World, verdict: Accepted | Refused, mounted: Collection[str] = ()) -> Applications:
    """Apply the open operations, oldest first; a later one sees what the earlier ones asked for.

    Args:
        world: The experiment, all of whose runs are made.
        verdict: Whether its spec can be run.
        mounted: The claims that its workers mount.
    """
    waiting = sorted((each for each in world.icops if not is_complete(each)), key=_age)
    if not waiting:
        return Applications()
    desk = _Desk(world, Nursery(world, verdict, mounted))
    records = [record for icop in waiting if (record := desk.treat(icop)) is not None]
    return Applications(tuple(desk.nursery.pins.values()), tuple(desk.asks.values()), tuple(records))


def refuse(icop: ICOp, message: str, now: float) -> ICOpStatus:
    """Return the record of an operation that nothing can be done about."""
    names = dict.fromkeys(icop.spec.runs or ())
    results = [ICOpResult(run=name, outcome="Refused", message=message) for name in names]
    return _record(icop, results, now, nothing=message)


def expired(icop: ICOp, now: float) -> bool:
    """Return whether the record was kept as long as it asked for."""
    moment = expiry(icop)
    return moment is not None and moment <= now


def expiry(icop: ICOp) -> float | None:
    """Return when the record goes, in seconds since the epoch, or None if it stays or is not complete."""
    complete, ttl = find(icop.status.conditions, "Complete"), icop.spec.ttl_seconds_after_complete
    if complete is None or complete.status != "True" or ttl is None:
        return None
    return complete.last_transition_time.timestamp() + ttl


@dataclass
class _Desk:
    """The open operations of one experiment while they are applied."""

    world: World
    nursery: Nursery
    asks: dict[str, Ask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runs = {run.metadata.name: run for run in self.world.runs if run.metadata.deletion_timestamp is None}
        self.wanted: dict[str, tuple[DesiredState, When]] = {
            name: (run.spec.desired_state, run.spec.when) for name, run in self.runs.items()
        }
        self.finished = all(run.status.state in ENDED for run in self.runs.values())

    def treat(self, icop: ICOp) -> Record | None:
        """Return the operation's next status, or None if it waits for clones that are being made."""
        if is_accepted(icop):
            results = self.nursery.follow_up(icop)
            if results is None:
                return None
        else:
            results = [self._result(icop, name) for name in self._names(icop)]
        if icop.spec.op == "CloneModify":
            self.finished &= all(result.created is None for result in results)
            if self.nursery.is_open(icop, results):
                return Record(icop, _in_the_making(icop, results, self.world.now))
        status = _record(
            icop, results, self.world.now, nothing=f"no run of {icop.spec.experiment_ref} fits the selector"
        )
        return Record(icop, status, (_told(icop, status),))

    def _names(self, icop: ICOp) -> Sequence[str]:
        if icop.spec.selector is None:
            return list(dict.fromkeys(icop.spec.runs or ()))
        states, labels = icop.spec.selector.states, icop.spec.selector.match_labels.items()
        return [
            name
            for name, run in self.runs.items()
            if (not states or (run.status.state or "Pending") in states) and labels <= run.metadata.labels.items()
        ]

    def _result(self, icop: ICOp, name: str) -> ICOpResult:
        run = self.runs.get(name)
        if run is None:
            return ICOpResult(run=name, outcome="Refused", message=self._unknown(name))
        if icop.spec.op == "CloneModify":
            return self.nursery.accept(icop, run)
        desired, when = self.wanted[name]
        here = position(run.status.state, desired)
        answer = TRANSITIONS[here, icop.spec.op]
        refusal = self.world.refusals.get(f"{icop.metadata.name}/{name}")
        if refusal is not None:
            answer = Answer(None, shortened(f"the API server refuses it: {refusal}"))
        elif self.finished and here != answer.desired:
            answer = Answer(None, "the experiment is finished, all its runs have ended; clone one to go on")
        message = answer.told(evaluation=is_evaluation(run.spec.config))
        if answer.desired is None:
            return ICOpResult(run=name, outcome="Refused", message=message)
        hastens = (
            answer.desired != "Running" and run.status.state not in ENDED and "Immediate" in {icop.spec.when, when}
        )
        wish: tuple[DesiredState, When] = (answer.desired, "Immediate" if hastens else "Boundary")
        if answer.desired != desired or (hastens and when != "Immediate"):
            self._ask(icop, run, wish)
        return ICOpResult(run=name, outcome="Applied", message=message)

    def _ask(self, icop: ICOp, run: Run, wish: tuple[DesiredState, When]) -> None:
        name, (desired, when) = run.metadata.name, wish
        self.wanted[name] = wish
        spec = {"desiredState": desired, "when": when, "requestedBy": icop.spec.requested_by}
        self.asks[name] = Ask(icop.metadata.name, run, spec)

    def _unknown(self, name: str) -> str:
        """Return why there is no such run, and what was perhaps meant."""
        experiment = self.world.experiment.name
        owner, _, digits = name.rpartition("-r")
        if owner == experiment and digits.isdecimal() and 0 < int(digits) < self.world.experiment.status.next_index:
            return f"{name} is gone: somebody removed it with its record, and it cannot come back"
        if owner and owner != experiment and re.fullmatch(r"[1-9]\d*", digits):
            return f"{experiment} has no run {name}; if it is a run of {owner}, write experimentRef: {owner}"
        known = ", ".join(list(self.runs)[:_FEW]) or "none"
        return f"{experiment} has no run {name}; its runs are {known}{', ...' if len(self.runs) > _FEW else ''}"


def _age(icop: ICOp) -> tuple[str, int, str]:
    """Return the order in which operations were asked for; within a second the API server's version tells."""
    created, version = icop.metadata.creation_timestamp, icop.metadata.resource_version
    return (
        created.isoformat() if created is not None else "",
        int(version) if version.isdecimal() else 0,
        icop.metadata.name,
    )


def _record(icop: ICOp, results: Sequence[ICOpResult], now: float, *, nothing: str) -> ICOpStatus:
    """Return the record of an operation that is done."""
    refused = [result for result in results if result.outcome == "Refused"]
    applied = len(results) - len(refused)
    reason = "Applied" if not refused else "Refused" if not applied else "PartlyApplied"
    message = f"{applied} of {len(results)} runs."
    if not results:
        reason, message = "NothingToDo", f"Nothing was done: {nothing}."
    elif refused:
        message = f"{applied} of {len(results)} runs; {refused[0].run}: {refused[0].message}."
    verdict = Verdict("Complete", "True", reason, message)
    parts = [f"{applied} {DONE[icop.spec.op]}"] if applied else []
    parts += [f"{len(refused)} refused"] if refused else []
    return ICOpStatus(
        results=_bounded(results),
        summary=", ".join(parts) or "nothing to do",
        conditions=judged(icop.status.conditions, [verdict], generation=icop.metadata.generation, now=now),
    )


def _in_the_making(icop: ICOp, results: Sequence[ICOpResult], now: float) -> ICOpStatus:
    """Return the record of accepted clones: their names are claimed, and nobody else gets them."""
    count = sum(result.created is not None for result in results)
    verdict = Verdict("Complete", "False", "Cloning", f"{count} clones are being made.")
    return ICOpStatus(
        results=_bounded(results),
        summary=f"cloning {count}",
        conditions=judged(icop.status.conditions, [verdict], generation=icop.metadata.generation, now=now),
    )


def _bounded(results: Sequence[ICOpResult]) -> list[ICOpResult]:
    """Return the results; of thousands only the first say why, so that the record stays below what etcd takes."""
    silent = [result.model_copy(update={"message": ""}) for result in results[FULL_RESULTS:]]
    return [*results[:FULL_RESULTS], *silent]


def _told(icop: ICOp, status: ICOpStatus) -> Event:
    """Return the event that the operation is done."""
    complete = status.conditions[-1]
    by = f" by {icop.spec.requested_by}" if icop.spec.requested_by else ""
    made = ", ".join(result.created for result in status.results[:_FEW] if result.created is not None)
    more = ", ..." if made and len(status.results) > _FEW else ""
    message = f"{icop.spec.op}{by}: {complete.message}" + (f" Made {made}{more}." if made else "")
    refused = complete.reason in {"Refused", "PartlyApplied"}
    return Event("ICOp", icop.metadata.name, icop.metadata.uid, complete.reason, shortened(message), refused)

"""What the policies of an experiment do in one pass: ICOps to make, and what is recorded of them.

`race` compares runs, `budgets` adds up what is used. Both act through ICOps, as people do. The name of such an ICOp
follows from the experiment, the policy, what was judged and the run; so nothing is done twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfireai.api import API_VERSION, ExperimentSpec, ICOp
from rapidfireai.api.base import GROUP
from rapidfireai.api.policies import POLICY_NAMES, PolicyName, PolicyRecord, PolicyStop, Usage
from rapidfireai_operator.core import jobs
from rapidfireai_operator.core.budgets import Limit, limits, use
from rapidfireai_operator.core.conditions import Event
from rapidfireai_operator.core.icops import is_complete
from rapidfireai_operator.core.race import Asked, Mark, Racer, Stop, decide
from rapidfireai_operator.core.snapshot import Subject, World
from rapidfireai_operator.core.summary import Tally

POLICY_LABEL = f"{GROUP}/policy"
"""On an ICOp: the policy that made it."""
CHUNKS_LABEL = f"{GROUP}/policy-chunks"
"""On an ICOp of a policy that compares runs: after how many chunks."""
MAKE_AT_ONCE = 100
"""ICOps made in one pass, so that thousands of stops do not hold up everything else."""
MOST_STOPS = 16
"""How many stops by policies a run remembers."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What the policies do.

    Attributes:
        icops: ICOps to make.
        held: Runs that get no further work: their stop is on its way.
        stopped_by: What is to be recorded at runs, by name.
        records: What is to be recorded at the experiment.
        usage: What the experiment has used.
        events: What is worth telling.
        look_again: When a limit is reached, in seconds since the epoch.
    """

    icops: tuple[Mapping[str, Any], ...] = ()
    held: frozenset[str] = frozenset()
    stopped_by: Mapping[str, list[PolicyStop]] = field(default_factory=dict)
    records: list[PolicyRecord] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    events: tuple[Event, ...] = ()
    look_again: float | None = None


def apply(
    world: World, spec: ExperimentSpec, tallies: Sequence[Tally], racers: Iterable[Racer], *, complete: bool
) -> Effects:
    """Apply the policies of an experiment.

    Args:
        world: The experiment and all that belongs to it.
        spec: What its user wants.
        tallies: What its runs add up to.
        racers: Its runs as policies see them; looked at only if there are policies.
        complete: Whether all runs that are to be were made; nothing is judged before.
    """
    usage = use(world.experiment.status.usage, tallies, world.slots, world.now)
    before = world.experiment.status.policies
    if not spec.policies or not complete:
        return Effects(records=before, usage=usage)
    runs = list(racers)
    asked = [each for icop in world.icops if (each := _asked(world.experiment, icop)) is not None]
    decision = decide(spec.policies, spec.objective.direction, runs, asked, before)
    budget = _spend(world, limits(spec.policies, usage), decision.records, active=any(each.active for each in runs))
    bodies = [_stop_body(world.experiment, stop) for stop in decision.stops[:MAKE_AT_ONCE]]
    held = {stop.run for stop in decision.stops} | ({each.name for each in runs} if budget.icops else set())
    return Effects(
        icops=(*bodies, *budget.icops),
        held=frozenset(held),
        stopped_by=_remembered(world, asked),
        records=[*decision.records, *budget.records],
        usage=usage,
        events=tuple(_event(world.experiment, record) for record in (*decision.told, *budget.records)),
        look_again=min(budget.moments, default=None),
    )


@dataclass(slots=True)
class _Budget:
    """What limits do while it is worked out."""

    icops: list[Mapping[str, Any]] = field(default_factory=list)
    records: list[PolicyRecord] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)


def _spend(world: World, found: Sequence[Limit], records: Iterable[PolicyRecord], *, active: bool) -> _Budget:
    """Stop everything where a limit is reached, once; whoever goes on after that does so by hand."""
    known = {(record.policy, record.limit) for record in records}
    names = {icop.metadata.name for icop in world.icops}
    budget = _Budget()
    for limit in found:
        if (limit.policy, limit.text) in known:
            continue
        if _name(world.experiment, limit.policy, limit.text) in names:
            message = f"{limit.policy} stopped all runs: {limit.reason}"
            budget.records.append(PolicyRecord(policy=limit.policy, limit=limit.text, message=message))
        elif limit.reached_at is not None and active:
            if limit.reached_at <= world.now:
                budget.icops.append(_limit_body(world.experiment, limit))
            else:
                budget.moments.append(limit.reached_at)
    return budget


def _asked(subject: Subject, icop: ICOp) -> Asked | None:
    """Return the stop that an ICOp asks for, or None if no policy that compares runs made it."""
    labels, runs = icop.metadata.labels, icop.spec.runs or ()
    policy = next((name for name in POLICY_NAMES if name == labels.get(POLICY_LABEL)), None)
    chunks = labels.get(CHUNKS_LABEL, "")
    if policy is None or not chunks.isdecimal() or len(runs) != 1:
        return None
    mark = Mark(policy, int(chunks))
    if icop.metadata.name != _name(subject, policy, chunks, runs[0]):
        return None  # of an earlier experiment of this name, or somebody's own
    return Asked(runs[0], mark, icop.spec.reason, not is_complete(icop))


def _remembered(world: World, asked: Iterable[Asked]) -> dict[str, list[PolicyStop]]:
    """Return the stops that runs do not have on record yet."""
    wanted: dict[str, list[Asked]] = {}
    for each in asked:
        wanted.setdefault(each.run, []).append(each)
    remembered = {}
    for run in world.runs if wanted else ():
        known = {(stop.policy, stop.chunks) for stop in run.status.stopped_by}
        new = [
            PolicyStop(policy=each.mark.policy, chunks=each.mark.chunks, reason=each.reason)
            for each in wanted.get(run.metadata.name, ())
            if (each.mark.policy, each.mark.chunks) not in known
        ]
        if new:
            new.sort(key=lambda stop: stop.chunks)
            remembered[run.metadata.name] = [*run.status.stopped_by, *new][-MOST_STOPS:]
    return remembered


def _name(subject: Subject, policy: PolicyName, what: str, run: str = "") -> str:
    digest = hashlib.sha256(f"{subject.uid}/{policy}/{what}/{run}".encode()).hexdigest()[:8]
    return f"{run or subject.name}-{policy.lower()}-{what}-{digest}"


def _stop_body(subject: Subject, stop: Stop) -> Mapping[str, Any]:
    policy, chunks = stop.mark.policy, str(stop.mark.chunks)
    labels = {POLICY_LABEL: policy, CHUNKS_LABEL: chunks}
    wish = {"runs": [stop.run], "reason": stop.reason}
    return _icop(subject, policy, _name(subject, policy, chunks, stop.run), labels, wish)


def _limit_body(subject: Subject, limit: Limit) -> Mapping[str, Any]:
    # Each further step would cost: it does not wait for a boundary.
    wish = {"selector": {"states": ["Pending", "Running"]}, "when": "Immediate", "reason": limit.reason}
    name = _name(subject, limit.policy, limit.text)
    return _icop(subject, limit.policy, name, {POLICY_LABEL: limit.policy}, wish)


def _icop(
    subject: Subject, policy: PolicyName, name: str, labels: Mapping[str, str], wish: Mapping[str, Any]
) -> Mapping[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ICOp",
        "metadata": {
            "name": name,
            "namespace": subject.namespace,
            "labels": {**jobs.labels(subject.name, "policy"), **labels},
            "ownerReferences": [{**jobs.owner(subject), "controller": False}],
        },
        "spec": {"experimentRef": subject.name, "op": "Stop", "requestedBy": f"policy:{policy}", **wish},
    }


def _event(subject: Subject, record: PolicyRecord) -> Event:
    return Event("Experiment", subject.name, subject.uid, "PolicyActed", record.message)
